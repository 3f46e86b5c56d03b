"""The time that is written into a file's attributes."""

from __future__ import annotations

import time
from typing import Final

#: clock_gettime(2); the standard library does not name it.
CLOCK_REALTIME_COARSE: Final = 5


#: How far (nanoseconds) the kernel's own stamps may be ahead of its last tick, and more.
AHEAD: Final = 20_000_000


def now_ns(last: int = 0) -> int:
    """Now, in nanoseconds since the epoch, as the kernel stamps files.

    The kernel takes the time of its last tick (a few milliseconds ago), and for ``utimensat(2)``
    without times it is the kernel that says what time it is. With a finer clock on our side a
    file that is written and touched right afterwards would grow older.

    Since Linux 6.13 the kernel's time is never before a finer one that it has given to a file of
    another file system (multigrain timestamps), and so may be ahead of that tick. ``last`` is what
    the file was stamped with before: it is taken again where it is ahead by no more than that.
    """
    now = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    return last if 0 < last - now <= AHEAD else now
