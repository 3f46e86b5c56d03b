"""What a demo left behind: processes and mounts, found in the kernel's own tables."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is lost sight of.

    The agent's mount drivers and supervisors are meant to outlive the agent, and daemons detach
    themselves: without this they would belong to init, and look like anybody's.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@dataclass(frozen=True)
class Process:
    """A descendant of this process that is still there."""

    pid: int
    command: str


def descendants(*, pid: int | None = None) -> list[Process]:
    """All living descendants, nearest first. Ended ones vanish with this process."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The command name (field 2) may hold anything, brackets and blanks too.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[Process] = []
    queue = [os.getpid() if pid is None else pid]
    while queue:
        children = parents.get(queue.pop(0), [])
        queue += children
        found += [Process(child, _command(child)) for child in children]
    return found


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "?"
    return b" ".join(words).decode(errors="replace").strip()


def mounts_below(directory: Path) -> list[str]:
    """Mount points at or below a directory, deepest first."""
    top = str(directory.resolve())
    points = []
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point == top or point.startswith(top + "/"):
            points.append(point)
    return sorted(points, key=len, reverse=True)


def wait_until_clean(directory: Path, timeout_s: float) -> tuple[list[Process], list[str]]:
    """What is left once nothing is, or once the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = descendants(), mounts_below(directory)
        if not any(left) or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def remove_forcibly(directory: Path) -> None:
    """Detach every mount below the directory and kill every descendant."""
    for point in mounts_below(directory):
        subprocess.run(["umount", "--lazy", point], check=False, timeout=10)
    deadline = time.monotonic() + 10
    while (left := descendants()) and time.monotonic() < deadline:
        for process in left:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
