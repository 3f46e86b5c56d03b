"""What a test must not leave behind: mounts, processes, sockets.

Nothing here touches a path before its mounts are gone: the driver behind one may be dead or stuck.
"""

import contextlib
import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.dev.processes import PROC
from agent.processes import ProcessIdentity, boot_id, parse_stat, send_signal
from tests.support.kernel import abort_fuse, mounts_below, unmount

SETTLE_SECONDS = 5.0
"""Processes that were told to end get this long to do it."""
STATE_FILES = {"state.json", "status.json"}


@dataclass(frozen=True)
class Leftovers:
    mounts: tuple[str, ...]
    processes: tuple[ProcessIdentity, ...]
    sockets: tuple[Path, ...]

    def __bool__(self) -> bool:
        return bool(self.mounts or self.processes or self.sockets)

    def describe(self) -> str:
        lines = [f"mount   {mount}" for mount in self.mounts]
        lines += [f"process {one.pid}: {_command_line(one.pid)}" for one in self.processes]
        lines += [f"socket  {path}" for path in self.sockets]
        return "\n".join(lines)


def find(directories: list[Path]) -> Leftovers:
    mounts = tuple(mount for directory in directories for mount in mounts_below(directory))
    processes = set(_users_of(directories))
    sockets: list[Path] = []
    if not mounts:
        for directory in directories:
            processes |= set(_recorded(directory))
            sockets += _sockets(directory)
    return Leftovers(
        mounts, tuple(sorted(processes, key=lambda one: one.pid)), tuple(sorted(sockets))
    )


def settle(directories: list[Path], seconds: float = SETTLE_SECONDS) -> Leftovers:
    """Look until nothing is left or the time is over."""
    end = time.monotonic() + seconds
    while (found := find(directories)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def clean(directories: list[Path]) -> None:
    """Take away what a failed test left, so that it does not fail the next one as well."""
    for _ in range(20):
        found = find(directories)
        if not found:
            return
        for mount in reversed(found.mounts):
            abort_fuse(mount)
            unmount(mount)
        for identity in found.processes:
            send_signal(identity, signal.SIGKILL)
        for path in found.sockets:
            path.unlink(missing_ok=True)
        time.sleep(0.05)


def _users_of(directories: list[Path]) -> Iterator[ProcessIdentity]:
    """Processes with a file, a working directory or a program below one of the directories."""
    prefixes = tuple(f"{directory}/" for directory in directories)
    ours = {os.getpid(), os.getppid()}
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) in ours:
            continue
        try:
            links = [entry / "cwd", entry / "exe", *(entry / "fd").iterdir()]
        except OSError:
            continue
        if any(_link(link).startswith(prefixes) for link in links):
            try:
                status = parse_stat((entry / "stat").read_text("utf-8", "replace"))
            except (OSError, ValueError):
                continue
            if status.state not in "ZX":
                yield ProcessIdentity(int(entry.name), status.start_time, boot_id())


def _link(path: Path) -> str:
    try:
        return f"{os.readlink(path)}/"
    except OSError:
        return ""


def _recorded(directory: Path) -> Iterator[ProcessIdentity]:
    """Processes that a state file below the directory names, and that live."""
    for parent, _, files in os.walk(directory):
        for name in STATE_FILES.intersection(files):
            try:
                document = json.loads(Path(parent, name).read_text())
            except (OSError, ValueError):
                continue
            yield from (one for one in _identities(document) if one.is_alive())


def _identities(document: Any) -> Iterator[ProcessIdentity]:
    if isinstance(document, dict):
        with contextlib.suppress(ValueError):
            yield ProcessIdentity.from_json(document)
        for value in document.values():
            yield from _identities(value)
    elif isinstance(document, list):
        for value in document:
            yield from _identities(value)


def _sockets(directory: Path) -> list[Path]:
    found = []
    for parent, _, files in os.walk(directory):
        for name in files:
            path = Path(parent, name)
            try:
                if stat.S_ISSOCK(path.lstat().st_mode):
                    found.append(path)
            except OSError:
                continue
    return found


def _command_line(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return "(gone)"
