"""All jobs of the node: accepts, queues, ends and deletes them. Implements the API's protocol."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import structlog
import trio

from agent.errors import Conflict, NotFound
from agent.jobs import steps
from agent.jobs.files import JobFiles
from agent.jobs.layout import JobId
from agent.jobs.lifecycle import Progress, Step
from agent.jobs.plan import Planner
from agent.jobs.records import JobRecord, admissible
from agent.jobs.runner import JobRunner, Node
from agent.jobs.service import FileList, Job, JobKey, MountList
from agent.mounts.cluster import ClusterMounts
from agent.mounts.tool import VolumeTool
from agent.mounts.volumes import CLUSTER, MountFailure

log = structlog.get_logger(__name__)


class JobManager:
    """The jobs of one node (:class:`agent.jobs.service.JobService`)."""

    def __init__(
        self,
        node: Node,
        planner: Planner,
        cluster: ClusterMounts,
        nursery: trio.Nursery,
        *,
        tool: VolumeTool | None = None,
    ) -> None:
        self._node = node
        self._planner = planner
        self._cluster = cluster
        self._nursery = nursery
        self._jobs: dict[JobKey, JobRunner] = {}
        self._values: dict[str, list[str]] = {}
        self._creating = trio.Lock()
        self._admitting = trio.Lock()
        self._deleting: dict[JobKey, trio.Lock] = {}
        self._files = JobFiles(node.mounts, tool or VolumeTool())

    # -- start --------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Take up every job of the journal where it was; clear away what belongs to none."""
        records = await self._node.store.load()
        for record in records:
            runner = self._add(record)
            self._keep_secret(record.id.uuid)
            if record.provisioning == "deleting":
                self._nursery.start_soon(self._finish_delete, record.key)
            if not record.progress.ended and record.progress.step is not Step.QUEUED:
                log.info("job taken up again", job=str(record.key), step=record.progress.step.value)
                self._nursery.start_soon(runner.run)
        known = {record.id.uuid for record in records}
        live = {record.id.uuid for record in records if not record.progress.ended}
        for owner in self._node.mounts.owners() - live - {CLUSTER}:
            self._nursery.start_soon(self._unmount_orphans, owner)
        await trio.to_thread.run_sync(
            lambda: steps.remove_unknown(self._node.config.node.state_dir / "jobs", known)
        )
        self.admit()

    async def _unmount_orphans(self, owner: str) -> None:
        for volume in reversed(self._node.mounts.of_owner(owner)):
            log.warning("volume of a job that has ended: unmounted", volume=volume, uuid=owner)
            try:
                await self._node.mounts.unmount(volume)
            except MountFailure as failure:
                log.warning("volume of a job that has ended had losses", error=failure.message)

    def _add(self, record: JobRecord) -> JobRunner:
        runner = JobRunner(record, self._node)
        self._jobs[record.key] = runner
        return runner

    def _keep_secret(self, job: str) -> None:
        try:
            document = self._node.secrets.read(job)
        except (OSError, ValueError) as error:
            log.warning("a job's document cannot be read", uuid=job, error=str(error))
            return
        self._values[job] = self._planner.secret_values(document)
        self._node.redactor.add(self._values[job])

    def admit(self) -> None:
        """Start the jobs whose turn it is."""
        self._nursery.start_soon(self._admit)

    async def _admit(self) -> None:
        # One at a time: two that choose at once could fill a place twice.
        async with self._admitting:
            records = [runner.record for runner in self._jobs.values()]
            for record in admissible(records, self._node.config.jobs.max_running):
                runner = self._jobs[record.key]
                if await runner.admit():
                    self._nursery.start_soon(runner.run)

    # -- the protocol -------------------------------------------------------------------------

    def _find(self, key: JobKey) -> JobRunner:
        runner = self._jobs.get(key)
        if runner is None:
            message = (
                f"there is no job {key.job!r} in the experiment {key.workspace}/{key.experiment}"
            )
            raise NotFound("JobNotFound", message, hint="batchai job list shows those that exist")
        return runner

    async def create(self, key: JobKey, document: object) -> Job:
        """Accept a job; see :meth:`agent.jobs.service.JobService.create`."""
        async with self._creating:
            existing = self._jobs.get(key)
            if existing is not None:
                return self._same(existing, document)
            node = self._node.config.node
            identity = JobId(
                subscription=node.subscription,
                resource_group=node.resource_group,
                workspace=key.workspace,
                experiment=key.experiment,
                job=key.job,
                uuid=str(uuid.uuid4()),
            )
            # May take its time: the whole environment is worked out.
            plan = await trio.to_thread.run_sync(lambda: self._planner.plan(identity, document))
            now = datetime.now(UTC)
            record = JobRecord(
                id=identity,
                properties=plan.properties,
                tool_type=plan.tool_type,
                priority=plan.priority,
                created=now,
                provisioning="succeeded",
                progress=Progress.queued(now),
                revision=0,
            )
            # The document first: a job without one could not run.
            await trio.to_thread.run_sync(lambda: self._node.secrets.write(identity.uuid, document))
            self._keep_secret(identity.uuid)
            record = await self._node.store.insert(record, "Created")
            runner = self._add(record)
            log.info("job accepted", job=str(key), uuid=identity.uuid, tool=plan.tool_type)
        self.admit()
        return runner.record.job()

    def _same(self, existing: JobRunner, document: object) -> Job:
        with contextlib.suppress(OSError, ValueError):
            before = self._node.secrets.read(existing.record.id.uuid)
            deleting = existing.record.provisioning == "deleting"
            if not deleting and _canonical(before) == _canonical(document):
                return existing.record.job()
        raise Conflict(
            "JobAlreadyExists",
            f"there is already a job {existing.record.key.job!r}, made from another document",
            hint="choose another name, or delete that job first",
        )

    async def get(self, key: JobKey) -> Job:
        """The job as it is now."""
        await trio.lowlevel.checkpoint()
        return self._find(key).record.job()

    async def list(self, workspace: str, experiment: str) -> list[Job]:
        """All jobs of an experiment, oldest first."""
        await trio.lowlevel.checkpoint()
        records = [runner.record for runner in self._jobs.values()]
        chosen = [
            record
            for record in records
            if (record.key.workspace, record.key.experiment) == (workspace, experiment)
        ]
        chosen.sort(key=lambda record: (record.created, record.id.uuid))
        return [record.job() for record in chosen]

    async def terminate(self, key: JobKey) -> Job:
        """Begin to end a job."""
        runner = self._find(key)
        await runner.terminate()
        return runner.record.job()

    async def delete(self, key: JobKey) -> None:
        """Forget a job; one that runs is ended first."""
        runner = self._find(key)
        if runner.record.provisioning != "deleting":
            await runner.mark_deleting()
        await self._finish_delete(key)

    async def _finish_delete(self, key: JobKey) -> None:
        lock = self._deleting.setdefault(key, trio.Lock())
        async with lock:
            runner = self._jobs.get(key)
            if runner is None:
                return  # another request was faster
            await runner.terminate()
            await runner.wait_ended()
            job = runner.record.id
            config = self._node.config.node
            layout = steps.layout_of(job, self._node.config)
            # A job may leave millions of files; there is no deadline to name for that.
            await trio.to_thread.run_sync(lambda: steps.remove_job(layout))
            await trio.to_thread.run_sync(lambda: steps.remove_state(config.state_dir, job.uuid))
            await self._node.store.delete(job.uuid)
            self._node.redactor.discard(self._values.pop(job.uuid, []))
            del self._jobs[key]
            self._deleting.pop(key, None)
            runner.forget()
            log.info("job deleted", job=str(key), uuid=job.uuid)

    async def list_files(self, key: JobKey, directory_id: str, path: str) -> FileList:
        """One directory of a job's outputs."""
        return await self._files.listing(self._find(key), directory_id, path)

    async def open_stream(
        self, key: JobKey, directory_id: str, path: str, *, offset: int, follow: bool
    ) -> AsyncIterator[bytes]:
        """The bytes of a file from an offset on."""
        job = self._find(key)
        return await self._files.open_stream(job, directory_id, path, offset=offset, follow=follow)

    async def read_file(
        self, key: JobKey, directory_id: str, path: str, offset: int, length: int
    ) -> bytes:
        """Bytes of a file."""
        return await self._files.read(self._find(key), directory_id, path, offset, length)

    async def wait_changed(self, key: JobKey, last_seen: int) -> Job:
        """The job, as soon as its revision is another one."""
        return (await self._find(key).wait_changed(last_seen)).job()

    async def ask_mounts(self) -> None:
        """Ask the drivers how they are."""
        await self._node.mounts.ask()

    def mounts(self) -> MountList:
        """Every volume that is mounted or ought to be."""
        return [*self._node.mounts.statuses(), *self._cluster.statuses()]

    def health(self) -> dict[str, Any]:
        """Counts for the operator."""
        progresses = [runner.progress for runner in self._jobs.values()]
        queued = sum(1 for progress in progresses if progress.step is Step.QUEUED)
        live = sum(1 for progress in progresses if not progress.ended)
        mounts = self.mounts()
        return {
            "jobs": len(progresses),
            "queued": queued,
            "running": live - queued,
            "maxRunning": self._node.config.jobs.max_running,
            "mounts": sum(1 for mount in mounts if mount.state == "mounted"),
            "failedMounts": sum(1 for mount in mounts if mount.state == "failed"),
            "gpus": self._node.gpus,
            "user": self._node.user.name,
        }


def _canonical(document: object) -> str:
    return json.dumps(document, sort_keys=True)
