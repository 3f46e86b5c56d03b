"""CPU time and memory of processes, from proc(5)."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

_PROC = Path("/proc")

# Which of a process's clocks (linux/posix-timers_types.h).
_CPUCLOCK_SCHED = 2
_KIB = 1024

#: Names of programs that mount for others (fusermount3(1)).
_HELPERS = {"fusermount3", "fusermount"}

#: Seconds between two looks at memory.
_INTERVAL = 0.1


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time so far; processes that are gone count nothing.

    By their CPU clocks (clock_getcpuclockid(3)): /proc/PID/stat only has hundredths of a second.
    """
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    return total


def peak_rss(pids: Iterable[int]) -> int:
    """Largest resident memory ever, in bytes, summed over the processes."""
    total = 0
    for pid in pids:
        try:
            text = (_PROC / str(pid) / "status").read_text("ascii", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * _KIB
    return total


@contextlib.contextmanager
def watched_memory(pids: Collection[int]) -> Iterator[list[tuple[float, int]]]:
    """Resident memory while the block runs, summed: seconds since its begin, bytes."""
    seen: list[tuple[float, int]] = []
    done = threading.Event()
    begin = time.monotonic()

    def watch() -> None:
        while True:
            seen.append((time.monotonic() - begin, sum(_resident(pid) for pid in pids)))
            if done.wait(_INTERVAL):
                return

    thread = threading.Thread(target=watch, daemon=True)
    if pids:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        if pids:
            thread.join()


def _resident(pid: int) -> int:
    try:
        fields = (_PROC / str(pid) / "statm").read_text("ascii").split()
    except OSError:
        return 0
    return int(fields[1]) * mmap.PAGESIZE


def children(parent: int) -> list[int]:
    """Direct children of a process."""
    return [pid for pid in _pids() if (fields := _stat(pid)) and int(fields[1]) == parent]


def fuse_servers(mark: str) -> list[int]:
    """Processes that have ``/dev/fuse`` open and ``NAME=value`` in their environment.

    The helper that mounts for somebody and hands the device over is none of them.
    """
    return [pid for pid in _pids() if _has(pid, mark) and _serves(pid) and not _helps(pid)]


def _has(pid: int, mark: str) -> bool:
    try:
        return os.fsencode(mark) in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _helps(pid: int) -> bool:
    try:
        return (_PROC / str(pid) / "comm").read_text().strip() in _HELPERS
    except OSError:
        return True  # it is gone


def _serves(pid: int) -> bool:
    directory = _PROC / str(pid) / "fd"
    try:
        for descriptor in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if descriptor.readlink() == Path("/dev/fuse"):
                    return True
    except OSError:
        return False
    return False


def _pids() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208 -- as above


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the third on (state), none where it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("ascii", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
