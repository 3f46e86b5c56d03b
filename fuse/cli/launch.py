"""Starts a driver: in the background, outliving the terminal, or in the foreground."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fuse.cli.credentials import child_environment
from fuse.cli.errors import refusing
from fuse.errors import MountError

#: The driver: isolated (-I) from the caller's directory and PYTHON… variables.
PROGRAM = (sys.executable, "-I", "-m", "fuse.main", "run")

#: Seconds that a driver which failed, or was given up, gets to end by itself.
_GRACE = 10.0


def start(document: Mapping[str, Any], log: Path, *, timeout: float) -> dict[str, Any]:
    """Start a driver in a session of its own, and wait until its mount answers.

    Args:
        document: Its instructions.
        log: Gets its stderr, at the end; made for the owner only.
        timeout: Seconds to wait.

    Returns:
        What the driver said when it was up.

    Raises:
        MountError: It did not come up; nothing is left behind.
    """
    with refusing(f"cannot write the log file {log}"):
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        errors = os.open(
            log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    try:
        begin = os.fstat(errors).st_size
        process = subprocess.Popen(
            PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            env=child_environment(),
            start_new_session=True,
        )
    finally:
        os.close(errors)
    assert process.stdin is not None
    assert process.stdout is not None
    up = False
    try:
        with process.stdin as instructions:
            instructions.write(json.dumps(document).encode())
        line = _answer(process.stdout.fileno(), time.monotonic() + timeout)
        answer = _checked(line, log, begin, timeout)
        up = True
        return answer
    except BrokenPipeError:
        raise _died(log, begin) from None
    finally:
        process.stdout.close()
        if not up:
            _end(process)
        else:
            process.returncode = 0  # it lives on, and is nobody's child once we have gone


def run_here(document: Mapping[str, Any]) -> NoReturn:
    """Become the driver: it has this process's terminal, and none of its secrets.

    Raises:
        MountError: The driver's program cannot be started.
    """
    instructions = os.memfd_create("instructions", 0)
    os.write(instructions, json.dumps(document).encode())
    os.lseek(instructions, 0, os.SEEK_SET)
    os.dup2(instructions, 0)
    os.close(instructions)
    sys.stdout.flush()
    with refusing("cannot start the driver"):
        os.execve(PROGRAM[0], [*PROGRAM, "--plain"], child_environment())  # noqa: S606 -- no shell
    raise AssertionError


def _answer(descriptor: int, deadline: float) -> bytes | None:
    """The first line that the driver writes; None: nothing in time; b"": it has died."""
    received = bytearray()
    while b"\n" not in received:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        ready, _, _ = select.select([descriptor], [], [], left)
        if ready:
            data = os.read(descriptor, 65536)
            if not data:
                return b""
            received += data
    return bytes(received)


def _checked(line: bytes | None, log: Path, begin: int, timeout: float) -> dict[str, Any]:
    if line is None:
        raise MountError(
            "ServerUnreachable",
            f"the driver did not say within {timeout:g} s that the volume is mounted",
            f"is the server reachable from here? The driver's log is {log}",
        )
    try:
        answer: Any = json.loads(line)
    except ValueError:
        raise _died(log, begin) from None
    if answer.get("state") == "mounted":
        return dict(answer)
    error = answer.get("error", {})
    raise MountError(str(error.get("code")), str(error.get("message")), error.get("hint"))


def _died(log: Path, begin: int) -> MountError:
    """An error with the last line that the driver wrote."""
    with refusing(f"cannot read the log file {log}"), log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    last = (errors or lines or ["it wrote nothing"])[-1].strip()[:500]
    return MountError(
        "MountFailed", f"the driver died before the volume was mounted: {last}", f"see {log}"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a driver that did not come up."""
    for number, patience in ((None, _GRACE / 5), (signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        if number is not None:
            process.send_signal(number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        return
