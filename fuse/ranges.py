"""Sets of byte ranges: which parts of a file are dirty, cached or missing."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class RangeSet:
    """Ascending, disjoint, non-adjacent half-open ranges ``[start, end)`` of byte offsets."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def total(self) -> int:
        """Number of bytes in the set."""
        return sum(self._ends) - sum(self._starts)

    def add(self, start: int, end: int) -> None:
        """Include ``[start, end)``; an empty range changes nothing."""
        if start >= end:
            return
        # Ranges that overlap or touch the new one are merged into it.
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Exclude ``[start, end)``."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        head, tail = self._starts[first], self._ends[last - 1]
        starts: list[int] = []
        ends: list[int] = []
        if head < start:
            starts.append(head)
            ends.append(start)
        if end < tail:
            starts.append(end)
            ends.append(tail)
        self._starts[first:last] = starts
        self._ends[first:last] = ends

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """Cut ``[start, end)`` into consecutive ``(start, end, inside)`` pieces."""
        index = bisect_right(self._ends, start)
        position = start
        while position < end:
            if index == len(self._starts) or self._starts[index] >= end:
                yield position, end, False
                return
            if self._starts[index] > position:
                yield position, self._starts[index], False
                position = self._starts[index]
            stop = min(end, self._ends[index])
            yield position, stop, True
            position = stop
            index += 1

    def intersects(self, start: int, end: int) -> bool:
        """Whether any byte of ``[start, end)`` is in the set."""
        index = bisect_right(self._ends, start)
        return index < len(self._starts) and self._starts[index] < end and start < end

    def clear(self) -> None:
        """Empty the set."""
        self._starts.clear()
        self._ends.clear()
