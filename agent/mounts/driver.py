"""One driver process: starting it, asking it, ending it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from agent import control, processes
from agent.blocking import Blocking
from agent.jobs.service import JobKey
from agent.launching import launch, tail
from agent.mounts import kernel, mountinfo
from agent.mounts.volumes import CLUSTER, Kind, MountFailure, Volume
from agent.processes import ProcessIdentity
from agent.secrets import sync_directory

COMMAND = (sys.executable, "-I", "-m", "fuse.main", "run")
_EXIT_S = 5.0
_STATUS_S = 2.0


@dataclass(frozen=True, slots=True)
class Paths:
    """Where drivers keep their things."""

    run_dir: Path
    state_dir: Path
    cache_dir: Path

    def runtime(self, volume: str) -> Path:
        """The driver's own: control socket and state."""
        return self.run_dir / "mounts" / volume

    def record(self, volume: str) -> Path:
        """The agent's: who the driver is, before it can say so itself."""
        return self.run_dir / "drivers" / f"{volume}.json"

    def log(self, owner: str, volume: str) -> Path:
        """The driver's log; a job's are deleted with the job."""
        if owner == CLUSTER:
            return self.state_dir / "drivers" / f"{volume}.log"
        return self.state_dir / "jobs" / owner / f"driver-{volume}.log"


