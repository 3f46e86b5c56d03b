"""Containers that other programs made and use: everything in them is there, and ours is theirs."""

from __future__ import annotations

import ctypes
import errno
import os
import uuid

import pytest

from fuse.volume import Changes, Kind
from tests.fuse.blob_volume import content, listing, opened, sdk
from tests.fuse.driving import driver, volume_spec

pytestmark = pytest.mark.integration

#: linux/fs.h
RENAME_EXCHANGE = 2


@pytest.fixture
def client(storage, blob_container):
    with sdk(storage, blob_container) as found:
        yield found


@pytest.fixture
async def volume(storage, blob_container, tmp_path):
    async with opened(storage, blob_container, tmp_path) as found:
        yield found


async def walk(volume, path=""):
    """Path → kind of everything below a directory, where listing and stat agree."""
    found = {}
    for name, attributes in (await listing(volume, path)).items():
        below = f"{path}/{name}" if path else name
        assert name not in {"", ".", ".."}
        assert "/" not in name
        alone = await volume.stat(below)
        assert (alone.kind, alone.size, alone.version, alone.xattrs, alone.headers) == (
            attributes.kind,
            attributes.size,
            attributes.version,
            attributes.xattrs,
            attributes.headers,
        )
        found[below] = attributes.kind
        if attributes.kind is Kind.DIRECTORY:
            found |= await walk(volume, below)
    return found


NAMES = [
    "a b",
    " lead and trail ",
    "100%",
    "%2F",
    "q?x",
    "h#x",
    "pl+us",
    "a&b=c;d",
    "dot.",
    "dots...",
    "e\u0301",
    "\u00e9",
    "Case",
    "case",
    "\U0001f600",
    "q\"'<>&",
    "tab\there",
    "del\x7f",
    "x" * 1024,
    "\u4e00" * 1024,
    "/".join("s" * 254),
    "e//b",
    "//",
    "/lead",
    "x//",
    "_$empty$",
    "lit_$directory$",
    "_$x5c$",
    "~",
    "a:b|c*",
    "a\u2028b",
]


async def test_every_name_is_reached_moved_and_deleted(volume, client):
    for number, name in enumerate(NAMES):
        client.upload_blob(name, str(number).encode())
    found = await walk(volume)
    files = [path for path, kind in found.items() if kind is Kind.FILE]
    assert sorted([await content(volume, path) for path in files]) == sorted(
        str(number).encode() for number in range(len(NAMES))
    )
    for name in NAMES[:15]:
        assert name in files
    # Each is renamed into a directory, back out of it, and deleted.
    await volume.make_directory("moved", Changes())
    for number, path in enumerate(files):
        before = await content(volume, path)
        await volume.rename(path, f"moved/{number}", await volume.stat(path), replace=False)
        assert await content(volume, f"moved/{number}") == before
        with pytest.raises(FileNotFoundError):
            await volume.stat(path)
        await volume.unlink(f"moved/{number}")
    for path, kind in reversed(found.items()):
        if kind is Kind.DIRECTORY and not path.endswith("_$empty$"):  # those end by themselves
            await volume.remove_directory(path)
    assert [blob.name for blob in client.list_blobs()] == ["moved"]


async def test_names_with_dots_are_shown_escaped_and_lead_nowhere_else(volume, client, monkeypatch):
    store = volume._store
    client.upload_blob("outside", b"not this")
    for name in ["a/./b", "a/../outside", "../x", ".", ".."]:
        await store.put_blob(name, name.encode(), {})
    head = store.head

    async def only_unmistakable(name):
        assert not {".", ".."} & set(name.split("/")), "a server may take it for another name"
        return await head(name)

    monkeypatch.setattr(store, "head", only_unmistakable)
    found = await walk(volume)
    files = {path: await content(volume, path) for path, k in found.items() if k is Kind.FILE}
    assert (
        files
        == {
            "outside": b"not this",
            "a/_$dot$/b": b"a/./b",
            "a/_$dotdot$/outside": b"a/../outside",
            "_$dotdot$/x": b"../x",
            "_$dot$": b".",
            "_$dotdot$": b"..",
        }
        or files.pop("_$dotdot$") == b".."
    )
    with pytest.raises(FileNotFoundError):
        await volume.stat("_$dotdot$/nowhere")
    await volume.unlink("a/_$dotdot$/outside")
    assert await content(volume, "outside") == b"not this"


