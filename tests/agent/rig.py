"""A node in a directory: the real parts, but for volumes, which a fake driver serves."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from agent.config import Config, resolve_user
from agent.jobs.manager import JobManager
from agent.jobs.plan import Planner, cluster_volumes
from agent.jobs.runner import Node
from agent.jobs.service import Job, JobKey
from agent.mounts.cluster import ClusterMounts
from agent.mounts.driver import Paths
from agent.mounts.manager import MountManager
from agent.secrets import Redactor, SecretFiles
from agent.store import Store

FAKE_DRIVER = (sys.executable, str(Path(__file__).parent / "fake_driver.py"))
KEY = JobKey("ws", "exp", "job-1")


@dataclass
class Rig:
    """One agent's life on the node."""

    config: Config
    jobs: JobManager
    mounts: MountManager
    store: Store
    nursery: trio.Nursery

    def stop(self) -> None:
        """As SIGTERM does it, or kill -9: nothing is ended in good order."""
        self.nursery.cancel_scope.cancel()

    async def ended(self, key: JobKey = KEY, *, within_s: float = 30) -> Job:
        """Wait for a job's end."""
        return await self.until(key, lambda job: job.ended, within_s=within_s)

    async def until(self, key: JobKey, condition: Any, *, within_s: float = 30) -> Job:
        """Wait until a job is as wanted."""
        job = await self.jobs.get(key)
        with trio.move_on_after(within_s):
            while not condition(job):
                job = await self.jobs.wait_changed(key, job.revision)
            return job
        raise AssertionError(f"the job did not get there: {job}")


@asynccontextmanager
async def agent_on(config: Config) -> AsyncIterator[Rig]:
    """An agent on the node, without its API; ends like a killed one."""
    node = config.node
    for directory in (node.state_dir / "jobs", node.run_dir, node.mount_root, node.jobs_root):
        directory.mkdir(parents=True, exist_ok=True)
    node.cache_dir.mkdir(exist_ok=True)
    user = resolve_user(config.jobs)
    store = Store(node.state_dir / "journal.sqlite")
    try:
        async with trio.open_nursery() as nursery:
            mounts = MountManager(
                Paths(node.run_dir, node.state_dir, node.cache_dir),
                nursery,
                mount_timeout_s=config.jobs.mount_timeout_s,
                unmount_timeout_s=config.jobs.unmount_timeout_s,
                command=FAKE_DRIVER,
            )
            await mounts.adopt()
            volumes = cluster_volumes(config, user)
            planner = Planner(config, user, gpu_count=2, cluster=volumes)
            cluster = ClusterMounts(volumes, mounts)
            secrets = SecretFiles(node.state_dir / "jobs")
            jobs: JobManager
            shared = Node(
                config=config,
                user=user,
                store=store,
                secrets=secrets,
                mounts=mounts,
                redactor=Redactor(),
                plan=lambda record: planner.plan(record.id, secrets.read(record.id.uuid)),
                cluster_failures=cluster.failures,
                changed=lambda: jobs.admit(),  # noqa: PLW0108
            )
            jobs = JobManager(shared, planner, cluster, nursery)
            await nursery.start(cluster.run)
            await jobs.restore()
            yield Rig(config, jobs, mounts, store, nursery)
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def job_document(command: str, **properties: Any) -> dict[str, Any]:
    """A job whose logs stay on the node: no volume is needed."""
    return {
        "properties": {
            "nodeCount": 1,
            "customToolkitSettings": {"commandLine": command},
            "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_TEMP",
            **properties,
        }
    }
