"""What pyfuse3 cannot tell the kernel: read-ahead, background requests, lazy unmounting."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
from pathlib import Path

import structlog

log = structlog.get_logger("fuse")

#: Read-ahead of the mount in KiB. With the kernel's own 128 KiB pyfuse3 sees requests of 128 KiB,
#: two at a time; with this 1 MiB requests, eight at a time (docs/architecture.md).
READ_AHEAD_KIB = 4096

#: Background requests (read-ahead among them) that the kernel keeps in flight; its default is 12.
MAX_BACKGROUND = 64

MNT_DETACH = 2


def tune(mountpoint: Path) -> dict[str, bool]:
    """Raise read-ahead and max_background of a fresh mount; needs root, and says what worked.

    The mount works without them, slower: an unprivileged user cannot set them.
    """
    # st_dev comes from the mount itself: no request waits for an answer that we would have to give.
    device = _device(mountpoint)
    if device is None:
        return {"read_ahead": False, "max_background": False}
    major, minor = os.major(device), os.minor(device)
    read_ahead = _write(Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB)
    connection = Path(f"/sys/fs/fuse/connections/{minor}")
    background = _write(connection / "max_background", MAX_BACKGROUND) and _write(
        connection / "congestion_threshold", MAX_BACKGROUND * 3 // 4
    )
    return {"read_ahead": read_ahead, "max_background": background}


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted there, without touching it (it may hang)."""
    return _device(mountpoint) is not None


def detach(mountpoint: Path) -> None:
    """Take the mount out of the tree at once, whoever uses it (``umount -l``)."""
    if os.geteuid() != 0:
        subprocess.run(["fusermount3", "-u", "-z", "--", mountpoint], check=True, timeout=10)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), MNT_DETACH) != 0:
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOENT}:
            raise OSError(number, os.strerror(number), str(mountpoint))


def _device(mountpoint: Path) -> int | None:
    """``st_dev`` of the topmost mount on a directory, from mountinfo (proc(5))."""
    wanted = os.fsencode(mountpoint)
    found = None
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            fields = line.split(b" ")
            place = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), fields[4])
            if place == wanted:
                major, minor = fields[2].split(b":")
                found = os.makedev(int(major), int(minor))
    return found


def _write(path: Path, value: int) -> bool:
    try:
        path.write_text(f"{value}\n", encoding="ascii")
    except OSError as error:
        log.info("kernel setting left as it is", setting=str(path), reason=error.strerror)
        return False
    return True
