"""Buffers of the memory tier: small ones from the heap, large ones mapped, and used again.

A fresh mapping costs a page fault for each 4 KiB, which is more than receiving the bytes does. So
large buffers are of huge pages, where the kernel has some, and one that nobody reads from any more
is filled again.
"""

from __future__ import annotations

import mmap

#: Buffers from this size on (bytes) are mapped.
MAPPED = 1 << 20

#: Bytes of a huge page.
_HUGE = 2 << 20

Slab = bytearray | mmap.mmap


class Slabs:
    """Makes buffers, and keeps some that are free.

    Attributes:
        spare: Bytes of the free ones.
    """

    def __init__(self) -> None:
        self.spare = 0
        self._free: dict[int, list[mmap.mmap]] = {}

    def reuse(self, size: int) -> Slab | None:
        """A free buffer of exactly ``size`` bytes, holding whatever was in it, if there is one."""
        free = self._free.get(size)
        if not free:
            return None
        self.spare -= size
        return free.pop()

    def make(self, size: int) -> Slab:
        """A new buffer of ``size`` bytes."""
        if size < MAPPED:
            return bytearray(size)
        slab = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= _HUGE:
            slab.madvise(mmap.MADV_HUGEPAGE)
        return slab

    def give_back(self, slab: Slab) -> None:
        """Keep a buffer for another use, if nobody has a view of it."""
        if isinstance(slab, bytearray):
            return
        size = len(slab)
        try:
            slab.resize(size)  # refused while there are views; else it changes nothing
        except BufferError:
            return
        self._free.setdefault(size, []).append(slab)
        self.spare += size

    def clear(self) -> None:
        """Free what is kept."""
        self._free.clear()
        self.spare = 0
