"""Commits to blobs of Azurite: what travels, what is kept, and whose work is recognised."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import random
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate

import pytest
import trio
from azure.storage.blob import BlobBlock, ContainerClient, ContentSettings, StandardBlobTier

from fuse.blob import append, headers, upload
from fuse.blob.recognition import Recognition
from fuse.blob.store import BlobStore
from fuse.blob.transport import Response
from fuse.blob.upload import SINGLE_PUT, Uploads
from fuse.errors import fail
from fuse.ranges import RangeSet
from fuse.volume import Changes
from tests.fuse.driving import driver, volume_spec
from tests.support import fault_proxy

pytestmark = pytest.mark.integration

MIB = 1024 * 1024

SETTINGS = {
    "content_type": "application/x-hdf5",
    "content_encoding": "identity",
    "content_language": "en",
    "content_disposition": "attachment",
    "cache_control": "no-store",
}


class Overlay:
    """New content as the protocol promises it: a base, and what was written over it."""

    def __init__(self, base=b""):
        self.base = bytes(base)
        self.data = bytearray(base)
        self.dirty = RangeSet()
        self.base_size = len(base)
        self.mtime_ns = time.time_ns()
        self.staged = []
        self.base_is_there = True

    @property
    def size(self):
        return len(self.data)

    @property
    def dirty_ranges(self):
        return list(self.dirty)

    def write(self, offset, data):
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data
        self.dirty.add(offset, offset + len(data))
        return self

    def truncate(self, size):
        self.dirty.remove(size, max(size, len(self.data)))
        self.base_size = min(self.base_size, size)
        self.data[size:] = bytes(max(0, size - len(self.data)))
        return self

    async def read(self, offset, size):
        await trio.lowlevel.checkpoint()
        for start, end, dirty in self.dirty.pieces(offset, offset + size):
            if not dirty and start < self.base_size and not self.base_is_there:
                fail(errno.ESTALE, "f", f"{start}-{end} of the base")
        return memoryview(bytes(self.data[offset : offset + size]))


class CountingStore(BlobStore):
    """Counts what is sent in blocks."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.blocks = []

    async def put_block(self, path, identifier, body):
        self.blocks.append(len(body))
        await super().put_block(path, identifier, body)


class Box:
    """A container, seen by the driver's upload path and by the SDK."""

    def __init__(self, store, client):
        self.store = store
        self.client = client
        self.uploads = Uploads(store)

    @property
    def lost(self):
        return sum(request.fault is not None for request in self.proxy.requests)

    async def head(self, name="f"):
        return headers.attributes((await self.store.head(name)).headers)

    async def sdk(self, function, *args, **kwargs):
        return await trio.to_thread.run_sync(lambda: function(*args, **kwargs))

    async def content(self, name="f"):
        return await self.sdk(lambda: self.client.download_blob(name).readall())

    async def put(self, name, data, **kwargs):
        await self.sdk(self.client.upload_blob, name, data, overwrite=True, **kwargs)
        return await self.head(name)

    async def put_blocks(self, name, blocks, ids):
        blob = self.client.get_blob_client(name)
        for identifier, body in zip(ids, blocks, strict=True):
            await self.sdk(blob.stage_block, identifier, body)
        await self.sdk(blob.commit_block_list, [BlobBlock(name) for name in ids])
        return await self.head(name)


@pytest.fixture
async def box(storage, blob_container):
    async with opened(storage, blob_container) as box:
        yield box


@pytest.fixture
async def faulty(storage, blob_container):
    """A box whose driver's side goes through `faulty.proxy`."""
    with fault_proxy.FaultProxy(storage.blob_endpoint) as proxy:
        async with opened(storage, blob_container, proxy.endpoint) as box:
            box.proxy = proxy
            yield box


@asynccontextmanager
async def opened(storage, container, endpoint=None):
    store = CountingStore(
        account=storage.account,
        endpoint=endpoint or storage.blob_endpoint,
        container=container,
        key=storage.key,
    )
    client = ContainerClient(
        storage.blob_endpoint,
        container,
        credential={"account_name": storage.account, "account_key": storage.key},
    )
    with client:
        async with store.opened():
            yield Box(store, client)


def same(made, found):
    """Whether a commit told what the store tells, but for what only the store knows."""
    known = {name: value for name, value in found.headers if name != "x-ms-creation-time"}
    told = {name: value for name, value in made.headers if name != "x-ms-creation-time"}
    return made.changed(headers=()) == found.changed(headers=()) and known == told


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


