"""The disk cache: what it gives is right, whatever the disk does; and it stays within bounds."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import threading
import time
import weakref

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse import blockfile, chunks, diskcache, diskroom
from fuse.blockfile import CHUNK, UNIT, Version
from fuse.diskcache import DiskCache, HangingError
from fuse.slabs import Slabs
from tests.fuse.driving import driver, volume_spec

KEY = bytes(range(32))
MIB = 1024 * 1024


def content(size, seed=1):
    return random.Random(seed).randbytes(size)


@pytest.fixture
def chunk(tmp_path):
    descriptor = os.open(tmp_path / "chunk", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def fetch(descriptor, start, length, size, key=KEY):
    buffer = memoryview(bytearray(length))
    return bytes(buffer) if blockfile.read(descriptor, key, start, buffer, size) else None


def test_whole_units_come_back(chunk):
    data = content(3 * UNIT + 100)
    view = memoryview(data)
    assert blockfile.write(chunk, KEY, 10, view[10 : 2 * UNIT + 5], len(data)) == UNIT
    assert fetch(chunk, UNIT, UNIT, len(data)) == data[UNIT : 2 * UNIT]
    assert fetch(chunk, 0, UNIT, len(data)) is None
    assert fetch(chunk, UNIT, 2 * UNIT, len(data)) is None
    # The last unit of a version is shorter than others, and whole all the same.
    assert blockfile.write(chunk, KEY, 2 * UNIT, view[2 * UNIT :], len(data)) == UNIT + 100
    assert fetch(chunk, UNIT, 2 * UNIT + 100, len(data)) == data[UNIT:]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    pieces=st.lists(st.tuples(st.integers(0, 4 * UNIT), st.integers(1, 3 * UNIT)), max_size=5),
    wanted=st.tuples(st.integers(0, 4), st.integers(1, 5)),
)
def test_what_comes_back_is_what_was_kept(tmp_path, pieces, wanted):
    data = content(4 * UNIT + 777)
    size = len(data)
    descriptor = os.open(tmp_path / "chunk", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        covered = set()
        for start, length in pieces:
            end = min(size, start + length)
            blockfile.write(descriptor, KEY, start, memoryview(data)[start:end], size)
            for unit in range(5):
                if start <= unit * UNIT and end >= min(size, (unit + 1) * UNIT):
                    covered.add(unit)
        start = wanted[0] * UNIT
        end = min(size, start + wanted[1] * UNIT)
        if start < end:
            there = set(blockfile.units(start, end)) <= covered
            found = fetch(descriptor, start, end - start, size)
            assert found == (data[start:end] if there else None)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("place", [3, 20, 64, 66, 70, 4096, 4096 + UNIT - 1])
def test_any_damage_is_noticed(chunk, place):
    data = content(2 * UNIT)
    blockfile.write(chunk, KEY, 0, memoryview(data), len(data))
    byte = os.pread(chunk, 1, place)
    os.pwrite(chunk, bytes([byte[0] ^ 1]), place)
    with contextlib.suppress(blockfile.DamagedError):
        assert fetch(chunk, 0, UNIT, len(data)) is None
    os.pwrite(chunk, byte, place)
    assert fetch(chunk, 0, UNIT, len(data)) == data[:UNIT]


def test_a_chunk_of_something_else_is_not_believed(chunk):
    data = content(UNIT)
    blockfile.write(chunk, KEY, 0, memoryview(data), len(data))
    with pytest.raises(blockfile.DamagedError):
        fetch(chunk, 0, UNIT, len(data), key=bytes(32))


def version(size, name="f"):
    return Version.of("blob:test", name, '"1"', size)


#: Caches that have a task which writes what they are offered.
FILLING = weakref.WeakSet()


async def filled(cache, nursery, *files):
    """A cache with these ``(version, data)``, once they are written."""
    if cache not in FILLING:  # as in a mount, one task writes
        FILLING.add(cache)
        nursery.start_soon(cache.fill)
    wanted = cache.statistics.disk_bytes_written
    for one, data in files:
        cache.offer(one, 0, memoryview(data))
        wanted += len(data)
        with trio.fail_after(20):
            while cache.statistics.disk_bytes_written < wanted and cache.state == "ok":
                await trio.sleep(0.005)


async def get(cache, one, start, length):
    buffer = memoryview(bytearray(length))
    return bytes(buffer) if await cache.read_into(one, start, buffer) else None


async def test_kept_for_others_and_for_later(tmp_path, nursery):
    data = content(CHUNK + 3 * MIB)
    one = version(len(data))
    first = DiskCache(tmp_path / "blocks", 100 * MIB)
    assert await get(first, one, 0, 100) is None
    await filled(first, nursery, (one, data))
    second = DiskCache(tmp_path / "blocks", 100 * MIB)
    assert await get(second, one, 0, len(data)) == data
    assert await get(second, one, CHUNK - UNIT, 2 * UNIT) == data[CHUNK - UNIT : CHUNK + UNIT]
    assert await get(second, one, UNIT + 1, 5) is None, "only whole units are compared"
    assert await get(second, one, UNIT, UNIT + 1) is None, "nor is this damage"
    assert second.statistics.disk_damaged == 0
    assert await get(second, version(len(data), "g"), 0, UNIT) is None
    assert second.statistics.disk_hits == 2
    assert second.statistics.disk_misses == 3


async def test_damage_is_a_miss_once(tmp_path, nursery):
    data = content(MIB + 100_000)
    one = version(len(data))
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(cache, nursery, (one, data))
    (file,) = [path for path in (tmp_path / "blocks").rglob("*") if len(path.name) == 38]
    raw = bytearray(file.read_bytes())
    raw[5000] ^= 1
    file.write_bytes(raw)
    assert await get(cache, one, 0, len(data)) is None
    assert cache.statistics.disk_damaged == 1
    assert not file.exists()
    await filled(cache, nursery, (one, data))
    assert await get(cache, one, 0, len(data)) == data


async def test_least_recently_used_goes_first(tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(diskcache, "RENEW", -1.0)
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    files = [(version(MIB, f"f{number}"), content(MIB, number)) for number in range(4)]
    await filled(cache, nursery, *files[:3])
    then = time.time() - 1000
    for path in (tmp_path / "blocks").rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
    assert await get(cache, files[0][0], 0, MIB) == files[0][1], "used just now"
    await filled(cache, nursery, files[3])
    freed = await cache.make_room(2 * MIB)
    assert freed >= 2 * MIB
    assert await get(cache, files[0][0], 0, MIB) == files[0][1]
    assert await get(cache, files[3][0], 0, MIB) == files[3][1]
    assert await get(cache, files[1][0], 0, MIB) is None


async def test_it_stays_within_its_budget(tmp_path, nursery):
    budget = 6 * MIB
    cache = DiskCache(tmp_path / "blocks", budget)
    other = DiskCache(tmp_path / "blocks", budget)
    for number in range(20):
        one = cache if number % 2 else other
        await filled(one, nursery, (version(MIB, f"f{number}"), content(MIB, number)))
    await cache.make_room(0)
    used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "blocks").rglob("*"))
    assert used <= budget + 2 * MIB
    assert cache.statistics.disk_evicted_bytes + other.statistics.disk_evicted_bytes >= 12 * MIB


async def test_off_is_off(tmp_path):
    cache = DiskCache(tmp_path / "blocks", 0)
    cache.offer(version(UNIT), 0, memoryview(content(UNIT)))
    assert await get(cache, version(UNIT), 0, UNIT) is None
    assert cache.state == "off"
    assert not (tmp_path / "blocks").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
async def test_trouble_with_the_disk_is_no_trouble_of_the_reader(
    tmp_path, nursery, monkeypatch, number
):
    data = content(MIB)
    one = version(len(data))
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)

    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(blockfile, "write", refuse)
        nursery.start_soon(cache.fill)
        cache.offer(one, 0, memoryview(data))
        with trio.fail_after(10):
            while cache.state == "ok":
                await trio.sleep(0.005)
        assert cache.state == os.strerror(number)
        assert await get(cache, one, 0, len(data)) is None
    monkeypatch.setattr(cache, "_rest_until", 0.0)
    cache.offer(one, 0, memoryview(data))
    with trio.fail_after(10):
        while cache.state != "ok":
            await trio.sleep(0.005)
    assert await get(cache, one, 0, len(data)) == data


async def test_a_directory_that_is_gone_is_made_anew(tmp_path, nursery):
    data = content(MIB)
    one = version(len(data))
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(cache, nursery, (one, data))
    (tmp_path / "blocks").rename(tmp_path / "away")
    assert await get(cache, one, 0, len(data)) is None
    await filled(cache, nursery, (one, data))
    assert await get(cache, one, 0, len(data)) == data


async def test_a_disk_that_refuses_to_delete_is_no_trouble_of_the_reader(
    tmp_path, nursery, monkeypatch
):
    data = content(MIB + 100_000)
    one = version(len(data))
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(cache, nursery, (one, data))
    (file,) = [path for path in (tmp_path / "blocks").rglob("*") if len(path.name) == 38]
    raw = bytearray(file.read_bytes())
    raw[5000] ^= 1
    file.write_bytes(raw)

    def refuse(*_arguments, **_more):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(diskcache, "RENEW", -1.0)
    assert await get(cache, one, 0, len(data)) is None
    assert await cache.make_room(MIB) == 0
    raw[5000] ^= 1
    file.write_bytes(raw)
    assert await get(cache, one, 0, len(data)) == data, "a use that cannot be noted is one still"


async def test_no_room_to_make_where_there_is_no_directory(tmp_path):
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    assert await cache.make_room(MIB) == 0
    (tmp_path / "blocks").write_text("a file")
    assert await cache.make_room(MIB) == 0


async def test_a_disk_that_hangs_is_left_alone(tmp_path, nursery, monkeypatch):
    data = content(2 * MIB)
    one = version(len(data))
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(cache, nursery, (one, data))
    goes_on, asked = threading.Event(), []

    def hang(*_arguments, **_more):
        asked.append(1)
        goes_on.wait(30)
        return True

    monkeypatch.setattr(diskcache, "PATIENCE", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(blockfile, "read", hang)
        with pytest.raises(HangingError):
            await get(cache, one, 0, len(data))
        assert await get(cache, one, 0, len(data)) is None
        assert len(asked) == 1
        assert cache.state == "the disk does not answer"
        goes_on.set()
    monkeypatch.setattr(cache, "_hanging_until", 0.0)
    monkeypatch.setattr(diskcache, "PATIENCE", 20.0)
    assert await get(cache, one, 0, len(data)) == data


@pytest.mark.parametrize("start", [0, UNIT])
def test_a_read_that_must_not_wait_says_where_it_would_have(chunk, monkeypatch, start):
    data = content(3 * UNIT)
    blockfile.write(chunk, KEY, 0, memoryview(data), len(data))
    preadv = os.preadv

    def partly(descriptor, buffers, offset, flags=0):
        """As the kernel does where only the first pages are in its cache."""
        return preadv(descriptor, [memoryview(buffers[0])[:4096]], offset)

    monkeypatch.setattr(os, "preadv", partly)
    buffer = memoryview(bytearray(UNIT))
    with pytest.raises(BlockingIOError):
        blockfile.read(chunk, KEY, start, buffer, len(data), flags=blockfile.NOWAIT)


@pytest.mark.parametrize("start", [0, UNIT, 2 * UNIT])
def test_where_a_unit_is_missing_nothing_is_waited_for(chunk, monkeypatch, start):
    """What is not there is a hole, which the page cache does not have either."""
    data = content(4 * UNIT)
    blockfile.write(chunk, KEY, 3 * UNIT, memoryview(data)[3 * UNIT :], len(data))
    preadv = os.preadv

    def only_the_table(descriptor, buffers, offset, _flags=0):
        if offset:
            raise BlockingIOError
        return preadv(descriptor, buffers[:1], offset)

    monkeypatch.setattr(os, "preadv", only_the_table)
    buffer = memoryview(bytearray(len(data) - start))
    assert blockfile.read(chunk, KEY, start, buffer, len(data), flags=blockfile.NOWAIT) is False


async def test_others_keep_their_share_of_the_disk(tmp_path, nursery, monkeypatch):
    """Below the floor what is oldest gives way to what is new, and nothing rests."""
    space = 8 * MIB
    usage = shutil.disk_usage(tmp_path)

    def small_disk(directory):
        files = [path.stat() for path in directory.rglob("*") if path.is_file()]
        used = sum(status.st_blocks * 512 for status in files)
        return usage._replace(total=space, used=used, free=space - used)

    monkeypatch.setattr(shutil, "disk_usage", small_disk)
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    files = [(version(MIB, f"f{number}"), content(MIB, number)) for number in range(16)]
    for file in files:
        await filled(cache, nursery, file)
        assert small_disk(tmp_path / "blocks").free >= space * diskroom.FLOOR_SHARE - 64 * 1024
    assert cache.state == "ok"
    assert await get(cache, *files[-1][:1], 0, MIB) == files[-1][1]
    # With a file that cannot fit nothing is risked.
    monkeypatch.setattr(diskroom, "FLOOR_SHARE", 1.0)
    monkeypatch.setattr(diskroom, "LARGEST_FLOOR", space)
    cache.offer(version(MIB, "more"), 0, memoryview(content(MIB)))
    with trio.fail_after(20):
        while cache.state == "ok":
            await trio.sleep(0.005)
    assert cache.state == "too little of the disk is free"


async def test_trouble_is_not_over_because_nothing_is_left_to_write(tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(diskcache, "LINGER", 0.01)
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    nursery.start_soon(cache.fill)
    await trio.testing.wait_all_tasks_blocked()
    cache.offer(version(MIB), 0, memoryview(content(MIB)))
    await trio.testing.wait_all_tasks_blocked(0.001)
    cache._note(OSError(errno.EIO, "meanwhile"))
    await trio.testing.wait_all_tasks_blocked(0.1)
    assert cache.state == "meanwhile"
    assert not (tmp_path / "blocks").exists()


@pytest.mark.parametrize(
    ("size", "limit"), [(8 * MIB, diskcache.LARGE_BACKLOG), (100_000, diskcache.BACKLOG)]
)
async def test_what_waits_is_bounded(tmp_path, size, limit):
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    data = memoryview(bytes(size))
    for number in range(500):
        cache.offer(version(size, f"f{number}"), 0, data)
    assert cache.statistics.disk_dropped == 500 - limit // size


# -- with a mount ---------------------------------------------------------------------------------


def bytes_received(mounted):
    return mounted.stats()["bytes_received"]


def upload(storage, container, **blobs):
    from azure.storage.blob import ContainerClient

    with ContainerClient(
        storage.blob_endpoint,
        container,
        credential={"account_name": storage.account, "account_key": storage.key},
    ) as client:
        for name, data in blobs.items():
            client.upload_blob(name, data, overwrite=True)


@pytest.mark.integration
def test_a_remount_reads_from_the_disk(storage, blob_container, short_path, eventually):
    spec = volume_spec("blob", storage, blob_container, None)
    # So little that none of it is passed over where the disk is slow.
    large, small = content(diskcache.LARGE_BACKLOG - MIB), content(100_000, 2)
    upload(storage, blob_container, large=large, small=small)
    with driver(spec, short_path) as mounted:
        assert (mounted.path / "large").read_bytes() == large
        assert (mounted.path / "small").read_bytes() == small
        eventually(lambda: mounted.stats()["disk_bytes_written"] >= len(large) + len(small))
    with driver(spec, short_path) as mounted:
        assert (mounted.path / "large").read_bytes() == large
        assert (mounted.path / "small").read_bytes() == small
        assert bytes_received(mounted) == 0
        upload(storage, blob_container, small=small[::-1])
    for path in (short_path / "c" / "blocks").rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.seek(5000)
                file.write(b"damaged")
    with driver(spec, short_path) as mounted:
        assert (mounted.path / "large").read_bytes() == large
        assert (mounted.path / "small").read_bytes() == small[::-1]
        assert mounted.stats()["disk_damaged"] > 0


@pytest.mark.integration
def test_a_cache_directory_on_a_small_disk(storage, blob_container, short_path):
    spec = volume_spec("blob", storage, blob_container, None)
    files = {f"f{number}": content(4 * MIB, number) for number in range(6)}
    upload(storage, blob_container, **files)
    cache = short_path / "c"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", cache], check=True)
    try:
        with driver(spec, short_path, diskBudget=1 << 40) as mounted:
            for _ in range(2):
                for name, data in files.items():
                    assert (mounted.path / name).read_bytes() == data
            # What programs write has its room, since what can be read again gives way.
            (mounted.path / "new").write_bytes(files["f0"] + files["f1"])
            assert (mounted.path / "new").read_bytes() == files["f0"] + files["f1"]
    finally:
        subprocess.run(["umount", "-l", cache], check=True)


@pytest.mark.integration
def test_two_mounts_share_a_directory_and_one_is_killed(
    storage, blob_container, short_path, eventually
):
    """Whatever the killed one left, and while both wrote the same chunks: the bytes are right."""
    spec = volume_spec("blob", storage, blob_container, None)
    files = {f"f{number}": content(3 * MIB + number, number) for number in range(8)}
    upload(storage, blob_container, **files)
    shared = {"cacheDir": os.fspath(short_path / "c"), "diskBudget": 16 * MIB}
    one, other = short_path / "1", short_path / "2"
    one.mkdir()
    other.mkdir()
    with driver(spec, one, **shared) as first:
        with driver(spec, other, **shared) as second:
            for name, data in files.items():
                assert (second.path / name).read_bytes() == data
                assert (first.path / name).read_bytes() == data
            second.process.kill()
            second.process.wait(10)
        for name, data in files.items():
            assert (first.path / name).read_bytes() == data
    with driver(spec, other, **shared) as again:
        for name, data in reversed(files.items()):  # what was read last is what is still there
            assert (again.path / name).read_bytes() == data
        assert again.stats()["disk_hits"] > 0
        assert again.stats()["disk_damaged"] == 0
        # The cache is swept away under the driver, and made anew.
        (short_path / "c" / "blocks").rename(short_path / "swept")  # it may be writing just now
        shutil.rmtree(short_path / "swept", ignore_errors=True)
        upload(storage, blob_container, later=files["f1"])
        before = again.stats()["disk_bytes_written"]
        assert (again.path / "later").read_bytes() == files["f1"]
        eventually(lambda: again.stats()["disk_bytes_written"] > before)
        assert again.stats()["disk_cache_state"] == "ok"


async def test_large_writes_go_past_the_page_cache(tmp_path, nursery, monkeypatch):
    """And what is read back is right, wherever they begin and however they are mixed."""
    data = content(CHUNK + 3 * MIB + 1234)
    one = version(len(data))
    slab = Slabs().make(len(data))
    slab[: len(data)] = data
    past = []
    write = blockfile._write_past
    monkeypatch.setattr(
        blockfile, "_write_past", lambda *wanted: past.append(write(*wanted)) or past[-1]
    )
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    nursery.start_soon(cache.fill)
    for start, end in (
        (0, 2 * MIB),
        (2 * MIB, 2 * MIB + 5 * UNIT),
        (2 * MIB + 5 * UNIT, len(data)),
    ):
        before = cache.statistics.disk_bytes_written
        cache.offer(one, start, memoryview(slab)[start:end])
        with trio.fail_after(20):
            while cache.statistics.disk_bytes_written < before + end - start:
                await trio.sleep(0.005)
    assert sum(past) > len(data) - 2 * MIB
    assert await get(cache, one, 0, len(data)) == data


async def offered(cache, one, data, *pieces):
    """Have the cache keep these parts ``(start, end)`` of a version; how much of them it kept."""
    for start, end in pieces:
        cache.offer(one, start, memoryview(data)[start:end])
    with trio.fail_after(20):
        while cache.figures()["disk_waiting_bytes"]:
            await trio.sleep(0.001)
        await cache._writing.acquire_on_behalf_of(one)  # whoever writes has ended
        cache._writing.release_on_behalf_of(one)


def chunks_in(directory):
    return [path for path in directory.rglob("*") if len(path.name) == 38]


async def test_scattered_reads_are_packed(tmp_path, nursery):
    """No file for each chunk that they touch; and they are found by whatever covers them."""
    data = content(3 * CHUNK + 5 * UNIT + 17)
    one = version(len(data))
    place = tmp_path / "blocks"
    cache = DiskCache(place, 100 * MIB)
    nursery.start_soon(cache.fill)
    assert await get(cache, one, CHUNK, UNIT) is None
    await offered(
        cache,
        one,
        data,
        (CHUNK, CHUNK + UNIT),
        (2 * CHUNK - UNIT, 2 * CHUNK + UNIT),
        (len(data) - 2 * UNIT - 17, len(data)),
    )
    assert chunks_in(place) == []
    for start, end in (
        (CHUNK, CHUNK + UNIT),
        (2 * CHUNK - UNIT, 2 * CHUNK + UNIT),
        (2 * CHUNK, 2 * CHUNK + UNIT),
        (len(data) - UNIT - 17, len(data)),
    ):
        assert await get(cache, one, start, end - start) == data[start:end]
    assert await get(cache, one, CHUNK, 2 * UNIT) is None
    # What a stream reads around them, which has these in memory, completes it.
    await offered(cache, one, data, (0, CHUNK), (CHUNK + UNIT, 2 * CHUNK - UNIT))
    await offered(cache, one, data, (2 * CHUNK + UNIT, len(data) - 2 * UNIT - 17))
    assert len(chunks_in(place)) == 4
    other = DiskCache(place, 100 * MIB)
    assert await get(other, one, 0, len(data)) == data
    assert other.statistics.disk_damaged == 0


async def test_a_damaged_unit_in_a_pack_costs_no_chunk(tmp_path, nursery):
    data = content(CHUNK)
    one = version(len(data))
    place = tmp_path / "blocks"
    cache = DiskCache(place, 100 * MIB)
    nursery.start_soon(cache.fill)
    await offered(cache, one, data, (0, UNIT))
    await offered(cache, one, data, (UNIT, CHUNK))
    assert await get(cache, one, 0, CHUNK) == data
    (pack,) = (path for path in (place / "packs").iterdir() if path.name != "index")
    with pack.open("r+b") as file:
        file.seek(5000)
        file.write(b"damaged")
    assert await get(cache, one, 0, CHUNK) is None
    assert cache.statistics.disk_damaged == 1
    assert await get(cache, one, UNIT, CHUNK - UNIT) == data[UNIT:]


async def test_a_chunk_that_another_mount_makes_is_found_soon(tmp_path, nursery, monkeypatch):
    data = content(CHUNK)
    one = version(len(data))
    cache, other = (DiskCache(tmp_path / "blocks", 100 * MIB) for _ in range(2))
    assert await get(cache, one, 0, CHUNK) is None
    await filled(other, nursery, (one, data))
    monkeypatch.setattr(chunks.time, "monotonic", lambda: time.time() + 1e9)
    assert await get(cache, one, 0, CHUNK) == data


async def test_a_chunk_of_our_own_is_found_at_once(tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(chunks, "_ABSENT", 1e9)
    monkeypatch.setattr(chunks, "_KNOWN", 3)
    files = [(version(MIB, f"f{number}"), content(MIB, number)) for number in range(10)]
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    for one, _ in files:
        assert await get(cache, one, 0, MIB) is None
    await filled(cache, nursery, *files)
    for one, data in files:
        assert await get(cache, one, 0, MIB) == data


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(
    extra=st.sampled_from([0, 1, 777, UNIT - 1]),
    batches=st.lists(
        st.lists(st.tuples(st.integers(240, 262), st.integers(1, 12)), min_size=1, max_size=4),
        max_size=4,
    ),
    wanted=st.lists(st.tuples(st.integers(240, 262), st.integers(1, 12)), min_size=1, max_size=6),
)
async def test_whatever_was_kept_comes_back_and_nothing_else(
    tmp_path_factory, extra, batches, wanted
):
    """Pieces of any size around a chunk's end, in chunks and in packs, read in pieces of any."""
    size = 262 * UNIT + extra
    data = content(64 * UNIT) * 5
    one = version(size)
    place = tmp_path_factory.mktemp("blocks")
    cache = DiskCache(place, 100 * MIB)
    covered = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cache.fill)
        for batch in batches:
            pieces = [
                (first * UNIT, min(size, (first + count) * UNIT))
                for first, count in batch
                if first * UNIT < size
            ]
            await offered(cache, one, data, *pieces)
            for start, end in pieces:
                covered |= set(range(start // UNIT, -(-end // UNIT)))
        nursery.cancel_scope.cancel()
    other = DiskCache(place, 100 * MIB)
    for first, count in wanted:
        start, end = first * UNIT, min(size, (first + count) * UNIT)
        if start < end:
            there = set(range(start // UNIT, -(-end // UNIT))) <= covered
            found = await get(other, one, start, end - start)
            assert found == (data[start:end] if there else None)
    assert other.statistics.disk_damaged == 0


async def test_a_file_system_without_direct_writes_is_written_all_the_same(
    tmp_path, nursery, monkeypatch
):
    monkeypatch.setattr(chunks, "_open_past", lambda _path: None)
    data = content(2 * MIB)
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(cache, nursery, (version(len(data)), data))
    assert await get(cache, version(len(data)), 0, len(data)) == data