async def test_what_the_store_cannot_carry_is_kept_under_escapes(volume, client):
    for name in ["back\\slash", "two\nlines", "bell\x07", "noncharacter\ufffe"]:
        await volume.create(name, Changes())
        assert name in await listing(volume)
        assert (await volume.stat(name)).size == 0
    assert sorted(blob.name for blob in client.list_blobs()) == [
        "back_$x5c$slash",
        "bell_$x07$",
        "noncharacter_$xfffe$",
        "two_$x0a$lines",
    ]


async def test_names_that_stand_for_something_else_cannot_be_made(volume):
    source = await volume.create("x", Changes())
    for attempt in [
        volume.create("_$empty$", Changes()),
        volume.make_directory("a_$directory$", Changes()),
        volume.symlink("_$dotdot$", "target", Changes()),
        volume.rename("x", "_$dot$", source, replace=True),
    ]:
        with pytest.raises(OSError) as caught:
            await attempt
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        await volume.create("n" * 1025, Changes())
    assert caught.value.errno == errno.ENAMETOOLONG


async def test_a_blob_and_a_directory_of_one_name(volume, client):
    client.upload_blob("both", b"the blob")
    client.upload_blob("both/child", b"below")
    client.upload_blob("both-and", b"sorts between them")
    found = await walk(volume)
    assert found == {
        "both": Kind.FILE,
        "both-and": Kind.FILE,
        "both_$directory$": Kind.DIRECTORY,
        "both_$directory$/child": Kind.FILE,
    }
    assert await content(volume, "both") == b"the blob"
    assert await content(volume, "both_$directory$/child") == b"below"
    with pytest.raises(OSError) as caught:
        await volume.remove_directory("both_$directory$")
    assert caught.value.errno == errno.ENOTEMPTY
    directory = await volume.stat("both_$directory$")
    await volume.rename("both_$directory$", "apart", directory, replace=False)
    assert sorted(await walk(volume)) == ["apart", "apart/child", "both", "both-and"]
    with pytest.raises(FileNotFoundError):
        await volume.stat("both_$directory$")
    with pytest.raises(FileNotFoundError):
        await volume.stat("apart_$directory$")
    client.upload_blob("both/child", b"below")
    await volume.unlink("both")
    assert sorted(await walk(volume)) == ["apart", "apart/child", "both", "both-and", "both/child"]


async def test_markers_of_others(volume, client):
    client.upload_blob("blobfuse", b"", metadata={"hdi_isfolder": "true"})
    client.upload_blob("azcopy", b"", metadata={"Hdi_isfolder": "True"})
    client.upload_blob("azcopy/x", b"1")
    client.upload_blob("slash/", b"")
    client.upload_blob("virtual/deep/x", b"2")
    client.upload_blob("link", b"azcopy/x", metadata={"is_symlink": "true"})
    client.upload_blob("full/", b"content")
    client.upload_blob("odd", b"content", metadata={"hdi_isfolder": "true"})
    assert await walk(volume) == {
        "blobfuse": Kind.DIRECTORY,
        "azcopy": Kind.DIRECTORY,
        "azcopy/x": Kind.FILE,
        "slash": Kind.DIRECTORY,
        "virtual": Kind.DIRECTORY,
        "virtual/deep": Kind.DIRECTORY,
        "virtual/deep/x": Kind.FILE,
        "link": Kind.SYMLINK,
        "full": Kind.DIRECTORY,
        "full/_$empty$": Kind.FILE,
        "odd": Kind.FILE,
    }
    assert await volume.readlink("link", await volume.stat("link")) == "azcopy/x"
    for name in ["blobfuse", "slash"]:
        await volume.remove_directory(name)
    await volume.rename("azcopy", "renamed", await volume.stat("azcopy"), replace=False)
    assert await content(volume, "renamed/x") == b"1"
    names = {blob.name for blob in client.list_blobs()}
    assert names == {"renamed", "renamed/x", "virtual/deep/x", "link", "full/", "odd"}


async def test_what_we_write_they_read(volume, client):
    await volume.make_directory("d", Changes(mode=0o750))
    await volume.symlink("l", "d/x", Changes())
    blob = client.get_blob_client("d").get_blob_properties()
    assert (blob.size, blob.metadata) == (0, {"hdi_isfolder": "true", "permissions": "16872"})
    assert client.download_blob("l").readall() == b"d/x"
    assert client.get_blob_client("l").get_blob_properties().metadata == {"is_symlink": "true"}


