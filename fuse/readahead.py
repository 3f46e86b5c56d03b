"""How far to read ahead: a pure window, one for each open file handle.

The first request fetches what was asked for, so that a random 4 KiB read never costs a large
range. Sequential use doubles the window; a seek shrinks it to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Requests are rounded outwards to this unit (bytes): a random 4 KiB read fetches at most two.
UNIT = 32 * 1024

#: A file up to this size (bytes) is fetched whole by its first read.
WHOLE_FILE = 1024 * 1024

#: The first window once use is seen to be sequential (bytes).
FIRST_WINDOW = 256 * 1024

#: The kernel sends up to eight requests of 1 MiB at once, in any order, and skips what it has
#: cached: within these bounds (bytes) of the expected offset a read still counts as sequential.
FORWARD_TOLERANCE = 16 * 1024 * 1024
BACKWARD_TOLERANCE = 8 * 1024 * 1024


#: What a window has room for besides what is under way: the pieces that are being read and asked
#: for. More only takes memory that was not used before, which costs as much as the bytes do.
DEPTH = 32 * 1024 * 1024

#: Bytes a second that the fastest link to a store carries, more or less.
FASTEST = 4 * 1024 * 1024 * 1024


def largest_window(limit: int, round_trip: float) -> int:
    """The largest window that is of use: what is under way while the store has not answered yet.

    Args:
        limit: The largest that is allowed (bytes).
        round_trip: Seconds until the store begins to answer, at best; infinity: not known.
    """
    return int(min(limit, DEPTH + FASTEST * round_trip))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to have in memory for one read.

    Attributes:
        demand: ``(start, end)`` that the reader waits for, rounded to units, within the file.
        ahead_end: Fetch on to this offset without anyone waiting; at least ``demand``'s end.
    """

    demand: tuple[int, int]
    ahead_end: int


class ReadAhead:
    """The window of one handle.

    Args:
        limit: Largest window in bytes.
    """

    __slots__ = ("_limit", "_next", "_sequential", "window")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._next = 0
        self._sequential = 0
        self.window = 0

    def plan(self, offset: int, size: int, file_size: int) -> Plan:
        """Note a read of ``size`` bytes at ``offset`` (below ``file_size``); say what to fetch."""
        end = min(offset + size, file_size)
        near = self._next - BACKWARD_TOLERANCE <= offset <= self._next + FORWARD_TOLERANCE
        first = self._next == 0 and self._sequential == 0
        if (first and offset == 0) or (near and not first):
            self._sequential += 1
        else:
            self._sequential = 0
            self.window = 0
        # One read is no pattern, unless it is large or starts at the beginning and asks on.
        if self._sequential >= 2 or (self._sequential == 1 and size >= 4 * UNIT):
            self.window = min(self._limit, max(FIRST_WINDOW, self.window * 2, 2 * size))
        self._next = end if self._sequential == 0 else max(self._next, end)
        if file_size <= WHOLE_FILE:
            return Plan((0, file_size), file_size)
        start = offset - offset % UNIT
        stop = min(file_size, -(-end // UNIT) * UNIT)
        return Plan((start, stop), max(stop, min(file_size, end + self.window)))
