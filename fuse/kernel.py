"""What pyfuse3 cannot tell the kernel: read-ahead, background requests, ways out of a mount."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from fuse import connections, mountinfo
from fuse.logs import log

#: Read-ahead of the mount in KiB. With the kernel's own 128 KiB pyfuse3 sees requests of 128 KiB,
#: two at a time; with this 1 MiB requests, eight at a time (docs/architecture.md).
READ_AHEAD_KIB = 4096

#: Background requests (read-ahead among them) that the kernel keeps in flight; its default is 12.
MAX_BACKGROUND = 64

# umount(2), <sys/mount.h>
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

#: Seconds that fusermount3 may take.
_FUSERMOUNT_PATIENCE = 10.0


def tune(mountpoint: Path) -> dict[str, bool]:
    """Raise read-ahead and max_background of a fresh mount; needs root, and says what worked.

    The mount works without them, slower: an unprivileged user cannot set them.
    """
    # st_dev comes from the mount itself: no request waits for an answer that we would have to give.
    mount = mountinfo.topmost(mountpoint)
    if mount is None or os.geteuid() != 0:
        return {"read_ahead": False, "max_background": False}
    device = mount.device
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")

    def read_ahead() -> None:
        bdi.write_text(f"{READ_AHEAD_KIB}\n", encoding="ascii")

    def background() -> None:
        connections.set_value(device, "max_background", MAX_BACKGROUND)
        connections.set_value(device, "congestion_threshold", MAX_BACKGROUND * 3 // 4)

    return {
        "read_ahead": _done("read_ahead", read_ahead),
        "max_background": _done("max_background", background),
    }


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted there, without touching it (it may hang)."""
    return mountinfo.topmost(mountpoint) is not None


def detach(mountpoint: Path) -> None:
    """Take the mount out of the tree at once, whoever uses it (``umount -l``).

    Raises:
        OSError: It cannot be.
    """
    if os.geteuid() != 0:
        try:
            subprocess.run(
                ["fusermount3", "-u", "-z", "--", mountpoint],
                check=True,
                capture_output=True,
                timeout=_FUSERMOUNT_PATIENCE,
            )
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode("utf-8", "replace").strip()
            raise PermissionError(errno.EPERM, said, str(mountpoint)) from None
        except subprocess.TimeoutExpired:
            raise TimeoutError(errno.ETIMEDOUT, "fusermount3 hangs", str(mountpoint)) from None
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        if number not in {errno.EINVAL, errno.ENOENT}:
            raise OSError(number, os.strerror(number), str(mountpoint))


def _done(setting: str, apply: Callable[[], None]) -> bool:
    try:
        apply()
    except OSError as error:
        log.info("kernel setting left as it is", setting=setting, reason=error.strerror)
        return False
    return True
