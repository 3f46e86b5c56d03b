"""The volume against a real Samba with the profile of an Azure file share."""

import errno
import os

import pytest
import trio

from fuse.share import wire
from fuse.volume import Changes, Kind, Volume
from tests.share.conftest import OverlayContent, connect, held_open, read, write

pytestmark = pytest.mark.integration
MIB = 1024 * 1024


async def names(volume, path):
    return {entry.name async for page in volume.list(path) for entry in page}


async def test_is_a_volume(volume):
    assert isinstance(volume, Volume)


@pytest.mark.parametrize("size", [0, 1, 1067, 65536, 256 * 1024 + 1, 5 * MIB + 3])
async def test_round_trip(volume, share_folder, storage, size):
    path, data = f"{share_folder}/f", os.urandom(size)
    committed = await write(volume, path, data)
    assert committed == await volume.stat(path)
    assert committed.size == size
    assert (storage.share_directory / path).read_bytes() == data
    assert await read(volume, path) == data


async def test_reports_progress_in_order(volume, share_folder):
    path, data = f"{share_folder}/f", os.urandom(6 * MIB)
    known, seen = await write(volume, path, data), []
    buffer = bytearray(len(data))
    await volume.read_into(path, known, 0, memoryview(buffer), seen.append)
    assert buffer == data
    assert seen == sorted(seen)
    assert seen[-1] == len(data)
    middle = bytearray(100)
    await volume.read_into(path, known, 3 * MIB - 50, memoryview(middle), seen.append)
    assert middle == data[3 * MIB - 50 : 3 * MIB + 50]


async def test_commit_of_ranges_truncation_and_holes(volume, share_folder):
    path = f"{share_folder}/f"
    base = await write(volume, path, b"0123456789")
    patched = OverlayContent(20, b"__XX______YY", ranges=[(2, 4), (10, 12)], base_size=8)
    after = await volume.commit(path, base, patched, Changes())
    assert await read(volume, path) == b"01XX4567\0\0YY" + bytes(8)
    after = await volume.commit(path, after, OverlayContent(3, b"", base_size=3), Changes())
    assert await read(volume, path) == b"01X"
    assert after.size == 3


async def test_first_commit_wins(volume, share_folder):
    path = f"{share_folder}/f"
    base = await write(volume, path, b"one")
    await volume.commit(path, base, OverlayContent(5, b"other"), Changes())
    with pytest.raises(OSError) as raised:
        await volume.commit(path, base, OverlayContent(4, b"mine"), Changes())
    assert raised.value.errno == errno.ESTALE
    assert await read(volume, path) == b"other"


async def test_listing_agrees_with_stat(volume, share_folder):
    await write(volume, f"{share_folder}/file", b"abc")
    await volume.make_directory(f"{share_folder}/sub", Changes(mode=0o700))
    await volume.symlink(f"{share_folder}/link", "../far/away:here", Changes())
    await write(volume, f"{share_folder}/no-link", b"x" * 1067)
    found = {e.name: e.attributes async for page in volume.list(share_folder) for e in page}
    assert found == {name: await volume.stat(f"{share_folder}/{name}") for name in found}
    assert {name: known.kind for name, known in found.items()} == {
        "file": Kind.FILE,
        "sub": Kind.DIRECTORY,
        "link": Kind.SYMLINK,
        "no-link": Kind.FILE,
    }
    assert found["link"].size == len("../far/away:here")
    assert await volume.readlink(f"{share_folder}/link", found["link"]) == "../far/away:here"
    assert all(known.file_id for known in found.values())


async def test_large_listing(volume, share_folder, storage):
    for index in range(1500):
        (storage.share_directory / share_folder / f"file-with-a-long-name-{index:06}").touch()
    assert len(await names(volume, share_folder)) == 1500


async def test_special_names(volume, share_folder):
    odd = ["a:b", "what?", "star*", "<tag>", 'quo"te', "pi|pe", "back\\slash", "dot.", "blank ",
           ".hidden", "ünï", "tab\tx", "😀"]  # fmt: skip
    for name in odd:
        await write(volume, f"{share_folder}/{name}", name.encode())
    assert await names(volume, share_folder) == set(odd)
    for name in odd:
        assert await read(volume, f"{share_folder}/{name}") == name.encode()


