"""Starting a program that outlives the agent: spawn it, note who it is, then tell it what to do.

In this order nothing is ever running that a later agent does not know of: a program that has not
been given its whole instructions does nothing, and when the agent dies first, the pipe ends early.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from agent.processes import ProcessIdentity, child_environment, kill


@dataclass(frozen=True, slots=True)
class Launched:
    """A program that was started."""

    identity: ProcessIdentity
    answer: trio.lowlevel.FdStream
    """Its standard output; to be closed by whoever started it."""


async def launch(
    command: Sequence[str],
    *,
    log: Path,
    document: bytes,
    record: Callable[[ProcessIdentity], None],
    timeout_s: float = 10,
) -> Launched:
    """Start a program in a session of its own, its instructions on standard input.

    posix_spawn, as subprocess.Popen has no way to let go of a child.

    Args:
        command: Program and arguments; no secrets, everybody can read them.
        log: Where its standard error goes, appended.
        document: Its instructions.
        record: Writes down who it is, before it is given anything to do.
        timeout_s: How long it may take to read its instructions.

    Raises:
        OSError: It cannot be started.
    """
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
    stdout_read, stdout_write = os.pipe2(os.O_CLOEXEC)
    instructions = trio.lowlevel.FdStream(stdin_write)
    answer = trio.lowlevel.FdStream(stdout_read)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        log_descriptor = os.open(log, flags, 0o600)
        try:
            pid = os.posix_spawn(  # noqa: ASYNC221 (returns once the program is loaded)
                command[0],
                list(command),
                child_environment(),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin_read, 0),
                    (os.POSIX_SPAWN_DUP2, stdout_write, 1),
                    (os.POSIX_SPAWN_DUP2, log_descriptor, 2),
                ],
                setsid=True,
                setsigmask=[],
                # Python ignores these two; exec(2) would hand that down.
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        finally:
            os.close(log_descriptor)
        # A child stays in /proc, if only as a zombie, until it is waited for.
        identity = ProcessIdentity.of(pid)
        try:
            record(identity)
        except BaseException:
            with trio.CancelScope(shield=True):
                await kill(identity)
            raise
    except BaseException:
        await trio.aclose_forcefully(answer)
        await trio.aclose_forcefully(instructions)
        raise
    finally:
        os.close(stdin_read)
        os.close(stdout_write)
    try:
        with trio.move_on_after(timeout_s):
            await instructions.send_all(document)
    except trio.BrokenResourceError:
        pass  # it died: whoever reads its answer, or looks for its status, will see
    except BaseException:
        await trio.aclose_forcefully(answer)
        raise
    finally:
        await trio.aclose_forcefully(instructions)
    return Launched(identity, answer)


def tail(file: Path, most: int = 2048) -> str:
    """The last bytes of a log, as text; empty when it cannot be read."""
    try:
        with open(file, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - most))
            return stream.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
