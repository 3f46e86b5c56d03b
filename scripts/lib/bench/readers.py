"""Programs that read: processes of their own, started at the same moment.

Each gets a task as JSON, says that it is ready, waits for the word, reads at the speed of C, and
reports when it began and ended. What only checks bytes happens outside of the time taken.
Run as ``python -m bench.readers``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from bench import programs
from bench.errors import BenchError

#: Bytes of one read(2).
BLOCK = 1024 * 1024

#: Seconds that readers may take.
_PATIENCE = 900.0


@dataclass(frozen=True, slots=True)
class Report:
    """What one reader did.

    Attributes:
        begin: When it began, on the monotonic clock.
        end: When it was through.
        cpu: CPU seconds of its own meanwhile.
        bytes_read: What it got.
        latencies: Seconds of each single read, where they were taken.
        opens: Seconds of each open(2), where they were taken.
        digests: Of what it got, in its order, where asked for.
    """

    begin: float
    end: float
    cpu: float
    bytes_read: int
    latencies: tuple[float, ...] = ()
    opens: tuple[float, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.bytes_read / (self.end - self.begin)


def whole(paths: Iterable[Path], *, digests: bool = False) -> dict[str, Any]:
    """A task: read files from front to end, one after the other."""
    return {"kind": "whole", "paths": [os.fspath(path) for path in paths], "digests": digests}


def pieces(path: Path, offsets: Sequence[int], size: int) -> dict[str, Any]:
    """A task: read ``size`` bytes at each of the offsets."""
    return {"kind": "pieces", "path": os.fspath(path), "offsets": list(offsets), "size": size}


def firsts(paths: Iterable[Path], size: int) -> dict[str, Any]:
    """A task: open each file and read its first bytes."""
    return {"kind": "firsts", "paths": [os.fspath(path) for path in paths], "size": size}


def run(tasks: Sequence[dict[str, Any]]) -> list[Report]:
    """Start a reader for each task, let them go at once, wait for all.

    Raises:
        BenchError: One of them failed.
    """
    processes = [
        subprocess.Popen(
            programs.command("readers"),
            env=programs.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in tasks
    ]
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)
        for process, task in zip(processes, tasks, strict=True):
            _tell(process, json.dumps(task))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            _tell(process, "go")
        return [_report(process) for process in processes]


def elapsed(reports: Sequence[Report]) -> float:
    """Seconds from the first one's begin to the last one's end."""
    return max(each.end for each in reports) - min(each.begin for each in reports)


def _tell(process: subprocess.Popen[bytes], text: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its end says why
        process.stdin.write(text.encode() + b"\n")
        process.stdin.flush()


def _report(process: subprocess.Popen[bytes]) -> Report:
    try:
        output, errors = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise BenchError(f"a reader got nowhere within {_PATIENCE:g} s") from None
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise BenchError(f"a reader failed: {lines[-1]}")
    found = json.loads(output)
    for name in ("latencies", "opens", "digests"):
        found[name] = tuple(found.get(name, ()))
    return Report(**found)


# -- the program --------------------------------------------------------------------------------


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _read_whole(task: dict[str, Any]) -> dict[str, Any]:
    view = memoryview(bytearray(BLOCK))
    total = 0
    digests = []
    for path in task["paths"]:
        descriptor = os.open(path, os.O_RDONLY)
        hasher = xxhash.xxh3_64() if task["digests"] else None
        while count := os.readv(descriptor, [view]):
            total += count
            if hasher is not None:
                hasher.update(view[:count])
        os.close(descriptor)
        if hasher is not None:
            digests.append(hasher.hexdigest())
    return {"bytes_read": total, "digests": digests}


def _read_pieces(task: dict[str, Any]) -> dict[str, Any]:
    size = task["size"]
    blocks, latencies = [], []
    descriptor = os.open(task["path"], os.O_RDONLY)
    for offset in task["offsets"]:
        before = time.perf_counter()
        block = os.pread(descriptor, size, offset)
        latencies.append(time.perf_counter() - before)
        blocks.append(block)
    os.close(descriptor)
    return {"blocks": blocks, "latencies": latencies}


def _read_firsts(task: dict[str, Any]) -> dict[str, Any]:
    blocks, latencies, opens = [], [], []
    for path in task["paths"]:
        start = time.perf_counter()
        descriptor = os.open(path, os.O_RDONLY)
        opened = time.perf_counter()
        block = os.pread(descriptor, task["size"], 0)
        latencies.append(time.perf_counter() - opened)
        opens.append(opened - start)
        blocks.append(block)
        os.close(descriptor)
    return {"blocks": blocks, "latencies": latencies, "opens": opens}


def main() -> None:
    """Do one task."""
    task = json.loads(sys.stdin.readline())
    read = {"whole": _read_whole, "pieces": _read_pieces, "firsts": _read_firsts}[task["kind"]]
    print("ready", flush=True)
    sys.stdin.readline()
    cpu, begin = _cpu(), time.monotonic()
    found = read(task)
    end, used = time.monotonic(), _cpu() - cpu
    if "blocks" in found:
        blocks = found.pop("blocks")
        found["bytes_read"] = sum(len(block) for block in blocks)
        found["digests"] = [xxhash.xxh3_64_hexdigest(block) for block in blocks]
    print(json.dumps({"begin": begin, "end": end, "cpu": used, **found}))


if __name__ == "__main__":
    main()
