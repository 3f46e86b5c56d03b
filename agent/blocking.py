"""Calls that may hang: where a file system's server is gone, a thread waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from agent.errors import Unavailable

T = TypeVar("T")


class Blocking:
    """Runs blocking calls in threads, a few at a time, each with a deadline.

    A call that passes its deadline is abandoned: its thread, and its place, are lost until the
    kernel lets it go. So each job, and each volume, has one of these of its own.
    """

    def __init__(self, what: str, *, most: int = 4) -> None:
        self._what = what
        self._limiter = trio.CapacityLimiter(most)

    async def run(self, function: Callable[[], T], *, timeout_s: float = 15) -> T:
        """Call it in a thread.

        Raises:
            Unavailable: It did not come back in time.
        """
        with trio.move_on_after(timeout_s):
            return await trio.to_thread.run_sync(
                function, abandon_on_cancel=True, limiter=self._limiter
            )
        raise Unavailable(
            "StorageNotResponding",
            f"{self._what} did not answer within {timeout_s:g} s",
            hint="see `batchai node mounts`: the server of a volume may be unreachable",
        )
