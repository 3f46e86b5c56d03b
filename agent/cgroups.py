"""Control groups (v2) for jobs and drivers, where systemd delegated a subtree to the agent.

Elsewhere, as in a development container, process groups have to do.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def own(proc: Path = Path("/proc/self/cgroup"), root: Path = _ROOT) -> Path | None:
    """The directory of the agent's own control group, if it may make others beneath it."""
    try:
        lines = proc.read_text("utf-8").splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::/")), None)
    if path is None or not (root / "cgroup.controllers").exists():
        return None
    directory = root / path.lstrip("/")
    return directory if _delegated(directory) else None


def _delegated(directory: Path) -> bool:
    # systemd marks delegated groups (systemd.resource-control(5), "Delegate=").
    for attribute in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, attribute) == b"1":
                return True
    return False


def create(parent: Path, name: str) -> Path:
    """Make a group, or take the one that is there."""
    directory = parent / name
    directory.mkdir(exist_ok=True)
    return directory


def enter(directory: Path, pid: int) -> None:
    """Move a process into a group."""
    (directory / "cgroup.procs").write_text(str(pid), "ascii")


def kill(directory: Path) -> bool:
    """SIGKILL everything in a group at once (Linux 5.14); whether the kernel could."""
    try:
        (directory / "cgroup.kill").write_text("1", "ascii")
    except OSError:
        return False
    return True


def remove(directory: Path) -> None:
    """Remove a group, and those beneath it, that are empty of processes."""
    with contextlib.suppress(OSError):
        for child in directory.iterdir():
            if child.is_dir():
                remove(child)
    with contextlib.suppress(OSError):
        directory.rmdir()
