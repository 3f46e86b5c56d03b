"""What a mount counts of its disk cache."""

from __future__ import annotations

from dataclasses import dataclass


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
