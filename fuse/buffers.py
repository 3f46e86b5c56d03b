"""A budget for bytes that are held in memory only while they travel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class BufferBudget:
    """Hands out ``total`` bytes, first come, first served.

    A buffer larger than half of them counts as half: two such are held at a time, whatever their
    size, and none waits for ever.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._turn = trio.StrictFIFOLock()
        self._freed = trio.Event()

    @property
    def used(self) -> int:
        """Bytes that are handed out."""
        return self.total - self._free

    @asynccontextmanager
    async def held(self, size: int) -> AsyncIterator[None]:
        """Wait for ``size`` bytes and hold them."""
        size = min(size, self.total // 2)
        async with self._turn:
            while self._free < size:
                self._freed = trio.Event()
                await self._freed.wait()
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            self._freed.set()
