"""Waiting for a directory on the local disk to change (inotify(7))."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import trio

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC


class DirectoryWatch:
    """Tells that a file in a directory was made, written or moved there."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    async def wait(self, *, at_most_s: float) -> None:
        """Wait for a change since the last call, no longer than this.

        Where the kernel gives no watch (fs.inotify.max_user_instances), a quarter of a second has
        to do: whoever calls looks at the files anyhow.
        """
        if self._descriptor is None:
            await trio.sleep(min(at_most_s, 0.25))
            return
        with trio.move_on_after(at_most_s):
            await trio.lowlevel.wait_readable(self._descriptor)
            with contextlib.suppress(BlockingIOError):
                while os.read(self._descriptor, 65536):
                    pass


@contextlib.contextmanager
def watch(directory: Path) -> Iterator[DirectoryWatch]:
    """Watch a directory from now on; look at its files after this, not before."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
    if descriptor < 0:
        yield DirectoryWatch(None)
        return
    try:
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
        added = libc.inotify_add_watch(descriptor, os.fsencode(directory), mask)
        yield DirectoryWatch(descriptor if added >= 0 else None)
    finally:
        os.close(descriptor)