async def test_snapshots_versions_and_uncommitted_blobs_do_not_appear(volume, client):
    client.upload_blob("kept", b"1").create_snapshot()
    client.get_blob_client("uncommitted").stage_block("QUFB", b"xxx")
    client.upload_blob("gone", b"2").delete_blob()
    assert list(await listing(volume)) == ["kept"]
    for name in ["uncommitted", "gone"]:
        with pytest.raises(FileNotFoundError):
            await volume.stat(name)
    # A snapshot is somebody's backup: it is not deleted in passing.
    with pytest.raises(OSError) as caught:
        await volume.unlink("kept")
    assert caught.value.errno == errno.EBUSY
    assert "SnapshotsPresent" in str(caught.value)


async def test_leases_are_respected(volume, client):
    lease = client.upload_blob("leased", b"1").acquire_lease()
    attributes = await volume.stat("leased")
    assert await content(volume, "leased") == b"1"
    for attempt in [
        volume.unlink("leased"),
        volume.rename("leased", "other", attributes, replace=False),
        volume.set_attributes("leased", attributes, Changes(mode=0o600)),
    ]:
        with pytest.raises(OSError) as caught:
            await attempt
        assert caught.value.errno == errno.EBUSY
    assert list(await listing(volume)) == ["leased"], "the copy of a failed rename is gone"
    lease.release()
    await volume.unlink("leased")


async def test_all_types_of_blobs_are_read_and_renamed(volume, client):
    client.upload_blob("block", b"b" * 10)
    append = client.get_blob_client("append")
    append.create_append_blob()
    append.append_block(b"a" * 10)
    page = client.get_blob_client("page")
    page.create_page_blob(512)
    page.upload_page(b"p" * 512, 0, 512)
    for name, expected in [("block", b"b" * 10), ("append", b"a" * 10), ("page", b"p" * 512)]:
        attributes = await volume.stat(name)
        assert dict(attributes.headers)["x-ms-blob-type"].lower() == f"{name}blob"
        assert await content(volume, name) == expected
        moved = await volume.rename(name, f"{name}2", attributes, replace=False)
        assert dict(moved.headers)["x-ms-blob-type"].lower() == f"{name}blob"
        assert await content(volume, f"{name}2") == expected
        assert client.get_blob_client(f"{name}2").get_blob_properties().blob_type.lower() == (
            f"{name}blob"
        )


async def test_an_archived_blob_says_why_it_cannot_be_read(volume, client):
    client.upload_blob("cold", b"1").set_standard_blob_tier("Archive")
    assert (await volume.stat("cold")).size == 1
    with pytest.raises(OSError, match="BlobArchived") as caught:
        await content(volume, "cold")
    assert caught.value.errno == errno.EIO


async def test_a_directory_outlives_its_last_file(volume, client):
    for number in range(5):
        client.upload_blob(f"virtual/deep/{number}", b"")
    for number in range(5):
        await volume.unlink(f"virtual/deep/{number}")
        markers = [b.name for b in client.list_blobs() if b.name == "virtual/deep"]
        assert markers == ([] if number < 4 else ["virtual/deep"]), "one is made when it is needed"
    assert await walk(volume) == {"virtual": Kind.DIRECTORY, "virtual/deep": Kind.DIRECTORY}
    await volume.remove_directory("virtual/deep")
    assert await walk(volume) == {"virtual": Kind.DIRECTORY}
    client.upload_blob("other/x", b"")
    await volume.rename("other/x", "x", await volume.stat("other/x"), replace=False)
    assert await walk(volume) == {
        "virtual": Kind.DIRECTORY,
        "other": Kind.DIRECTORY,
        "x": Kind.FILE,
    }


async def test_deleting_many_files_costs_little_more_than_their_deletions(volume, client):
    for number in range(60):
        client.upload_blob(f"virtual/{number}", b"")
    before = volume.statistics()["requests"]
    for number in range(60):
        await volume.unlink(f"virtual/{number}")
    assert volume.statistics()["requests"] - before <= 60 + 8
    await volume.make_directory("made", Changes())
    for number in range(5):
        await volume.create(f"made/{number}", Changes())
    before = volume.statistics()["requests"]
    for number in range(5):
        await volume.unlink(f"made/{number}")
    assert volume.statistics()["requests"] - before == 5, "its marker keeps it"


async def test_directories_and_their_errnos(volume, client):
    client.upload_blob("virtual/x", b"")
    with pytest.raises(FileExistsError):
        await volume.make_directory("virtual", Changes())
    with pytest.raises(FileNotFoundError):
        await volume.make_directory("missing/d", Changes())
    await volume.make_directory("d", Changes())
    with pytest.raises(FileExistsError):
        await volume.make_directory("d", Changes())
    await volume.make_directory("d/e", Changes())
    with pytest.raises(OSError) as caught:
        await volume.remove_directory("d")
    assert caught.value.errno == errno.ENOTEMPTY
    with pytest.raises(FileNotFoundError):
        await volume.remove_directory("missing")
    with pytest.raises(FileNotFoundError):
        await listing(volume, "missing")
    client.delete_blob("d/e")
    client.delete_blob("d")
    with pytest.raises(FileNotFoundError):
        await volume.make_directory("d/e", Changes())