# -- what travels -----------------------------------------------------------------------------


async def test_new_content_small_and_large(box):
    for size in (0, 5, SINGLE_PUT, SINGLE_PUT + 1, 3 * SINGLE_PUT + 7):
        content = Overlay().write(0, noise(size))
        made = await box.uploads.commit(f"f{size}", None, content, Changes(mode=0o640))
        assert made.size == size
        assert made.mode == 0o640
        assert made.mtime_ns == content.mtime_ns
        assert same(made, await box.head(f"f{size}"))
        assert await box.content(f"f{size}") == content.data


async def test_only_what_changed_travels(box):
    base = await box.uploads.commit("f", None, Overlay().write(0, noise(40 * MIB)), Changes())
    content = Overlay(await box.content()).write(17 * MIB, b"changed").write(40 * MIB, b"grown")
    box.store.blocks.clear()
    await box.uploads.commit("f", base, content, Changes())
    assert box.store.blocks == [8 * MIB, 5]
    assert await box.content() == content.data


async def test_what_was_sent_ahead_is_not_sent_again(box):
    base = await box.uploads.put("f", b"", {}, {"If-None-Match": "*"})
    content = Overlay().write(0, noise(20 * MIB))
    for start in (0, 8 * MIB):
        body = content.data[start : start + 8 * MIB]
        content.staged.append(await box.uploads.stage("f", base, start, bytes(body)))
    box.store.blocks.clear()
    await box.uploads.commit("f", base, content, Changes())
    assert box.store.blocks == [4 * MIB]
    assert await box.content() == content.data


async def test_blocks_sent_ahead_stand_beside_kept_ones(box):
    base = await box.uploads.commit("f", None, Overlay().write(0, noise(16 * MIB)), Changes())
    content = Overlay(await box.content()).write(16 * MIB, noise(20 * MIB, 2))
    body = bytes(content.data[16 * MIB : 24 * MIB])
    content.staged.append(await box.uploads.stage("f", base, 16 * MIB, body))
    box.store.blocks.clear()
    await box.uploads.commit("f", base, content, Changes())
    assert sum(box.store.blocks) == 12 * MIB
    assert await box.content() == content.data


async def test_blocks_that_vanished_are_sent_again(box):
    base = await box.uploads.put("f", b"", {}, {"If-None-Match": "*"})
    content = Overlay().write(0, noise(20 * MIB))
    for start in (0, 8 * MIB):
        body = bytes(content.data[start : start + 8 * MIB])
        content.staged.append(await box.uploads.stage("f", base, start, body))
    content.staged[1] = replace(content.staged[1], identifier=base64.b64encode(b"x" * 24).decode())
    box.store.blocks.clear()
    await box.uploads.commit("f", base, content, Changes())
    assert sum(box.store.blocks) == 4 * MIB + 20 * MIB
    assert await box.content() == content.data


async def test_a_log_that_is_synced_line_by_line_stays_in_few_blocks(box, monkeypatch):
    monkeypatch.setattr(upload, "SINGLE_PUT", 10)
    data = noise(20)
    base = await box.uploads.commit("f", None, Overlay().write(0, data), Changes())
    for _ in range(40):
        content = Overlay(data).write(len(data), b"line\n")
        base = await box.uploads.commit("f", base, content, Changes())
        data = bytes(content.data)
    committed, _ = await box.sdk(box.client.get_blob_client("f").get_block_list, "all")
    assert await box.content() == data
    assert len(committed) < 10


# -- blobs of others --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MIB, 20 * MIB])
async def test_an_overwrite_keeps_what_it_does_not_mean(box, size):
    base = await box.put(
        "f",
        noise(size),
        metadata={"Project": "x", "author": "y"},
        content_settings=ContentSettings(**SETTINGS),
        standard_blob_tier=StandardBlobTier.COOL,
    )
    content = Overlay(noise(size)).write(3, b"changed")
    made = await box.uploads.commit("f", base, content, Changes())
    found = await box.sdk(box.client.get_blob_client("f").get_blob_properties)
    for name, value in SETTINGS.items():
        assert found.content_settings[name] == value
    assert found.blob_tier == "Cool"
    assert not found.blob_tier_inferred
    kept = {name.lower(): value for name, value in found.metadata.items()}
    assert kept.pop("modtime") == str(content.mtime_ns)
    assert kept == {"project": "x", "author": "y"}
    assert same(made, await box.head())


