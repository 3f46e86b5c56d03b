"""Letting go of requests whose caller is to end, while the store does not answer.

The kernel tells a FUSE file system of signals (FUSE_INTERRUPT), but pyfuse3 does not pass that on,
and a task whose request is being served waits for its answer even when it is killed. So whoever
waits for longer than a moment is looked up in ``/proc``: requests that only ask something are
given up with EINTR once their caller has a signal that is meant to end it.

Requests that change something are not cut short: nobody would know what became of them. Nor is the
flush of a program that has ended, which may be what brings its data to the store; an fsync is,
since the data stays in the journal and is committed later.
"""

from __future__ import annotations

import errno
import functools
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import trio

from fuse.errors import fail

#: How often to look (seconds), and how long a request may be under way before it is looked at.
INTERVAL = 0.5

#: Signals that people and service managers send to end a program.
ENDING = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass(eq=False, slots=True)
class Waiting:
    """A request under way.

    Attributes:
        pid: The thread that waits for it; 0 when it is not known.
        since: Since when (trio's clock).
        give_up: Lets go of it.
    """

    pid: int
    since: float
    give_up: Callable[[], None]


class Interrupts:
    """The requests under way whose caller is known.

    Args:
        proc: Where proc(5) is mounted.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.interrupted = 0
        self._proc = proc
        self._requests: set[Waiting] = set()
        self._one = trio.Event()

    @contextmanager
    def watched(self, pid: int) -> Iterator[None]:
        """Serve a request of thread ``pid`` (0: unknown, of another namespace) in here.

        Raises:
            OSError: EINTR when the caller is to end and the request was given up.
        """
        with trio.CancelScope() as scope:
            request = self.add(pid, scope.cancel)
            try:
                yield
            finally:
                self.discard(request)
        if scope.cancelled_caught:
            self.interrupted += 1
            fail(errno.EINTR)

    def add(self, pid: int, give_up: Callable[[], None]) -> Waiting:
        """Look after a request of thread ``pid``; ``give_up`` is called, once, if it is to end."""
        request = Waiting(pid, trio.current_time(), give_up)
        if not self._requests:
            self._one.set()
        self._requests.add(request)
        return request

    def discard(self, request: Waiting) -> None:
        """It has been answered."""
        self._requests.discard(request)

    async def watch(self) -> None:
        """Look after the requests until cancelled; sleep while there are none."""
        while True:
            if not self._requests:
                self._one = trio.Event()
                await self._one.wait()
            await trio.sleep(INTERVAL)
            now = trio.current_time()
            for request in list(self._requests):
                waiting = now - request.since >= INTERVAL
                if waiting and request.pid and is_ending(request.pid, self._proc):
                    self._requests.discard(request)
                    request.give_up()


class Interruptible(Protocol):
    """Whoever serves requests that can be given up."""

    interrupts: Interrupts


Server = TypeVar("Server", bound=Interruptible)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def asks_only(
    handler: Callable[Concatenate[Server, Parameters], Awaitable[Result]],
) -> Callable[Concatenate[Server, Parameters], Awaitable[Result]]:
    """Let a handler be given up; its last argument, ``ctx``, says who waits for it."""

    @functools.wraps(handler)
    async def wrapper(
        server: Server, /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        context = kwargs.get("ctx") or (args[-1] if args else None)
        with server.interrupts.watched(getattr(context, "pid", 0)):
            return await handler(server, *args, **kwargs)

    return wrapper


def is_ending(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a thread has a pending and unblocked signal of :data:`ENDING`.

    A thread that cannot be found (it was another one that opened the file) says nothing.
    """
    try:
        status = (proc / str(pid) / "status").read_text("ascii", errors="replace")
    except OSError:
        return False
    masks = {"SigPnd": 0, "ShdPnd": 0, "SigBlk": 0}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in masks:
            masks[name] = int(value, 16)
    deliverable = (masks["SigPnd"] | masks["ShdPnd"]) & ~masks["SigBlk"]
    return any(deliverable >> (number - 1) & 1 for number in ENDING)
