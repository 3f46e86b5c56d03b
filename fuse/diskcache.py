"""Content on the local disk that was read before, shared by all mounts of the machine.

Only versions that never change are kept (a blob's ETag names its bytes), so nothing in here can be
out of date: what is found is right, or it is no longer asked for. What is damaged, cut short or
gone is fetched again. Whatever the disk does (full, read-only, broken, removed), a read never fails
because of the cache; it goes to the store.

Files are those of :mod:`fuse.blockfile`, in 256 directories. There is no index to load or to keep:
a chunk's name is a digest of volume, path, version and number. Least recently used is what has the
oldest modification time, which a use renews now and then.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import structlog
import trio

from fuse import blockfile
from fuse.blockfile import CHUNK, Version

log = structlog.get_logger("fuse")

GIB = 1024 * 1024 * 1024

#: Most that the cache takes when nobody says how much it may have (bytes), and its share of what
#: is free.
LARGEST_DEFAULT = 50 * GIB
DEFAULT_SHARE = 0.5

#: Free space that others on the disk are left with: a share of it, and at most so much (bytes).
FLOOR_SHARE = 0.05
LARGEST_FLOOR = 2 * GIB

#: Bytes that may wait to be written; beyond that what was read is not kept.
BACKLOG = 32 * 1024 * 1024

#: What is at least so long (bytes) is written past the page cache: the mount has its pages already.
DIRECT = 1024 * 1024

#: The cache is measured after so much was written to it: a share of its budget.
MEASURE_SHARE = 1 / 16

#: Eviction goes on until this share of the budget is used.
LOW_WATER = 0.9

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


@dataclass(slots=True)
class DiskStatistics:
    """Counters of the disk cache of one mount.

    Attributes:
        disk_hits: Reads that were answered from it.
        disk_misses: Reads that were not.
        disk_bytes_read: Bytes answered from it.
        disk_bytes_written: Bytes put into it.
        disk_dropped: Reads that were not kept because the disk was too slow.
        disk_damaged: Chunks that were not what they ought to be.
        disk_evicted_bytes: Bytes deleted to make room.
        disk_errors: Times that the disk refused something.
    """

    disk_hits: int = 0
    disk_misses: int = 0
    disk_bytes_read: int = 0
    disk_bytes_written: int = 0
    disk_dropped: int = 0
    disk_damaged: int = 0
    disk_evicted_bytes: int = 0
    disk_errors: int = 0


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
        self._root = f"{os.fspath(directory)}/"
        self._wanted_budget = budget
        self._budget: int | None = budget
        self._queue: deque[_Offer] = deque()
        self._queued = 0
        self._work = trio.Event()
        self._reading = trio.CapacityLimiter(READERS)
        self._writing = trio.CapacityLimiter(1)
        self._evicting = trio.CapacityLimiter(1)
        self._written = 0
        self._used = 0
        self._measured = False
        self._rest_until = 0.0
        self._hanging_until = 0.0
        self._trouble = ""

    @property
    def state(self) -> str:
        """``ok``, ``off``, or why nothing is written just now."""
        if self._wanted_budget == 0:
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
        if self._wanted_budget == 0:
            return False
        if start % blockfile.UNIT or time.monotonic() < self._hanging_until:
            self.statistics.disk_misses += 1
            return False
        found = None
        if len(view) <= INLINE and blockfile.NOWAIT:
            found = self._read(version, start, view, blockfile.NOWAIT)
        if found is None:
            with trio.move_on_after(PATIENCE):
                found = await trio.to_thread.run_sync(
                    self._read, version, start, view, 0,
                    limiter=self._reading, abandon_on_cancel=True,
                )  # fmt: skip
        if found is None:
            self._hanging_until = time.monotonic() + REST
            self._note(OSError(errno.ETIMEDOUT, "the disk does not answer"))
            self.statistics.disk_misses += 1
            raise HangingError
        if found:
            self.statistics.disk_hits += 1
            self.statistics.disk_bytes_read += len(view)
        else:
            self.statistics.disk_misses += 1
        return bool(found)

    def offer(
        self, version: Version, start: int, view: memoryview, owner: Owner | None = None
    ) -> None:
        """Keep what was read from the store, when there is time; the bytes must not change.

        Until then ``owner`` is pinned, whose buffer it is.
        """
        if self._wanted_budget == 0 or time.monotonic() < self._rest_until:
            return
        if self._queued + len(view) > BACKLOG:
            self.statistics.disk_dropped += 1
            return
        if owner is not None:
            owner.pinned = True
        self._queue.append((version, start, view, owner))
        self._queued += len(view)
        self._work.set()

    async def fill(self) -> None:
        """Write what was offered, until cancelled."""
        while True:
            while not self._queue:
                self._work = trio.Event()
                await self._work.wait()
            # All at once: for small files the way to a thread costs more than the writing.
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
        return await trio.to_thread.run_sync(self._evict, size, limiter=self._evicting)

    # -- in threads ---------------------------------------------------------------------------

    def _path(self, key: bytes) -> str:
        name = key.hex()
        return f"{self._root}{name[:2]}/{name[2:40]}"

    def _read(self, version: Version, start: int, view: memoryview, flags: int) -> bool | None:
        """Whether it was there; None when the disk would have to be waited for."""
        for number, first, last in version.chunks(start, start + len(view)):
            key = version.chunk_key(number)
            offset = number * CHUNK + first - start
            piece = view[offset : offset + last - first]
            path = self._path(key)
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                return False
            try:
                size = version.chunk_size(number)
                if not blockfile.read(descriptor, key, first, piece, size, flags=flags):
                    return False
                self._renew(descriptor)
            except blockfile.DamagedError:
                self.statistics.disk_damaged += 1
                self._remove(path)
                return False
            except BlockingIOError:
                return None
            except OSError as error:
                if flags and error.errno == errno.EOPNOTSUPP:
                    return None
                self.statistics.disk_errors += 1
                return False
            finally:
                os.close(descriptor)
        return True

    def _renew(self, descriptor: int) -> None:
        if time.time() - os.fstat(descriptor).st_mtime > RENEW:
            try:
                os.utime(descriptor)
            except OSError:  # such as EROFS: the bytes are good all the same
                self.statistics.disk_errors += 1

    def _remove(self, path: str | Path) -> bool:
        try:
            os.unlink(path)  # noqa: PTH108 -- scandir gives strings, thousands of them
        except FileNotFoundError:
            return False
        except OSError:
            self.statistics.disk_errors += 1
            return False
        return True

    def _write_all(self, batch: Sequence[_Offer], size: int) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._spare() < size:
            # More than is needed now, so that the files are not gone through each time.
            self._evict(size - self._spare() + self._used // 20)
            if self._spare() < size:
                raise OSError(errno.ENOSPC, "too little of the disk is free")
        for version, start, view, _ in batch:
            self._write(version, start, view)

    def _write(self, version: Version, start: int, view: memoryview) -> None:
        for number, first, last in version.chunks(start, start + len(view)):
            key = version.chunk_key(number)
            offset = number * CHUNK + first - start
            piece = view[offset : offset + last - first]
            path = self._path(key)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            try:
                descriptor = os.open(path, flags, 0o600)
            except FileNotFoundError:
                Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(path, flags, 0o600)
            direct = _open_past(path) if len(piece) >= DIRECT else None
            try:
                kept = blockfile.write(
                    descriptor, key, first, piece, version.chunk_size(number), direct
                )
            finally:
                os.close(descriptor)
                if direct is not None:
                    os.close(direct)
            self.statistics.disk_bytes_written += kept
            self._written += kept

    async def _keep_within_budget(self) -> None:
        budget = self._budget or 0
        if self._measured and self._written < budget * MEASURE_SHARE:
            return
        await trio.to_thread.run_sync(self._evict, 0, limiter=self._evicting)
        self._measured = True
        self._written = 0

    def _spare(self) -> int:
        """Bytes that may be written until others on the disk would have too little."""
        disk = shutil.disk_usage(self._directory)
        return disk.free - _floor(disk.total)

    def _evict(self, wanted: int) -> int:
        """Delete what is above the budget, below the floor of free space, or asked for."""
        try:
            # The directory itself is the lock: a file would need space on a disk that has none.
            lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wanted else fcntl.LOCK_NB))
            return self._evict_locked(wanted)
        except BlockingIOError:
            return 0  # another process is at it
        except OSError:  # the directory is gone, or the disk is broken: nothing can be freed
            self.statistics.disk_errors += 1
            return 0
        finally:
            os.close(lock)

    def _evict_locked(self, wanted: int) -> int:
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        disk = shutil.disk_usage(self._directory)
        if self._wanted_budget is None:
            self._budget = int(min(LARGEST_DEFAULT, (disk.free + used) * DEFAULT_SHARE))
        budget = self._budget or 0
        excess = used - int(budget * LOW_WATER) if used > budget else 0
        excess = max(excess, wanted, _floor(disk.total) - disk.free)
        deleted = 0
        for _, size, path in files:
            if deleted >= excess:
                break
            if self._remove(path):
                deleted += size
        self._used = used - deleted
        self.statistics.disk_evicted_bytes += deleted
        return deleted

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """``(last use, bytes on the disk, path)`` of all chunks."""
        for directory in os.scandir(self._directory):
            if not directory.is_dir(follow_symlinks=False):
                continue
            for file in os.scandir(directory.path):
                try:
                    status = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield status.st_mtime, status.st_blocks * 512, file.path

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


def _unpin(offers: Iterable[_Offer]) -> None:
    for _, _, _, owner in offers:
        if owner is not None:
            owner.pinned = False


def _open_past(path: str) -> int | None:
    """The file, to be written past the page cache; None where the file system cannot do that."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECT)
    except OSError:
        return None


def _floor(total: int) -> int:
    """Bytes of a disk of this size that are left to others."""
    return min(LARGEST_FLOOR, int(total * FLOOR_SHARE))