async def test_a_tier_that_follows_the_account_goes_on_following_it(box):
    base = await box.put("f", b"text")
    await box.uploads.commit("f", base, Overlay(b"text").write(0, b"T"), Changes())
    found = await box.sdk(box.client.get_blob_client("f").get_blob_properties)
    assert found.blob_tier_inferred


def wire(*names):
    return [base64.b64encode(name).decode() for name in names]


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "3"],
        ["block-001", "block-002", "block-003"],
        [f"{number:032d}" for number in range(3)],
    ],
)
async def test_block_ids_of_others(box, names):
    bodies = [noise(8 * MIB, seed) for seed in range(3)]
    base = await box.put_blocks("f", bodies, names)
    content = Overlay(b"".join(bodies)).write(9 * MIB, b"changed")
    box.store.blocks.clear()
    await box.uploads.commit("f", base, content, Changes())
    assert await box.content() == content.data
    if len(names[0]) > 6:
        assert box.store.blocks == [8 * MIB]


async def test_binary_block_ids(box):
    """As blobfuse2 makes them: 16 random bytes."""
    bodies = [noise(8 * MIB, seed) for seed in range(3)]
    names = wire(*(b"\xff\xfe" + bytes([index]) * 14 for index in range(3)))
    for name, body in zip(names, bodies, strict=True):
        await box.store.put_block("f", name, body)
    document = "".join(f"<Latest>{name}</Latest>" for name in names)
    body = f"<BlockList>{document}</BlockList>".encode()
    await box.store.request("PUT", "f", query="comp=blocklist", body=body)
    content = Overlay(b"".join(bodies)).write(9 * MIB, b"changed")
    box.store.blocks.clear()
    await box.uploads.commit("f", await box.head(), content, Changes())
    assert box.store.blocks == [8 * MIB]
    assert await box.content() == content.data


async def test_blocks_that_another_program_left_behind(box):
    """Their ids' length binds ours: for a week, nobody could write the blob in blocks."""
    base = await box.uploads.put("f", b"", {}, {"If-None-Match": "*"})
    await box.sdk(box.client.get_blob_client("f").stage_block, "seven-7", b"left behind")
    content = Overlay().write(0, noise(10 * MIB))
    content.staged.append(await box.uploads.stage("f", base, 0, bytes(content.data[: 8 * MIB])))
    await box.uploads.commit("f", base, content, Changes())
    assert await box.content() == content.data


async def test_a_leased_blob_is_busy(box):
    base = await box.put("f", b"text")
    lease = await box.sdk(box.client.get_blob_client("f").acquire_lease)
    content = Overlay(b"text").write(0, b"T")
    with pytest.raises(OSError, match="LeaseIdMissing") as caught:
        await box.uploads.commit("f", base, content, Changes())
    assert caught.value.errno == errno.EBUSY
    await box.sdk(lease.release)
    await box.uploads.commit("f", base, content, Changes())


# -- whose work it is -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 20 * MIB])
async def test_the_second_of_two_writers_loses(box, size):
    base = await box.put("f", noise(size))
    first, second = Overlay(noise(size)).write(0, b"one"), Overlay(noise(size)).write(0, b"two")
    await box.uploads.commit("f", base, first, Changes())
    with pytest.raises(OSError) as caught:
        await box.uploads.commit("f", base, second, Changes())
    assert caught.value.errno == errno.ESTALE
    assert await box.content() == first.data
    with pytest.raises(OSError) as caught:
        await box.uploads.commit("f", None, second, Changes())
    assert caught.value.errno == errno.EEXIST


@pytest.mark.parametrize("size", [5, 20 * MIB])
@pytest.mark.parametrize("new", [True, False])
async def test_a_lost_answer_is_no_conflict(faulty, size, new):
    base = None if new else await faulty.put("f", noise(30))
    content = Overlay(b"" if new else noise(30)).truncate(0).write(0, noise(size))
    match = "comp=blocklist" if size > SINGLE_PUT else "/f"
    faulty.proxy.once(fault_proxy.lose_answer(), method="PUT", match=match)
    made = await faulty.uploads.commit("f", base, content, Changes())
    assert same(made, await faulty.head())
    assert await faulty.content() == content.data
    assert faulty.lost == 1
    if size > SINGLE_PUT:
        assert faulty.store.counters["bytes_received"] == 0, "ids are proof enough"


