"""Processes that outlive the agent: who they are, whether they live, and awaiting their end.

A process id alone is no identity: ids are used again. With its start time (field 22 of
/proc/PID/stat, clock ticks since boot; proc(5)) and the boot's id it is one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

_PROC = Path("/proc")


@functools.cache
def boot_id() -> str:
    """This boot of the kernel."""
    return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, for all time."""

    pid: int
    start_time: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The process that has this id now.

        Raises:
            ProcessLookupError: There is none.
        """
        stat = _read_stat(pid)
        if stat is None:
            raise ProcessLookupError(pid)
        return cls(pid, stat.start_time, boot_id())

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ProcessIdentity:
        """From a state file.

        Raises:
            ValueError: It names no process.
        """
        match document:
            case {"pid": int(pid), "startTime": int(start), "bootId": str(boot)} if pid > 1:
                return cls(pid, start, boot)
        raise ValueError("no process identity")

    def to_json(self) -> dict[str, Any]:
        """For a state file."""
        return {"pid": self.pid, "startTime": self.start_time, "bootId": self.boot_id}

    def is_alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        if self.boot_id != boot_id():
            return False
        stat = _read_stat(self.pid)
        return stat is not None and stat.start_time == self.start_time and stat.state not in "ZX"


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The fields of /proc/PID/stat that are of use here."""

    state: str
    parent: int
    group: int
    session: int
    start_time: int


def parse_stat(text: str) -> ProcessStat:
    """Parse /proc/PID/stat; the command's name may hold spaces and parentheses."""
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def _read_stat(pid: int) -> ProcessStat | None:
    try:
        return parse_stat((_PROC / str(pid) / "stat").read_text("utf-8", "replace"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def open_pidfd(identity: ProcessIdentity) -> Iterator[int | None]:
    """A pidfd of exactly this process; None when it has ended (pidfd_open(2))."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        yield None
        return
    try:
        # Only now can the id not be used again unnoticed.
        yield descriptor if identity.is_alive() else None
    finally:
        os.close(descriptor)


async def wait_ended(identity: ProcessIdentity) -> None:
    """Wait for the end of a process, a child's or anybody's; reaps an own child."""
    with open_pidfd(identity) as descriptor:
        if descriptor is not None:
            await trio.lowlevel.wait_readable(descriptor)
    reap(identity.pid)


def reap(pid: int) -> None:
    """Take the exit status of an own child that has ended, so that no zombie stays."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def send_signal(identity: ProcessIdentity, number: int) -> bool:
    """Signal exactly this process; whether it was there."""
    with open_pidfd(identity) as descriptor:
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        return True


async def kill(identity: ProcessIdentity, *, patience_s: float = 10) -> bool:
    """SIGKILL, and wait for the end.

    Returns:
        Whether it has ended: one in uninterruptible sleep may not, for now.
    """
    send_signal(identity, signal.SIGKILL)
    with trio.move_on_after(patience_s):
        await wait_ended(identity)
    return not identity.is_alive()


def find_remains(session: int | None, marker: bytes) -> list[ProcessIdentity]:
    """What is left of a job whose supervisor is gone.

    Args:
        session: The session that the job ran in, or None when that is not known.
        marker: Text that only this job has in its environment: its uuid is in the paths there. A
            process that began a session of its own still carries it.
    """
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        stat = _read_stat(pid)
        if stat is None or stat.state in "ZX":
            continue
        ours = session is not None and stat.session == session
        if not ours:
            with contextlib.suppress(OSError):
                ours = marker in (entry / "environ").read_bytes()
        if ours:
            found.append(ProcessIdentity(pid, stat.start_time, boot_id()))
    return found


def child_environment() -> dict[str, str]:
    """The agent's environment for a long-lived child.

    Without the agent's own settings, which may hold keys, and without what systemd meant for it
    alone.
    """
    own = ("BATCHAI_", "LISTEN_", "WATCHDOG_")
    names = {"NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID", "MAINPID", "SYSTEMD_EXEC_PID"}
    names |= {"FDSTORE", "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"}
    return {k: v for k, v in os.environ.items() if k not in names and not k.startswith(own)}