async def test_errnos(volume, share_folder):
    file, directory = f"{share_folder}/f", f"{share_folder}/d"
    known = await write(volume, file, b"abc")
    await volume.make_directory(directory, Changes())
    await volume.create(f"{directory}/x", Changes())

    async def lists(path):
        return await names(volume, path)

    for expected, call in [
        (errno.ENOENT, lambda: volume.stat(f"{share_folder}/none")),
        (errno.ENOENT, lambda: volume.stat(f"{share_folder}/none/deeper")),
        (errno.EEXIST, lambda: volume.create(file, Changes())),
        (errno.EEXIST, lambda: volume.make_directory(directory, Changes())),
        (errno.EEXIST, lambda: volume.symlink(file, "x", Changes())),
        (errno.ENOENT, lambda: volume.make_directory(f"{share_folder}/none/d", Changes())),
        (errno.ENOTEMPTY, lambda: volume.remove_directory(directory)),
        (errno.ENOTDIR, lambda: volume.remove_directory(file)),
        (errno.EISDIR, lambda: volume.unlink(directory)),
        (errno.ENOENT, lambda: volume.unlink(f"{share_folder}/none")),
        (errno.ENOENT, lambda: lists(f"{share_folder}/none")),
        (errno.ENOTDIR, lambda: lists(file)),
        (errno.EINVAL, lambda: volume.readlink(file, known)),
        (errno.EEXIST, lambda: volume.rename(file, f"{directory}/x", known, replace=False)),
        (errno.ENOENT, lambda: volume.rename(f"{file}0", f"{file}1", known, replace=True)),
    ]:
        with pytest.raises(OSError) as raised:
            await call()
        assert raised.value.errno == expected
    assert await read(volume, file) == b"abc"


async def test_removal(volume, share_folder):
    await write(volume, f"{share_folder}/f", b"abc")
    await volume.make_directory(f"{share_folder}/d", Changes())
    await volume.unlink(f"{share_folder}/f")
    await volume.remove_directory(f"{share_folder}/d")
    assert await names(volume, share_folder) == set()


async def test_rename(volume, share_folder):
    old, new = f"{share_folder}/old", f"{share_folder}/new"
    known = await write(volume, old, b"content" * 100_000)
    await write(volume, new, b"in the way")
    await read(volume, new)
    await read(volume, old, 300_000, 10)  # leaves a handle open on it
    moved = await volume.rename(old, new, known, replace=True)
    assert moved == await volume.stat(new)
    assert moved.file_id == known.file_id
    assert await names(volume, share_folder) == {"new"}
    assert len(await read(volume, new)) == 700_000


async def test_rename_of_directories(volume, share_folder):
    for name in ("a", "b", "c"):
        await volume.make_directory(f"{share_folder}/{name}", Changes())
    await write(volume, f"{share_folder}/a/f", b"x" * 300_000)
    await read(volume, f"{share_folder}/a/f")  # an open file inside must not be in the way
    known = await volume.stat(f"{share_folder}/a")
    await volume.rename(f"{share_folder}/a", f"{share_folder}/b", known, replace=True)
    assert await names(volume, f"{share_folder}/b") == {"f"}
    empty = await volume.stat(f"{share_folder}/c")
    with pytest.raises(OSError) as raised:
        await volume.rename(f"{share_folder}/c", f"{share_folder}/b", empty, replace=True)
    assert raised.value.errno == errno.ENOTEMPTY
    with pytest.raises(OSError) as raised:
        await volume.rename(f"{share_folder}/c", f"{share_folder}/c/d", empty, replace=True)
    assert raised.value.errno == errno.EINVAL


async def test_case_only_rename(volume, share_folder):
    known = await write(volume, f"{share_folder}/readme", b"x")
    await volume.rename(f"{share_folder}/readme", f"{share_folder}/README", known, replace=True)
    assert await names(volume, share_folder) == {"README"}


@pytest.mark.parametrize("share", [wire.SHARE_ALL, 0x3])
async def test_rename_onto_an_open_file(volume, share_folder, share):
    old, new = f"{share_folder}/old", f"{share_folder}/new"
    known = await write(volume, old, b"new content")
    await write(volume, new, b"old content")
    async with held_open(volume, new, share=share):
        if share == wire.SHARE_ALL:
            await volume.rename(old, new, known, replace=True)
            assert await read(volume, new) == b"new content"
        else:  # the other client insists that the file is not removed
            with pytest.raises(OSError) as raised:
                await volume.rename(old, new, known, replace=True)
            assert raised.value.errno == errno.EBUSY
            assert await read(volume, new) == b"old content"
    expected = {"new"} if share == wire.SHARE_ALL else {"old", "new"}
    assert await names(volume, share_folder) == expected


