"""Looking at mounts, and ending them, whatever state their drivers are in."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from fuse import mountinfo

#: Seconds between two tries to unmount what is busy.
_PAUSE = 0.05


def is_there(mountpoint: Path) -> bool:
    """Whether something is mounted; the driver is not asked, it may be dead."""
    return mountinfo.topmost(mountpoint) is not None


def unmount(mountpoint: Path, patience: float) -> None:
    """Unmount as a person would; detach what is still busy after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while is_there(mountpoint):
        if time.monotonic() > deadline:
            detach(mountpoint)
            return
        done = subprocess.run(["umount", os.fspath(mountpoint)], capture_output=True, check=False)
        if done.returncode:
            time.sleep(_PAUSE)


def detach(mountpoint: Path) -> None:
    """Take it away at once (umount(8), -l)."""
    subprocess.run(["umount", "-l", os.fspath(mountpoint)], capture_output=True, check=False)
