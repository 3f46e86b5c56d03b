"""Files that are open for reading, kept a moment for the next read.

An open file keeps others from replacing it (a rename onto it is refused) and counts against the
2,000 handles that Azure Files allows a file, so handles close when nobody has read for a few
seconds, and at once when this node is about to remove or rename the file.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from fuse.share.channel import Channel
from fuse.share.state import FileState

Opener = Callable[[Channel, str], Awaitable[tuple[bytes, FileState]]]

#: How long a rename or removal waits for reads of this node that are under way.
_DRAIN = 5.0


@dataclass(eq=False, slots=True)
class ReadHandle:
    """A file open for reading on one connection."""

    channel: Channel
    handle: bytes
    state: FileState
    users: int = 0
    used_at: float = 0.0
    doomed: bool = False
    released: trio.Event = field(default_factory=trio.Event)


class ReadHandles:
    """The read handles of a volume, one a path.

    Args:
        opener: Opens a file.
        idle: Seconds after which an unused handle is closed.
    """

    def __init__(self, opener: Opener, idle: float) -> None:
        self._opener = opener
        self._idle = idle
        self._open: dict[str, ReadHandle] = {}
        self._doomed: set[tuple[str, ReadHandle]] = set()
        self._opening: dict[str, trio.Lock] = {}
        self._added = trio.Event()

    def __len__(self) -> int:
        return len(self._open) + len(self._doomed)

    @asynccontextmanager
    async def using(
        self, channel: Channel, path: str, file_id: int | None
    ) -> AsyncIterator[ReadHandle]:
        """A handle on ``path``; opened anew where the one at hand is of another file."""
        lock = self._opening.setdefault(path, trio.Lock())
        try:
            async with lock:
                handle = await self._get(channel, path, file_id)
                handle.users += 1
        finally:
            if not lock.statistics().tasks_waiting and self._opening.get(path) is lock:
                del self._opening[path]
        try:
            yield handle
        finally:
            handle.users -= 1
            handle.used_at = trio.current_time()
            if handle.doomed and not handle.users:
                self._close(path, handle)

    async def release(self, path: str) -> None:
        """Close what is open at ``path`` and below it, waiting a little for reads under way."""
        for name in [name for name in self._open if _within(name, path)]:
            self._doom(name, self._open[name])
        with trio.move_on_after(_DRAIN):
            for name, handle in list(self._doomed):
                if _within(name, path):
                    await handle.released.wait()

    async def reap(self) -> None:
        """Close idle handles, for as long as the volume lives."""
        while True:
            if not self._open:
                self._added = trio.Event()
                await self._added.wait()
            await trio.sleep(self._idle / 2)
            now = trio.current_time()
            for path, handle in list(self._open.items()):
                unused = not handle.users and now - handle.used_at >= self._idle
                if unused or not handle.channel.alive:
                    self._doom(path, handle)

    async def _get(self, channel: Channel, path: str, file_id: int | None) -> ReadHandle:
        handle = self._open.get(path)
        if handle is not None:
            other = file_id is not None and handle.state.file_id not in {None, file_id}
            if handle.channel is channel and not other:
                return handle
            self._doom(path, handle)
        raw, state = await self._opener(channel, path)
        handle = ReadHandle(channel, raw, state)
        self._open[path] = handle
        self._added.set()
        return handle

    def _doom(self, path: str, handle: ReadHandle) -> None:
        handle.doomed = True
        if self._open.get(path) is handle:
            del self._open[path]
        self._doomed.add((path, handle))
        if not handle.users:
            self._close(path, handle)

    def _close(self, path: str, handle: ReadHandle) -> None:
        self._doomed.discard((path, handle))
        handle.released.set()
        handle.channel.abandon(handle.handle)


def _within(name: str, path: str) -> bool:
    return name == path or not path or name.startswith(f"{path}/")
