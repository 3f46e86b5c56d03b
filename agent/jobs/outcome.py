"""What a supervisor's last status means for the job, in words. Pure."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from agent.jobs.lifecycle import CommandEnded
from agent.jobs.service import JobError

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127  # the shell's own exit codes (bash(1), EXIT STATUS)


def of_status(status: Mapping[str, Any], *, max_wall_clock_s: float | None = None) -> CommandEnded:
    """How a finished job ended.

    Args:
        status: status.json, its state ``finished``.
        max_wall_clock_s: The job's limit, for the words.
    """
    exit_code = status.get("exitCode")
    error = _error(status, exit_code, max_wall_clock_s)
    notes = _shortfall(status)
    return CommandEnded(exit_code, (error,) if error else (), (notes,) if notes else ())


def _error(
    status: Mapping[str, Any], exit_code: int | None, max_wall_clock_s: float | None
) -> JobError | None:
    details: list[tuple[str, str]] = []
    match status.get("reason"):
        case "terminated":
            return JobError("JobTerminated", "The job was terminated", _stderr(status))
        case "wall-clock":
            limit = f" of {timedelta(seconds=max_wall_clock_s)}" if max_wall_clock_s else ""
            details.append(("Hint", "raise properties.constraints.maxWallClockTime"))
            message = f"The job ran longer than its maxWallClockTime{limit} and was ended"
            return JobError("MaxWallClockTimeExceeded", message, (*details, *_stderr(status)))
        case "launch-failed":
            cause = status.get("launchError") or "the cause is not known"
            which = _phase(status)
            code = "JobPreparationFailed" if which == "job_prep" else "JobFailed"
            what = "Job preparation" if which == "job_prep" else "The job's command"
            return JobError(code, f"{what} could not be started: {cause}", (("Info", str(cause)),))
        case "prep-failed":
            code, message = "JobPreparationFailed", "Job preparation task failed"
        case _:
            if exit_code == 0:
                return None
            code, message = "JobFailed", "Job failed"
    cause, hint = _cause(exit_code, status.get("signal"))
    details.append(("Info", cause))
    if hint:
        details.append(("Hint", hint))
    # Batch AI's own words come first: scripts look for them.
    message = f"{message} with non-zero exit code {exit_code}: {cause}"
    return JobError(code, message, (*details, *_stderr(status)))


def _phase(status: Mapping[str, Any]) -> str:
    return str(status.get("phase") or "")


def _cause(exit_code: int | None, signal: int | None) -> tuple[str, str | None]:
    if signal is not None:
        try:
            name = signals.Signals(signal).name
        except ValueError:
            name = f"signal {signal}"
        hint = None
        if signal == signals.SIGKILL:
            hint = "nobody asked for it: was the node out of memory? (dmesg, journalctl -k)"
        return f"the command was killed by {name}", hint
    if exit_code == _NOT_FOUND:
        return (
            "the shell did not find the command",
            "check the command line's spelling, PATH, and that its file is on a mounted volume",
        )
    if exit_code == _NOT_EXECUTABLE:
        return "the command's file cannot be executed", "name its interpreter, or see its mode"
    return f"the command ended with exit code {exit_code}", None


def _stderr(status: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    tail = str(status.get("stderrTail") or "").strip()
    return (("StdErr", tail),) if tail else ()


def _shortfall(status: Mapping[str, Any]) -> JobError | None:
    missing = status.get("shortfallBytes") or 0
    if missing <= 0:
        return None
    causes = "; ".join(
        f"{stream.get('name')}: {stream['error']}"
        for stream in status.get("streams", ())
        if stream.get("error")
    )
    message = f"{missing} bytes of the job's output did not reach the storage"
    details = (
        ("Info", causes or "the storage did not take them in time"),
        ("Hint", "they are kept on the node until the job is deleted: batchai job file stream"),
    )
    return JobError("LogsIncomplete", f"{message}: {causes}" if causes else message, details)


def lost(*, restarted: bool, log: str) -> JobError:
    """A supervisor that is gone without a last status."""
    if restarted:
        message = "The node was restarted while the job ran"
    else:
        message = "The process that supervised the job died; the job's processes were killed"
    return JobError("SupervisorLost", message, (("Log", log),) if log else ())
