"""Long-running operations: what DELETE and terminate start, and how a client learns of the end.

A request that does not end at once answers 202 with ``Location``; that address answers 202 while
the operation runs and 204 after, which is the form that ARM pollers understand (and of which the
real client's is one; tests/compat). The address names the job and the verb, nothing in memory:
it works after a restart of the agent too.
"""

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
import trio

from agent.errors import BatchError
from agent.jobs.service import JobKey
from agent.rest.errors import internal_error, not_found, trace

VERBS = ("delete", "terminate")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OperationId:
    """A verb and the job it is done to."""

    verb: str
    key: JobKey

    def encode(self) -> str:
        """The operation's name in an address."""
        parts = (self.verb, self.key.workspace, self.key.experiment, self.key.job)
        return base64.urlsafe_b64encode("/".join(parts).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "OperationId":
        """The operation of an address.

        Raises:
            BatchError: 404, for a name that this API never gave.
        """
        try:
            padded = text + "=" * (-len(text) % 4)
            verb, workspace, experiment, job = (
                base64.urlsafe_b64decode(padded.encode()).decode().split("/")
            )
        except (binascii.Error, UnicodeError, ValueError):
            raise not_found("OperationNotFound", f"there is no operation {text!r}") from None
        if verb not in VERBS:
            raise not_found("OperationNotFound", f"there is no operation {text!r}")
        return cls(verb, JobKey(workspace, experiment, job))


@dataclass(slots=True)
class _Running:
    done: trio.Event = field(default_factory=trio.Event)
    error: BatchError | None = None


class Operations:
    """Runs operations in the server's nursery, so that none dies with its client's connection.

    A second request for an operation that is running joins it.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._running: dict[OperationId, _Running] = {}

    async def run(
        self, operation: OperationId, work: Callable[[], Awaitable[None]], *, patience_s: float
    ) -> bool:
        """Start the work, or join it; wait for its end, but no longer than patience_s.

        Returns:
            Whether it has ended.

        Raises:
            BatchError: it has failed.
        """
        running = self._running.get(operation)
        if running is None:
            running = self._running[operation] = _Running()
            self._nursery.start_soon(self._do, operation, running, work)
        return await self._ended(running, patience_s)

    async def wait(self, operation: OperationId, *, patience_s: float) -> bool | None:
        """Wait for a running operation: whether it has ended, None when none is running.

        Raises:
            BatchError: it has failed.
        """
        running = self._running.get(operation)
        return None if running is None else await self._ended(running, patience_s)

    @staticmethod
    async def _ended(running: _Running, patience_s: float) -> bool:
        with trio.move_on_after(patience_s):
            await running.done.wait()
        if running.error is not None:
            raise running.error
        return running.done.is_set()

    async def _do(
        self, operation: OperationId, running: _Running, work: Callable[[], Awaitable[None]]
    ) -> None:
        try:
            await work()
        except BatchError as error:
            running.error = error
        except Exception as error:  # noqa: BLE001 (one failed operation must not end the server)
            job = operation.key.job
            # Not log.exception: see trace().
            log.error(  # noqa: TRY400
                "operation failed", verb=operation.verb, job=job, exception=trace(error)
            )
            running.error = internal_error(f"the agent failed to {operation.verb} the job {job}")
        finally:
            # Pollers that already hold `running` learn how it ended; later ones ask the service.
            self._running.pop(operation, None)
            running.done.set()
