"""Files that the store does not have before their first commit, as everybody here sees them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest
from azure.storage.blob import ContainerClient

from tests.fuse.driving import driver, volume_spec

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


@pytest.fixture
def spec(storage, blob_container):
    return volume_spec("blob", storage, blob_container, None)


@pytest.fixture
def mounted(spec, short_path):
    with driver(spec, short_path) as mounted:
        (mounted.path / "d").mkdir()
        yield mounted


@pytest.fixture
def place(mounted):
    return mounted.path / "d"


@pytest.fixture
def blobs(storage, blob_container):
    url = f"{storage.blob_endpoint}/{blob_container}"
    with ContainerClient.from_container_url(url, credential=storage.key) as client:
        yield client


def there(blobs):
    """Names in the directory, as everybody else sees them."""
    return sorted(blobs.list_blob_names(name_starts_with="d/"))


@contextmanager
def opened(path, flags=os.O_RDWR | os.O_CREAT, mode=0o644):
    """A new file that no call of close(2) has ended yet, not even of a child of ours."""
    script = (
        "import os, sys; file = os.open(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]));"
        "print(flush=True)\n"
        "for line in sys.stdin:\n"
        "    try: print(repr(eval(line)), flush=True)\n"
        "    except OSError as error: print(error.errno, flush=True)\n"
    )
    arguments = [sys.executable, "-c", script, path, str(flags), str(mode)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout.readline() == "\n"

        def do(expression):
            program.stdin.write(f"{expression}\n")
            program.stdin.flush()
            return eval(program.stdout.readline())

        yield do


def requests(mounted):
    return mounted.stats()["requests"]


def test_a_small_file_is_one_request(mounted, place, blobs):
    before = requests(mounted)
    for number in range(20):
        (place / f"{number}").write_bytes(b"content")
    assert requests(mounted) - before == 20
    assert len(there(blobs)) == 20


def test_an_empty_file_is_one_request(mounted, place, blobs):
    before = requests(mounted)
    os.close(os.open(place / "f", os.O_RDONLY | os.O_CREAT, 0o640))
    assert requests(mounted) - before == 1
    assert there(blobs) == ["d/f"]
    assert blobs.get_blob_client("d/f").get_blob_properties().metadata["permissions"] == "33184"


def test_a_directory_in_one_that_was_made_here_is_one_request(mounted, place, blobs):
    before = requests(mounted)
    for number in range(20):
        (place / f"{number}").mkdir()
    assert requests(mounted) - before == 20
    blobs.upload_blob("d/theirs", b"", metadata={"hdi_isfolder": "true"})
    with pytest.raises(FileExistsError):
        (place / "theirs").mkdir()
    assert len(there(blobs)) == 21


def test_who_wants_the_name_alone_has_it_at_once(place, blobs):
    with opened(place / "f", os.O_RDWR | os.O_CREAT | os.O_EXCL):
        assert there(blobs) == ["d/f"]


def test_in_a_directory_of_others_a_name_that_was_just_missing_is_free(mounted, blobs):
    blobs.upload_blob("theirs/f", b"")
    (mounted.path / "first").touch()  # a mount that has written nothing yet makes names at once
    with opened(mounted.path / "theirs" / "g"):
        assert [*blobs.list_blob_names(name_starts_with="theirs/")] == ["theirs/f"]
        assert sorted(os.listdir(mounted.path / "theirs")) == ["f", "g"]
    assert [*blobs.list_blob_names(name_starts_with="theirs/")] == ["theirs/f", "theirs/g"]


def test_who_always_asks_makes_names_at_once(spec, blobs, short_path):
    with driver(spec, short_path, attributeTimeout=0) as mounted:
        (mounted.path / "d").mkdir()
        with opened(mounted.path / "d" / "f"):
            assert there(blobs) == ["d/f"]


def test_programs_here_see_it_at_once(place, blobs):
    with opened(place / "f", mode=0o640) as do:
        assert do("os.write(file, b'abc')") == 3
        assert os.listdir(place) == ["f"]
        found = (place / "f").stat()
        assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_nlink) == (3, 0o640, 1)
        with open(place / "f", "r+b") as file:
            assert file.read() == b"abc"
            with pytest.raises(FileExistsError):
                os.open(place / "f", os.O_CREAT | os.O_EXCL)
        assert there(blobs) == ["d/f"], "that close committed it"


def test_a_directory_with_one_in_it_is_not_empty(place, blobs):
    (place / "e").mkdir()
    (place / "other").mkdir()
    with opened(place / "e" / "f"):
        with pytest.raises(OSError) as caught:
            (place / "e").rmdir()
        assert caught.value.errno == errno.ENOTEMPTY
        with pytest.raises(OSError) as caught:
            (place / "other").rename(place / "e")
        assert caught.value.errno == errno.ENOTEMPTY
        assert "d/e/f" not in there(blobs)


def test_unlinked_before_anybody_else_saw_it(place, blobs):
    with opened(place / "f") as do:
        do("os.write(file, b'abc')")
        (place / "f").unlink()
        assert os.listdir(place) == []
        assert do("os.pread(file, 9, 0)") == b"abc"
        assert do("os.fstat(file).st_nlink") == 0
    assert there(blobs) == []
    place.rmdir()


def test_renamed_while_it_is_open(place, blobs):
    (place / "e").mkdir()
    with opened(place / "e" / "f") as do:
        do("os.write(file, b'abc')")
        (place / "e" / "f").rename(place / "g")
        assert do("os.write(file, b'def')") == 3
        assert (place / "g").stat().st_size == 6
    assert blobs.download_blob("d/g").readall() == b"abcdef"
    (place / "e").rmdir()


def test_its_directory_is_renamed(place, blobs):
    (place / "e").mkdir()
    with opened(place / "e" / "f") as do:
        do("os.write(file, b'abc')")
        (place / "e").rename(place / "e2")
        assert do("os.write(file, b'def')") == 3
    assert blobs.download_blob("d/e2/f").readall() == b"abcdef"
    assert "d/e/f" not in there(blobs)


def test_another_file_is_renamed_over_it(place, blobs):
    (place / "g").write_bytes(b"new")
    with opened(place / "f") as do:
        do("os.write(file, b'old')")
        (place / "g").rename(place / "f")
        assert do("os.pread(file, 9, 0)") == b"old"
    assert blobs.download_blob("d/f").readall() == b"new"


def test_attributes_go_with_the_first_commit(mounted, place, blobs):
    with opened(place / "f") as do:
        before = requests(mounted)
        os.chmod(place / "f", 0o600)
        os.utime(place / "f", ns=(1, 1_234_567_890))
        os.truncate(place / "f", 10)
        assert requests(mounted) == before
        assert (place / "f").stat().st_mtime_ns > 2_000_000_000, "truncate is a modification"
        os.utime(place / "f", ns=(1, 1_234_567_890))
        os.setxattr(place / "f", "user.a", b"value")
        assert do("os.fsync(file)") is None
    known = blobs.get_blob_client("d/f").get_blob_properties()
    assert known.size == 10
    assert known.metadata["a"] == "value"
    assert known.metadata["permissions"] == "33152"
    assert known.metadata["modtime"] == "1234567890"


def test_somebody_else_makes_a_file_of_the_name(mounted, place, blobs):
    with opened(place / "f") as do:
        do("os.write(file, b'ours')")
        blobs.upload_blob("d/f", b"theirs")
        assert do("os.fsync(file)") == errno.ESTALE
    (kept,) = mounted.ask("recovery")["result"]["entries"]
    assert (kept["path"], kept["state"], kept["size"]) == ("d/f", "conflict", 4)
    assert blobs.download_blob("d/f").readall() == b"theirs"
    assert (place / "f").read_bytes() == b"theirs"


def test_who_only_opened_it_gets_what_somebody_else_made(mounted, place, blobs, eventually):
    """As touch(1) does, on two nodes at a time."""
    with opened(place / "f") as do:
        blobs.upload_blob("d/f", b"theirs")
        assert do("os.fsync(file)") is None
        assert do("os.close(file)") is None
    eventually(lambda: (place / "f").read_bytes() == b"theirs")
    assert mounted.ask("recovery")["result"]["entries"] == []


def test_it_does_not_stay_hidden(place, blobs, eventually):
    with opened(place / "f") as do:
        assert there(blobs) == []
        eventually(lambda: there(blobs) == ["d/f"], deadline=30)
        assert do("os.write(file, b'abc')") == 3
        assert blobs.download_blob("d/f").readall() == b""
    assert blobs.download_blob("d/f").readall() == b"abc"


def test_what_is_being_written_shows_its_name_and_nothing_else(place, blobs, eventually):
    with opened(place / "f") as do:
        do("os.write(file, b'abc')")
        eventually(lambda: there(blobs) == ["d/f"], deadline=30)
        assert blobs.download_blob("d/f").readall() == b""
    assert blobs.download_blob("d/f").readall() == b"abc"


def test_blocks_travel_ahead_once_the_name_is_there(mounted, place, blobs, eventually):
    with opened(place / "f") as do:
        do(f"os.write(file, bytes({20 * MIB}))")
        eventually(lambda: mounted.stats()["staged_bytes"] == 16 * MIB)
        assert there(blobs) == ["d/f"]
        assert do("os.fsync(file)") is None
        assert mounted.stats()["bytes_sent"] < 21 * MIB, "no block was sent twice"
    assert blobs.get_blob_client("d/f").get_blob_properties().size == 20 * MIB


@pytest.mark.parametrize("written", [b"", b"abc"])
def test_after_a_crash_it_is_made(spec, blobs, short_path, written):
    with driver(spec, short_path) as mounted:
        (mounted.path / "d").mkdir()
        with opened(mounted.path / "d" / "f", mode=0o640) as do:
            do(f"os.write(file, {written!r})")
            mounted.process.kill()
            mounted.process.wait()
        subprocess.run(["umount", "-l", mounted.path], check=True)
    assert there(blobs) == []
    with driver(spec, short_path) as mounted:
        assert (mounted.path / "d" / "f").read_bytes() == written
        assert mounted.ask("recovery")["result"]["entries"] == []
    assert blobs.get_blob_client("d/f").get_blob_properties().metadata["permissions"] == "33184"


def test_after_a_crash_one_that_was_only_opened_gives_way(spec, blobs, short_path):
    with driver(spec, short_path) as mounted:
        (mounted.path / "d").mkdir()
        with opened(mounted.path / "d" / "f"):
            mounted.process.kill()
            mounted.process.wait()
        subprocess.run(["umount", "-l", mounted.path], check=True)
    blobs.upload_blob("d/f", b"theirs")
    with driver(spec, short_path) as mounted:
        assert (mounted.path / "d" / "f").read_bytes() == b"theirs"
        assert mounted.ask("recovery")["result"]["entries"] == []
