"""The cluster's volumes: mounted as long as the node is in service, for every job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import structlog
import trio

from agent.jobs.service import MountStatus
from agent.mounts.manager import MountManager
from agent.mounts.volumes import CLUSTER, MountFailure, Volume

log = structlog.get_logger(__name__)

_RETRY_FIRST_S, _RETRY_MOST_S = 2.0, 60.0
_CHECK_S = 15.0


class ClusterMounts:
    """Keeps the configured volumes mounted; a server that is down is tried again for ever."""

    def __init__(self, volumes: Sequence[Volume], mounts: MountManager) -> None:
        self._volumes = list(volumes)
        self._mounts = mounts
        self._failures: dict[str, MountFailure] = {}

    async def unmount_others(self) -> None:
        """Take down what an earlier configuration had."""
        wanted = {volume.id for volume in self._volumes}
        for volume in self._mounts.of_owner(CLUSTER):
            if volume not in wanted:
                try:
                    await self._mounts.unmount(volume)
                except MountFailure as failure:
                    log.warning("cluster volume unmounted with losses", error=failure.message)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep them mounted; started when each was tried once."""
        await self.unmount_others()
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as first:
                for volume in self._volumes:
                    first.start_soon(self._try, volume)
            task_status.started()
            for volume in self._volumes:
                nursery.start_soon(self._keep, volume)

    async def _try(self, volume: Volume) -> None:
        try:
            await self._mounts.mount(volume)
        except MountFailure as failure:
            self._failures[volume.id] = failure
        else:
            self._failures.pop(volume.id, None)

    async def _keep(self, volume: Volume) -> None:
        wait = _RETRY_FIRST_S
        while True:
            if self._mounts.is_mounted(volume.id):
                wait = _RETRY_FIRST_S
                await trio.sleep(_CHECK_S)
            else:
                await trio.sleep(wait)
                wait = min(wait * 2, _RETRY_MOST_S)
                await self._try(volume)

    def failures(self, texts: Iterable[str]) -> list[MountFailure]:
        """Of the volumes that are named in these texts, those that are not mounted.

        A job must not write to the bare directory beneath.
        """
        looked_at = list(texts)
        found = []
        for volume in self._volumes:
            named = re.compile(re.escape(volume.mountpoint) + r"(?![\w.-])")
            used = any(named.search(text) for text in looked_at)
            if used and not self._mounts.is_mounted(volume.id):
                message = "the cluster's volume is not mounted"
                missing = MountFailure(volume.kind, volume.source, "NotMounted", message)
                found.append(self._failures.get(volume.id, missing))
        return found

    def statuses(self) -> list[MountStatus]:
        """The volumes that are not mounted; the manager tells of the others."""
        known = set(self._mounts.of_owner(CLUSTER))
        return [
            MountStatus(
                id=volume.id,
                kind=volume.kind,
                source=volume.source,
                mountpoint=volume.mountpoint,
                scope="cluster",
                job=None,
                state="failed",
                pid=None,
                error=failure.message,
                hint=failure.hint,
            )
            for volume in self._volumes
            if volume.id not in known and (failure := self._failures.get(volume.id)) is not None
        ]
