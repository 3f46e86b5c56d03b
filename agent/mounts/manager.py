"""All volumes of the node: which are mounted, for whom, by which process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog
import trio

from agent import cgroups, processes
from agent.blocking import Blocking
from agent.errors import BatchError
from agent.jobs.service import MountStatus
from agent.mounts import driver, kernel, mountinfo
from agent.mounts.driver import DriverRecord, Paths
from agent.mounts.volumes import CLUSTER, MountFailure, Volume
from agent.processes import ProcessIdentity

log = structlog.get_logger(__name__)

State = Literal["mounting", "mounted", "unmounting", "failed"]


@dataclass(frozen=True, slots=True)
class _Entry:
    record: DriverRecord
    state: State
    error: str | None = None
    hint: str | None = None
    warnings: tuple[str, ...] = ()


class MountManager:
    """Mounts and unmounts; adopts at start what an earlier agent has left.

    A volume that is mounted stays so when the manager ends: the driver is no part of the agent.
    """

    def __init__(
        self,
        paths: Paths,
        nursery: trio.Nursery,
        *,
        mount_timeout_s: float,
        unmount_timeout_s: float,
        cgroup: Path | None = None,
        command: Sequence[str] = driver.COMMAND,
    ) -> None:
        self._paths = paths
        self._nursery = nursery
        self._mount_timeout_s = mount_timeout_s
        self._unmount_timeout_s = unmount_timeout_s
        self._cgroup = cgroup
        self._command = command
        self._entries: dict[str, _Entry] = {}
        self._locks: dict[str, trio.Lock] = {}

    async def adopt(self) -> None:
        """Read what drivers are there, of this agent's or an earlier one's making."""
        for directory in (self._paths.run_dir / "mounts", self._paths.run_dir / "drivers"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._paths.state_dir / "drivers").mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in sorted((self._paths.run_dir / "drivers").glob("*.json")):
            try:
                record = DriverRecord.from_json(json.loads(file.read_text("utf-8")))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("a driver's record cannot be read", file=str(file), error=str(error))
                continue
            if await driver.serves(record, self._paths):
                log.info("driver adopted", volume=record.id, source=record.source)
                self._put(_Entry(record, "mounted"))
                self._nursery.start_soon(self._watch, record)
            else:
                alive = record.identity.is_alive()
                why = "its driver does not answer" if alive else "its driver is gone"
                self._put(_Entry(record, "failed", why))

    def _put(self, entry: _Entry) -> None:
        self._entries[entry.record.id] = entry

    def of_owner(self, owner: str) -> list[str]:
        """Ids of an owner's volumes, in the order in which they were mounted."""
        return [key for key, entry in self._entries.items() if entry.record.owner == owner]

    def owners(self) -> set[str]:
        """Everybody who has a volume."""
        return {entry.record.owner for entry in self._entries.values()}

    def is_mounted(self, volume: str) -> bool:
        """Whether it was mounted, and its driver has not died since."""
        entry = self._entries.get(volume)
        return entry is not None and entry.state == "mounted"

    async def ask(self) -> None:
        """Ask every driver how it is, so that :meth:`statuses` tells of now. A few seconds."""

        async def ask(entry: _Entry) -> None:
            told = await driver.warnings(entry.record, self._paths)
            if self._entries.get(entry.record.id) is not entry:
                return  # mounted or unmounted meanwhile
            silent = "its driver does not answer" if told is None else None
            self._put(replace(entry, error=silent, warnings=told or ()))

        async with trio.open_nursery() as nursery:
            for entry in self._entries.values():
                if entry.state == "mounted":
                    nursery.start_soon(ask, entry)

    def warnings(self, owner: str) -> list[str]:
        """What an owner's drivers warned of at the last :meth:`ask`."""
        return [
            f"{entry.record.source}: {warning}"
            for entry in self._entries.values()
            if entry.record.owner == owner
            for warning in entry.warnings
        ]

    def statuses(self) -> list[MountStatus]:
        """Every volume, for the operator, as of the last :meth:`ask`."""
        return [
            MountStatus(
                id=entry.record.id,
                kind=entry.record.kind,
                source=entry.record.source,
                mountpoint=entry.record.mountpoint,
                scope="cluster" if entry.record.owner == CLUSTER else "job",
                job=entry.record.job,
                state=entry.state,
                pid=entry.record.identity.pid if entry.record.identity.is_alive() else None,
                error=entry.error,
                hint=entry.hint,
                warnings=entry.warnings,
            )
            for entry in self._entries.values()
        ]

    async def mount(self, volume: Volume) -> None:
        """Mount a volume, unless it is mounted already.

        Raises:
            MountFailure: It did not come up; nothing of it is left.
        """
        async with self._locks.setdefault(volume.id, trio.Lock()):
            entry = self._entries.get(volume.id)
            if entry is not None and await driver.serves(entry.record, self._paths):
                self._put(replace(entry, state="mounted", error=None, hint=None))
                return
            try:
                await self._mount(volume, entry)
            except (OSError, BatchError) as error:
                message = f"cannot prepare the mount point {volume.mountpoint}: {error}"
                raise MountFailure(volume.kind, volume.source, "MountFailed", message) from error

    async def _mount(self, volume: Volume, stale: _Entry | None) -> None:
        if stale is not None:
            log.info("driver does not serve: replaced", volume=volume.id, source=volume.source)
            await driver.end(stale.record.identity, volume.mountpoint)
        place = Blocking(f"the mount point {volume.mountpoint}", most=1)
        await place.run(lambda: _make_mountpoint(volume.mountpoint))
        runtime = self._paths.runtime(volume.id)
        runtime.mkdir(mode=0o700, exist_ok=True)

        def remember(identity: ProcessIdentity) -> None:
            record = DriverRecord.of(volume, identity)
            record.write(self._paths.record(volume.id))
            self._put(_Entry(record, "mounting"))
            if self._cgroup is not None:
                try:
                    group = cgroups.create(self._cgroup, f"mount-{volume.id}")
                    cgroups.enter(group, identity.pid)
                except OSError as error:
                    log.warning("no cgroup for the driver", volume=volume.id, error=str(error))

        started = trio.current_time()
        try:
            await driver.start(
                volume,
                self._paths,
                record=remember,
                timeout_s=self._mount_timeout_s,
                command=self._command,
            )
        except MountFailure as failure:
            log.warning(
                "mount failed",
                volume=volume.id,
                source=volume.source,
                code=failure.code,
                error=failure.message,
            )
            self._forget(volume.id)
            raise
        record = self._entries[volume.id].record
        self._put(_Entry(record, "mounted"))
        self._nursery.start_soon(self._watch, record)
        log.info(
            "mounted",
            volume=volume.id,
            source=volume.source,
            mountpoint=volume.mountpoint,
            pid=record.identity.pid,
            seconds=round(trio.current_time() - started, 3),
        )

    async def unmount(self, volume: str) -> None:
        """Unmount a volume: its driver commits what was written, or is ended.

        Raises:
            MountFailure: It is unmounted, but not all that was written to it is stored.
        """
        async with self._locks.setdefault(volume, trio.Lock()):
            entry = self._entries.get(volume)
            if entry is None:
                return
            self._put(replace(entry, state="unmounting"))
            failure = await driver.unmount(
                entry.record, self._paths, timeout_s=self._unmount_timeout_s
            )
            self._forget(volume)
            if failure is None:
                log.info("unmounted", volume=volume, source=entry.record.source)
                return
        log.error(
            "unmounted with losses",
            volume=volume,
            source=entry.record.source,
            code=failure.code,
            error=failure.message,
        )
        raise failure

    def _forget(self, volume: str) -> None:
        self._entries.pop(volume, None)
        shutil.rmtree(self._paths.runtime(volume), ignore_errors=True)
        self._paths.record(volume).unlink(missing_ok=True)
        if self._cgroup is not None:
            cgroups.remove(self._cgroup / f"mount-{volume}")

    async def _watch(self, record: DriverRecord) -> None:
        await processes.wait_ended(record.identity)
        entry = self._entries.get(record.id)
        if entry is None or entry.record.identity != record.identity or entry.state != "mounted":
            return
        log.error("a driver died", volume=record.id, source=record.source)
        # Not remounted under a job that runs: it might write to the bare directory meanwhile.
        self._put(replace(entry, state="failed", error="its driver has died"))


def _make_mountpoint(mountpoint: str) -> None:
    """Take off whatever is mounted there, and make the directory."""
    kernel.clear(mountpoint)
    # The parents are root's alone, so no link can lead out of them.
    Path(mountpoint).mkdir(parents=True, exist_ok=True)


def remove_mountpoints(root: Path) -> None:
    """Remove a tree of mount points: empty directories and nothing else, ever.

    Raises:
        OSError: Something is mounted, or there is a file: data that no volume has.
    """
    if mountinfo.below(mountinfo.read(), os.fspath(root)):
        raise OSError(16, "a volume is still mounted below it", os.fspath(root))
    for directory, _, _ in os.walk(root, topdown=False):
        Path(directory).rmdir()