@pytest.mark.parametrize("size", [500, 20 * MIB])
async def test_a_commit_that_seemed_to_fail_is_what_the_next_one_rests_on(faulty, size):
    """The answer never came, in no time that anybody waits; and the program wrote on."""
    base = await faulty.uploads.put("f", b"", {}, {"If-None-Match": "*"})
    content = Overlay().write(0, noise(size))
    match = "comp=blocklist" if size > SINGLE_PUT else "/f"
    faulty.proxy.always(fault_proxy.lose_answer(), method="PUT", match=match)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(faulty.uploads.commit, "f", base, content, Changes())
        with trio.fail_after(60):
            while not faulty.lost:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    faulty.proxy.clear()
    assert (await faulty.head()).version != base.version
    content.write(size // 2, b"more")
    made = await faulty.uploads.commit("f", base, content, Changes())
    assert same(made, await faulty.head())
    assert await faulty.content() == content.data
    content.write(0, b"after another writer")
    await faulty.put("f", b"theirs")
    with pytest.raises(OSError) as caught:
        await faulty.uploads.commit("f", base, content, Changes())
    assert caught.value.errno == errno.ESTALE


async def test_a_lost_answer_to_making_an_empty_file_is_no_conflict(faulty):
    faulty.proxy.once(fault_proxy.lose_answer(), method="PUT")
    made = await faulty.uploads.put("f", b"", {"permissions": "33188"}, {"If-None-Match": "*"})
    assert same(made, await faulty.head())
    assert faulty.lost == 1


async def test_a_lost_answer_does_not_hide_another_writer(faulty):
    """The first try never arrived; before the second, somebody else made the file."""
    faulty.proxy.once(fault_proxy.refuse(), method="PUT")
    await faulty.put("f", b"theirs")
    with pytest.raises(FileExistsError):
        await faulty.uploads.put("f", b"", {}, {"If-None-Match": "*"})


async def test_the_file_of_another_is_not_taken_for_ours(box):
    await box.put("f", b"", metadata={"permissions": "33188"})
    for metadata in ({"permissions": "33188"}, {}):
        with pytest.raises(FileExistsError):
            await box.uploads.put("f", b"", metadata, {"If-None-Match": "*"})


@pytest.mark.parametrize(("age", "ours"), [(0, True), (1, True), (5, False)])
async def test_an_empty_file_that_was_there_before_is_not_ours(age, ours):
    """An empty file looks like any other; but not if it is older than the first try."""
    now = 1_600_000_000.0
    digest = hashlib.md5(b"", usedforsecurity=False).digest()
    answer = Response(
        200,
        {
            "content-length": "0",
            "content-md5": base64.b64encode(digest).decode(),
            "date": formatdate(now, usegmt=True),
            "last-modified": formatdate(now - age, usegmt=True),
            "etag": '"0x1"',
        },
    )

    class Store:
        async def head(self, path):
            return answer

    found = await Recognition(Store()).put("f", b"", {}, trio.current_time())
    assert (found is not None) == ours


@pytest.mark.parametrize("size", [5000, 20 * MIB])
async def test_a_commit_that_a_crash_cut_off_is_recognised_by_the_next_process(
    box, storage, blob_container, size
):
    base = await box.put("f", noise(size))
    content = Overlay(noise(size)).write(100, b"dirty").write(size, b"grown")
    made = await box.uploads.commit("f", base, content, Changes(mode=0o600))
    content.base_is_there = False
    content.mtime_ns += 10**9  # the journal may know the time less well
    async with opened(storage, blob_container) as later:
        again = await later.uploads.commit("f", base, content, Changes(mode=0o600))
        assert same(made, again)
        # The same length, and not the same bytes.
        content.write(100, b"DIRTY")
        with pytest.raises(OSError) as caught:
            await later.uploads.commit("f", base, content, Changes(mode=0o600))
        assert caught.value.errno == errno.ESTALE


async def test_only_cut_is_no_proof(box):
    base = await box.put("f", noise(100))
    content = Overlay(noise(100)).truncate(50)
    await box.put("f", noise(50, 2))
    with pytest.raises(OSError) as caught:
        await box.uploads.commit("f", base, content, Changes())
    assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("size", [100, 20 * MIB])
async def test_a_cut_that_a_crash_cut_off_is_recognised_by_its_time(
    box, storage, blob_container, size
):
    base = await box.put("f", noise(size))
    content = Overlay(noise(size)).truncate(size // 2)
    made = await box.uploads.commit("f", base, content, Changes())
    content.base_is_there = False
    async with opened(storage, blob_container) as later:
        assert same(made, await later.uploads.commit("f", base, content, Changes()))
        content.mtime_ns += 1
        with pytest.raises(OSError) as caught:
            await later.uploads.commit("f", base, content, Changes())
        assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("size", [100, 20 * MIB])
async def test_a_blob_that_was_deleted_is_a_conflict(box, size):
    base = await box.put("f", noise(size))
    await box.sdk(box.client.delete_blob, "f")
    with pytest.raises(OSError) as caught:
        await box.uploads.commit("f", base, Overlay(noise(size)).write(0, b"x"), Changes())
    assert caught.value.errno == errno.ESTALE


async def test_blocks_that_vanished_since_the_blob_was_replaced_are_a_conflict(faulty):
    """A service that looks at the list first and at the condition second."""
    base = await faulty.put("f", b"")
    content = Overlay().write(0, noise(10 * MIB))
    await faulty.put("f", b"theirs")
    refusal = fault_proxy.answer(400, "InvalidBlockList")
    faulty.proxy.always(refusal, method="PUT", match="comp=blocklist")
    with pytest.raises(OSError) as caught:
        await faulty.uploads.commit("f", base, content, Changes())
    assert caught.value.errno == errno.ESTALE


# -- append and page blobs --------------------------------------------------------------------


@pytest.fixture
async def log(box):
    return await first_line(box)


async def first_line(box):
    blob = box.client.get_blob_client("f")
    settings = ContentSettings(**SETTINGS)
    await box.sdk(blob.create_append_blob, metadata={"a": "b"}, content_settings=settings)
    await box.sdk(blob.append_block, b"first line\n")
    return await box.head()


async def test_an_append_blob_grows(box, log):
    content = Overlay(b"first line\n").write(11, noise(9 * MIB))
    made = await box.uploads.commit("f", log, content, Changes())
    assert same(made, await box.head())
    assert headers.blob_type(made) == headers.APPEND
    assert await box.content() == content.data
    found = await box.sdk(box.client.get_blob_client("f").get_blob_properties)
    assert found.content_settings.content_type == SETTINGS["content_type"]
    assert found.metadata == {"a": "b"}


async def test_attributes_of_an_append_blob(box, log):
    content = Overlay(b"first line\n").write(11, b"second line\n")
    made = await box.uploads.commit("f", log, content, Changes(mode=0o600))
    assert made.mode == 0o600
    assert same(made, await box.head())


async def test_a_lost_answer_to_an_append_is_no_conflict(faulty, monkeypatch):
    monkeypatch.setattr(append, "LARGEST_APPEND", 1000)
    base = await first_line(faulty)
    content = Overlay(b"first line\n").write(11, noise(4500))
    faulty.proxy.once(fault_proxy.lose_answer(), method="PUT", match="comp=appendblock")
    made = await faulty.uploads.commit("f", base, content, Changes())
    assert same(made, await faulty.head())
    assert await faulty.content() == content.data
    assert faulty.lost == 1


async def test_an_append_that_failed_half_way_goes_on_where_it_was(faulty, monkeypatch):
    monkeypatch.setattr(append, "LARGEST_APPEND", 1000)
    base = await first_line(faulty)
    content = Overlay(b"first line\n").write(11, noise(4500))
    refusal = fault_proxy.answer(403, "AuthorizationFailure")
    original, calls = content.read, []

    async def read(offset, size):
        calls.append(offset)
        if len(calls) == 3:
            faulty.proxy.always(refusal, match="comp=appendblock")
        return await original(offset, size)

    content.read = read
    with pytest.raises(PermissionError):
        await faulty.uploads.commit("f", base, content, Changes())
    faulty.proxy.clear()
    assert (await faulty.head()).size == 11 + 2000
    made = await faulty.uploads.commit("f", base, content, Changes())
    assert same(made, await faulty.head())
    assert await faulty.content() == content.data


async def test_two_writers_of_one_append_blob(box, log):
    content = Overlay(b"first line\n").write(11, b"mine\n")
    await box.sdk(box.client.get_blob_client("f").append_block, b"their")
    with pytest.raises(OSError) as caught:
        await box.uploads.commit("f", log, content, Changes())
    assert caught.value.errno == errno.ESTALE
    assert await box.content() == b"first line\ntheir"


@pytest.mark.parametrize("theirs", [b"other line\n", b"short\n", b"first line\nmine\nand theirs\n"])
async def test_an_append_blob_that_was_replaced_is_a_conflict(box, log, theirs):
    content = Overlay(b"first line\n").write(11, b"mine\n")
    blob = box.client.get_blob_client("f")
    await box.sdk(blob.create_append_blob)
    await box.sdk(blob.append_block, theirs)
    with pytest.raises(OSError) as caught:
        await box.uploads.commit("f", log, content, Changes())
    assert caught.value.errno == errno.ESTALE
    assert await box.content() == theirs


@pytest.mark.parametrize("change", ["overwrite", "cut", "replace"])
async def test_an_append_blob_can_only_grow(box, log, change):
    content = Overlay(b"first line\n")
    if change == "overwrite":
        content.write(3, b"X")
    elif change == "cut":
        content.truncate(5)
    else:
        content.truncate(0).write(0, b"all new and longer")
    with pytest.raises(PermissionError, match="append"):
        await box.uploads.commit("f", log, content, Changes())
    assert await box.content() == b"first line\n"


async def test_nothing_is_sent_ahead_to_an_append_blob(box, log):
    assert await box.uploads.stage("f", log, 11, noise(8 * MIB)) is None


async def test_page_blobs_are_only_read(box):
    blob = box.client.get_blob_client("f")
    await box.sdk(blob.create_page_blob, 1024)
    base = await box.head()
    with pytest.raises(PermissionError, match="page blob"):
        await box.uploads.commit("f", base, Overlay(bytes(1024)).write(0, b"x"), Changes())


# -- through a mount --------------------------------------------------------------------------


@pytest.fixture
def mounted(storage, blob_container, short_path):
    with driver(volume_spec("blob", storage, blob_container, ""), short_path) as mounted:
        yield mounted


def test_close_is_short(mounted, storage, blob_container, eventually):
    """What a program writes from front to back is in the store but for the last block."""
    data = noise(33 * MIB)
    with (mounted.path / "f").open("wb", buffering=0) as file:
        for offset in range(0, len(data), MIB):
            file.write(data[offset : offset + MIB])
        eventually(lambda: mounted.stats()["staged_bytes"] == 32 * MIB)
        before = mounted.stats()["bytes_sent"]
        os.fsync(file.fileno())
        assert mounted.stats()["bytes_sent"] - before < 2 * MIB
    assert download(storage, blob_container, "f") == data


def test_a_header_that_is_written_last(mounted, storage, blob_container, eventually):
    """As zip, HDF5 and tar --update do it."""
    data = bytearray(noise(33 * MIB))
    with (mounted.path / "f").open("wb", buffering=0) as file:
        for offset in range(0, len(data), MIB):
            file.write(data[offset : offset + MIB])
        eventually(lambda: mounted.stats()["staged_bytes"] == 32 * MIB)
        file.seek(100)
        file.write(b"header")
        data[100:106] = b"header"
        file.truncate(30 * MIB)
        del data[30 * MIB :]
        assert (mounted.path / "f").stat().st_size == 30 * MIB
    assert download(storage, blob_container, "f") == data
    assert (mounted.path / "f").read_bytes() == data


@pytest.mark.parametrize("kind", ["append", "page"])
def test_what_cannot_be_changed_says_so_at_the_write(mounted, storage, blob_container, kind):
    with container(storage, blob_container) as client:
        blob = client.get_blob_client("f")
        if kind == "append":
            blob.create_append_blob()
            blob.append_block(b"first\n" * 100)
        else:
            blob.create_page_blob(512)
            blob.upload_page(b"x" * 512, 0, 512)
    path = mounted.path / "f"
    before = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        with pytest.raises(PermissionError):
            file.write(b"X")
        with pytest.raises(PermissionError):
            file.truncate(5)
    with pytest.raises(PermissionError):
        path.write_bytes(b"all new")
    if kind == "append":
        with path.open("ab") as file:
            file.write(b"last\n")
        before += b"last\n"
    assert path.read_bytes() == before
    assert download(storage, blob_container, "f") == before


def test_time_of_the_last_write_is_that_of_the_file(mounted):
    path = mounted.path / "f"
    with path.open("wb") as file:
        file.write(b"text")
        file.flush()
        before = os.fstat(file.fileno()).st_mtime_ns
    assert path.stat().st_mtime_ns == before
    assert mounted.stats()["staged_bytes"] == 0, "small files travel in one request"


def container(storage, name):
    return ContainerClient(
        storage.blob_endpoint,
        name,
        credential={"account_name": storage.account, "account_key": storage.key},
    )


def download(storage, name, blob):
    with container(storage, name) as client:
        return client.download_blob(blob).readall()
