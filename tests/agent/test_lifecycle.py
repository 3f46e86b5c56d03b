"""The state machine: every event at every step, and every way through."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs.lifecycle import (
    BEFORE_RUN,
    Admitted,
    CommandEnded,
    Draining,
    Event,
    ImpossibleEvent,
    Progress,
    Step,
    StepDone,
    StepFailed,
    TerminateRequested,
    advance,
)
from agent.jobs.service import JobError

NOW = datetime(2018, 6, 1, tzinfo=UTC)
ERROR = JobError("Bad", "it was bad")
NOTE = JobError("Hm", "it could be better")


def at(step: Step) -> Progress:
    """A job that is at a step."""
    if step is Step.QUEUED:
        return Progress.queued(NOW)
    if step is Step.ENDED:
        return Progress(step, "succeeded", NOW, NOW, NOW, 0)
    return Progress(step, "running", NOW, NOW)


EVENTS: list[Event] = [
    Admitted(),
    StepDone(),
    StepFailed((ERROR,)),
    Draining(),
    CommandEnded(0),
    CommandEnded(2, (ERROR,)),
    TerminateRequested(),
]

# What follows: "-" is impossible, "=" no change, else the step.
TABLE = {
    #               Admitted    StepDone    StepFailed  Draining  Ended 0    Ended 2    Terminate
    Step.QUEUED:   ["validate", "-",        "-",        "-",      "-",       "-",       "ended"],
    Step.VALIDATE: ["-",        "secrets",  "clean",    "-",      "-",       "-",       "clean"],
    Step.SECRETS:  ["-",        "mount",    "clean",    "-",      "-",       "-",       "clean"],
    Step.MOUNT:    ["-",        "outputs",  "unmount",  "-",      "-",       "-",       "unmount"],
    Step.OUTPUTS:  ["-",        "run",      "unmount",  "-",      "-",       "-",       "unmount"],
    Step.RUN:      ["-",        "-",        "unmount",  "drain",  "unmount", "unmount", "run"],
    Step.DRAIN:    ["-",        "-",        "unmount",  "drain",  "unmount", "unmount", "drain"],
    Step.UNMOUNT:  ["-",        "clean",    "clean",    "-",      "-",       "-",       "="],
    Step.CLEAN:    ["-",        "ended",    "ended",    "-",      "-",       "-",       "="],
    Step.ENDED:    ["-",        "-",        "-",        "-",      "-",       "-",       "="],
}  # fmt: skip


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("index", range(len(EVENTS)))
def test_every_event_at_every_step(step: Step, index: int) -> None:
    before, wanted = at(step), TABLE[step][index]
    if wanted == "-":
        with pytest.raises(ImpossibleEvent):
            advance(before, EVENTS[index], NOW)
        return
    after = advance(before, EVENTS[index], NOW)
    if wanted == "=":
        assert after == before
    else:
        assert after.step == Step(wanted)


def through(*events: Event) -> Progress:
    """A job that these things happened to, a second apart."""
    progress, clock = Progress.queued(NOW), count(1)
    for event in events:
        progress = advance(progress, event, NOW + timedelta(seconds=next(clock)))
    return progress


READY = (Admitted(), StepDone(), StepDone(), StepDone(), StepDone())
OVER = (StepDone(), StepDone())


def test_success() -> None:
    job = through(*READY, Draining(), CommandEnded(0, notes=(NOTE,)), *OVER)
    assert (job.execution_state, job.exit_code, job.errors) == ("succeeded", 0, (NOTE,))
    assert job.start_time == NOW + timedelta(seconds=1)
    assert job.end_time == job.transition_time == NOW + timedelta(seconds=9)


def test_exit_code_fails_the_job() -> None:
    job = through(*READY, CommandEnded(7), *OVER)
    assert (job.execution_state, job.exit_code) == ("failed", 7)


def test_errors_fail_the_job_whatever_its_exit_code() -> None:
    job = through(*READY, CommandEnded(0, (ERROR,)), *OVER)
    assert (job.execution_state, job.exit_code, job.errors) == ("failed", 0, (ERROR,))


def test_lost_data_fails_a_job_that_was_well() -> None:
    job = through(*READY, CommandEnded(0), StepFailed((ERROR,)), StepDone())
    assert (job.execution_state, job.exit_code) == ("failed", 0)


def test_failed_mount_is_undone() -> None:
    job = through(Admitted(), StepDone(), StepDone(), StepFailed((ERROR,)))
    assert (job.step, job.execution_state) == (Step.UNMOUNT, "running")
    job = advance(advance(job, StepDone(), NOW), StepDone(), NOW)
    assert (job.execution_state, job.exit_code, job.errors) == ("failed", None, (ERROR,))


def test_termination_of_a_queued_job() -> None:
    job = through(TerminateRequested())
    assert (job.step, job.execution_state) == (Step.ENDED, "failed")
    assert job.errors[0].code == "JobTerminated"
    assert job.start_time is None
    assert job.end_time is not None


def test_termination_while_it_runs_waits_for_the_supervisor() -> None:
    job = through(*READY, TerminateRequested(), TerminateRequested())
    assert (job.step, job.execution_state) == (Step.RUN, "terminating")
    assert job.transition_time == NOW + timedelta(seconds=6)
    job = advance(job, CommandEnded(143, (ERROR,)), NOW)
    assert (job.step, job.execution_state) == (Step.UNMOUNT, "terminating")


def test_termination_of_an_ended_job_changes_nothing() -> None:
    job = through(*READY, CommandEnded(0), *OVER)
    assert advance(job, TerminateRequested(), NOW) == job


@given(st.lists(st.sampled_from(EVENTS), max_size=40))
def test_any_history(events: list[Event]) -> None:
    """Whatever happens: a job that has ended stays so, times are set, states fit the steps."""
    progress = Progress.queued(NOW)
    for event in events:
        try:
            after = advance(progress, event, NOW)
        except ImpossibleEvent:
            continue
        if progress.ended:
            assert after == progress
        assert set(progress.errors) <= set(after.errors)
        assert list(Step).index(after.step) >= list(Step).index(progress.step)
        assert after.ended == (after.execution_state in {"succeeded", "failed"})
        assert (after.end_time is not None) == after.ended
        if after.step in BEFORE_RUN:
            assert after.execution_state == "running"
        if after.execution_state == "succeeded":
            assert after.exit_code == 0
        progress = after
