"""Waiting: for a job to end, and for an agent that went away to come back."""

import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from agent.cli.api import FINAL, Api, state
from agent.cli.client import AgentUnreachable
from agent.cli.errors import notice
from agent.cli.output import duration, local_time

T = TypeVar("T")


class Patience:
    """Tries again while the agent is away, up to a deadline; says so once.

    The first request of a command is not patient: an agent that was never there is an error now.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._met = False
        self._lost_at: float | None = None
        self._pause_s = 0.1

    def answered(self) -> None:
        """The agent is there."""
        if self._lost_at is not None:
            notice("the agent is back")
        self._met, self._lost_at, self._pause_s = True, None, 0.1

    def lost(self, error: AgentUnreachable) -> None:
        """Return when it is time to try again.

        Raises:
            AgentUnreachable: it was never there, or has been away for too long.
        """
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
            if self._met and self._seconds:
                notice(f"{error.message}; waiting for the agent to come back")
        if (
            not self._met
            or now - self._lost_at >= self._seconds
            or error.code == "PermissionDenied"
        ):
            raise error
        # There is nothing to wait on while the socket does not exist but its coming back.
        time.sleep(self._pause_s * random.uniform(0.8, 1.2))  # noqa: S311 (jitter)
        self._pause_s = min(2.0, self._pause_s * 1.5)

    def call(self, request: Callable[[], T]) -> T:
        """The request's result, however often it takes.

        Raises:
            AgentUnreachable: see `lost`.
        """
        while True:
            try:
                result = request()
            except AgentUnreachable as error:
                self.lost(error)
            else:
                self.answered()
                return result


class _Plain:
    """Progress in a pipe or a log: a line for each change."""

    def update(self, text: str) -> None:
        notice(text)


class _Spinner:
    """Progress on a terminal: one line that lives."""

    def __init__(self, status: Any) -> None:
        self._status = status

    def update(self, text: str) -> None:
        self._status.update(text)


@contextlib.contextmanager
def progress(text: str) -> Iterator[_Plain | _Spinner]:
    """Show that something long is going on, on stderr."""
    if not sys.stderr.isatty():
        yield _Plain()
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(text)) as status:
        yield _Spinner(status)


def wait_for_end(api: Api, name: str, *, reconnect_s: float, show: bool = True) -> dict[str, Any]:
    """The job once it has ended; its states are told on the way, in az's words.

    Raises:
        BatchError: there is no such job (any more), or the agent stayed away.
    """
    patience = Patience(reconnect_s)
    job, revision = patience.call(lambda: api.wait_changed(name, 0, timeout_s=0))
    seen: str | None = None
    started = False
    with progress(f"waiting for the job {name}") if show else contextlib.nullcontext() as display:
        while True:
            info = job["properties"].get("executionInfo") or {}
            if display is not None:
                if info.get("startTime") and not started:
                    started = True
                    display.update(f"Job started at {local_time(info['startTime'])}")
                if state(job) != seen:
                    seen = state(job)
                    display.update(f"Job state: {seen}")
            if state(job) in FINAL:
                return job
            last = revision
            job, revision = patience.call(lambda last=last: api.wait_changed(name, last))  # type: ignore[misc]


def tell_end(job: dict[str, Any]) -> None:
    """How the job ended, and why it failed."""
    info = job["properties"].get("executionInfo") or {}
    took = duration(info.get("startTime"), info.get("endTime"))
    verb = "completed" if state(job) == "succeeded" else "failed"
    when = local_time(info.get("endTime"))
    notice(f"Job {verb} at {when}" + (f"; execution took {took}" if took else ""))
    for line in error_lines(job):
        notice(line)


def error_lines(job: dict[str, Any]) -> list[str]:
    """The errors of a job, a line each, their details below."""
    info = job["properties"].get("executionInfo") or {}
    lines = []
    for error in info.get("errors") or ():
        lines.append(f"{error['code']}: {error['message']}")
        for detail in error.get("details") or ():
            first, *more = detail["value"].splitlines() or [""]
            lines.append(f"  {detail['name']}: {first}")
            lines += [f"    {line}" for line in more]
    return lines
