"""Server processes that outlive the command which started them: start, find what is left, stop.

Nothing is ever signalled on the strength of a pid read back from a file: who a process is, is told
by `ProcessIdentity`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.processes import ProcessIdentity, ProcessStat, boot_id, parse_stat, send_signal

PROC = Path("/proc")
POLL_SECONDS = 0.02

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Our own children by pid: they are reaped when stopped, and nobody warns that they live on."""


def start(
    command: Sequence[str | Path], *, environment: Mapping[str, str], directory: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, both its outputs appended to `log`.

    A session of its own matters: a terminal's Ctrl-C must not reach it, and smbd, when it ends,
    signals its whole process group.
    """
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [os.fspath(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    _children[process.pid] = process
    return process


def members(leader: ProcessIdentity, directory: Path) -> list[ProcessIdentity]:
    """The live processes of the leader's session, the leader itself first while it lives.

    When the leader is gone its pid may have been given to another session leader. So any other
    process counts only if it has a file below `directory` open, as each of our servers' children
    has (logs, databases), and is no older than the leader.
    """
    if leader.boot_id != boot_id():
        return []
    found = [leader] if leader.is_alive() else []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == leader.pid:
            continue
        pid = int(entry.name)
        stat = _stat(pid)
        if (
            stat is not None
            and stat.session == leader.pid
            and stat.start_time >= leader.start_time
            and stat.state not in "ZX"
            and _holds_file_below(pid, directory)
        ):
            found.append(ProcessIdentity(pid, stat.start_time, leader.boot_id))
    return found


def stop(
    leader: ProcessIdentity, directory: Path, *, term_seconds: float, kill_seconds: float
) -> bool:
    """End the leader and what is left of its session: TERM, a bounded wait, then KILL.

    Returns:
        Whether all of them are gone (false: something sits in the kernel and cannot be killed).
    """
    gone = False
    for number, seconds in ((signal.SIGTERM, term_seconds), (signal.SIGKILL, kill_seconds)):
        for identity in members(leader, directory):
            send_signal(identity, number)
        gone = wait_until(lambda: not members(leader, directory), seconds)
        if gone:
            break
    if (child := _children.get(leader.pid)) is not None and child.poll() is not None:
        del _children[leader.pid]
    return gone


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll a condition until it holds or the time is over; it is tried at least once."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _stat(pid: int) -> ProcessStat | None:
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text("utf-8", "replace"))
    except (OSError, ValueError):
        return None


def _holds_file_below(pid: int, directory: Path) -> bool:
    try:
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            try:
                if descriptor.readlink().is_relative_to(directory):
                    return True
            except OSError:
                continue
    except OSError:
        return False
    return False
