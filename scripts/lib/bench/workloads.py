"""What programs do to a mount beside reading: each as a process of its own.

It takes a task as JSON on standard input, says when it began and ended, and what it cost. Bytes are
made before the clock starts. Run as ``python -m bench.workloads``.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import programs

_MIB = 1024 * 1024

#: Bytes of one write(2) of a large file.
_BLOCK = _MIB

#: Bytes of noise that large files are made of, again and again.
_NOISE = 64 * _MIB

#: Bytes of a tensor in a checkpoint.
_RECORD = 16 * _MIB


@dataclass(frozen=True, slots=True)
class Work:
    """What a workload did.

    Attributes:
        begin: When it began, on the monotonic clock.
        seconds: Until its last call returned.
        cpu: CPU seconds of its own, and of programs that it ran.
        lines: What a program printed, where one was run.
    """

    begin: float
    seconds: float
    cpu: float
    lines: int = 0


def write(path: Path, size: int, seed: int) -> dict[str, Any]:
    """A task: write the file of :func:`noise` from front to end, and sync it."""
    return {"kind": "write", "path": os.fspath(path), "size": size, "seed": seed}


def checkpoint(path: Path, size: int) -> dict[str, Any]:
    """A task: a zip archive of large records, as torch.save makes, under its name when complete."""
    return {"kind": "checkpoint", "path": os.fspath(path), "size": size}


def create(directory: Path, count: int, size: int) -> dict[str, Any]:
    """A task: make small files in a new directory."""
    return _many("create", directory, count) | {"size": size}


def stat(directory: Path, count: int) -> dict[str, Any]:
    """A task: ask for the attributes of each file that :func:`create` made."""
    return _many("stat", directory, count)


def rename(directory: Path, count: int) -> dict[str, Any]:
    """A task: give each of them another name."""
    return _many("rename", directory, count)


def delete(directory: Path, count: int) -> dict[str, Any]:
    """A task: remove them after :func:`rename`."""
    return _many("delete", directory, count)


def command(*words: str | Path) -> dict[str, Any]:
    """A task: run a program, and count the lines that it prints."""
    return {"kind": "command", "words": [os.fspath(word) for word in words]}


def name(number: int, *, renamed: bool = False) -> str:
    """Of a small file."""
    return f"{'renamed' if renamed else 'file'}{number:06}.txt"


def small(size: int) -> bytes:
    """The bytes of a small file."""
    return b"x" * size


def noise(size: int, seed: int) -> Iterator[memoryview]:
    """The bytes of a large file, a piece at a time: the same for the same seed."""
    view = memoryview(random.Random(seed).randbytes(min(_NOISE, max(size, 1))))  # noqa: S311
    for position in range(0, size, _BLOCK):
        start = position % len(view)
        yield view[start : start + min(_BLOCK, size - position)]


def run(task: dict[str, Any]) -> Work:
    """Do it in a process of its own.

    Raises:
        BenchError: It failed, or took too long.
    """
    return Work(**programs.ask("workloads", task, task["kind"]))


def _many(kind: str, directory: Path, count: int) -> dict[str, Any]:
    return {"kind": kind, "path": os.fspath(directory), "count": count}


# -- the program --------------------------------------------------------------------------------


def _write(task: dict[str, Any]) -> Callable[[], int | None]:
    pieces = list(noise(task["size"], task["seed"]))

    def go() -> None:
        descriptor = os.open(task["path"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for piece in pieces:
            os.write(descriptor, piece)
        os.fsync(descriptor)
        os.close(descriptor)

    return go


def _checkpoint(task: dict[str, Any]) -> Callable[[], int | None]:
    path = Path(task["path"])
    unfinished = path.with_suffix(".tmp")
    record = memoryview(os.urandom(_RECORD))
    count = max(1, task["size"] // _RECORD)

    def go() -> None:
        with unfinished.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for number in range(count):
                    # The header is written again behind each record, with its checksum.
                    with archive.open(f"archive/data/{number}", "w") as entry:
                        for start in range(0, min(_RECORD, task["size"]), _BLOCK):
                            entry.write(record[start : start + _BLOCK])
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)

    return go


def _create(task: dict[str, Any]) -> Callable[[], int | None]:
    directory, content = Path(task["path"]), small(task["size"])

    def go() -> None:
        directory.mkdir()
        for number in range(task["count"]):
            (directory / name(number)).write_bytes(content)

    return go


def _stat(task: dict[str, Any]) -> Callable[[], int | None]:
    directory = Path(task["path"])

    def go() -> None:
        for number in range(task["count"]):
            (directory / name(number)).stat()

    return go


def _rename(task: dict[str, Any]) -> Callable[[], int | None]:
    directory = Path(task["path"])

    def go() -> None:
        for number in range(task["count"]):
            (directory / name(number)).rename(directory / name(number, renamed=True))

    return go


def _delete(task: dict[str, Any]) -> Callable[[], int | None]:
    directory = Path(task["path"])

    def go() -> None:
        for number in range(task["count"]):
            (directory / name(number, renamed=True)).unlink()

    return go


def _command(task: dict[str, Any]) -> Callable[[], int | None]:
    program, *words = task["words"]
    found = shutil.which(program)
    if found is None:
        raise SystemExit(f"{program} is not installed")

    def go() -> int:
        done = subprocess.run([found, *words], capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.decode(errors="replace")[-500:] or f"{program} failed")
        return done.stdout.count(b"\n")

    return go


_KINDS: dict[str, Callable[[dict[str, Any]], Callable[[], int | None]]] = {
    "write": _write,
    "checkpoint": _checkpoint,
    "create": _create,
    "stat": _stat,
    "rename": _rename,
    "delete": _delete,
    "command": _command,
}


def _cpu() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def main() -> None:
    """Do one task."""
    task = json.loads(sys.stdin.read())
    go = _KINDS[task["kind"]](task)
    cpu, begin = _cpu(), time.monotonic()
    lines = go() or 0
    seconds, used = time.monotonic() - begin, _cpu() - cpu
    print(json.dumps({"begin": begin, "seconds": seconds, "cpu": used, "lines": lines}))


if __name__ == "__main__":
    main()
