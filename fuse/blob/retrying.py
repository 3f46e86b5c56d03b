"""Trying again, under one deadline: exponential backoff, full jitter, and what the service asks.

The deadline (:data:`DEADLINE`) is for an operation that gets nowhere. It starts anew when a part of
the operation is done for good (a part of a range has arrived), a try that moves bytes is not
interrupted by it, and waiting for a place in the pool does not count while others get on.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

import trio

from fuse.blob import errors
from fuse.blob.errors import StoreError
from fuse.logs import log

if TYPE_CHECKING:
    import tenacity

Result = TypeVar("Result")

#: Seconds after which an operation that keeps failing is given up.
DEADLINE = 120.0

#: First and longest pause between two tries, before jitter (seconds).
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0

#: Seconds that a try is given, however little is left.
LEAST_TRY = 5.0

#: Most seconds of a Retry-After that are waited.
LONGEST_ASKED = 30.0

#: Counters of failures by kind; all are there from the start, so that nobody has to guess names.
KINDS = (
    "timeout", "connection", "protocol", "throttled", "server",
    "authentication", "missing", "certificate", "other",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What is tried.

    Attributes:
        name: For the log: ``GET``, ``delete_blob``.
        path: The blob, or "" for the container.
        changes: It changes the store, so that a lost answer leaves a doubt.
        repeatable: Doing it twice is as good as doing it once.
        deadline: Seconds; the retrier's own when None.
        tries: Most tries; no limit when None.
    """

    name: str
    path: str
    changes: bool = False
    repeatable: bool = True
    deadline: float | None = None
    tries: int | None = None


