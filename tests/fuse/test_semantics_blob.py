"""Two nodes and one container: what one does while the other has files open."""

from __future__ import annotations

import mmap
import os
import subprocess

import pytest

from tests.fuse.driving import driver, volume_spec

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
