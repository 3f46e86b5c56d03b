"""The memory tier of the block cache: extents of file versions under one budget.

An extent is a contiguous range of one version of one file, in one buffer that the volume's
transport fills directly and that replies to the kernel are views of. Extents in flight can be
waited on byte by byte; complete ones are evicted in least-recently-used order.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from sortedcontainers import SortedDict


class Extent:
    """A range of a file's version, arriving or complete.

    Attributes:
        start: Offset of its first byte in the file.
        end: Offset behind its last byte.
        view: The buffer.
        filled: How many bytes have arrived.
        complete: Whether the fetch has ended.
        read: Whether anybody has had its last byte: a stream is past it then.
    """

    __slots__ = (
        "_arrival",
        "_owner",
        "complete",
        "end",
        "error",
        "filled",
        "read",
        "start",
        "view",
        "waiters",
    )

    def __init__(self, owner: SortedDict[int, Extent], start: int, end: int) -> None:
        self._owner = owner
        self.start = start
        self.end = end
        # bytearray comes from calloc: pages are only touched as data arrives.
        self.view = memoryview(bytearray(end - start))
        self.filled = 0
        self.complete = False
        self.read = False
        self.waiters = 0
        self.error: OSError | None = None
        self._arrival = trio.Event()

    @property
    def size(self) -> int:
        """Bytes that the extent holds of the budget."""
        return self.end - self.start

    def renew(self) -> None:
        """Leave the buffer to whoever may still write to it; nobody has had a byte of it yet."""
        self.view = memoryview(bytearray(self.size))

    def progress(self, filled: int) -> None:
        """Note that the first ``filled`` bytes are there."""
        self.filled = filled
        if self.waiters:
            self._arrival.set()
            self._arrival = trio.Event()

    def finish(self, error: OSError | None = None) -> None:
        """The fetch ended; with ``error``, readers of what is missing get that."""
        self.error = error
        self.complete = True
        if error is None:
            self.filled = self.size
        self._arrival.set()

    async def wait(self, count: int) -> None:
        """Wait until the first ``count`` bytes are there. Raises the fetch's error."""
        self.waiters += 1
        try:
            while self.filled < count:
                if self.error is not None:
                    raise OSError(self.error.errno, self.error.strerror, self.error.filename)
                await self._arrival.wait()
        finally:
            self.waiters -= 1

    def drop(self) -> None:
        """Take the extent out of its file's index."""
        if self._owner.get(self.start) is self:
            del self._owner[self.start]


class MemoryCache:
    """All extents of all files, bounded by ``budget`` bytes.

    Demand fetches may exceed the budget by what is being waited for (a reader must get its bytes);
    read-ahead never does.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.used = 0
        self.evictions = 0
        self._recent: OrderedDict[Extent, None] = OrderedDict()

    def reserve(self, size: int, *, demand: bool) -> bool:
        """Make room for ``size`` bytes; False when read-ahead has to be given up."""
        if self.used + size > self.budget:
            self._evict(self.used + size - self.budget, unread=demand)
        return demand or self.used + size <= self.budget

    def add(self, extent: Extent) -> None:
        """Account for a new extent."""
        self._recent[extent] = None
        self.used += extent.size

    def touch(self, extent: Extent, *, to_the_end: bool) -> None:
        """Note a use; ``to_the_end`` when its last byte was read, so that a stream is past it."""
        extent.read = extent.read or to_the_end
        if extent in self._recent:
            self._recent.move_to_end(extent)

    def discard(self, extent: Extent) -> None:
        """Forget an extent (its buffer lives as long as somebody reads it)."""
        if extent in self._recent:
            del self._recent[extent]
            self.used -= extent.size
        extent.drop()

    def _evict(self, excess: int, *, unread: bool) -> None:
        # What was read ahead and nobody had yet goes last, and never for more of its kind.
        for spare_unread in (True, False) if unread else (True,):
            for extent in list(self._recent):
                if excess <= 0:
                    return
                if extent.complete and not extent.waiters and (extent.read or not spare_unread):
                    self.discard(extent)
                    self.evictions += 1
                    excess -= extent.size
