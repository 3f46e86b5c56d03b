"""Starts one command: what happens between fork and exec, and how a failure is told."""

import contextlib
import errno
import fcntl
import json
import os
import signal
from dataclasses import dataclass

from agent.supervisor import kernel
from agent.supervisor.processes import Identity, identity
from agent.supervisor.spec import Phase, Spec

_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # fcntl(2); the name is missing from some builds of the module


@dataclass(slots=True)
class Command:
    """A child that stands before its exec, or has passed it."""

    pid: int
    identity: Identity | None
    stdout: int
    """Our end of the pipe, not blocking; -1 once closed."""
    stderr: int
    result: int
    """Gives EOF when exec has succeeded, before that the words of the failure."""
    go: int
    """One byte lets the child go on to exec: its identity is on disk by then."""


def _pipe() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    # over /proc/sys/fs/pipe-user-pages-soft it is refused: the default size works as well
    with contextlib.suppress(OSError):
        fcntl.fcntl(writing, _F_SETPIPE_SZ, _PIPE_BYTES)
    return reading, writing


def prepare(spec: Spec, phase: Phase) -> Command:
    """Fork the child of `phase`; it waits for `release`.

    Raises:
        OSError: no descriptor or process could be had.
    """
    opened: list[int] = []
    try:
        for make in (_pipe, _pipe, os.pipe, os.pipe):
            opened.extend(make())
        out_read, out_write, err_read, err_write, result_read, result_write = opened[:6]
        go_read, go_write = opened[6:]
        os.set_blocking(result_read, False)
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _child(spec, phase, out_write, err_write, result_write, go_read)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    for descriptor in (out_write, err_write, result_write, go_read):
        os.close(descriptor)
    return Command(
        pid=pid,
        identity=identity(pid),
        stdout=out_read,
        stderr=err_read,
        result=result_read,
        go=go_write,
    )


def release(command: Command) -> None:
    """Let the child exec."""
    with contextlib.suppress(OSError):  # killed while it waited: waitpid tells
        os.write(command.go, b"g")
    os.close(command.go)
    command.go = -1


def _child(spec: Spec, phase: Phase, out: int, err: int, result: int, go: int) -> None:
    """Never returns. Nothing of the parent's is to run here: no handler, no finally."""
    step = "start"
    try:
        kernel.reset_signals()
        os.setsid()
        step = "cgroup"
        if spec.cgroup is not None:
            # as root, before the drop: the job's user has no right to move processes
            procs = os.open(f"{spec.cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            os.write(procs, b"0")
            os.close(procs)
        step = "start"
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if os.read(go, 1) != b"g":
            os._exit(126)  # the supervisor died: what nobody watches must not run
        kernel.close_all_but({0, 1, 2, result})
        os.umask(0o022)
        parent = os.getppid()
        step = "user"
        kernel.become(spec.user)
        kernel.die_with_parent()
        if os.getppid() != parent:
            os._exit(126)
        step = "directory"
        os.chdir(spec.working_directory)
        step = "exec"
        arguments = [spec.shell, "-c", phase.command]
        os.execve(spec.shell, arguments, dict(spec.environment))  # noqa: S606 - the job's own shell
    except OSError as error:
        os.write(result, json.dumps([step, error.errno or 0]).encode())
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must not unwind into the parent's frames
        os.write(result, json.dumps([type(error).__name__, 0]).encode())
    finally:
        os._exit(127)


def explain(spec: Spec, answer: bytes) -> str:
    """The failure that the child reported, in words."""
    try:
        step, number = json.loads(answer)
    except ValueError:
        step, number = "start", 0
    why = f"{os.strerror(number)} ({errno.errorcode.get(number, number)})" if number else str(step)
    if step == "exec" and number == errno.E2BIG:
        return f"the command and its environment are too long for the kernel: {why}"
    if step == "user" and spec.user is not None:
        return f"cannot become user {spec.user.uid}, group {spec.user.gid}: {why}"
    return {
        "cgroup": f"cannot enter the cgroup {spec.cgroup}: {why}",
        "directory": f"cannot enter the working directory {spec.working_directory}: {why}",
        "exec": f"cannot start the shell {spec.shell}: {why}",
    }.get(step, f"cannot start a process: {why}")
