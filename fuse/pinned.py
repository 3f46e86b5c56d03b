"""A version all of whose bytes are in memory: of an open file without a name, over a full disk."""

from __future__ import annotations

from collections.abc import Callable

import trio

from fuse.cache import MemoryCache
from fuse.readahead import ReadAhead


class Pinned:
    """Reads like :class:`fuse.reader.Reader`; closing it gives the memory back.

    Args:
        data: The bytes.
        cache: Whose budget they were taken from (:meth:`fuse.cache.MemoryCache.lend`).
    """

    def __init__(self, data: bytearray, cache: MemoryCache) -> None:
        self._data = memoryview(data)
        self._cache = cache

    def read_now(
        self, offset: int, end: int, window: ReadAhead, *, noted: bool = False
    ) -> memoryview | None:
        """The bytes from ``offset`` to ``end``, which lie within the version."""
        del window, noted
        return self._data[offset:end]

    def fetch(self, offset: int, end: int, window: ReadAhead, resume: Callable[[], None]) -> bool:
        """Nothing is missing."""
        del offset, end, window
        resume()
        return True

    async def read(self, offset: int, size: int, window: ReadAhead) -> memoryview:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the version."""
        del window
        await trio.lowlevel.checkpoint()
        return self._data[offset : offset + size]

    def close(self) -> None:
        """Nobody reads on."""
        self._cache.give_back(len(self._data))
        self._data = memoryview(b"")
