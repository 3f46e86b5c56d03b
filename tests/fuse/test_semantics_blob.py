"""Two nodes and one container: what one does while the other has files open."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import stat
import subprocess

import pytest
from azure.storage.blob import ContainerClient

from tests.fuse.driving import driver, volume_spec
from tests.support.fault_proxy import FaultProxy, delay

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


@pytest.fixture
def nodes(storage, blob_container, short_path):
    spec = volume_spec("blob", storage, blob_container, None)
    for name in ("1", "2"):
        (short_path / name).mkdir()
    with (
        driver(spec, short_path / "1", attributeTimeout=1) as first,
        driver(spec, short_path / "2", attributeTimeout=0) as second,
    ):
        yield first.path, second.path


def test_no_reader_sees_two_versions(nodes, eventually):
    ours, theirs = nodes
    (ours / "f").write_bytes(b"1" * 3 * MIB)
    with open(ours / "f", "rb", buffering=0) as old:
        assert set(old.read(MIB)) == {ord("1")}
        (theirs / "f").write_bytes(b"2" * 2 * MIB)
        eventually(lambda: (ours / "f").stat().st_size == 2 * MIB)
        reader = ["python3", "-c", "import sys; print(set(open(sys.argv[1], 'rb').read()))"]
        found = subprocess.run([*reader, ours / "f"], capture_output=True, check=True)
        assert found.stdout == b"{50}\n"
        with open(ours / "f", "rb") as new, mmap.mmap(new.fileno(), 0, prot=1) as mapped:
            try:
                assert set(old.read()) == {ord("1")}
            except OSError as error:
                assert "Stale" in str(error)
            assert os.fstat(old.fileno()).st_size == 3 * MIB
            assert set(mapped[:]) == {ord("2")}


def test_close_to_open_between_nodes(nodes):
    ours, theirs = nodes
    for number in range(10):
        writer, reader = (ours, theirs) if number % 2 else (theirs, ours)
        text = f"{number}" * 1000 * (number + 1)
        (writer / f"new-{number}").write_text(text)
        assert (reader / f"new-{number}").read_text() == text


def test_two_processes_append_to_one_file(nodes):
    ours, theirs = nodes
    script = 'exec >> "$2"; for i in $(seq 200); do echo "$1 $i"; done'
    writers = [
        subprocess.Popen(["sh", "-c", script, "sh", f"{number}", ours / "log"])
        for number in range(2)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    lines = (theirs / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{n} {i}" for n in range(2) for i in range(1, 201))


def test_a_directory_with_open_and_dirty_files_is_renamed(nodes):
    ours, theirs = nodes
    (ours / "a" / "deep").mkdir(parents=True)
    (ours / "a" / "deep" / "read").write_bytes(b"read me")
    with (
        open(ours / "a" / "deep" / "dirty", "wb", buffering=0) as dirty,
        open(ours / "a" / "deep" / "read", "rb", buffering=0) as clean,
    ):
        dirty.write(b"one ")
        os.rename(ours / "a", ours / "b")
        dirty.write(b"two")
        assert clean.read() == b"read me"
    assert (theirs / "b" / "deep" / "dirty").read_bytes() == b"one two"
    assert sorted(os.listdir(theirs)) == ["b"]


def test_what_was_listed_slowly_is_not_asked_about_again(storage, blob_container, short_path):
    """As ``ls -l`` and ``find -newer`` do: all names, and then the attributes of each."""
    spec = volume_spec("blob", storage, blob_container, None)
    url = f"{storage.blob_endpoint}/{blob_container}"
    with (
        ContainerClient.from_container_url(url, credential=storage.key) as client,
        FaultProxy(spec["endpoint"]) as proxy,
    ):
        for number in range(50):
            client.upload_blob(f"{number}", b"x")
        with driver({**spec, "endpoint": proxy.endpoint}, short_path, attributeTimeout=2) as node:
            proxy.always(delay(2.5), method="GET", match="comp=list")
            with os.scandir(node.path) as listing:
                names = [entry.path for entry in listing]
            before = node.stats()["requests"]
            assert [os.stat(name).st_size for name in names] == [1] * 50
            assert node.stats()["requests"] == before
            proxy.clear()


@pytest.mark.parametrize("letter", ["p", "ü"], ids=["ascii", "unicode"])
def test_the_longest_path(nodes, letter):
    """Of 1,024 characters, as the service counts them: not of bytes."""
    ours, theirs = nodes
    deep = "/".join([letter * 100] * 10)
    (ours / deep).mkdir(parents=True)
    longest = f"{deep}/{letter * (1023 - len(deep))}"
    assert len(longest) == 1024
    (ours / longest).write_bytes(b"x")
    assert (theirs / longest).read_bytes() == b"x"
    os.rename(ours / longest, ours / "short")
    for refused in (
        lambda: (ours / f"{longest}{letter}").write_bytes(b"x"),
        lambda: os.mkdir(ours / f"{longest}{letter}"),
        lambda: os.symlink("x", ours / f"{longest}{letter}"),
        lambda: os.rename(ours / "short", ours / f"{longest}{letter}"),
    ):
        with pytest.raises(OSError) as caught:
            refused()
        assert caught.value.errno == errno.ENAMETOOLONG
    os.rename(ours / "short", ours / longest)
    assert (ours / longest).read_bytes() == b"x"


def test_the_deepest_path(nodes):
    ours, theirs = nodes
    deepest = "/".join(["d"] * 253)
    (ours / deepest).mkdir(parents=True)
    (ours / deepest / "f").write_bytes(b"x")
    assert (theirs / deepest / "f").read_bytes() == b"x"
    (ours / deepest / "d").mkdir()
    with pytest.raises(OSError) as caught:
        (ours / deepest / "d" / "f").write_bytes(b"x")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_what_is_no_file_directory_or_link_cannot_be_made(nodes):
    ours, _ = nodes
    for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
        with pytest.raises(OSError) as caught:
            os.mknod(ours / "node", 0o600 | kind, os.makedev(1, 3))
        assert caught.value.errno == errno.EPERM
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(OSError) as caught:
        listener.bind(os.fspath(ours / "s"))
    assert caught.value.errno == errno.EPERM
    os.mknod(ours / "file", 0o600)  # of a regular file, as mknod(2) has it
    assert (ours / "file").read_bytes() == b""


def test_directories_have_one_link(nodes):
    """What tells find(1) and others not to count directories by it, as on btrfs."""
    ours, _ = nodes
    (ours / "d" / "below").mkdir(parents=True)
    assert (ours / "d").stat().st_nlink == 1


def test_locks_hold_between_the_programs_of_a_node_only(nodes):
    ours, theirs = nodes
    (ours / "f").write_bytes(b"x")
    with open(ours / "f", "r+b") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        with open(ours / "f", "r+b") as refused, pytest.raises(BlockingIOError):
            fcntl.flock(refused, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(theirs / "f", "r+b") as granted:
            fcntl.flock(granted, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_there_is_room_for_whatever_asks_first(nodes):
    found = os.statvfs(nodes[0])
    assert found.f_bavail * found.f_frsize == 1 << 50


def test_a_time_of_access_is_kept_here_and_nowhere_else(nodes):
    ours, theirs = nodes
    (ours / "f").write_bytes(b"x")
    os.utime(ours / "f", (1, 2))
    assert ((ours / "f").stat().st_atime, (ours / "f").stat().st_mtime) == (1, 2)
    assert ((theirs / "f").stat().st_atime, (theirs / "f").stat().st_mtime) == (2, 2)
