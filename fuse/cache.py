"""The memory tier of the block cache: extents of file versions under one hard budget.

An extent is a contiguous range of one version of one file, in one buffer that the volume's
transport fills directly and that replies to the kernel are views of. Extents in flight can be
waited on byte by byte; complete ones stay, also after the last handle is closed, until others need
the room: what a program reads again is there, whoever opens it.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Final
from weakref import WeakValueDictionary

import trio

from fuse.latency import Latencies
from fuse.slabs import Slab, Slabs, capacity

_NOTHING = memoryview(b"")

#: What streams have left behind may take this part of the budget; beyond it is used again first.
_SPENT = 8

#: What is lent is at most this part of all (a divisor).
_LENT: Final = 2


class AbandonedError(Exception):
    """Who fetched an extent was called away: whoever waits for it has to fetch it."""


class Shelf:
    """The extents of one version of a file, by offset. They never overlap."""

    __slots__ = ("__weakref__", "_extents", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._extents: list[Extent] = []

    def find(self, position: int) -> Extent | None:
        """The extent that ``position`` is in."""
        index = bisect.bisect_right(self._starts, position) - 1
        if index < 0:
            return None
        extent = self._extents[index]
        return extent if position < extent.end else None

    def next_start(self, position: int) -> int | None:
        """Where the first extent behind ``position`` begins."""
        index = bisect.bisect_right(self._starts, position)
        return self._starts[index] if index < len(self._starts) else None

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._extents[:])

    def put(self, extent: Extent) -> None:
        """Add an extent where there is none."""
        index = bisect.bisect_right(self._starts, extent.start)
        self._starts.insert(index, extent.start)
        self._extents.insert(index, extent)

    def drop(self, extent: Extent) -> None:
        """Forget an extent that is there."""
        index = bisect.bisect_left(self._starts, extent.start)
        del self._starts[index], self._extents[index]


class Extent:
    """A range of a file's version, arriving or complete.

    Attributes:
        shelf: The version that it is of.
        start: Offset of its first byte in the file.
        end: Offset behind its last byte.
        view: The buffer.
        filled: How many bytes have arrived.
        complete: Whether the fetch has ended.
        waiters: How many wait for bytes of it.
        pinned: The disk cache is about to write it.
    """

    __slots__ = (
        "_calls",
        "_slab",
        "_waiting",
        "complete",
        "end",
        "error",
        "filled",
        "pinned",
        "shelf",
        "start",
        "view",
        "waiters",
    )

    def __init__(self, shelf: Shelf, start: int, end: int, slab: Slab) -> None:
        self.shelf = shelf
        self.start = start
        self.end = end
        self.view = memoryview(slab)[: end - start]
        self._slab: Slab = slab
        self.filled = 0
        self.complete = False
        self.waiters = 0
        self.pinned = False
        self.error: Exception | None = None
        self._waiting: list[tuple[int, trio.Event]] = []
        self._calls: list[tuple[int, Callable[[], None]]] = []

    @property
    def size(self) -> int:
        """Bytes that the extent holds of the budget."""
        return len(self._slab)

    def renew(self) -> None:
        """Leave the buffer to whoever may still write to it; nobody has had a byte of it yet."""
        self._slab = bytearray(self.size)
        self.view = memoryview(self._slab)[: self.end - self.start]

    def part_with(self) -> Slab:
        """Give the buffer away; views that were handed out stay good."""
        self.view = _NOTHING
        slab, self._slab = self._slab, bytearray()
        return slab

    def progress(self, filled: int) -> None:
        """Note that the first ``filled`` bytes are there."""
        self.filled = filled
        if self._waiting or self._calls:
            self._wake(filled)

    def finish(self, error: Exception | None = None) -> None:
        """The fetch ended; with ``error``, readers of what is missing get that."""
        self.error = error
        self.complete = True
        if error is None:
            self.filled = self.end - self.start
        self._wake(self.end - self.start)

    def check(self) -> None:
        """Raise what the fetch ended with, as :meth:`wait` does."""
        if isinstance(self.error, OSError):
            raise OSError(self.error.errno, self.error.strerror, self.error.filename)
        if self.error is not None:
            raise AbandonedError

    def when(self, count: int, call: Callable[[], None]) -> None:
        """Call once, as soon as the first ``count`` bytes are there, or will not come."""
        if self.complete or self.filled >= count:
            call()
            return
        self.waiters += 1
        self._calls.append((count, call))

    async def wait(self, count: int) -> None:
        """Wait until the first ``count`` bytes are there.

        Raises:
            AbandonedError: Nobody fetches it any more.
            OSError: The fetch's error.
        """
        self.waiters += 1
        try:
            while self.filled < count:
                self.check()
                arrival = trio.Event()
                self._waiting.append((count, arrival))
                await arrival.wait()
        finally:
            self.waiters -= 1

    def _wake(self, filled: int) -> None:
        waiting, self._waiting = self._waiting, []
        for count, arrival in waiting:
            if count <= filled:
                arrival.set()
            else:
                self._waiting.append((count, arrival))
        if self._calls:
            due = [call for count, call in self._calls if count <= filled]
            self._calls = [one for one in self._calls if one[0] > filled]
            self.waiters -= len(due)
            for call in due:
                call()


class MemoryCache:
    """All extents of all files, bounded by ``budget`` bytes, which are never exceeded.

    Whoever must have bytes waits for room (:meth:`room`), and gets it: what is in flight arrives
    without needing more, and what has arrived and is waited for is taken. Read-ahead goes without.

    Attributes:
        budget: Bytes, less what is lent.
        evictions: Extents that had to go.
        hits: Reads that were answered from it at once.
        waiting: How long the other reads waited, for the store or for the disk.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.evictions = 0
        self.hits = 0
        self.waiting = Latencies()
        self._held = 0
        self._lent = 0
        self._slabs = Slabs()
        self._shelves: WeakValueDictionary[Hashable, Shelf] = WeakValueDictionary()
        #: Used at least once, least recently used first.
        self._used: OrderedDict[Extent, None] = OrderedDict()
        #: Read to the end by somebody who goes through the file: the kernel has its pages.
        self._spent: OrderedDict[Extent, None] = OrderedDict()
        self._spent_held = 0
        #: Read ahead, and not read to the end yet.
        self._ahead: OrderedDict[Extent, None] = OrderedDict()
        self._wanting = trio.lowlevel.ParkingLot()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._held + self._slabs.spare

    @property
    def largest(self) -> int:
        """Bytes of the largest extent that there may be."""
        return max(1, self.budget // 2)

    def figures(self) -> dict[str, int | float]:
        """Counters, for ``stats``."""
        return {
            "memory_used_bytes": self.used,
            "memory_budget_bytes": self.budget,
            "memory_lent_bytes": self._lent,
            "memory_read_ahead_bytes": sum(extent.size for extent in self._ahead),
            "memory_evictions": self.evictions,
            "memory_hits": self.hits,
            "memory_hit_rate": round(self.hits / max(1, self.hits + self.waiting.count), 3),
            **self.waiting.figures("read_wait"),
        }

    def shelf(self, key: Hashable) -> Shelf:
        """The extents of what ``key`` names, for as long as somebody refers to them."""
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelves[key] = Shelf()
        return shelf

    def make(self, shelf: Shelf, start: int, end: int, *, ahead: bool = False) -> Extent | None:
        """A new extent, empty; None when there is no room for it now.

        With ``ahead``, nobody waits for it: it takes no room from what others read ahead.
        """
        size = capacity(end - start)
        if self._spent_held > self.budget // _SPENT:
            self._evict_from(self._spent, size, pinned=False)
        slab = self._slabs.reuse(size)
        if slab is None:
            excess = self.used + size - self.budget
            if excess > 0 and self._slabs.spare:
                self._slabs.clear()
                excess = self.used + size - self.budget
            if excess > 0:
                self._evict(excess, unread=not ahead)
                slab = self._slabs.reuse(size)
        if slab is None:
            if self.used + size > self.budget:
                self._slabs.clear()
                if self.used + size > self.budget:
                    return None
            slab = self._slabs.make(size)
        extent = Extent(shelf, start, end, slab)
        shelf.put(extent)
        (self._ahead if ahead else self._used)[extent] = None
        self._held += size
        return extent

    def lend(self, size: int) -> bool:
        """Take memory out of the budget for something else; False where that leaves too little.

        Who borrows calls :meth:`give_back`.
        """
        if self._lent + size > (self.budget + self._lent) // _LENT:
            return False
        self._slabs.clear()
        excess = self.used + size - self.budget
        if excess > 0:
            self._evict(excess, unread=True)
            self._slabs.clear()
        if self.used + size > self.budget:
            return False
        self.budget -= size
        self._lent += size
        return True

    def give_back(self, size: int) -> None:
        """What was lent is free again."""
        self.budget += size
        self._lent -= size
        self.settled()

    async def room(self) -> None:
        """Wait until there may be more room than before."""
        await self._wanting.park()

    def settled(self) -> None:
        """Note that an extent has arrived, or that nobody waits for it any more."""
        if self._wanting:
            self._wanting.unpark_all()

    def touch(self, extent: Extent, *, to_the_end: bool, streamed: bool = False) -> None:
        """Note a use.

        Args:
            extent: What was used.
            to_the_end: Its last byte was read.
            streamed: By somebody who goes through the file; the kernel has the pages now, so this
                extent is among the first to go.
        """
        if extent in self._used:
            self._used.move_to_end(extent)
        elif extent not in self._ahead or not to_the_end:
            return
        else:
            del self._ahead[extent]
            self._used[extent] = None
        if streamed and to_the_end:
            del self._used[extent]
            self._spent[extent] = None
            self._spent_held += extent.size

    def relegate(self, extent: Extent) -> None:
        """Nobody goes on to it: what was read ahead is as good as read."""
        if extent in self._ahead:
            del self._ahead[extent]
            self._used[extent] = None
            self._used.move_to_end(extent, last=False)

    def discard(self, extent: Extent) -> None:
        """Forget an extent (its buffer lives as long as somebody reads it)."""
        for kind in (self._used, self._ahead, self._spent):
            if extent in kind:
                self._forget(kind, extent)
                self.settled()
                return

    def _forget(self, kind: OrderedDict[Extent, None], extent: Extent) -> None:
        del kind[extent]
        if kind is self._spent:
            self._spent_held -= extent.size
        self._held -= extent.size
        extent.shelf.drop(extent)

    def _evict(self, excess: int, *, unread: bool) -> None:
        # What was read ahead and nobody had yet goes last, and never for more of its kind.
        kinds = (self._spent, self._used, self._ahead)
        for kind in kinds if unread else kinds[:2]:
            excess -= self._evict_from(kind, excess, pinned=False)
        if unread:  # who must have bytes waits for the store, and not for the disk
            for kind in kinds:
                excess -= self._evict_from(kind, excess, pinned=True)

    def _evict_from(self, kind: OrderedDict[Extent, None], excess: int, *, pinned: bool) -> int:
        victims: list[Extent] = []
        freed = 0
        for extent in kind:
            if freed >= excess:
                break
            if extent.complete and not extent.waiters and extent.pinned <= pinned:
                victims.append(extent)
                freed += extent.size
        for extent in victims:
            self._forget(kind, extent)
            self._slabs.give_back(extent.part_with())
        self.evictions += len(victims)
        return freed
