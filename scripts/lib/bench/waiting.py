"""Waiting for a condition, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.errors import BenchError

#: Seconds between two looks.
_PAUSE = 0.005


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll ``condition``.

    Raises:
        BenchError: It did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise BenchError(f"{what} took more than {seconds:g} s")
        time.sleep(_PAUSE)
