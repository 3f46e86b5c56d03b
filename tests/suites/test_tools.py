"""Everyday tools on a volume: what they copy is the same, and what they expect is so."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.suites.programs import ENVIRONMENT, run

pytestmark = pytest.mark.integration

MIB = 1024 * 1024

#: One line an entry: path, type, mode, owner, group, size (of files), modification time, target.
LISTING = r"%P %y %m %U %G %T@ %l\n"


@pytest.fixture
def source(tmp_path) -> Path:
    """A tree with the metadata that archives carry."""
    top = tmp_path / "source"
    generator = random.Random(1)
    for index in range(60):
        path = top / f"d{index % 5}" / f"e{index % 3}" / f"file {index}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(generator.randbytes(generator.choice([0, 1, 700, 30_000])))
        path.chmod(generator.choice([0o600, 0o644, 0o755, 0o400, 0o4755]))
        os.chown(path, generator.choice([0, 1000]), generator.choice([0, 100]))
        os.utime(path, ns=(0, generator.randrange(10**18, 17 * 10**17)))
    (top / "d0" / "big").write_bytes(generator.randbytes(9 * MIB))
    (top / "empty").mkdir(mode=0o750)
    (top / "grüße").write_text("ü")
    (top / "link").symlink_to("d0/big")
    (top / "dangling").symlink_to("no/where")
    for index in range(5):
        os.utime(top / f"d{index}", ns=(0, 15 * 10**17 + index * 10**9 + index))
    return top


def listing(top: Path) -> list[str]:
    return sorted(run("find", ".", "-mindepth", "1", "-printf", LISTING, cwd=top).splitlines())


def test_rsync_copies_once_and_then_has_nothing_to_do(blob, source):
    command = ["rsync", "-a", "--itemize-changes", f"{source}/", "copy/"]
    with blob() as top:
        assert len(run(*command, cwd=top).splitlines()) > 60
        assert run(*command, cwd=top) == ""
    with blob() as top:
        assert run(*command, cwd=top) == ""
        assert run(*command, "--checksum", cwd=top) == ""
        with (source / "d0" / "big").open("r+b") as file:
            file.seek(5 * MIB)
            file.write(b"changed")
        changed = run(*command, "--inplace", "--no-whole-file", cwd=top).splitlines()
        assert [line.partition(" ")[2] for line in changed] == ["d0/big"]
        run("diff", "-r", "--no-dereference", source, "copy", cwd=top)


def test_cp_keeps_what_an_archive_copy_keeps(blob, source, tmp_path):
    with blob() as top:
        run("cp", "-a", source, "copy", cwd=top)
        run("cp", "-a", "copy", "again", cwd=top)
        assert listing(top / "copy") == listing(source)
    with blob() as top:
        assert listing(top / "again") == listing(source)
        run("cp", "-a", top / "again", "back", cwd=tmp_path)
    run("diff", "-r", "--no-dereference", source, tmp_path / "back", cwd=tmp_path)
    assert listing(tmp_path / "back") == listing(source)


def test_tar_finds_no_difference(blob, source, tmp_path):
    run("tar", "-C", source, "--format=posix", "-cf", tmp_path / "all.tar", ".", cwd=tmp_path)
    with blob() as top:
        (top / "out").mkdir()
        run("tar", "-C", "out", "-xpf", tmp_path / "all.tar", cwd=top)
        run("tar", "-C", "out", "-df", tmp_path / "all.tar", cwd=top)
    with blob() as top:
        run("tar", "-C", "out", "-df", tmp_path / "all.tar", cwd=top)
        run("tar", "--format=posix", "-czf", "back.tgz", "-C", "out", ".", cwd=top)
        (top / "twice").mkdir()
        run("tar", "-C", "twice", "-xpzf", "back.tgz", cwd=top)
        assert listing(top / "twice") == listing(source)


def test_removing_a_tree_leaves_nothing(blob, source):
    with blob() as top:
        run("cp", "-r", source, "copy", cwd=top)
        run("mv", "copy", "moved", cwd=top)
        run("rm", "-r", "moved", cwd=top)
        assert os.listdir(top) == []
    with blob() as top:
        assert os.listdir(top) == []


def test_a_file_saved_beside_and_renamed_over(volume):
    """How most editors and configuration tools save."""
    with volume() as top:
        for version in range(3):
            with open(top / ".conf.tmp", "w") as file:
                file.write(f"version {version}\n" * 1000)
                file.flush()
                os.fsync(file.fileno())
            os.replace(top / ".conf.tmp", top / "conf")
            directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(directory)
            os.close(directory)
            assert (top / "conf").read_text() == f"version {version}\n" * 1000
        assert os.listdir(top) == ["conf"]


def test_vim_saves_with_a_backup(blob):
    vim = ["vim.tiny", "-u", "NONE", "-es", "-c", "set backup backupskip="]
    with blob() as top:
        (top / "notes").write_text("one\ntwo\n")
        (top / "notes").chmod(0o640)
        run(*vim, "-c", "%s/two/three/", "-c", "wq", "notes", cwd=top)
        run("sed", "-i", "s/one/zero/", "notes", cwd=top)
    with blob() as top:
        assert sorted(os.listdir(top)) == ["notes", "notes~"]
        assert (top / "notes").read_text() == "zero\nthree\n"
        assert (top / "notes~").read_text() == "one\ntwo\n"
        assert stat.S_IMODE((top / "notes").stat().st_mode) == 0o640


def test_tail_follows_what_is_written_on_the_same_mount(volume):
    with volume() as top:
        log = top / "log"
        with open(log, "w") as writer:
            writer.write("line 0\n")
            writer.flush()
            with subprocess.Popen(
                ["tail", "-n", "+1", "-s", "0.05", "-f", log],
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                text=True,
            ) as tail:
                try:
                    assert tail.stdout.readline() == "line 0\n"
                    for number in range(1, 20):
                        writer.write(f"line {number}\n")
                        writer.flush()
                        if number % 5 == 0:
                            os.fsync(writer.fileno())
                        assert tail.stdout.readline() == f"line {number}\n"
                finally:
                    tail.kill()


def test_dd_truncate_split_and_cat(volume, tmp_path):
    body = random.Random(2).randbytes(11 * MIB + 13)
    (tmp_path / "body").write_bytes(body)
    with volume() as top:
        run("dd", f"if={tmp_path}/body", "of=copy", "bs=1M", "conv=fsync", "status=none", cwd=top)
        run("cmp", tmp_path / "body", "copy", cwd=top)
        run(
            *("dd", f"if={tmp_path}/body", "of=copy", "bs=64k", "count=3", "seek=100"),
            *("conv=notrunc,fdatasync", "status=none"),
            cwd=top,
        )
        run("split", "-b", "2M", "copy", "part.", cwd=top)
        run("truncate", "-s", "20M", "copy", cwd=top)
        run("truncate", "-s", "-3M", "copy", cwd=top)
        run("sh", "-c", "cat part.* > joined", cwd=top)
    patched = bytearray(body)
    patched[100 * 65536 : 103 * 65536] = body[: 3 * 65536]
    with volume() as top:
        assert (top / "joined").read_bytes() == patched
        assert (top / "copy").read_bytes() == bytes(patched) + bytes(17 * MIB - len(body))


def test_sort_spills_into_the_mount(volume, tmp_path):
    generator = random.Random(3)
    lines = [f"{generator.randrange(10**9):09}" for _ in range(100_000)]
    with volume() as top:
        (top / "lines").write_text("\n".join(lines) + "\n")
        run("sort", "-S", "256k", "-T", top, "--batch-size=8", "-o", "sorted", "lines", cwd=top)
        assert sorted(os.listdir(top)) == ["lines", "sorted"]
        assert (top / "sorted").read_text().split() == sorted(lines)
        run("sort", "-S", "256k", "-T", top, "-o", "lines", "lines", cwd=top)  # in place
        run("cmp", "lines", "sorted", cwd=top)


def test_make_builds_once_and_again_only_what_changed(blob):
    rules = "all: a.o b.o\n%.o: %.c\n\tcc -c $< -o $@\n\t@echo built $@\n"
    with blob() as top:
        (top / "Makefile").write_text(rules)
        for name in "ab":
            (top / f"{name}.c").write_text(f"int {name}(void) {{ return 1; }}\n")
        assert run("make", "-s", "-j2", cwd=top).split().count("built") == 2
        run("make", "-q", cwd=top)
    with blob() as top:
        run("make", "-q", cwd=top)
        (top / "b.c").write_text("int b(void) { return 2; }\n")
        assert run("make", "-s", cwd=top) == "built b.o\n"
        run("make", "-q", cwd=top)


def test_unzip_makes_a_tree(blob, tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for index in range(80):
            archive.writestr(f"top/d{index % 7}/f{index}", f"{index}\n" * index)
    with blob() as top:
        run("unzip", "-q", tmp_path / "all.zip", cwd=top)
    with blob() as top:
        files = run("find", "top", "-type", "f", cwd=top).split()
        assert len(files) == 80
        assert (top / "top" / "d2" / "f79").read_text() == "79\n" * 79
