"""Becomes a driver: in the background, outliving the terminal, or in the foreground.

The command forks rather than starts a program: the interpreter is there, with a good part of what
the driver imports. Up to there it has one thread, and has imported nothing that starts one.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from fuse import process, program
from fuse.cli.credentials import SECRET_VARIABLES
from fuse.cli.errors import refusing, report
from fuse.errors import MountError

#: Seconds that a driver which failed, or was given up, gets to end by itself.
_GRACE = 10.0


def start(document: Mapping[str, Any], log: Path, *, timeout: float) -> dict[str, Any]:
    """Fork a driver off, in a session of its own, and wait until its mount answers.

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
    begin = os.fstat(errors).st_size
    answers, answering = os.pipe2(os.O_CLOEXEC)
    # What is in the buffers is this process's to write.
    sys.stdout.flush()
    sys.stderr.flush()
    with refusing("cannot start the driver"):
        pid = os.fork()
    if pid == 0:
        _become_driver(document, answering, errors)
    os.close(answering)
    os.close(errors)
    up = False
    try:
        line = _answer(answers, time.monotonic() + timeout)
        answer = _checked(line, log, begin, timeout)
        up = True
        return answer
    finally:
        os.close(answers)
        if not up:
            _end(pid)


def run_here(document: Mapping[str, Any]) -> NoReturn:
    """Become the driver: it has this process's terminal, and none of its secrets."""
    process.forget(SECRET_VARIABLES)
    code, failures = program.run(json.dumps(document).encode(), _say_plainly)
    if failures:
        listed = "; ".join(f"{path}: {reason}" for path, reason in sorted(failures.items()))
        report(MountError("NotCommitted", f"not in the store: {listed}"))
    sys.exit(code)


def _become_driver(document: Mapping[str, Any], stdout: int, stderr: int) -> NoReturn:
    """In the forked process: nothing of the command's own stack may go on here."""
    code = 1
    try:
        process.detach(stdout=stdout, stderr=stderr)
        process.forget(SECRET_VARIABLES)
        code, _ = program.run(json.dumps(document).encode(), program.announce)
    except BaseException:  # noqa: BLE001 (its log is the only one who can be told)
        traceback.print_exc()
    finally:
        process.end(code)


def _say_plainly(document: dict[str, Any]) -> None:
    if document["state"] == "failed":
        report(MountError(**document["error"]))
        return
    click.echo("mounted; Ctrl-C unmounts", err=True)


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


def _end(pid: int) -> None:
    """End a driver that did not come up."""
    descriptor = os.pidfd_open(pid)
    try:
        for number, patience in (
            (None, _GRACE / 5),
            (signal.SIGTERM, _GRACE),
            (signal.SIGKILL, None),
        ):
            if number is not None:
                os.kill(pid, number)
            # A pidfd can be read from once the process has ended (pidfd_open(2)).
            if select.select([descriptor], [], [], patience)[0]:
                break
    finally:
        os.close(descriptor)
    os.waitpid(pid, 0)
