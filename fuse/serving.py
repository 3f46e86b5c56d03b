"""The tasks that read the kernel's requests and answer them.

pyfuse3 has several tasks take turns at its lock and then at the descriptor. With trio's own lock
each request wakes the next task before it is known whether that will be needed, and every turn goes
through the scheduler several times: more than half of the time of a request that is answered from
memory. Here the turn passes on only when a task is suspended while it serves a request, and the
descriptor is looked at before it is waited for.

pyfuse3 takes what it needs of trio from its attribute ``trio``, which :mod:`pyfuse3.asyncio`
replaces, too.
"""

from __future__ import annotations

import select
from typing import Any

import pyfuse3
import trio

#: Tasks that are kept for requests that wait, and how many there may be.
_SPARE, _MOST = 8, 99

#: Requests that are answered before other tasks have a turn.
_IN_A_ROW = 8


async def serve() -> None:
    """Answer the kernel until the file system is unmounted, or :func:`pyfuse3.terminate`."""
    turn = Turn()
    trio.lowlevel.add_instrument(turn)
    vars(pyfuse3)["trio"] = _Trio(turn)
    try:
        await pyfuse3.main(min_tasks=_SPARE, max_tasks=_MOST)
    finally:
        vars(pyfuse3)["trio"] = trio
        trio.lowlevel.remove_instrument(turn)


class Turn(trio.abc.Instrument):
    """Whose turn it is to read a request; to be used like :class:`trio.Lock`.

    Who has it keeps it while serving the request, and over the next one. It passes on to a task
    that waits as soon as its owner is suspended, or ends.
    """

    def __init__(self) -> None:
        self._owner: trio.lowlevel.Task | None = None
        self._reading = False
        self._waiting: dict[trio.lowlevel.Task, None] = {}

    async def __aenter__(self) -> None:
        task = trio.lowlevel.current_task()
        if self._owner is None:
            self._owner = task
        elif self._owner is not task:
            self._waiting[task] = None

            def abort(_: Any) -> trio.lowlevel.Abort:
                del self._waiting[task]
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        self._reading = True

    async def __aexit__(self, *_: object) -> None:
        self._reading = False

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """See :class:`trio.abc.Instrument`."""
        if task is not self._owner or self._reading:
            return
        self._owner = None
        if self._waiting:
            self._owner = next(iter(self._waiting))
            del self._waiting[self._owner]
            self._reading = True  # from now on: it has no step before it is in
            trio.lowlevel.reschedule(self._owner)


class _Lowlevel:
    def __init__(self) -> None:
        self._poll = select.poll()
        self._known: int | None = None
        self._in_a_row = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, descriptor: int) -> None:
        if self._known is None:
            self._poll.register(descriptor, select.POLLIN)
            self._known = descriptor
        self._in_a_row += 1
        if self._in_a_row < _IN_A_ROW and self._poll.poll(0):
            return
        self._in_a_row = 0
        await trio.lowlevel.wait_readable(descriptor)


class _Trio:
    """What pyfuse3 uses of trio, with another lock and another way to wait."""

    def __init__(self, turn: Turn) -> None:
        self.lowlevel = _Lowlevel()
        self._turn = turn

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)

    def Lock(self) -> Turn:  # noqa: N802 -- as in trio
        return self._turn
