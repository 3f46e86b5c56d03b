"""Answering the kernel: the short way in front, pyfuse3 behind it."""

from __future__ import annotations

import pyfuse3
import trio

from fuse import lane
from fuse.filesystem import FileSystem
from fuse.kernel import MAX_BACKGROUND
from fuse.messages import Limits

#: Tasks that pyfuse3 keeps for requests that wait, and how many there may be.
_SPARE, _MOST = 8, 99

#: What the kernel is told; libfuse leaves it at 12 and 9.
LIMITS = Limits(max_background=MAX_BACKGROUND, congestion_threshold=MAX_BACKGROUND * 3 // 4)


async def serve(filesystem: FileSystem) -> None:
    """Answer the kernel until the file system is unmounted; pyfuse3 has mounted it."""
    with lane.opened(filesystem, LIMITS) as short:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main, _SPARE, _MOST)
            await short.serve()
            # What pyfuse3 was still at is cancelled, as everything is when a mount ends.
            nursery.cancel_scope.cancel()