async def test_unlink_frees_the_name_of_an_open_file(volume, share_folder):
    path = f"{share_folder}/f"
    await write(volume, path, b"old")
    async with held_open(volume, path, share=wire.SHARE_ALL):
        await volume.unlink(path)
        with pytest.raises(FileNotFoundError):
            await volume.stat(path)
        await write(volume, path, b"new")
        assert await read(volume, path) == b"new"
    assert await names(volume, share_folder) == {"f"}


async def test_times_and_accepted_changes(volume, share_folder):
    path = f"{share_folder}/f"
    known = await write(volume, path, b"x")
    same = await volume.set_attributes(path, known, Changes(mode=0o600, uid=7, gid=8))
    assert same == known
    when = 1_234_567_890_123_456_700
    changed = await volume.set_attributes(path, known, Changes(mtime_ns=when))
    assert changed.mtime_ns == when
    assert changed == await volume.stat(path)
    again = await volume.commit(
        path, changed, OverlayContent(2, b"yy"), Changes(mtime_ns=when + 1000)
    )
    assert again.mtime_ns == when + 1000
    assert (await volume.stat(path)).mtime_ns == when + 1000
    directory = await volume.stat(share_folder)
    assert (
        await volume.set_attributes(share_folder, directory, Changes(mtime_ns=when))
    ).mtime_ns == when


async def test_version_names_the_content(volume, share_folder):
    path = f"{share_folder}/f"
    first = await write(volume, path, b"abc")
    second = await volume.commit(path, first, OverlayContent(3, b"xyz"), Changes())
    assert first.version != second.version
    assert await volume.continues(path, first, second)
    await volume.unlink(path)
    third = await write(volume, path, b"abc")
    assert first.version != third.version


async def test_a_growing_file_is_read_on_a_replaced_one_is_not(volume, storage, share_folder):
    path = f"{share_folder}/log"
    local = storage.share_directory / path
    local.write_bytes(b"a" * 300_000)
    known = await volume.stat(path)
    buffer = bytearray(300_000)
    with local.open("ab") as stream:
        stream.write(b"more")
    await volume.read_into(path, known, 0, memoryview(buffer), lambda _: None)
    assert buffer == b"a" * 300_000
    local.with_suffix(".new").write_bytes(b"b" * 300_000)
    local.with_suffix(".new").rename(local)
    for size in (300_000, 10):
        with pytest.raises(OSError) as raised:
            await volume.read_into(
                path, await volume.stat(share_folder), 0, memoryview(bytearray(size)), print
            )
        assert raised.value.errno == errno.ESTALE
    local.write_bytes(b"short")
    fresh = (await volume.stat(path)).changed(size=300_000)
    with pytest.raises(OSError) as raised:
        await volume.read_into(path, fresh, 0, memoryview(bytearray(300_000)), print)
    assert raised.value.errno == errno.ESTALE
    local.unlink()
    with pytest.raises(OSError) as raised:
        await volume.read_into(path, known, 0, memoryview(buffer), lambda _: None)
    assert raised.value.errno == errno.ESTALE


async def test_space(volume, storage):
    space = await volume.space()
    there = os.statvfs(storage.share_directory)
    assert space.total == there.f_blocks * there.f_frsize
    assert 0 < space.free <= space.total


async def test_idle_handles_are_closed(volume, share_folder):
    await write(volume, f"{share_folder}/f", bytes(400_000))
    await read(volume, f"{share_folder}/f")
    assert volume.statistics()["share_open_handles"] == 1
    with trio.fail_after(5):
        while volume.statistics()["share_open_handles"]:
            await trio.sleep(0.05)


async def test_the_callers_exception_leaves_unwrapped(storage):
    with pytest.raises(KeyError):
        async with connect(storage):
            raise KeyError
    with trio.move_on_after(0.2) as scope:
        async with connect(storage):
            await trio.sleep_forever()
    assert scope.cancelled_caught
