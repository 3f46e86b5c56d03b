"""Buffers of the memory tier: tiny ones from the heap, others mapped, and used again.

Fresh memory costs a page fault for each 4 KiB, which is more than receiving the bytes does. So
large buffers are of huge pages, where the kernel has some, and one that nobody reads from any more
is filled again.
"""

from __future__ import annotations

import mmap

#: Buffers from this size on (bytes) are mapped, in whole pages.
MAPPED = 16 * 1024

#: Bytes of a huge page.
_HUGE = 2 << 20

Slab = bytearray | mmap.mmap


def capacity(size: int) -> int:
    """Bytes of the buffer that one gets for ``size``."""
    return size if size < MAPPED else -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class Slabs:
    """Makes buffers, and keeps some that are free.

    Attributes:
        spare: Bytes of the free ones.
    """

    def __init__(self) -> None:
        self.spare = 0
        self._free: dict[int, list[mmap.mmap]] = {}

    def reuse(self, size: int) -> Slab | None:
        """A free buffer for ``size`` bytes, holding whatever was in it, if there is one."""
        size = capacity(size)
        free = self._free.get(size)
        if not free:
            return None
        self.spare -= size
        return free.pop()

    def make(self, size: int) -> Slab:
        """A new buffer for ``size`` bytes, of its :func:`capacity`."""
        if size < MAPPED:
            return bytearray(size)
        size = capacity(size)
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