async def test_a_directory_whose_name_is_believed_to_be_free_is_one_request(volume, client):
    await volume.make_directory("d", Changes())
    before = volume.statistics()["requests"]
    await volume.make_directory("d/e", Changes(mode=0o750), free=True)
    assert volume.statistics()["requests"] - before == 1
    assert (await listing(volume, "d"))["e"].mode == 0o750
    client.upload_blob("d/taken", b"x")
    for name in ("d/e", "d/taken"):
        with pytest.raises(FileExistsError):
            await volume.make_directory(name, Changes(), free=True)


async def test_removing_a_directory_costs_one_question_and_the_deletion(volume):
    await volume.make_directory("d", Changes())
    before = volume.statistics()["requests"]
    await volume.remove_directory("d")
    assert volume.statistics()["requests"] - before == 3  # list, head of the marker, delete
    assert await listing(volume) == {}


async def test_a_file_that_took_the_place_of_a_directory_is_not_removed_with_it(volume, client):
    await volume.make_directory("d", Changes())
    client.upload_blob("d", b"precious", overwrite=True)
    with pytest.raises(FileNotFoundError):
        await volume.remove_directory("d")
    assert client.download_blob("d").readall() == b"precious"


async def test_attributes_in_listings_of_made_directories(volume, client):
    await volume.make_directory("d", Changes(mode=0o700))
    client.upload_blob("d/x", b"")
    found = await listing(volume)
    assert list(found) == ["d"]
    assert found["d"].mode == 0o700


async def test_extended_attributes_are_metadata(volume, client):
    client.upload_blob("f", b"x", metadata={"Project": "apollo"})
    attributes = await volume.stat("f")
    assert attributes.xattrs == (("user.project", b"apollo"),)
    changes = Changes(xattrs=(("user.project", b"gemini"), ("user.Binary", b"\0\xff")))
    changed = await volume.set_attributes("f", attributes, changes)
    expected = (("user.Binary", b"\0\xff"), ("user.project", b"gemini"))
    assert changed.xattrs == (await volume.stat("f")).xattrs == expected
    assert (await listing(volume))["f"].xattrs == expected
    metadata = client.get_blob_client("f").get_blob_properties().metadata
    assert {name.lower(): value for name, value in metadata.items()}["project"] == "gemini"
    with pytest.raises(OSError) as caught:
        await volume.set_attributes("f", changed, Changes(xattrs=(("user.big", b"x" * 9000),)))
    assert caught.value.errno == errno.ENOSPC
    await volume.set_attributes("f", changed, Changes(xattrs=(("user.project", None),)))
    assert (await volume.stat("f")).xattrs == (("user.Binary", b"\0\xff"),)
    # Directories without a marker get one to keep them in.
    client.upload_blob("d/x", b"")
    directory = await volume.stat("d")
    await volume.set_attributes("d", directory, Changes(xattrs=(("user.a", b"1"),)))
    assert (await volume.stat("d")).xattrs == (("user.a", b"1"),)


async def test_changing_the_mode_is_no_modification_of_the_content(volume, client):
    client.upload_blob("f", b"x")
    before = await volume.stat("f")
    changed = await volume.set_attributes("f", before, Changes(mode=0o600))
    after = await volume.stat("f")
    assert (changed.mode, after.mode) == (0o600, 0o600)
    assert before.mtime_ns == changed.mtime_ns == after.mtime_ns
    # The store's own time has changed, which a fast test would not see.
    metadata = client.get_blob_client("f").get_blob_properties().metadata
    assert metadata["modtime"] == str(before.mtime_ns)


async def test_attributes_of_a_replaced_file_are_not_set(volume, client):
    client.upload_blob("f", b"x")
    before = await volume.stat("f")
    client.upload_blob("f", b"y", overwrite=True)
    with pytest.raises(OSError) as caught:
        await volume.set_attributes("f", before, Changes(mode=0o600))
    assert caught.value.errno == errno.ESTALE