class Failure(Exception):  # noqa: N818 - of one try; what callers see is error
    """A try that failed.

    Attributes:
        error: What it would be to the caller.
        kind: One of :data:`KINDS`.
        again: Another try may do better.
        maybe_done: The store may have carried it out.
        retry_after: Seconds that the service asked to wait, or None.
        client_request_id: Our own id of the request, "" when none was sent.
    """

    def __init__(
        self,
        error: StoreError,
        *,
        kind: str | None = None,
        again: bool = False,
        maybe_done: bool = False,
        retry_after: float | None = None,
        client_request_id: str = "",
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.kind = kind or errors.kind(error)
        self.again = again
        self.maybe_done = maybe_done
        self.retry_after = retry_after
        self.client_request_id = client_request_id


class Patience:
    """How long an operation may still take; a :class:`fuse.blob.transport.Watch` of its tries.

    Attributes:
        seconds: At first, and after every :meth:`renew`.
        client_request_id: Our id of the try under way, "" while it has none.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.client_request_id = ""
        self._end = trio.current_time() + seconds
        self._asked = trio.current_time()
        self._scope = trio.CancelScope()

    @property
    def left(self) -> float:
        """Seconds until it is over."""
        return max(0.0, self._end - trio.current_time())

    def renew(self) -> None:
        """A part of the operation is done for good."""
        self._end = trio.current_time() + self.seconds

    def trying(self) -> trio.CancelScope:
        """The scope of one try, which has no place in the pool yet."""
        self._asked = trio.current_time()
        self._scope = trio.CancelScope()
        return self._scope

    def started(self) -> None:
        """The try has its place: the clock goes on."""
        self._end += trio.current_time() - self._asked
        # The last try begins when patience is over: it is to be one all the same.
        least = min(LEAST_TRY, self.seconds / 2)
        self._scope.deadline = max(self._end, trio.current_time() + least)

    def moved(self) -> None:
        """The try gets on. Whether fast enough is for the connection to say."""
        self._scope.deadline = float("inf")


class Retrier:
    """Runs operations on one store.

    Args:
        counters: Where retries and failures are counted.
        deadline: Seconds.
    """

    def __init__(self, counters: Counter[str], deadline: float = DEADLINE) -> None:
        self.deadline = deadline
        self._counters = counters
        counters.update(dict.fromkeys((f"errors_{kind}" for kind in KINDS), 0))

    async def run(
        self, operation: Operation, attempt: Callable[[Patience], Awaitable[Result]]
    ) -> Result:
        """Call ``attempt`` until it succeeds, cannot, or patience is over.

        Args:
            operation: What it does.
            attempt: One try; it raises :class:`Failure`.

        Raises:
            StoreError: The last try's, once it has been counted and logged.
        """
        patience = Patience(self.deadline if operation.deadline is None else operation.deadline)
        began = trio.current_time()
        doubt = False
        last: Failure | None = None
        tries = 0

        async def one() -> Result:
            nonlocal doubt, tries, last
            tries += 1
            try:
                return await _bounded(operation, patience, attempt)
            except Failure as failure:
                maybe_done = operation.changes and failure.maybe_done
                doubt = doubt or maybe_done
                failure.error.uncertain = doubt
                failure.again = failure.again and (operation.repeatable or not maybe_done)
                last = failure
                raise

        try:
            return await one()  # nearly always; tenacity takes longer than a small request
        except Failure as failure:
            first: Failure | None = failure
        # Imported for the first failure: a mount comes up without it.
        import tenacity

        async def another() -> Result:
            nonlocal first
            if first is not None:
                failure, first = first, None
                raise failure
            return await one()

        def note(_state: tenacity.RetryCallState) -> None:
            self._counters["retries"] += 1

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, Failure) and error.again
            ),
            wait=lambda state: _pause(state, patience),
            stop=lambda state: patience.left <= 0 or state.attempt_number == operation.tries,
            before_sleep=note,
            sleep=pause,
            reraise=True,
        )
        try:
            result: Result = await retrying(another)
        except Failure as failure:
            self._give_up(operation, failure, tries, trio.current_time() - began)
            raise failure.error from failure.__cause__
        assert last is not None
        log.info(
            "went through at last",
            **_described(operation, last, tries, trio.current_time() - began),
        )
        return result

    def _give_up(self, operation: Operation, failure: Failure, tries: int, seconds: float) -> None:
        if errors.expected(failure.error):
            return
        self._counters["errors"] += 1
        self._counters[f"errors_{failure.kind}"] += 1
        log.warning("the store failed", **_described(operation, failure, tries, seconds))


async def pause(seconds: float) -> None:
    """Wait before another try."""
    await trio.sleep(seconds)


async def _bounded(
    operation: Operation, patience: Patience, attempt: Callable[[Patience], Awaitable[Result]]
) -> Result:
    with patience.trying() as scope:
        return await attempt(patience)
    assert scope.cancelled_caught
    raise Failure(
        errors.store_error(
            errno.ETIMEDOUT,
            f"the store gave no answer within {patience.seconds:g} s",
            operation.path,
        ),
        maybe_done=True,
        client_request_id=patience.client_request_id,
    )


def _pause(state: tenacity.RetryCallState, patience: Patience) -> float:
    """Full jitter: anything up to the exponential pause; at least what the service asked for."""
    import tenacity

    failure = state.outcome.exception() if state.outcome else None
    asked = failure.retry_after if isinstance(failure, Failure) else None
    jitter = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)(state)
    return min(max(jitter, min(asked or 0.0, LONGEST_ASKED)), patience.left)


def _described(
    operation: Operation, failure: Failure, tries: int, seconds: float
) -> dict[str, object]:
    error = failure.error
    described: dict[str, object] = {
        "operation": operation.name,
        "path": operation.path,
        "kind": failure.kind,
        "reason": error.strerror,
        "status": error.status,
        "request_id": error.request_id,
        "client_request_id": failure.client_request_id,
        "tries": tries,
        "seconds": round(seconds, 3),
    }
    return {name: value for name, value in described.items() if value not in {0, ""}}


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number or a date (RFC 9110 section 10.2.3)."""
    if value is None:
        return None
    if value.strip().replace(".", "", 1).isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