@dataclass(frozen=True, slots=True)
class DriverRecord:
    """What the agent knows of a driver; kept on disk, so that the next agent knows it too."""

    id: str
    kind: Kind
    source: str
    mountpoint: str
    owner: str
    job: JobKey | None
    identity: ProcessIdentity

    @classmethod
    def of(cls, volume: Volume, identity: ProcessIdentity) -> DriverRecord:
        """The record of a driver that was started for a volume."""
        return cls(
            volume.id,
            volume.kind,
            volume.source,
            volume.mountpoint,
            volume.owner,
            volume.job,
            identity,
        )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> DriverRecord:
        """From its file.

        Raises:
            KeyError, TypeError, ValueError: It is no such file.
        """
        job = document["job"]
        return cls(
            id=document["id"],
            kind=document["kind"],
            source=document["source"],
            mountpoint=document["mountpoint"],
            owner=document["owner"],
            job=None if job is None else JobKey(*job),
            identity=ProcessIdentity.from_json(document),
        )

    def write(self, path: Path) -> None:
        """Keep it."""
        job = self.job
        document = {
            "version": 1,
            "id": self.id,
            "kind": self.kind,
            "source": self.source,
            "mountpoint": self.mountpoint,
            "owner": self.owner,
            "job": None if job is None else [job.workspace, job.experiment, job.job],
            **self.identity.to_json(),
        }
        write_json(path, document)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a private file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8", opener=_private) as out:
        json.dump(document, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def is_mounted(mountpoint: str) -> bool:
    """Whether a user-space driver's volume is on top of a directory."""
    stacked = mountinfo.at(mountinfo.read(), mountpoint)
    return bool(stacked) and stacked[-1].is_fuse


async def start(
    volume: Volume,
    paths: Paths,
    *,
    record: Callable[[ProcessIdentity], None],
    timeout_s: float,
    command: Sequence[str] = COMMAND,
) -> ProcessIdentity:
    """Start the driver of a volume, and wait until it is mounted.

    Raises:
        MountFailure: It is not, and nothing is left behind but a directory.
    """
    identity: ProcessIdentity | None = None
    log = paths.log(volume.owner, volume.id)
    before = _size(log)

    def remember(started: ProcessIdentity) -> None:
        nonlocal identity
        identity = started
        record(started)

    line: bytes | None = None
    try:
        with trio.move_on_after(timeout_s):
            document = json.dumps(volume.document).encode()
            launched = await launch(command, log=log, document=document, record=remember)
            async with launched.answer:
                line = await control.read_line(launched.answer)
    except OSError as error:
        failure: MountFailure | None = _fail(volume, f"cannot start the driver: {error}")
    else:
        # When cancelled (the job is terminated, the agent stops), the next step, or the next agent,
        # finds the driver by its record and sees to it.
        last = tail(log) if _size(log) > before else ""
        failure = _failure(volume, line, last, timeout_s)
    if failure is None:
        assert identity is not None
        return identity
    if identity is not None:
        await end(identity, volume.mountpoint)
    raise failure


def _fail(volume: Volume, message: str, log: str = "") -> MountFailure:
    return MountFailure(volume.kind, volume.source, "MountFailed", message, None, log)


def _failure(volume: Volume, line: bytes | None, log: str, timeout_s: float) -> MountFailure | None:
    """What the driver's answer means; None is none in time."""
    if line is None:
        message = f"the driver did not say within {timeout_s:g} s that the volume is mounted"
        ask = "is the server reachable from this node?"
        return MountFailure(volume.kind, volume.source, "ServerUnreachable", message, ask, log)
    answer: Any = None
    with contextlib.suppress(ValueError):
        answer = json.loads(line)
    match answer:
        case {"state": "mounted"}:
            return None
        case {"state": "failed", "error": {"code": str(code), "message": str(said), **rest}}:
            hint = str(rest["hint"]) if rest.get("hint") else None
            return MountFailure(volume.kind, volume.source, code, said, hint)
    return _fail(volume, "the driver died before the volume was mounted", log)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


async def serves(record: DriverRecord, paths: Paths) -> bool:
    """Whether a driver is there, mounted, and answers."""
    if not record.identity.is_alive() or not is_mounted(record.mountpoint):
        return False
    try:
        status = await control.request(paths.runtime(record.id) / "control.sock", "status")
    except (control.ControlError, control.ControlUnavailable):
        return False
    return not status.get("stopping", False)


async def warnings(record: DriverRecord, paths: Paths) -> tuple[str, ...] | None:
    """What the driver wants people to know of its volume; None when it does not answer."""
    try:
        status = await control.request(
            paths.runtime(record.id) / "control.sock", "status", timeout_s=_STATUS_S
        )
    except (control.ControlError, control.ControlUnavailable):
        return None
    told = status.get("warnings", [])
    return tuple(str(text) for text in told) if isinstance(told, list) else ()


async def unmount(record: DriverRecord, paths: Paths, *, timeout_s: float) -> MountFailure | None:
    """Unmount a volume: asked for, and if that does not help, forced.

    Returns:
        What went wrong with its data; whatever that was, the volume is unmounted.
    """
    failure: MountFailure | None = None
    hint = (
        f"what is not stored is kept in {paths.cache_dir}, and is stored when the volume is "
        f"mounted again; see: batchai-mount recover {paths.cache_dir}"
    )
    if record.identity.is_alive() and is_mounted(record.mountpoint):
        socket = paths.runtime(record.id) / "control.sock"
        try:
            await control.request(socket, "unmount", timeout_s=timeout_s)
        except control.ControlError as error:
            failure = MountFailure(
                record.kind, record.source, error.code, error.message, error.hint or hint
            )
        except control.ControlUnavailable as error:
            failure = MountFailure(
                record.kind, record.source, "DriverNotResponding", str(error), hint
            )
        else:
            with trio.move_on_after(_EXIT_S):
                await processes.wait_ended(record.identity)
    elif is_mounted(record.mountpoint):
        message = "its driver has died"
        failure = MountFailure(record.kind, record.source, "DriverDied", message, hint)
    await end(record.identity, record.mountpoint)
    return failure


async def end(identity: ProcessIdentity, mountpoint: str) -> None:
    """End a driver and its mount without its consent: kill, abort the connection, detach.

    Raises:
        OSError: The mount cannot be taken off.
        Unavailable: The kernel does not answer.
    """
    with trio.CancelScope(shield=True):
        if identity.is_alive():
            await processes.kill(identity, patience_s=_EXIT_S)
        processes.reap(identity.pid)
        await Blocking(f"unmounting {mountpoint}", most=1).run(lambda: kernel.clear(mountpoint))
