"""Content on the local disk that was read before, shared by all mounts of the machine.

Only versions that never change are kept (a blob's ETag names its bytes), so nothing in here can be
out of date: what is found is right, or it is no longer asked for. What is damaged, cut short or
gone is fetched again. Whatever the disk does (full, read-only, broken, removed), a read never fails
because of the cache; it goes to the store.

Small versions, and what was read here and there of large ones, are in packs (:mod:`fuse.packs`);
what was read in one go is in chunks (:mod:`fuse.chunks`). What is least recently used goes first
(:mod:`fuse.diskroom`).
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import trio

from fuse import blockfile, packs
from fuse.blockfile import Version
from fuse.chunks import Chunks
from fuse.diskfigures import DiskStatistics
from fuse.diskroom import Room
from fuse.logs import log
from fuse.packs import Body, Packs

#: Bytes that may wait to be written; beyond that what was read is not kept. Of large pieces fewer:
#: a stream would fill their buffers again at once, and takes memory that nobody has used yet while
#: they wait, which costs it more than the disk can save.
BACKLOG = 32 * 1024 * 1024
LARGE_BACKLOG = 16 * 1024 * 1024

#: A version that is shorter than this (bytes) goes into a pack, as a whole.
SMALL = 1024 * 1024

#: And so do, unit by unit, pieces of large versions up to this size: no stream's are so short.
SCATTERED = 4 * blockfile.UNIT

#: Writing waits until there are so many bytes, or for so long (seconds): for small files the way to
#: a thread and back costs more than the writing.
BATCH = 4 * 1024 * 1024
LINGER = 0.05

#: The cache is measured after so much was written to it: a share of its budget.
MEASURE_SHARE = 1 / 16

#: A chunk's time of use is renewed after so long (seconds).
RENEW = 600.0

#: After trouble with the disk nothing is written for so long (seconds).
REST = 30.0

#: A read up to this size (bytes) is tried without a thread, if the page cache has it.
INLINE = 1024 * 1024

#: A disk that takes longer than this for one read (seconds) is slower than any store, or hangs.
PATIENCE = 2.0

#: Threads of one mount that read.
READERS = 4

#: What a disk says that is full.
_FULL = {errno.ENOSPC, errno.EDQUOT}


class HangingError(Exception):
    """The disk does not answer. A thread may still write to the buffer: it is not to be used."""


class Owner(Protocol):
    """Whose buffer is waiting to be written.

    Attributes:
        pinned: Freeing it would free no memory.
    """

    pinned: bool


_Offer = tuple[Version, int, memoryview, Owner | None]


class DiskCache:
    """The cache as one mount uses it.

    Args:
        directory: Where it is; made when it is needed.
        budget: Bytes that all mounts together may take; None: a share of what is free; 0: off.
    """

    def __init__(self, directory: Path, budget: int | None = None) -> None:
        self.statistics = DiskStatistics()
        self._directory = directory
        self._off = budget == 0
        self._room = Room(directory, budget, self.statistics, spared=packs.INDEX)
        self._packs = Packs(directory)
        self._chunks = Chunks(directory, self._room.remove)
        self._queue: deque[_Offer] = deque()
        self._queued = 0
        self._work = trio.Event()
        self._enough = trio.Event()
        self._reading = trio.CapacityLimiter(READERS)
        self._writing = trio.CapacityLimiter(1)
        self._evicting = trio.CapacityLimiter(1)
        self._written = 0
        self._measured = False
        self._rest_until = 0.0
        self._hanging_until = 0.0
        self._trouble = ""

    @property
    def state(self) -> str:
        """``ok``, ``off``, or why nothing is written just now."""
        if self._off:
            return "off"
        return self._trouble or "ok"

    def figures(self) -> dict[str, int | float | str]:
        """Counters and state, for ``stats``."""
        asked = self.statistics.disk_hits + self.statistics.disk_misses
        return {
            **asdict(self.statistics),
            "disk_hit_rate": round(self.statistics.disk_hits / max(1, asked), 3),
            "disk_waiting_bytes": self._queued,
            "disk_cache_state": self.state,
        }

    async def read_into(self, version: Version, start: int, view: memoryview) -> bool:
        """Fill ``view`` from offset ``start``; False when it is not all there and unharmed.

        Raises:
            HangingError: The disk does not answer; the buffer belongs to a thread from now on.
        """
        found = self.read_now(version, start, view)
        if found is None:
            with trio.move_on_after(PATIENCE):
                found = self._noted(
                    view,
                    await trio.to_thread.run_sync(
                        self._read, version, start, view, 0,
                        limiter=self._reading, abandon_on_cancel=True,
                    ),
                )  # fmt: skip
        if found is None:
            self._hanging_until = time.monotonic() + REST
            self._note(OSError(errno.ETIMEDOUT, "the disk does not answer"))
            self.statistics.disk_misses += 1
            raise HangingError
        return found

    def read_now(self, version: Version, start: int, view: memoryview) -> bool | None:
        """As :meth:`read_into`, or None where the disk may have to be waited for."""
        if self._off:
            return False
        if not _is_whole(version, start, view) or time.monotonic() < self._hanging_until:
            self.statistics.disk_misses += 1
            return False
        if len(view) > INLINE or not blockfile.NOWAIT:
            return None
        return self._noted(view, self._read(version, start, view, blockfile.NOWAIT))

    def _noted(self, view: memoryview, found: bool | None, /) -> bool | None:  # noqa: FBT001
        """Count a look at the disk that had a result."""
        if found:
            self.statistics.disk_hits += 1
            self.statistics.disk_bytes_read += len(view)
        elif found is not None:
            self.statistics.disk_misses += 1
        return found

    def offer(
        self, version: Version, start: int, view: memoryview, owner: Owner | None = None
    ) -> None:
        """Keep what was read from the store, when there is time; the bytes must not change.

        Until then ``owner`` is pinned, whose buffer it is.
        """
        if self._off or time.monotonic() < self._rest_until:
            return
        if self._queued + len(view) > (BACKLOG if len(view) < SMALL else LARGE_BACKLOG):
            self.statistics.disk_dropped += 1
            return
        if owner is not None:
            owner.pinned = True
        self._queue.append((version, start, view, owner))
        self._queued += len(view)
        self._work.set()
        if self._queued >= BATCH:
            self._enough.set()

    async def fill(self) -> None:
        """Write what was offered, until cancelled."""
        while True:
            while not self._queue:
                self._work = trio.Event()
                await self._work.wait()
            if self._queued < BATCH:
                self._enough = trio.Event()
                with trio.move_on_after(LINGER):
                    await self._enough.wait()
            if not self._queue:  # given up meanwhile, for trouble that is not over
                continue
            batch, size = list(self._queue), self._queued
            self._queue.clear()
            self._queued = 0
            try:
                # What is half written when the mount ends is a miss later.
                await trio.to_thread.run_sync(
                    self._write_all, batch, size, limiter=self._writing, abandon_on_cancel=True
                )
                await self._keep_within_budget()
            except OSError as error:
                self._note(error)
                if error.errno in _FULL:
                    await self.make_room(size)
            else:
                if self._trouble:
                    log.info("the disk cache is in use again")
                    self._trouble = ""
            finally:
                _unpin(batch)
                batch.clear()

    async def make_room(self, size: int) -> int:
        """Delete at least ``size`` bytes of what was used least recently, as far as there are.

        Returns how many were deleted: 0 also where the disk refuses, which is no error here.
        """
        return await trio.to_thread.run_sync(self._room.evict, size, limiter=self._evicting)

    # -- in threads ---------------------------------------------------------------------------

    def _read(self, version: Version, start: int, view: memoryview, flags: int) -> bool | None:
        """Whether it was there; None when the disk would have to be waited for."""

        def packed(unit: int, piece: memoryview) -> bool:
            return self._read_packed(version.unit_key(unit), piece, flags)

        try:
            if _is_small(version, start, view):
                return self._read_packed(version.key, view, flags)
            return self._chunks.read(version, start, view, flags, self._renew, packed)
        except blockfile.DamagedError:
            self.statistics.disk_damaged += 1
            return False
        except BlockingIOError:
            return None
        except OSError as error:
            if flags and error.errno == errno.EOPNOTSUPP:
                return None
            self.statistics.disk_errors += 1
            return False

    def _read_packed(self, key: bytes, view: memoryview, flags: int) -> bool:
        try:
            return self._packs.read(key, view, flags, self._renew)
        except blockfile.DamagedError:  # of the pack; the chunk that asks for it is not
            self.statistics.disk_damaged += 1
            return False

    def _renew(self, descriptor: int) -> None:
        if time.time() - os.fstat(descriptor).st_mtime > RENEW:
            try:
                os.utime(descriptor)
            except OSError:  # such as EROFS: the bytes are good all the same
                self.statistics.disk_errors += 1

    def _write_all(self, batch: Sequence[_Offer], size: int) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._room.spare() < size:
            # More than is needed now, so that the files are not gone through each time.
            self._room.evict(size - self._room.spare() + self._room.used // 20)
            if self._room.spare() < size:
                raise OSError(errno.ENOSPC, "too little of the disk is free")
        packed: list[Body] = []
        for version, start, view, _ in batch:
            if _is_small(version, start, view):
                packed.append((version.key, view))
            elif len(view) <= SCATTERED:
                packed += _units(version, start, view)
            else:
                self._count(self._chunks.write(version, start, view))
        if packed:
            self._packs.append(packed, packs.largest(self._room.budget))
            self._count(sum(len(view) for _, view in packed))

    def _count(self, kept: int) -> None:
        self.statistics.disk_bytes_written += kept
        self._written += kept

    async def _keep_within_budget(self) -> None:
        budget = self._room.budget or 0
        if self._measured and self._written < budget * MEASURE_SHARE:
            return
        await trio.to_thread.run_sync(self._room.evict, 0, limiter=self._evicting)
        self._measured = True
        self._written = 0

    def _note(self, error: OSError) -> None:
        self.statistics.disk_errors += 1
        self._rest_until = time.monotonic() + REST
        reason = error.strerror or str(error)
        if reason != self._trouble:
            log.warning("the disk cache rests: reads go to the store", reason=reason)
        self._trouble = reason
        _unpin(self._queue)
        self._queue.clear()
        self._queued = 0


def _is_small(version: Version, start: int, view: memoryview) -> bool:
    """Whether this is a whole version that is kept in a pack."""
    return not start and len(view) == version.size < SMALL


def _is_whole(version: Version, start: int, view: memoryview) -> bool:
    """Whether a piece of a version consists of whole units, which can be compared."""
    end = start + len(view)
    return not (start % blockfile.UNIT or (end % blockfile.UNIT and end != version.size))


def _units(version: Version, start: int, view: memoryview) -> Iterator[Body]:
    """Keys and bytes of the whole units in a piece of a version."""
    unit = blockfile.UNIT
    end = start + len(view)
    for number in range(-(-start // unit), -(-end // unit)):
        stop = min((number + 1) * unit, version.size)
        if stop <= end:
            yield version.unit_key(number), view[number * unit - start : stop - start]


def _unpin(offers: Iterable[_Offer]) -> None:
    for _, _, _, owner in offers:
        if owner is not None:
            owner.pinned = False
