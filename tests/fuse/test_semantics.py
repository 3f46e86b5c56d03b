"""What programs see of a mount, under the real kernel, over a store that the test holds in hand."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

import pytest

from tests.fuse.tree_driver import tree_mount

pytestmark = pytest.mark.integration

TIMEOUT = 0.3
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def mounted():
    with tempfile.TemporaryDirectory(prefix="b-", dir="/tmp") as directory:
        os.chmod(directory, 0o755)  # other users are to come by
        with tree_mount(Path(directory), timeout=TIMEOUT) as running:
            yield running


@pytest.fixture
def place(mounted):
    directory = mounted.path / uuid.uuid4().hex
    directory.mkdir()
    return directory


@pytest.fixture
def elsewhere(mounted, place):
    """Another node that writes to and removes from the store."""

    class Elsewhere:
        def put(self, name, data):
            mounted.put(f"{place.name}/{name}", data)

        def drop(self, name):
            mounted.drop(f"{place.name}/{name}")

        def grows(self, name):
            mounted.ask("grow", f"{place.name}/{name}")

    return Elsewhere()


def outcome(call):
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def renameat2(old, new, flags):
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# -- versions -------------------------------------------------------------------------------------


def test_a_replaced_file_is_never_mixed_with_its_successor(place, elsewhere, eventually):
    elsewhere.put("f", b"1" * 300_000)
    eventually((place / "f").exists)
    first = os.open(place / "f", os.O_RDONLY)
    with mmap.mmap(first, 0, prot=mmap.PROT_READ) as mapped:
        assert set(os.pread(first, 100_000, 0)) == {ord("1")}
        elsewhere.put("f", b"2" * 200_000)
        eventually(lambda: (place / "f").stat().st_size == 200_000)
        assert (place / "f").read_bytes() == b"2" * 200_000
        with open(place / "f", "rb") as second, mmap.mmap(second.fileno(), 0, prot=1) as other:
            assert set(other[:]) == {ord("2")}
            # The old one keeps its length, and its bytes as far as they can still be had.
            assert os.fstat(first).st_size == 300_000
            assert set(mapped[:100_000]) == {ord("1")}
            rest = outcome(lambda: os.pread(first, 300_000, 0))
            assert rest in ("ESTALE", b"1" * 300_000)
            assert set(other[:]) == {ord("2")}
    os.close(first)


def test_a_replaced_file_of_the_same_size_and_time_is_seen_by_whoever_opens_it(place, elsewhere):
    elsewhere.put("f", b"1" * 5000)
    time.sleep(TIMEOUT)  # a look-up that failed is believed for so long
    with open(place / "f", "rb") as old:
        assert old.read(10) == b"1" * 10
        elsewhere.put("f", b"2" * 5000)
        time.sleep(TIMEOUT * 1.5)
        assert (place / "f").read_bytes() == b"2" * 5000
        old.seek(0)
        assert outcome(lambda: set(old.read())) in ("ESTALE", {ord("1")})
        assert (place / "f").read_bytes() == b"2" * 5000


def test_writing_to_a_replaced_file_fails_and_leaves_the_successor_alone(place, elsewhere):
    (place / "f").write_bytes(b"ours")
    with open(place / "f", "r+b", buffering=0) as file:
        elsewhere.put("f", b"theirs, and longer")
        time.sleep(TIMEOUT * 1.5)
        os.fstat(file.fileno())
        assert outcome(lambda: file.write(b"x")) == "ESTALE"
        assert outcome(lambda: file.truncate(2)) == "ESTALE"
        assert outcome(lambda: os.fchmod(file.fileno(), 0o600)) == "ESTALE"
    assert (place / "f").read_bytes() == b"theirs, and longer"


def test_the_loser_of_a_conflict_does_not_share_pages_with_the_winner(place, elsewhere):
    (place / "f").write_bytes(b"0" * 10_000)
    with open(place / "f", "r+b", buffering=0) as file:
        file.write(b"1" * 10_000)
        elsewhere.put("f", b"2" * 10_000)
        assert outcome(lambda: os.fsync(file.fileno())) == "ESTALE"
        assert (place / "f").read_bytes() == b"2" * 10_000
        assert (place / "f").stat().st_ino != os.fstat(file.fileno()).st_ino


def test_growth_can_be_read_on(place, elsewhere, eventually):
    elsewhere.put("log", b"one\n")
    elsewhere.grows("log")
    eventually((place / "log").exists)
    with open(place / "log", "rb", buffering=0) as file:
        number = os.fstat(file.fileno()).st_ino
        assert file.read(100) == b"one\n"
        assert file.read(100) == b""
        elsewhere.put("log", b"one\ntwo\n")
        eventually(lambda: os.fstat(file.fileno()).st_size == 8)
        assert file.read(100) == b"two\n"
        elsewhere.put("log", b"one\ntwo\n" + b"3" * 10_000)
        eventually(lambda: file.read(20_000) == b"3" * 10_000)
        assert os.fstat(file.fileno()).st_ino == number


def test_tail_follows_what_another_node_appends(place, elsewhere, eventually):
    elsewhere.put("log", b"one\n")
    elsewhere.grows("log")
    eventually((place / "log").exists)
    with subprocess.Popen(
        ["tail", "-c", "+1", "-s", "0.05", "-f", place / "log"], stdout=subprocess.PIPE
    ) as tail:
        try:
            os.set_blocking(tail.stdout.fileno(), False)
            seen = bytearray()

            def arrived(wanted):
                seen.extend(tail.stdout.read() or b"")
                return bytes(seen) == wanted

            eventually(lambda: arrived(b"one\n"))
            elsewhere.put("log", b"one\ntwo\n")
            eventually(lambda: arrived(b"one\ntwo\n"))
        finally:
            tail.kill()


def test_a_file_removed_elsewhere(place, elsewhere):
    (place / "f").write_bytes(b"here")
    with open(place / "f", "rb") as file:
        elsewhere.drop("f")
        time.sleep(TIMEOUT * 1.5)
        assert outcome(lambda: os.stat(place / "f")) == "ENOENT"
        assert outcome(lambda: open(place / "f", "rb")) == "ENOENT"
        assert os.fstat(file.fileno()).st_nlink == 0
        assert outcome(file.read) in ("ESTALE", b"here")
    (place / "f").write_bytes(b"again")
    assert (place / "f").read_bytes() == b"again"


def test_a_directory_that_became_a_file_elsewhere(mounted, place, elsewhere):
    (place / "x").mkdir()
    mounted.drop(f"{place.name}/x")
    elsewhere.put("x", b"a file now")
    time.sleep(TIMEOUT * 1.5)
    assert (place / "x").read_bytes() == b"a file now"


# -- attributes ---------------------------------------------------------------------------------


def test_what_is_written_here_is_seen_here_at_once(place):
    with open(place / "f", "wb", buffering=0) as file:
        for size in (1, 5000, 70_000):
            file.write(b"x" * (size - file.tell()))
            assert (place / "f").stat().st_size == size
            with os.scandir(place) as entries:
                assert [entry.stat().st_size for entry in entries] == [size]
            assert len((place / "f").read_bytes()) == size
            listed = subprocess.run(["ls", "-l", place], capture_output=True, check=True)
            assert f" {size} ".encode() in listed.stdout


def test_both_times_are_set_and_either_can_be_left_alone(place):
    path = place / "f"
    path.write_bytes(b"x")
    os.utime(path, ns=(1_500_000_000_000_000_001, 1_400_000_000_000_000_002))
    found = path.stat()
    assert (found.st_atime_ns, found.st_mtime_ns) == (
        1_500_000_000_000_000_001,
        1_400_000_000_000_000_002,
    )
    subprocess.run(["touch", "-a", "-d", "@1000", path], check=True)
    assert (path.stat().st_atime, path.stat().st_mtime_ns) == (1000, 1_400_000_000_000_000_002)
    subprocess.run(["touch", "-m", "-d", "@2000", path], check=True)
    assert (path.stat().st_atime, path.stat().st_mtime) == (1000, 2000)
    before = time.time()
    os.utime(path)
    assert path.stat().st_mtime >= before - 1


def test_attributes_of_an_open_and_of_a_dirty_file(place):
    with open(place / "f", "wb", buffering=0) as file:
        file.write(b"x")
        os.fchmod(file.fileno(), 0o640)
        os.chown(place / "f", 12, 34)
        os.utime(place / "f", (7, 7))
        found = os.fstat(file.fileno())
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 12, 34)
        assert found.st_mtime == 7
    time.sleep(TIMEOUT)
    found = (place / "f").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 12, 34)
    assert found.st_mtime == 7


def test_the_root_takes_attributes(mounted):
    os.chmod(mounted.path, 0o711)
    os.chown(mounted.path, 1, 2)
    os.utime(mounted.path, (3, 4))
    found = mounted.path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o711
    assert (found.st_uid, found.st_gid, found.st_atime, found.st_mtime) == (1, 2, 3, 4)
    subprocess.run(["touch", mounted.path], check=True)
    os.chown(mounted.path, 0, 0)
    os.chmod(mounted.path, 0o755)


def test_changing_names_touches_their_directory(place):
    for change in (
        lambda: (place / "f").write_bytes(b""),
        lambda: os.rename(place / "f", place / "g"),
        lambda: os.unlink(place / "g"),
        (place / "d").mkdir,
        (place / "d").rmdir,
        lambda: os.symlink("x", place / "l"),
    ):
        os.utime(place, (5, 5))
        assert place.stat().st_mtime == 5
        change()
        found = place.stat()
        assert found.st_mtime > 5
        assert found.st_ctime >= found.st_mtime


def test_set_user_id_goes_with_a_change_of_owner_or_content(place):
    path = place / "f"
    path.write_bytes(b"x")
    os.chmod(place, 0o777)
    path.chmod(0o6777)
    os.chown(path, 99, 99)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    subprocess.run(["sh", "-c", f"echo x >> {path}"], check=True)  # root keeps it
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777
    command = ["setpriv", "--reuid=1234", "--clear-groups", "sh", "-c", f"echo x >> {path}"]
    subprocess.run(command, check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    command = ["setpriv", "--reuid=1234", "--clear-groups", "truncate", "-s", "1", path]
    subprocess.run(command, check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_permissions_are_checked(place):
    (place / "f").write_bytes(b"x")
    (place / "f").chmod(0o600)
    command = ["setpriv", "--reuid=1234", "--clear-groups", "cat", place / "f"]
    refused = subprocess.run(command, capture_output=True, check=False)
    assert b"Permission denied" in refused.stderr


def test_extended_attributes(place):
    path = place / "f"
    path.write_bytes(b"x")
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.two", b"\0\xff", os.XATTR_CREATE)
    assert sorted(os.listxattr(path)) == ["user.one", "user.two"]
    assert os.getxattr(path, "user.two") == b"\0\xff"
    assert outcome(lambda: os.setxattr(path, "user.one", b"2", os.XATTR_CREATE)) == "EEXIST"
    assert outcome(lambda: os.setxattr(path, "user.new", b"2", os.XATTR_REPLACE)) == "ENODATA"
    os.setxattr(path, "user.one", b"2", os.XATTR_REPLACE)
    assert os.getxattr(path, "user.one") == b"2"
    assert outcome(lambda: os.getxattr(path, "user.none")) == "ENODATA"
    os.removexattr(path, "user.one")
    assert outcome(lambda: os.removexattr(path, "user.one")) == "ENODATA"
    assert outcome(lambda: os.setxattr(path, "trusted.x", b"1")) == "ENOTSUP"
    assert outcome(lambda: os.getxattr(path, "security.capability")) in ("ENODATA", "ENOTSUP")
    assert outcome(lambda: os.getxattr(path, "system.posix_acl_access")) == "ENOTSUP"
    assert outcome(lambda: os.setxattr(path, "user.big", b"x" * 9000)) == "ENOSPC"
    buffer = ctypes.create_string_buffer(1)
    assert LIBC.getxattr(os.fsencode(path), b"user.two", buffer, 1) == -1
    assert ctypes.get_errno() == errno.ERANGE
    os.rename(path, place / "g")
    assert os.getxattr(place / "g", "user.two") == b"\0\xff"


def test_extended_attributes_of_a_file_that_is_being_written(place):
    with open(place / "f", "wb", buffering=0) as file:
        file.write(b"one")
        os.setxattr(file.fileno(), "user.x", b"1")
        file.write(b"two")
        assert os.getxattr(place / "f", "user.x") == b"1"
        os.unlink(place / "f")
        os.setxattr(file.fileno(), "user.y", b"2")
        assert sorted(os.listxattr(file.fileno())) == ["user.x", "user.y"]
    (place / "f").write_bytes(b"")
    assert os.listxattr(place / "f") == []


# -- names ----------------------------------------------------------------------------------------


def test_rename_flags(place):
    (place / "a").write_bytes(b"a")
    (place / "b").write_bytes(b"b")
    assert outcome(lambda: renameat2(place / "a", place / "b", RENAME_NOREPLACE)) == "EEXIST"
    renameat2(place / "a", place / "c", RENAME_NOREPLACE)
    with open(place / "b", "r+b", buffering=0) as dirty, open(place / "c", "rb") as opened:
        dirty.write(b"B!")
        renameat2(place / "b", place / "c", RENAME_EXCHANGE)
        assert (place / "b").read_bytes() == b"a"
        assert (place / "c").read_bytes() == b"B!"
        assert opened.read() == b"a"
        dirty.write(b"?")
    assert (place / "c").read_bytes() == b"B!?"
    assert outcome(lambda: renameat2(place / "b", place / "none", RENAME_EXCHANGE)) == "ENOENT"
    assert outcome(lambda: renameat2(place / "b", place / "w", 4)) == "EINVAL"


def test_directories_change_places_with_what_is_open_in_them(place):
    for name in ("one", "two"):
        (place / name).mkdir()
        (place / name / "f").write_bytes(name.encode())
    with open(place / "one" / "f", "r+b", buffering=0) as file:
        renameat2(place / "one", place / "two", RENAME_EXCHANGE)
        file.write(b"ONE")
        assert (place / "two" / "f").read_bytes() == b"ONE"
    assert (place / "two" / "f").read_bytes() == b"ONE"
    assert (place / "one" / "f").read_bytes() == b"two"


def test_what_cannot_be_renamed(place):
    (place / "d" / "e").mkdir(parents=True)
    (place / "f").write_bytes(b"")
    assert outcome(lambda: os.rename(place / "d", place / "d" / "e" / "x")) == "EINVAL"
    assert outcome(lambda: os.rename(place / "d", place / "f")) == "ENOTDIR"
    assert outcome(lambda: os.rename(place / "f", place / "d")) == "EISDIR"
    (place / "full").mkdir()
    (place / "full" / "x").write_bytes(b"")
    assert outcome(lambda: os.rename(place / "d", place / "full")) == "ENOTEMPTY"
    os.rename(place / "f", place / "f")
    assert (place / "f").exists()


def test_a_directory_is_renamed_while_a_program_writes_in_it(mounted, place):
    """Each write and each commit meets the rename at another point."""
    (place / "a" / "deep").mkdir(parents=True)
    for number in range(50):
        (place / "a" / "deep" / f"{number}").write_bytes(b"x")
    stop = threading.Event()
    failures = []

    def write():
        with open(place / "a" / "deep" / "log", "wb", buffering=0) as file:
            while not stop.is_set():
                file.write(b"line\n")
                os.fsync(file.fileno())
            failures.append(file.tell())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for source, target in (("a", "b"), ("b", "c"), ("c", "a")) * 3:
            os.rename(place / source, place / target)
    finally:
        stop.set()
        writer.join()
    assert len(failures) == 1, "the writer failed"
    assert (place / "a" / "deep" / "log").read_bytes() == b"line\n" * (failures[0] // 5)
    assert max(os.listdir(place / "a" / "deep")) == "log"


def test_a_file_is_renamed_while_it_is_read(mounted, place, eventually):
    """The old name is gone from the store, and the driver has not been told so yet."""
    data = os.urandom(3_000_000)
    mounted.put(f"{place.name}/old", data)
    eventually((place / "old").exists)
    found = []
    with open(place / "old", "rb", buffering=0) as file:
        mounted.ask("hold", "renamed")
        renamer = threading.Thread(target=os.rename, args=(place / "old", place / "new"))
        reader = threading.Thread(target=lambda: found.append(outcome(file.readall)))
        renamer.start()
        eventually(lambda: mounted.requests().get("renamed", 0))
        reads = mounted.requests().get("read", 0)
        reader.start()
        eventually(lambda: mounted.requests().get("read", 0) > reads)
        mounted.ask("let", "renamed")
        renamer.join()
        reader.join()
    assert found == [data]


def test_an_unlinked_file_can_be_used_on(place):
    with open(place / "f", "w+b", buffering=0) as file:
        file.write(b"0123456789")
        os.unlink(place / "f")
        (place / "f").write_bytes(b"another")
        os.ftruncate(file.fileno(), 5)
        os.fchmod(file.fileno(), 0o600)
        os.utime(file.fileno(), (1, 1))
        os.fsync(file.fileno())
        found = os.fstat(file.fileno())
        assert (found.st_nlink, found.st_size, found.st_mtime) == (0, 5, 1)
        with open(f"/proc/self/fd/{file.fileno()}", "rb") as again:
            assert again.read() == b"01234"
    assert (place / "f").read_bytes() == b"another"


def test_a_removed_directory(place):
    (place / "d").mkdir()
    descriptor = os.open(place / "d", os.O_RDONLY)
    script = "import os; os.chdir('d'); os.rmdir('../d'); os.stat('.')"
    subprocess.run(["python3", "-c", script], cwd=place, check=True)
    assert os.listdir(descriptor) == []
    assert os.fstat(descriptor).st_nlink == 0
    made = outcome(lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    assert made == "ENOENT"
    os.close(descriptor)


def test_names_that_cannot_be(place):
    bad = os.fsencode(place) + b"/\xff\xfe"
    assert outcome(lambda: os.stat(bad)) == "ENOENT"
    assert outcome(lambda: os.open(bad, os.O_CREAT | os.O_WRONLY)) == "EILSEQ"
    assert outcome(lambda: os.mkdir(place / ("n" * 256))) == "ENAMETOOLONG"
    assert outcome(lambda: os.stat(place / ("n" * 256))) == "ENAMETOOLONG"
    (place / ("n" * 255)).write_bytes(b"")
    os.symlink("t" * 4000, place / "link")
    assert os.readlink(place / "link") == "t" * 4000


def test_a_long_name_made_by_others_can_be_reached(place, elsewhere, eventually):
    elsewhere.put("n" * 1000, b"long")
    eventually(lambda: os.listdir(place) == ["n" * 1000])
    assert (place / ("n" * 1000)).read_bytes() == b"long"
    os.rename(place / ("n" * 1000), place / "short")
    assert (place / "short").read_bytes() == b"long"


# -- listing ------------------------------------------------------------------------------------


def getdents(path):
    listed = subprocess.run(["ls", "-1a", "-U", path], capture_output=True, check=True)
    return listed.stdout.decode().splitlines()


def test_a_listing_has_the_dots(mounted, place):
    (place / "f").write_bytes(b"")
    assert getdents(place) == [".", "..", "f"]
    assert getdents(mounted.path)[:2] == [".", ".."]
    script = "ls -1aiU"
    listed = subprocess.run(["sh", "-c", script], cwd=place, capture_output=True, check=True)
    assert [line.split()[0] for line in listed.stdout.decode().splitlines()[:2]] == [
        str(place.stat().st_ino),
        str(mounted.path.stat().st_ino),
    ]


def test_many_names_are_listed_once_each(mounted, place):
    mounted.ask("fill", place.name, 20_000)
    time.sleep(TIMEOUT)
    names = os.listdir(place)
    assert len(names) == len(set(names)) == 20_000
    assert len(list(os.scandir(place))) == 20_000


def test_names_removed_and_made_while_a_directory_is_read(place):
    for number in range(500):
        (place / f"{number}").write_bytes(b"")
    seen = []
    with os.scandir(place) as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) == 1:
                for number in range(500):
                    if number % 2:
                        os.unlink(place / f"{number}")
                (place / "new").write_bytes(b"")
    assert len(seen) == len(set(seen))
    assert {f"{number}" for number in range(0, 500, 2)} <= set(seen)
    # Nothing that was removed comes back as a name that can be looked up.
    assert sum((place / f"{number}").exists() for number in range(500)) == 250
    assert sorted(os.listdir(place)) == sorted([f"{n}" for n in range(0, 500, 2)] + ["new"])


def test_positions_in_a_directory(place):
    for number in range(300):
        (place / f"{number}").write_bytes(b"")
    LIBC.opendir.restype = LIBC.readdir.restype = ctypes.c_void_p
    LIBC.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(LIBC.opendir(os.fsencode(place)))

    def rest():
        names = []
        while entry := LIBC.readdir(stream):
            names.append(ctypes.string_at(entry + 19))
        return names

    for _ in range(100):
        LIBC.readdir(stream)
    position = LIBC.telldir(stream)
    first = rest()
    LIBC.seekdir(stream, ctypes.c_long(position))
    assert rest() == first
    LIBC.rewinddir(stream)
    assert len(rest()) == 302
    LIBC.closedir(stream)


def test_a_directory_can_be_synced(place):
    descriptor = os.open(place, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


# -- bytes ------------------------------------------------------------------------------------


def test_flags_of_open(place):
    path = place / "f"
    path.write_bytes(b"content")
    os.utime(path, (1, 1))
    assert outcome(lambda: os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)) == "EEXIST"
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0
    os.utime(path, (1, 1))
    os.close(
        os.open(path, os.O_WRONLY | os.O_TRUNC)
    )  # empty already: the time changes all the same
    assert path.stat().st_mtime > 1
    path.write_bytes(b"content")
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))  # "unspecified" in POSIX; Linux cuts
    assert path.read_bytes() == b""
    assert outcome(lambda: os.open(path, os.O_RDONLY | os.O_DIRECTORY)) == "ENOTDIR"
    assert outcome(lambda: os.open(place, os.O_WRONLY)) == "EISDIR"
    assert outcome(lambda: os.open(place, os.O_RDWR | os.O_TMPFILE)) == "ENOTSUP"


def test_direct_io(place):
    with mmap.mmap(-1, 8192) as buffer:
        buffer.write(b"d" * 8192)
        descriptor = os.open(place / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
        assert os.pwrite(descriptor, buffer, 0) == 8192
        assert os.preadv(descriptor, [buffer], 4096) == 4096
        os.close(descriptor)
    assert (place / "f").read_bytes() == b"d" * 8192


def test_mapped_pages_are_written(mounted, place, eventually):
    path = place / "f"
    path.write_bytes(b"-" * 20_000)
    with open(path, "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 20_000)
    mapped[10_000:10_005] = b"hello"
    mapped.flush()
    assert path.read_bytes()[10_000:10_005] == b"hello"
    mapped[0:3] = b"abc"
    mapped.close()
    wanted = b"abc" + b"-" * 9997 + b"hello" + b"-" * 9995
    assert path.read_bytes() == wanted
    eventually(lambda: mounted.stored(f"{place.name}/f") == wanted)


def test_pages_mapped_through_an_appending_handle_are_written_in_place(mounted, place):
    path = place / "f"
    path.write_bytes(b"-" * 8192)
    with open(path, "a+b", buffering=0) as log, mmap.mmap(log.fileno(), 8192) as mapped:
        mapped[4096:4100] = b"page"
        log.write(b"line\n")
        mapped.flush()
        log.write(b"line\n")
    wanted = b"-" * 4096 + b"page" + b"-" * 4092 + b"line\nline\n"
    assert path.read_bytes() == wanted
    assert mounted.stored(f"{place.name}/f") == wanted


def test_a_mapped_file_is_cut(place):
    path = place / "f"
    path.write_bytes(b"x" * 8192)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapped:
        os.truncate(path, 100)
        assert mapped[:100] == b"x" * 100
        assert mapped[100:4096] == b"\0" * 3996
        os.truncate(path, 8192)
        assert mapped[4096:] == b"\0" * 4096
    assert path.read_bytes() == b"x" * 100 + b"\0" * 8092


def test_holes(place):
    with open(place / "f", "w+b", buffering=0) as file:
        file.seek(100_000)
        file.write(b"end")
        file.seek(0)
        assert file.read() == b"\0" * 100_000 + b"end"
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 100_003
        assert outcome(lambda: os.lseek(file.fileno(), 200_000, os.SEEK_DATA)) == "ENXIO"
        file.truncate(50)
        file.truncate(100)
        file.seek(0)
        assert file.read() == b"\0" * 100


def test_what_is_too_large(place):
    with open(place / "f", "w+b", buffering=0) as file:
        assert outcome(lambda: os.truncate(place / "f", 1 << 62)) == "EFBIG"
        assert outcome(lambda: os.pwrite(file.fileno(), b"x", 6 << 40)) == "EFBIG"
        assert os.fstat(file.fileno()).st_size == 0


def test_calls_that_the_kernel_does_by_itself(place):
    (place / "a").write_bytes(b"0123456789")
    with open(place / "a", "rb") as source, open(place / "b", "wb") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 10) == 10
    assert (place / "b").read_bytes() == b"0123456789"
    with open(place / "b", "r+b") as file:
        refused = LIBC.fallocate(file.fileno(), 1, ctypes.c_long(0), ctypes.c_long(100))
        assert (refused, ctypes.get_errno()) == (-1, errno.EOPNOTSUPP)
        os.posix_fallocate(file.fileno(), 0, 100)
    assert (place / "b").stat().st_size == 100


def test_locks_between_processes(place):
    (place / "f").write_bytes(b"x")
    script = (
        "import fcntl,sys\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "try: (fcntl.flock if sys.argv[2] == 'flock' else fcntl.lockf)"
        "(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(9)\n"
    )
    for kind, lock in (("flock", fcntl.flock), ("lockf", fcntl.lockf)):
        with open(place / "f", "r+b") as file:
            lock(file, fcntl.LOCK_EX)
            command = ["python3", "-c", script, place / "f", kind]
            assert subprocess.run(command, check=False).returncode == 9
            lock(file, fcntl.LOCK_UN)
            assert subprocess.run(command, check=False).returncode == 0
