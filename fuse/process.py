"""What a process does to itself before it holds a key, and while it becomes a driver."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from typing import NoReturn

# <linux/prctl.h>
PR_SET_DUMPABLE = 4

# <malloc.h>, mallopt(3)
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

#: Buffers from this size on (bytes) go back to the system when they are freed. The 1 MiB of a
#: write(2) are smaller: the page faults of fresh memory would cost more than the write.
LARGE_BUFFER = 2 << 20

#: Free bytes at the end of the heap that stay for the next ones.
SPARE_HEAP = 8 << 20


def prepare() -> None:
    """Settings of the kernel's and the C library's; a process that is forked off keeps them."""
    libc = ctypes.CDLL(None)
    # A core dump would hold the key.
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    # Else glibc raises the threshold by itself, and keeps buffers of megabytes in its heap.
    libc.mallopt(M_MMAP_THRESHOLD, LARGE_BUFFER)
    libc.mallopt(M_TRIM_THRESHOLD, SPARE_HEAP)


def forget(names: Iterable[str]) -> None:
    """Take variables out of the environment, and out of what ``/proc/PID/environ`` shows.

    The kernel shows the strings that the program was started with for as long as it lives
    (proc_pid_environ(5)): taking a variable away leaves its value there. So it is overwritten.
    """
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    for name in names:
        if name not in os.environ:
            continue
        if value := libc.getenv(os.fsencode(name)):
            ctypes.memset(value, 0, len(os.fsencode(os.environ[name])))
        del os.environ[name]


def detach(*, stdout: int, stderr: int) -> None:
    """Leave everything of the caller's: its session, its directory, its files.

    Args:
        stdout: Descriptor that becomes standard output.
        stderr: Descriptor that becomes standard error. Standard input becomes ``/dev/null``.
    """
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def end(status: int) -> NoReturn:
    """End the process at once, with what was written to its streams.

    For one that was forked off: what its parent registered for its own end is not to be done twice.
    And for one that somebody waits for: the interpreter takes longer to clean up than to start.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 1
    os._exit(status)
