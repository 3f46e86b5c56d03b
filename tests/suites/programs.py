"""Running other people's programs: a missing one fails the test, and says where it comes from."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path

#: What every program sees: no settings of whoever runs the tests, one language, one clock.
ENVIRONMENT = {
    "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/nonexistent",
}

#: Characters of a program's output that a failure shows.
SHOWN = 4000


class ProgramFailed(AssertionError):
    """A program ended otherwise than it should have."""


def execute(
    *command: str | Path,
    cwd: Path,
    environment: dict[str, str] | None = None,
    stdin: str = "",
    timeout: float = 150,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its exit status; stdout and stderr are one text.

    It has a session of its own, so that one that hangs is ended with all its children.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=ENVIRONMENT | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise ProgramFailed(f"{error.filename} is missing: scripts/setup --with-tests") from error
    with process:
        try:
            output, _ = process.communicate(stdin, timeout=timeout)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            output, _ = process.communicate()
            raise ProgramFailed(
                f"{_line(command)}: not done in {timeout:g} s\n{output[-SHOWN:]}"
            ) from error
    return subprocess.CompletedProcess(command, process.returncode, output)


def run(
    *command: str | Path,
    cwd: Path,
    environment: dict[str, str] | None = None,
    stdin: str = "",
    timeout: float = 150,
) -> str:
    """Run a program that must succeed, and return what it printed."""
    done = execute(*command, cwd=cwd, environment=environment, stdin=stdin, timeout=timeout)
    if done.returncode != 0:
        raise ProgramFailed(
            f"{_line(command)}: exit status {done.returncode}\n{done.stdout[-SHOWN:]}"
        )
    return done.stdout


def _line(command: tuple[str | Path, ...]) -> str:
    return shlex.join(map(os.fspath, command))
