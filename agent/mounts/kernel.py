"""The kernel's side of a mount: undoing it when its driver cannot."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from agent.mounts import mountinfo

# umount(2), <sys/mount.h>
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

CONNECTIONS = Path("/sys/fs/fuse/connections")
_MOST_STACKED = 64


def detach(mountpoint: str) -> None:
    """Lazily unmount what is on top of a directory (umount2 with MNT_DETACH); never blocks.

    Raises:
        OSError: EINVAL when nothing is mounted there, EPERM without CAP_SYS_ADMIN.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)


def abort(mount: mountinfo.Mount, connections: Path = CONNECTIONS) -> bool:
    """Abort a fuse connection: every process that waits for its driver gets an error at once.

    (Documentation/filesystems/fuse.rst, "Aborting a filesystem connection".)

    Returns:
        Whether that was possible: fusectl is not mounted everywhere.
    """
    try:
        (connections / str(mount.minor) / "abort").write_text("1")
    except OSError:
        return False
    return True


def clear(mountpoint: str) -> int:
    """Take every mount off a directory, the driver's consent aside.

    Returns:
        How many there were.

    Raises:
        OSError: One could not be detached.
    """
    for count in range(_MOST_STACKED):
        stacked = mountinfo.at(mountinfo.read(), mountpoint)
        if not stacked:
            return count
        if stacked[-1].is_fuse:
            abort(stacked[-1])
        detach(mountpoint)
    return _MOST_STACKED