async def test_growth_is_proven(volume, client):
    append = client.get_blob_client("log")
    append.create_append_blob()
    append.append_block(b"one")
    first = await volume.stat("log")
    append.append_block(b"two")
    second = await volume.stat("log")
    assert await volume.continues("log", first, second)
    assert not await volume.continues("log", second, first)

    client.upload_blob("block", b"one", overwrite=True)
    first = await volume.stat("block")
    client.upload_blob("block", b"onetwo", overwrite=True)
    second = await volume.stat("block")
    assert await volume.continues("block", first, second)
    client.upload_blob("block", b"something else", overwrite=True)
    third = await volume.stat("block")
    assert not await volume.continues("block", second, third)
    assert not await volume.continues("block", first, second), "it cannot be seen any more"


async def test_more_entries_than_a_page(volume, client, monkeypatch):
    from fuse.blob import listing as pages

    for number in range(25):
        client.upload_blob(f"d/{number:02}", b"")
        client.upload_blob(f"d/{number:02}/x", b"")
    for page in [1, 2, 7]:
        monkeypatch.setattr(pages.Listing.pages, "__kwdefaults__", {"delimiter": "", "limit": page})
        found = await listing(volume, "d")
        assert len(found) == 50
        assert sum(entry.kind is Kind.DIRECTORY for entry in found.values()) == 25


def test_a_mount_of_odd_names(storage, blob_container, client, short_path):
    """What the volume promises also holds through the kernel."""
    names = ["a b%41", "trailing.", "q?#+&", "deep/er/file", "both", "both/x", "slash/", "e//x"]
    for name in names:
        client.upload_blob(name, name.encode() if name != "slash/" else b"")
    client.upload_blob("directory/" + "n" * 1000, b"long")
    with driver(volume_spec("blob", storage, blob_container, None), short_path) as mounted:
        found = {
            os.path.relpath(os.path.join(directory, name), mounted.path)
            for directory, _, files in os.walk(mounted.path)
            for name in files
            if not directory.endswith("/directory")
        }
        assert found == {
            "a b%41",
            "trailing.",
            "q?#+&",
            "deep/er/file",
            "both",
            "both_$directory$/x",
            "e/_$empty$/x",
        }
        for name in found:
            assert (mounted.path / name).read_bytes()
        long = mounted.path / "directory" / ("n" * 1000)
        assert os.listdir(mounted.path / "directory") == [long.name]
        assert long.read_bytes() == b"long"
        os.rename(long, mounted.path / "directory" / "short")
        os.unlink(mounted.path / "directory" / "short")
        os.rmdir(mounted.path / "directory")
        directory = mounted.path / uuid.uuid4().hex
        directory.mkdir()
        (directory / "back\\slash").write_bytes(b"1")
        assert os.listdir(directory) == ["back\\slash"]
        os.rename(mounted.path / "e", directory / "e")
        assert (directory / "e" / "_$empty$" / "x").read_bytes() == b"e//x"
        for name in sorted(found - {"e/_$empty$/x"}):
            (mounted.path / name).unlink()
        assert sorted(os.listdir(mounted.path)) == sorted(["both", "deep", "slash", directory.name])


def test_extended_attributes_and_exchange_through_the_kernel(
    storage, blob_container, client, short_path
):
    client.upload_blob("theirs", b"1", metadata={"project": "apollo"})
    client.upload_blob("other", b"2")
    with driver(volume_spec("blob", storage, blob_container, None), short_path) as mounted:
        theirs = mounted.path / "theirs"
        assert os.getxattr(theirs, "user.project") == b"apollo"
        os.setxattr(theirs, "user.checked", b"yes")
        os.setxattr(theirs, "user.Binary", b"\0\1")
        assert sorted(os.listxattr(theirs)) == ["user.Binary", "user.checked", "user.project"]
        assert client.get_blob_client("theirs").get_blob_properties().metadata["checked"] == "yes"
        os.removexattr(theirs, "user.project")
        assert "project" not in client.get_blob_client("theirs").get_blob_properties().metadata
        with pytest.raises(OSError) as caught:
            os.setxattr(theirs, "user.big", b"x" * 9000)
        assert caught.value.errno == errno.ENOSPC
        (mounted.path / "new").write_bytes(b"3")
        os.setxattr(mounted.path / "new", "user.a", b"b")
        assert client.get_blob_client("new").get_blob_properties().metadata["a"] == "b"
        libc = ctypes.CDLL(None, use_errno=True)
        names = [os.fsencode(mounted.path / name) for name in ("theirs", "other")]
        assert libc.renameat2(-100, names[0], -100, names[1], RENAME_EXCHANGE) == 0, os.strerror(
            ctypes.get_errno()
        )
        assert theirs.read_bytes() == b"2"
        assert (mounted.path / "other").read_bytes() == b"1"
        assert os.getxattr(mounted.path / "other", "user.checked") == b"yes"
