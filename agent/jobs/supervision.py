"""A job's supervisor: starting it, finding it again, watching it, ending it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import trio

from agent import cgroups, control, processes
from agent.launching import launch, tail
from agent.mounts.driver import write_json
from agent.processes import ProcessIdentity
from agent.watch import watch

log = structlog.get_logger(__name__)

_ROOT = Path(__file__).parents[2]
_START = (
    f"import sys; sys.path.insert(0, {str(_ROOT)!r}); "
    "from agent.supervisor.main import main; main()"
)
# No site packages, no user's environment: it starts in milliseconds, and imports nothing of ours.
COMMAND = (
    sys.executable,
    "-I",
    "-S",
    "-c",
    _START,
)

_LOOK_AGAIN_S = 30.0
_UNREACHABLE_S = 15.0
"""How long a supervisor may not answer before a termination kills it."""


@dataclass(frozen=True, slots=True)
class SupervisorPaths:
    """Where a job's supervisor keeps its things."""

    state_dir: Path
    """``<state_dir>/jobs/<uuid>``."""
    socket: Path

    @classmethod
    def of(cls, uuid: str, *, state_dir: Path, run_dir: Path) -> SupervisorPaths:
        """The paths of one job."""
        short = hashlib.sha256(uuid.encode()).hexdigest()[:12]
        return cls(state_dir / "jobs" / uuid, run_dir / "jobs" / f"{short}.sock")

    @property
    def status(self) -> Path:
        """Its own, replaced at every change."""
        return self.state_dir / "status.json"

    @property
    def record(self) -> Path:
        """The agent's: who it is, before it can say so itself."""
        return self.state_dir / "supervisor.json"

    @property
    def log(self) -> Path:
        """Its standard error."""
        return self.state_dir / "supervisor.log"

    @property
    def spool(self) -> Path:
        """What the job wrote to its standard streams."""
        return self.state_dir / "spool"


@dataclass(frozen=True, slots=True)
class Absent:
    """No supervisor has ever come to the point of starting a command."""


@dataclass(frozen=True, slots=True)
class Alive:
    """It runs."""

    identity: ProcessIdentity
    status: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Finished:
    """It has done all it had to."""

    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Lost:
    """It is gone, and did not say how the job ended."""

    status: Mapping[str, Any]
    restarted: bool
    """Whether the node was booted since."""


Sighting = Absent | Alive | Finished | Lost


def look(paths: SupervisorPaths) -> Sighting:
    """What has become of a job's supervisor.

    It writes a status before it starts a command, so where there is none, none was started.
    """
    recorded = _identity(_read(paths.record))
    if recorded is not None and recorded.is_alive():
        status = _read(paths.status)
        if status is not None and status.get("state") == "finished":
            return Finished(status)
        return Alive(recorded, status)
    # Read after it was seen dead: what it wrote last is what counts.
    status = _read(paths.status)
    if status is None:
        return Absent()
    if status.get("state") == "finished":
        return Finished(status)
    identity = _identity(status) or recorded
    if identity is not None and identity.is_alive():
        return Alive(identity, status)
    return Lost(status, restarted=status.get("bootId") != processes.boot_id())


def _read(file: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _identity(document: Mapping[str, Any] | None) -> ProcessIdentity | None:
    if document is None:
        return None
    try:
        return ProcessIdentity.from_json(document)
    except ValueError:
        return None


async def start(
    paths: SupervisorPaths, document: Mapping[str, Any], *, command: Sequence[str] = COMMAND
) -> ProcessIdentity:
    """Start the supervisor of a job that has none.

    Raises:
        OSError: It cannot be started.
    """
    paths.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    launched = await launch(
        command,
        log=paths.log,
        document=json.dumps(dict(document)).encode(),
        record=lambda identity: write_json(paths.record, {"version": 1, **identity.to_json()}),
    )
    await trio.aclose_forcefully(launched.answer)
    return launched.identity


async def follow(
    paths: SupervisorPaths, tell: Callable[[Mapping[str, Any]], Awaitable[None]]
) -> Absent | Finished | Lost:
    """Watch a supervisor to its end.

    Args:
        paths: Of the job.
        tell: Called with every status that is not the last.
    """
    with watch(paths.state_dir) as changes:
        while True:
            match look(paths):
                case Alive(identity, status):
                    if status is not None:
                        await tell(status)
                    async with trio.open_nursery() as nursery:

                        async def until_end(
                            identity: ProcessIdentity = identity,
                            scope: trio.CancelScope = nursery.cancel_scope,
                        ) -> None:
                            await processes.wait_ended(identity)
                            scope.cancel()

                        nursery.start_soon(until_end)
                        await changes.wait(at_most_s=_LOOK_AGAIN_S)
                        nursery.cancel_scope.cancel()
                case Finished() as finished:
                    await _leave(paths)
                    return finished
                case sighting:
                    return sighting


async def _leave(paths: SupervisorPaths) -> None:
    """Let a finished supervisor exit, and reap it."""
    identity = _identity(_read(paths.record))
    if identity is None:
        return
    with trio.move_on_after(5) as patience:
        await processes.wait_ended(identity)
    if patience.cancelled_caught:
        await processes.kill(identity)


async def terminate(paths: SupervisorPaths, *, grace_s: float, most_s: float) -> None:
    """Have a supervisor end its job; end the supervisor if it does not listen.

    Returns when the supervisor was killed; to be cancelled when the job has ended.

    Args:
        paths: Of the job.
        grace_s: Between the polite signal and the other.
        most_s: How long it may take all in all.
    """
    with trio.move_on_after(most_s):
        if await _ask_to_terminate(paths, grace_s):
            await trio.sleep_forever()
    match look(paths):
        case Alive(identity, _):
            log.error("supervisor does not end its job: killed", pid=identity.pid)
            await processes.kill(identity)


async def _ask_to_terminate(paths: SupervisorPaths, grace_s: float) -> bool:
    with trio.move_on_after(_UNREACHABLE_S):
        while True:
            try:
                await control.request(paths.socket, "terminate", graceSeconds=grace_s)
            except control.ControlUnavailable:
                await trio.sleep(0.2)  # it may just have been started, and not listen yet
            except control.ControlError as error:
                log.warning("supervisor refuses to terminate its job", error=error.message)
                return False
            else:
                return True
    return False


async def clear_remains(uuid: str, status: Mapping[str, Any] | None, cgroup: Path | None) -> None:
    """Kill what is left of a job whose supervisor is gone."""
    if cgroup is not None:
        cgroups.kill(cgroup)
    command = _identity(status.get("command")) if status else None
    same_boot = command is not None and command.boot_id == processes.boot_id()
    session = command.pid if command is not None and same_boot else None
    for _ in range(5):  # a fork in the meantime is found the next time
        remains = processes.find_remains(session, uuid.encode())
        if not remains:
            return
        log.warning("killing what is left of a job", pids=[identity.pid for identity in remains])
        for identity in remains:
            await processes.kill(identity, patience_s=2)


def last_words(paths: SupervisorPaths) -> str:
    """The end of the supervisor's own log."""
    return tail(paths.log)
