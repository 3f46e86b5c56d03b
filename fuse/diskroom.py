"""How much of the disk the cache may take, and what goes when it takes more.

All mounts of a machine have one budget; whoever finds it exceeded makes room, one process at a
time. What was used least recently goes first: the file with the oldest modification time, which a
use renews now and then.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fuse.diskfigures import DiskStatistics

GIB = 1024 * 1024 * 1024

#: Most that the cache takes when nobody says how much it may have (bytes), and its share of what
#: is free.
LARGEST_DEFAULT = 50 * GIB
DEFAULT_SHARE = 0.5

#: Free space that others on the disk are left with: a share of it, and at most so much (bytes).
FLOOR_SHARE = 0.05
LARGEST_FLOOR = 2 * GIB

#: Eviction goes on until this share of the budget is used.
LOW_WATER = 0.9


class Room:
    """The space of the cache's directory.

    Args:
        directory: With files in directories of it.
        budget: Bytes that all files together may take; None: a share of what is free.
        statistics: Where deletions and errors are counted.
        spared: Name of a file that counts and stays.

    Attributes:
        budget: The same; with None what it was when it was measured last.
        used: Bytes that were in use then.
    """

    def __init__(
        self, directory: Path, budget: int | None, statistics: DiskStatistics, *, spared: str
    ) -> None:
        self.budget = budget
        self.used = 0
        self._statistics = statistics
        self._directory = directory
        self._wanted_budget = budget
        self._spared = spared

    def spare(self) -> int:
        """Bytes that may be written until others on the disk would have too little."""
        disk = shutil.disk_usage(self._directory)
        return disk.free - _floor(disk.total)

    def evict(self, wanted: int) -> int:
        """Delete what is above the budget, below the floor of free space, or asked for.

        Args:
            wanted: Bytes to delete at least, as far as there are.

        Returns:
            How many were deleted: 0 also where the disk refuses.
        """
        try:
            # The directory itself is the lock: a file would need space on a disk that has none.
            lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wanted else fcntl.LOCK_NB))
            return self._evict(wanted)
        except BlockingIOError:
            return 0  # another process is at it
        except OSError:  # the directory is gone, or the disk is broken: nothing can be freed
            self._statistics.disk_errors += 1
            return 0
        finally:
            os.close(lock)

    def remove(self, path: str) -> bool:
        """Delete a file, if it is there and the disk lets us."""
        try:
            os.unlink(path)  # noqa: PTH108 -- scandir gives strings, thousands of them
        except FileNotFoundError:
            return False
        except OSError:
            self._statistics.disk_errors += 1
            return False
        return True

    def _evict(self, wanted: int) -> int:
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        disk = shutil.disk_usage(self._directory)
        if self._wanted_budget is None:
            self.budget = int(min(LARGEST_DEFAULT, (disk.free + used) * DEFAULT_SHARE))
        budget = self.budget or 0
        excess = used - int(budget * LOW_WATER) if used > budget else 0
        excess = max(excess, wanted, _floor(disk.total) - disk.free)
        deleted = 0
        for _, size, path in files:
            if deleted >= excess:
                break
            if not path.endswith(self._spared) and self.remove(path):
                deleted += size
        self.used = used - deleted
        self._statistics.disk_evicted_bytes += deleted
        return deleted

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """``(last use, bytes on the disk, path)`` of all files."""
        for directory in os.scandir(self._directory):
            if not directory.is_dir(follow_symlinks=False):
                continue
            for file in os.scandir(directory.path):
                try:
                    status = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield status.st_mtime, status.st_blocks * 512, file.path


def _floor(total: int) -> int:
    """Bytes of a disk of this size that are left to others."""
    return min(LARGEST_FLOOR, int(total * FLOOR_SHARE))
