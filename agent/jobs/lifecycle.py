"""The life of a job as a pure state machine: a progress, an event, the next progress.

    queued → validate → secrets → mount → outputs → run → drain → unmount → clean → ended

A step is journalled before it begins, so after a crash of the agent it is begun again: steps are
idempotent. What fails after something was mounted goes through unmount, what fails before goes to
clean. No clock and no I/O here; :mod:`agent.jobs.runner` does the work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from agent.jobs.service import ExecutionState, JobError


class Step(StrEnum):
    """What a job is at; each but the first and the last is work."""

    QUEUED = "queued"
    VALIDATE = "validate"
    SECRETS = "secrets"
    MOUNT = "mount"
    OUTPUTS = "outputs"
    RUN = "run"
    DRAIN = "drain"
    UNMOUNT = "unmount"
    CLEAN = "clean"
    ENDED = "ended"


_NEXT = {
    Step.VALIDATE: Step.SECRETS,
    Step.SECRETS: Step.MOUNT,
    Step.MOUNT: Step.OUTPUTS,
    Step.OUTPUTS: Step.RUN,
    Step.RUN: Step.UNMOUNT,
    Step.DRAIN: Step.UNMOUNT,
    Step.UNMOUNT: Step.CLEAN,
    Step.CLEAN: Step.ENDED,
}
BEFORE_RUN = frozenset({Step.VALIDATE, Step.SECRETS, Step.MOUNT, Step.OUTPUTS})
"""Steps that a termination cuts short; the supervisor ends the later ones, or nobody."""
SUPERVISED = frozenset({Step.RUN, Step.DRAIN})

TERMINATED_EARLY = JobError("JobTerminated", "the job was terminated before its command started")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is, and how it will end as things stand."""

    step: Step
    execution_state: ExecutionState
    transition_time: datetime
    """Of the execution state."""
    start_time: datetime | None = None
    end_time: datetime | None = None
    exit_code: int | None = None
    errors: tuple[JobError, ...] = ()
    fatal: bool = False
    """Whether one of the errors makes the job fail, whatever its exit code."""

    @classmethod
    def queued(cls, now: datetime) -> Progress:
        """A job that was accepted."""
        return cls(Step.QUEUED, "queued", now)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.step is Step.ENDED


@dataclass(frozen=True, slots=True)
class Admitted:
    """The queue gave the job its place on the node."""


@dataclass(frozen=True, slots=True)
class StepDone:
    """The step is complete; ``notes`` are worth telling, and do not make the job fail."""

    notes: tuple[JobError, ...] = ()


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step is over, and the job will fail."""

    errors: tuple[JobError, ...]
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Draining:
    """The command has ended; its last output is on the way to the share."""


@dataclass(frozen=True, slots=True)
class CommandEnded:
    """The supervisor is finished."""

    exit_code: int | None
    errors: tuple[JobError, ...] = ()
    """Why the job fails; empty when it does not."""
    notes: tuple[JobError, ...] = ()


@dataclass(frozen=True, slots=True)
class TerminateRequested:
    """Somebody wants the job to end; welcome in every state."""


Event = Admitted | StepDone | StepFailed | Draining | CommandEnded | TerminateRequested


class ImpossibleEvent(Exception):  # noqa: N818 (a defect of the agent, not a user's error)
    """The event cannot happen at this step."""


def advance(progress: Progress, event: Event, now: datetime) -> Progress:
    """What follows from an event.

    Raises:
        ImpossibleEvent: Nothing can: the agent has a defect.
    """
    match progress.step, event:
        case _, TerminateRequested():
            return _terminated(progress, now)
        case Step.QUEUED, Admitted():
            running = replace(progress, start_time=now)
            return _enter(_state(running, "running", now), Step.VALIDATE, now)
        case ((Step.RUN | Step.DRAIN), CommandEnded()):
            return _enter(_command_ended(progress, event), Step.UNMOUNT, now)
        case ((Step.RUN | Step.DRAIN), Draining()):
            return replace(progress, step=Step.DRAIN)
        case ((Step.RUN | Step.DRAIN), StepDone()):
            pass  # only the supervisor knows how the command ended
        case ((Step.QUEUED | Step.ENDED), _):
            pass
        case step, StepDone():
            noted = replace(progress, errors=progress.errors + event.notes)
            return _enter(noted, _NEXT[step], now)
        case step, StepFailed():
            failed = replace(
                progress,
                errors=progress.errors + event.errors,
                fatal=True,
                exit_code=progress.exit_code if event.exit_code is None else event.exit_code,
            )
            return _enter(failed, _after_failure(step), now)
    raise ImpossibleEvent(f"{type(event).__name__} at step {progress.step}")


def _after_failure(step: Step) -> Step:
    if step in {Step.VALIDATE, Step.SECRETS}:
        return Step.CLEAN  # nothing was mounted
    if step in {Step.MOUNT, Step.OUTPUTS}:
        return Step.UNMOUNT
    return _NEXT[step]


def _terminated(progress: Progress, now: datetime) -> Progress:
    match progress.step:
        case Step.QUEUED:
            given_up = replace(progress, errors=(TERMINATED_EARLY,), fatal=True)
            return _enter(given_up, Step.ENDED, now)
        case Step.RUN | Step.DRAIN:
            return _state(progress, "terminating", now)
        case step if step in BEFORE_RUN:
            errors = (*progress.errors, TERMINATED_EARLY)
            cut = replace(progress, errors=errors, fatal=True)
            return _enter(_state(cut, "terminating", now), _after_failure(step), now)
    return progress  # it is ending already, or has ended


def _command_ended(progress: Progress, event: CommandEnded) -> Progress:
    return replace(
        progress,
        exit_code=event.exit_code,
        errors=progress.errors + event.errors + event.notes,
        fatal=progress.fatal or bool(event.errors) or event.exit_code != 0,
    )


def _enter(progress: Progress, step: Step, now: datetime) -> Progress:
    if step is not Step.ENDED:
        return replace(progress, step=step)
    state: ExecutionState = "failed" if progress.fatal else "succeeded"
    return _state(replace(progress, step=step, end_time=now), state, now)


def _state(progress: Progress, state: ExecutionState, now: datetime) -> Progress:
    if progress.execution_state == state:
        return progress
    return replace(progress, execution_state=state, transition_time=now)
