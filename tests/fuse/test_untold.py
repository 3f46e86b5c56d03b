"""Read-only mounts, whose kernel opens and closes files without telling: no request, same bytes."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import subprocess
import threading

import pytest

from fuse.untold import THREADS
from tests.fuse.tree_driver import tree_mount
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

TIMEOUT = 0.3
SIZE = 3 * 1024 * 1024 + 77


@pytest.fixture
def mounted(short_path):
    with tree_mount(short_path, timeout=TIMEOUT, read_only=True) as running:
        yield running


def reads(path, data):
    """Whether a file has this content; ESTALE says that it has just been replaced."""
    try:
        return path.read_bytes() == data
    except OSError as error:
        assert error.errno == errno.ESTALE
        return False


def noise(seed, size=SIZE):
    return random.Random(seed).randbytes(size)


def test_a_second_epoch_asks_nothing(short_path):
    with tree_mount(short_path, timeout=1000, read_only=True) as mounted:
        files = {f"{number}": noise(number, 10_000) for number in range(30)}
        for name, data in files.items():
            mounted.put(name, data)

        def epoch():
            found = {}
            for name in files:
                # Python's open() asks for a terminal: an ioctl, which the kernel passes on.
                descriptor = os.open(mounted.path / name, os.O_RDONLY)
                found[name] = os.read(descriptor, 1 << 20)
                os.close(descriptor)
            return found

        assert epoch() == files
        before = mounted.kernel_requests()
        for _ in range(3):
            assert epoch() == files
        assert mounted.kernel_requests() == before
        assert mounted.ask("stats")["open_files"] == 30


def test_somebody_elses_version_is_seen_when_the_timeout_is_over(mounted):
    """Also one of the same length and time, which the kernel could not tell from the old one."""
    path = mounted.path / "f"
    mounted.put("f", b"old", mtime_ns=10**18)
    assert path.read_bytes() == b"old"
    mounted.put("f", b"new", mtime_ns=10**18)
    eventually(lambda: path.read_bytes() == b"new")
    mounted.drop("f")
    eventually(lambda: not path.exists())
    mounted.put("f", b"back", mtime_ns=10**18)
    eventually(lambda: path.exists() and path.read_bytes() == b"back")


def test_whoever_has_it_open_reads_no_bytes_of_another_version(mounted):
    path = mounted.path / "f"
    old, new = noise(1), noise(2)
    mounted.put("f", old)
    with path.open("rb", buffering=0) as file:
        assert file.read(4096) == old[:4096]
        mounted.put("f", new)
        eventually(lambda: reads(path, new))
        # What is in memory already is of the old version, the rest cannot be had any more.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for offset in range(0, SIZE, 65536):
            try:
                found = os.pread(file.fileno(), 65536, offset)
            except OSError as error:
                assert error.errno == errno.ESTALE
            else:  # maybe short, up to what cannot be had
                assert found == old[offset : offset + len(found)]
        status = os.fstat(file.fileno())
        assert status.st_size == SIZE
        assert status.st_ino != path.stat().st_ino


def test_no_bytes_of_another_version_also_where_much_else_is_read(short_path):
    """What is kept ready of the open file has gone long since."""
    with tree_mount(short_path, timeout=TIMEOUT, read_only=True, files_kept_ready=3) as mounted:
        old, new = noise(1), noise(2)
        mounted.put("f", old)
        for number in range(10):
            mounted.put(str(number), noise(number, 100))
        path = mounted.path / "f"
        with path.open("rb", buffering=0) as file:
            assert file.read(10) == old[:10]
            for number in range(10):
                assert (mounted.path / str(number)).read_bytes() == noise(number, 100)
            assert mounted.ask("stats")["open_files"] <= 3
            mounted.put("f", new)
            eventually(lambda: reads(path, new))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in (0, 65536, SIZE - 100):
                with contextlib.suppress(OSError):
                    found = os.pread(file.fileno(), 100, offset)
                    assert found == old[offset : offset + 100]
            assert os.fstat(file.fileno()).st_size == SIZE


@pytest.mark.parametrize("kept", [1, 1000])
def test_a_log_that_grows_is_followed(short_path, kept):
    with tree_mount(short_path, timeout=TIMEOUT, read_only=True, files_kept_ready=kept) as mounted:
        mounted.ask("grow", "log")
        mounted.put("other", b"other")
        path = mounted.path / "log"
        mounted.put("log", b"begin\n")
        with path.open("rb", buffering=0) as file:
            got = [file.read()]
            lines = [b"begin\n"]

            def follow():
                got.append(file.read())
                return b"".join(got) == b"".join(lines)

            for number in range(5):
                lines.append(b"line %d\n" % number)
                mounted.put("log", b"".join(lines))
                assert (mounted.path / "other").read_bytes() == b"other"
                eventually(follow)
            assert os.fstat(file.fileno()).st_ino == path.stat().st_ino


def test_what_was_never_read_needs_no_new_number(mounted):
    mounted.put("f", b"one")
    number = (mounted.path / "f").stat().st_ino
    mounted.put("f", b"other")
    eventually(lambda: (mounted.path / "f").stat().st_size == 5)
    assert (mounted.path / "f").stat().st_ino == number


def test_the_kernel_s_forgetting_frees_everything(mounted):
    paths = [mounted.path / str(number) for number in range(20)]
    for path in paths:
        mounted.put(path.name, b"x")
    for path in paths:
        assert path.read_bytes() == b"x"
    assert mounted.ask("inodes") == 21
    for path in paths:
        mounted.drop(path.name)

    def freed():
        there = [path.name for path in paths if path.exists()]
        return not there and mounted.ask("inodes") == 1 and not mounted.ask("stats")["open_files"]

    eventually(freed)


def test_threads_of_one_file_read_ahead_each_for_itself(mounted):
    data = noise(1, 40 * 1024 * 1024)
    mounted.put("f", data)
    path = mounted.path / "f"
    right = []

    def read(start):
        with path.open("rb", buffering=0) as file:
            for offset in range(start, start + 2 * 1024 * 1024, 100_000):
                found = os.pread(file.fileno(), 100_000, offset)
                right.append(found == data[offset : offset + 100_000])

    threads = [
        threading.Thread(target=read, args=[number * 3_000_000]) for number in range(THREADS + 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 21 * len(threads)
    assert all(right)
    assert mounted.ask("stats")["open_files"] == 1


def test_all_ways_to_read(mounted):
    data = noise(3)
    mounted.put("f", data)
    mounted.put("run", b"#!/bin/sh\necho ran\n", mode=0o755)
    path = mounted.path / "f"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == data
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 1 << 20)
        assert os.preadv(descriptor, [buffer], 1 << 20) == 1 << 20
        assert buffer[:] == data[1 << 20 : 2 << 20]
    finally:
        os.close(descriptor)
    named = os.open(path, os.O_PATH)
    again = os.open(f"/proc/self/fd/{named}", os.O_RDONLY)
    assert os.read(again, 100) == data[:100]
    os.close(again)
    os.close(named)
    ran = subprocess.run([mounted.path / "run"], capture_output=True, check=True)
    assert ran.stdout == b"ran\n"


def test_nothing_can_be_changed_also_where_root_remounts(mounted):
    mounted.put("f", b"content")
    path = mounted.path / "f"

    def attempts():
        yield lambda: path.open("wb").close()
        yield lambda: os.truncate(path, 1)
        yield path.unlink
        yield lambda: path.rename(path.with_name("g"))
        yield lambda: path.with_name("d").mkdir()
        yield lambda: path.with_name("g").write_bytes(b"x")
        yield lambda: path.with_name("s").symlink_to("f")
        yield lambda: path.chmod(0o600)
        yield lambda: os.setxattr(path, "user.a", b"b")

    for attempt in attempts():
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    subprocess.run(["mount", "-i", "-o", "remount,rw", mounted.path], check=True)
    for attempt in list(attempts())[1:]:
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    with path.open("r+b", buffering=0) as file, pytest.raises(OSError) as caught:
        file.write(b"x")
    assert caught.value.errno == errno.EROFS
    assert mounted.stored("f") == b"content"


def test_a_volume_that_can_be_written_is_told_of_every_open(short_path):
    with tree_mount(short_path, timeout=1000) as mounted:
        mounted.put("f", b"content")
        path = mounted.path / "f"
        path.read_bytes()
        before = mounted.kernel_requests()
        path.read_bytes()
        eventually(lambda: mounted.kernel_requests() >= before + 2)  # open and release
