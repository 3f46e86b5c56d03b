"""Mounts as the kernel sees them, without touching any."""

import os
import re
import subprocess
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


def mounts_below(directory: Path) -> list[str]:
    """Mount points at or below a directory, in the order in which they were mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # proc_pid_mountinfo(5): field 5, with blanks as octal escapes.
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if point == str(directory) or point.startswith(f"{directory}/"):
            found.append(point)
    return found


def abort_fuse(mountpoint: str) -> None:
    """Make the kernel fail all that waits for the driver behind a mount, if it is a FUSE mount."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        kind = fields[fields.index("-") + 1]
        if fields[4] == mountpoint.replace(" ", r"\040") and kind.startswith("fuse"):
            minor = fields[2].split(":")[1]
            try:
                Path("/sys/fs/fuse/connections", minor, "abort").write_text("1")
            except OSError:
                continue


def unmount(mountpoint: str) -> None:
    """Take a mount off the tree at once, whoever uses it still."""
    subprocess.run(
        ["umount", "--lazy", os.fspath(mountpoint)], check=False, capture_output=True, timeout=30
    )
