"""The volumes that are mounted on this machine, and what their drivers say of themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuse import mountinfo
from fuse.cli import directories
from fuse.errors import MountError


@dataclass(frozen=True, slots=True)
class Process:
    """A driver, known by more than a number that may be somebody else's by now."""

    pid: int
    start_time: int
    boot_id: str

    def alive(self) -> bool:
        """Whether it runs still."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
            fields = Path(f"/proc/{self.pid}/stat").read_text("ascii", errors="replace")
        except OSError:
            return False
        state, *rest = fields.rpartition(")")[2].split()
        # Field 3 is the state, field 22 the start (proc_pid_stat(5)).
        return boot == self.boot_id and state != "Z" and int(rest[18]) == self.start_time


@dataclass(frozen=True, slots=True)
class Mounted:
    """A volume, mounted or left behind by a driver that died.

    Attributes:
        mountpoint: Where.
        kind: ``blob`` or ``share``.
        source: ``account/container`` or ``//account/share``.
        mount: The kernel's line; None: it is not mounted any more.
        directory: The driver's own, with its control socket; None: not known to this user.
        state: What the driver wrote there; empty where it is not known.
    """

    mountpoint: Path
    kind: str
    source: str
    mount: mountinfo.Mount | None
    directory: Path | None
    state: dict[str, Any]

    @property
    def process(self) -> Process | None:
        """The driver, where it is known."""
        try:
            return Process(
                int(self.state["pid"]), int(self.state["startTime"]), str(self.state["bootId"])
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def status(self) -> str:
        """``mounted``, ``dead`` (the driver has ended), ``left`` (its state file only), ``other``.

        ``other``: mounted by somebody whose drivers this user cannot look at.
        """
        process = self.process
        if process is None:
            return "other"
        if not process.alive():
            return "dead" if self.mount else "left"
        return "mounted" if self.mount else "ending"

    def document(self) -> dict[str, Any]:
        """For ``--output json``."""
        process = self.process
        return {
            "mountpoint": os.fspath(self.mountpoint),
            "kind": self.kind,
            "source": self.source,
            "status": self.status,
            "id": self.state.get("id"),
            "pid": process.pid if process else None,
            "readOnly": self.mount is not None and "ro" in self.mount.options,
            "cacheDir": self.state.get("cacheDir"),
        }


def find_all() -> list[Mounted]:
    """Everything of this driver's that the caller may see, by mount point."""
    states = {Path(state["mountpoint"]): (place, state) for place, state in _states()}
    found: dict[Path, Mounted] = {}
    for mount in mountinfo.read():
        if mount.kind is not None:
            place, state = states.get(mount.mountpoint, (None, {}))
            found[mount.mountpoint] = Mounted(
                mount.mountpoint, mount.kind, mount.source, mount, place, state
            )
    for mountpoint, (place, state) in states.items():
        if mountpoint not in found:
            found[mountpoint] = Mounted(
                mountpoint,
                str(state.get("kind")),
                str(state.get("source")),
                None,
                place,
                state,
            )
    return [found[mountpoint] for mountpoint in sorted(found)]


def find(directory: Path) -> Mounted:
    """The volume on a directory.

    Raises:
        MountError: NotMounted.
    """
    mountpoint = directories.resolved(directory)
    for mounted in find_all():
        if mounted.mountpoint == mountpoint:
            return mounted
    raise MountError(
        "NotMounted",
        f"no volume is mounted on {mountpoint}",
        "batchai-mount list shows those that are",
    )


def find_served(directory: Path) -> tuple[Mounted, Path]:
    """The volume on a directory, and its driver's directory, for asking it.

    Raises:
        MountError: NotMounted, PermissionDenied, or DriverDied.
    """
    mounted = find(directory)
    if mounted.directory is None:
        raise MountError(
            "PermissionDenied",
            f"the driver of {mounted.mountpoint} is not one of yours",
            "ask as the user who mounted it, or as root",
        )
    if mounted.status in {"dead", "left"}:
        raise MountError(
            "DriverDied",
            f"the driver of {mounted.mountpoint} has died",
            f"batchai-mount unmount {mounted.mountpoint}, then mount it again: what was written "
            "and not stored is kept, and is stored then",
        )
    return mounted, mounted.directory


def _states() -> Iterator[tuple[Path, dict[str, Any]]]:
    for parent in directories.run_directories():
        try:
            children = sorted(parent.iterdir())
        except OSError:
            continue  # not there, or not for this user
        for child in children:
            try:
                state = json.loads((child / "state.json").read_text("utf-8"))
            except (OSError, ValueError):
                continue  # it goes away while we look
            if isinstance(state, dict) and isinstance(state.get("mountpoint"), str):
                yield child, state
