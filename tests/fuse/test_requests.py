"""What a mount asks the store for, and what it need not ask."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from tests.fuse.tree_driver import tree_mount

#: Of x86-64.
_GETDENTS64 = 217

pytestmark = pytest.mark.integration


def spent(mounted, before, *kinds):
    now = mounted.requests()
    return sum(now.get(kind, 0) - before.get(kind, 0) for kind in kinds)


@pytest.fixture
def mounted(short_path):
    with tree_mount(short_path, timeout=60) as running:
        yield running


def test_names_that_a_directory_made_here_cannot_have_cost_nothing(mounted):
    (mounted.path / "repo").mkdir()
    before = mounted.requests()
    for number in range(2000):
        assert not (mounted.path / "repo" / f"{number}").exists()
    (mounted.path / "repo" / "here").write_bytes(b"x")
    assert (mounted.path / "repo" / "here").exists()
    os.rename(mounted.path / "repo" / "here", mounted.path / "repo" / "there")
    assert not (mounted.path / "repo" / "here").exists()
    assert (mounted.path / "repo" / "there").exists()
    os.rename(mounted.path / "repo", mounted.path / "moved")
    assert not (mounted.path / "moved" / "7").exists()
    assert spent(mounted, before, "stat", "list") <= 4


def test_what_others_put_into_it_is_there_in_time(short_path, eventually):
    with tree_mount(short_path, timeout=0.5) as mounted:
        (mounted.path / "d").mkdir()
        assert not (mounted.path / "d" / "f").exists()
        mounted.put("d/f", b"theirs")
        eventually((mounted.path / "d" / "f").exists)
        assert (mounted.path / "d" / "f").read_bytes() == b"theirs"


def test_what_others_made_before_cannot_be_made_again(mounted):
    (mounted.path / "d").mkdir()
    mounted.put("d/f", b"theirs")
    with pytest.raises(FileExistsError):
        os.open(mounted.path / "d" / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert (mounted.path / "d" / "f").read_bytes() == b"theirs"
    mounted.put("d/g", b"theirs")
    with open(mounted.path / "d" / "g", "ab") as file:
        file.write(b" and ours")
    assert mounted.stored("d/g") == b"theirs and ours"


def test_without_a_time_out_the_store_is_always_asked(short_path):
    with tree_mount(short_path, timeout=0) as mounted:
        (mounted.path / "d").mkdir()
        for number in range(30):
            assert not (mounted.path / "d" / "f").exists()
            mounted.put("d/f", b"x" * number)
            assert (mounted.path / "d" / "f").stat().st_size == number
            assert len((mounted.path / "d" / "f").read_bytes()) == number
            mounted.drop("d/f")


def test_a_volume_without_extended_attributes_is_asked_for_them_once(short_path):
    with tree_mount(short_path, keeps_xattrs=False) as mounted:
        path = mounted.path / "f"
        path.write_bytes(b"x")
        for _ in range(2):
            with pytest.raises(OSError, match="not supported"):
                os.setxattr(path, "user.x", b"1")
            with pytest.raises(OSError, match="not supported"):
                os.getxattr(path, "user.x")


def test_the_same_bytes_under_a_new_version_stay_in_the_page_cache(mounted):
    mounted.put("f", b"x" * 100_000)
    path = mounted.path / "f"
    path.read_bytes()
    path.chmod(0o600)
    os.rename(path, mounted.path / "g")
    before = mounted.requests()
    assert len((mounted.path / "g").read_bytes()) == 100_000
    assert spent(mounted, before, "read") == 0


def test_many_large_listings_at_once(short_path):
    """Each with more room than a message of the driver's may have."""
    count = 3000
    with tree_mount(short_path, timeout=60) as mounted:
        (mounted.path / "d").mkdir()
        mounted.ask("fill", "d", count)
        found = []

        def names():
            libc = ctypes.CDLL(None, use_errno=True)
            descriptor = os.open(mounted.path / "d", os.O_RDONLY | os.O_DIRECTORY)
            buffer = ctypes.create_string_buffer(1 << 20)
            total = 0
            while (filled := libc.syscall(_GETDENTS64, descriptor, buffer, len(buffer))) > 0:
                position = 0
                while position < filled:  # struct linux_dirent64: d_reclen is behind 16 bytes
                    position += int.from_bytes(buffer[position + 16 : position + 18], "little")
                    total += 1
            os.close(descriptor)
            found.append(total)

        threads = [threading.Thread(target=names, daemon=True) for _ in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [count + 2] * len(threads)
