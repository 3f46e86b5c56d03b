"""Entry point: the spec on stdin, the job, exit 0 once its last status is on disk.

Exit codes: 0 the job is finished (however it ended), 1 the supervisor itself failed, 2 the spec
is refused and nothing was touched, 4 this job is or was already run.
"""

# ruff: noqa: PTH103 - pathlib would cost start-up time

import fcntl
import os
import signal
import sys
from typing import NoReturn

from agent.supervisor import kernel
from agent.supervisor.log import log
from agent.supervisor.runner import run
from agent.supervisor.spec import Spec, SpecError, parse_spec
from agent.supervisor.status import previous_state

_SPEC_LIMIT = 16 << 20


class AlreadyRun(Exception):  # noqa: N818 - named for what it is
    """A job is never run twice: its first run may have had effects."""


def _read_spec() -> Spec:
    pieces: list[bytes] = []
    total = 0
    while piece := os.read(0, 1 << 20):
        pieces.append(piece)
        total += len(piece)
        if total > _SPEC_LIMIT:
            raise SpecError("document", f"is longer than {_SPEC_LIMIT} bytes")
    return parse_spec(b"".join(pieces))


def _detach() -> None:
    """Let go of what the starter had open; stderr stays, it is the log."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    kernel.close_all_but({0, 1, 2})
    os.chdir("/")


def _catch_signals() -> int:
    """Signals become bytes in a pipe; returns its read end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # the starter may have blocked some, and a mask survives exec
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reading


def _claim(spec: Spec) -> None:
    """Make this process the one and only supervisor of the job.

    Raises:
        AlreadyRun: another one is at work, or has launched the job's commands before.
    """
    os.makedirs(spec.state_directory, 0o700, exist_ok=True)
    # held as long as we live; the descriptor is never closed, and no child keeps it
    lock = os.open(
        f"{spec.state_directory}/supervisor.lock",
        os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o600,
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRun("another supervisor runs this job") from None
    # "starting" is what a supervisor leaves that died before any command was launched
    state = previous_state(f"{spec.state_directory}/status.json")
    if state not in {None, "starting"}:
        raise AlreadyRun(f"the job was started before: its status.json says {state!r}")


def main() -> NoReturn:
    """Run one job."""
    code = 1
    try:
        spec = _read_spec()
        _detach()
        kernel.set_undumpable()
        kernel.set_name("batchai-superv")
        kernel.set_subreaper()
        os.umask(0o022)
        signals = _catch_signals()
        _claim(spec)
        code = 0 if run(spec, signals) else 1
    except SpecError as error:
        log("error", "spec.refused", path=error.path, error=str(error))
        code = 2
    except AlreadyRun as error:
        log("error", "job.already-run", error=str(error))
        code = 4
    except OSError as error:
        log("error", "supervisor.failed", error=str(error))
    sys.exit(code)
