"""The agent: one nursery with the jobs, the cluster's volumes and the API in it.

Stopping it stops nothing else: supervisors and drivers are processes of their own, and the next
agent adopts them.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import trio

from agent import cgroups, gpus, logs
from agent.config import Config, resolve_user
from agent.errors import BatchError, Conflict
from agent.jobs.manager import JobManager
from agent.jobs.plan import Planner, cluster_volumes
from agent.jobs.runner import Node
from agent.mounts.cluster import ClusterMounts
from agent.mounts.driver import Paths
from agent.mounts.manager import MountManager
from agent.notify import notify
from agent.secrets import Redactor, SecretFiles
from agent.store import Store

log = structlog.get_logger(__name__)


async def run(config: Config) -> None:
    """Be the agent of this node, until SIGTERM or SIGINT.

    Raises:
        BatchError: It cannot start as configured, or another agent has this node.
    """
    redactor = Redactor()
    logs.configure(config.log, redactor)
    user = resolve_user(config.jobs)
    _make_directories(config)
    with _exclusive(config.node.state_dir):
        redactor.add(key for account in config.storage.accounts if (key := account.read_key()))
        volumes = cluster_volumes(config, user)
        planner = Planner(config, user, gpu_count=gpus.count(), cluster=volumes)
        store = Store(config.node.state_dir / "journal.sqlite")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_signalled, nursery.cancel_scope)
                mounts = MountManager(
                    Paths(config.node.run_dir, config.node.state_dir, config.node.cache_dir),
                    nursery,
                    mount_timeout_s=config.jobs.mount_timeout_s,
                    unmount_timeout_s=config.jobs.unmount_timeout_s,
                    cgroup=cgroups.own(),
                )
                await mounts.adopt()
                cluster = ClusterMounts(volumes, mounts)
                secrets = SecretFiles(config.node.state_dir / "jobs")
                node = Node(
                    config=config,
                    user=user,
                    store=store,
                    secrets=secrets,
                    mounts=mounts,
                    redactor=redactor,
                    plan=lambda record: planner.plan(record.id, secrets.read(record.id.uuid)),
                    cluster_failures=cluster.failures,
                    changed=lambda: manager.admit(),  # noqa: PLW0108 (made below)
                    cgroup=cgroups.own(),
                    gpus=planner.gpu_count,
                )
                manager = JobManager(node, planner, cluster, nursery)
                await nursery.start(cluster.run)
                await manager.restore()
                # Imported here: the API's libraries cost a good part of the start.
                from agent.rest.server import serve

                await nursery.start(serve, manager, config)
                notify("READY=1\nSTATUS=running")
                log.info("agent is ready", pid=os.getpid(), user=user.name)
        finally:
            notify("STOPPING=1")
            store.close()
            log.info("agent has stopped; jobs and mounts go on")


async def _until_signalled(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("stopping", signal=signal.Signals(number).name)
            scope.cancel()
            return


def _make_directories(config: Config) -> None:
    node = config.node
    os.umask(0o022)
    # Others may pass through to what is theirs, and not look around.
    modes = {
        node.state_dir: 0o711,
        node.state_dir / "jobs": 0o700,
        node.cache_dir: 0o700,
        node.run_dir: 0o755,
        node.run_dir / "jobs": 0o700,
        node.mount_root: 0o755,
        node.jobs_root: 0o711,
    }
    for directory, mode in modes.items():
        try:
            if not directory.is_dir():
                directory.mkdir(parents=True, exist_ok=True)
                directory.chmod(mode)
        except OSError as error:
            raise BatchError(
                "DirectoryUnavailable",
                f"cannot make the directory {directory}: {error.strerror}",
                hint="start the agent as root, or choose other directories in [node]",
                exit_code=2,
            ) from error


@contextmanager
def _exclusive(state_dir: Path) -> Iterator[None]:
    """Keep other agents off this state directory.

    Raises:
        Conflict: Another one has it.
    """
    file = state_dir / "agent.lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise Conflict(
                "AgentAlreadyRunning",
                f"another agent (pid {other or 'unknown'}) already runs on {state_dir}",
                hint="stop it first, or give this one another node.state_dir",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
