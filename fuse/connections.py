"""The kernel's control files of FUSE connections (Documentation/filesystems/fuse.rst), root only.

They are on fusectl, which systemd mounts on ``/sys/fs/fuse/connections`` and containers often do
not. Where it is not mounted, an instance of our own is opened that no directory shows
(fsopen(2), fsmount(2)): it is gone with its file descriptor.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOUNTED = Path("/sys/fs/fuse/connections")

# Numbers of system calls are the same on every architecture since Linux 5.0 (asm-generic/unistd.h).
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC, _FSMOUNT_CLOEXEC, _FSCONFIG_CMD_CREATE = 1, 1, 6


def set_value(device: int, name: str, value: int) -> None:
    """Write a control file of the connection whose mount has ``device`` as its ``st_dev``.

    Args:
        device: As from stat(2) or mountinfo.
        name: ``max_background``, ``congestion_threshold`` or ``abort``.
        value: What to write.

    Raises:
        OSError: There is no fusectl to be had, or the kernel refuses.
    """
    with _opened() as connections:
        file = os.open(f"{os.minor(device)}/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=connections)
        try:
            os.write(file, b"%d\n" % value)
        finally:
            os.close(file)


def abort(device: int) -> None:
    """Fail every request that waits for the driver, and all later ones (ENOTCONN).

    Raises:
        OSError: As :func:`set_value`.
    """
    set_value(device, "abort", 1)


@contextmanager
def _opened() -> Iterator[int]:
    directory = _mounted()
    if directory is None:
        directory = _private()
    try:
        yield directory
    finally:
        os.close(directory)


def _mounted() -> int | None:
    """The directory where it is mounted already; while nothing is mounted there, it is empty."""
    try:
        directory = os.open(MOUNTED, os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if os.listdir(directory):  # noqa: PTH208 -- of a descriptor
        return directory
    os.close(directory)
    return None


def _private() -> int:
    context = _call(_SYS_FSOPEN, b"fusectl", _FSOPEN_CLOEXEC)
    try:
        _call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "fusectl")
    return result
