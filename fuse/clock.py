"""The time that is written into a file's attributes."""

from __future__ import annotations

import time
from typing import Final

#: clock_gettime(2); the standard library does not name it.
CLOCK_REALTIME_COARSE: Final = 5


def now_ns() -> int:
    """Now, in nanoseconds since the epoch, as the kernel stamps files.

    The kernel takes the time of its last tick (a few milliseconds ago), and for ``utimensat(2)``
    without times it is the kernel that says what time it is. With a finer clock on our side a
    file that is written and touched right afterwards would grow older.
    """
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
