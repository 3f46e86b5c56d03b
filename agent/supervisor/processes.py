"""The process table: who a process is, who descends from whom, and signals that cannot miss."""

# ruff: noqa: PTH208 - pathlib would cost start-up time

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict


class Identity(TypedDict):
    """Names one process for ever: a pid alone is reused."""

    pid: int
    startTime: int
    bootId: str


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table, from /proc/PID/stat of proc(5)."""

    pid: int
    parent: int
    state: str
    """One letter: R, S, D, T, Z, X, ..."""
    start_time: int
    """Field 22: clock ticks since boot."""


def parse_stat(text: str) -> Process:
    """Read /proc/PID/stat. The name in it may hold blanks and brackets: its last one counts."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(
        pid=int(head.split("(", 1)[0]),
        state=fields[0],
        parent=int(fields[1]),
        start_time=int(fields[19]),
    )


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def look_up(pid: int) -> Process | None:
    """The process `pid`, None when there is none."""
    try:
        return parse_stat(_read(f"/proc/{pid}/stat"))
    except (OSError, ValueError, IndexError):
        return None


def boot_id() -> str:
    """Changes with every boot of the machine."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def identity(pid: int) -> Identity | None:
    """Who `pid` is now, None when it is gone."""
    found = look_up(pid)
    if found is None:
        return None
    return Identity(pid=pid, startTime=found.start_time, bootId=boot_id())


def descendants(table: dict[int, Process], root: int, exclude: set[int]) -> dict[int, Process]:
    """Everything below `root` that still runs; what is in `exclude` is passed over."""
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found: dict[int, Process] = {}
    pending = [root]
    while pending:
        for child in children.get(pending.pop(), ()):
            if child.pid in exclude or child.pid in found:
                continue
            found[child.pid] = child
            pending.append(child.pid)
    return {pid: process for pid, process in found.items() if process.state not in "ZX"}


def read_table() -> dict[int, Process]:
    """All processes. Not a snapshot: the kernel offers none."""
    listed = (look_up(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in listed if process is not None}


def send(process: Process, number: int) -> bool:
    """Signal this very process: False when it is gone, whatever has its pid now."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = look_up(process.pid)
        if now is None or now.start_time != process.start_time:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


class Roster:
    """The processes of one job: its cgroup where it has one, and all that descends from here.

    The supervisor is a subreaper, so a daemon that forked twice is still below it.
    """

    def __init__(self, cgroup: str | None, exclude: Callable[[], set[int]]) -> None:
        self._cgroup = cgroup
        self._exclude = exclude
        """The shippers: children of ours, but not the job."""

    def members(self) -> dict[int, Process]:
        """Who is alive now (zombies are not)."""
        table = read_table()
        found = descendants(table, os.getpid(), self._exclude())
        for pid in self._cgroup_pids() - self._exclude() - {os.getpid()}:
            process = table.get(pid) or look_up(pid)
            if process is not None and process.state not in "ZX":
                found[pid] = process
        return found

    def signal(self, members: dict[int, Process], number: int) -> None:
        """Send `number` to each of `members`; SIGKILL takes the whole cgroup at one blow too."""
        if number == signal.SIGKILL:
            self._kill_cgroup()
        for process in members.values():
            send(process, number)

    def _cgroup_pids(self) -> set[int]:
        if self._cgroup is None:
            return set()
        pids: set[int] = set()
        for directory, _, files in os.walk(self._cgroup):
            if "cgroup.procs" in files:
                # a child cgroup may vanish under our eyes; 0 is a process of another namespace
                with contextlib.suppress(OSError):
                    text = _read(f"{directory}/cgroup.procs")
                    pids.update(int(line) for line in text.split() if line != "0")
        return pids

    def _kill_cgroup(self) -> None:
        if self._cgroup is None or os.getpid() in self._cgroup_pids():
            return  # were we put into the job's own cgroup, the signals one by one must do
        # cgroup.kill: Linux 5.14 and later, cgroup v2 only
        with contextlib.suppress(OSError):
            descriptor = os.open(f"{self._cgroup}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"1")
            finally:
                os.close(descriptor)
