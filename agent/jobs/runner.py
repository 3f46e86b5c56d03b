"""Takes one job through its steps; the decisions are :mod:`agent.jobs.lifecycle`'s."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
import trio

from agent import cgroups
from agent.blocking import Blocking
from agent.config import Config, JobUser
from agent.errors import BatchError, NotFound
from agent.jobs import lifecycle, outcome, steps, supervision
from agent.jobs.lifecycle import (
    BEFORE_RUN,
    SUPERVISED,
    Admitted,
    Draining,
    Event,
    Progress,
    Step,
    StepDone,
    StepFailed,
    TerminateRequested,
)
from agent.jobs.plan import JobPlan
from agent.jobs.records import JobRecord
from agent.jobs.service import JobError
from agent.jobs.supervision import SupervisorPaths
from agent.mounts.manager import MountManager
from agent.mounts.volumes import MountFailure, Volume
from agent.secrets import Redactor, SecretFiles
from agent.store import Store

log = structlog.get_logger(__name__)

# What a termination may take beyond the grace and the draining, before the supervisor is killed.
_TERMINATE_MARGIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Node:
    """What all jobs of the node share."""

    config: Config
    user: JobUser
    store: Store
    secrets: SecretFiles
    mounts: MountManager
    redactor: Redactor
    plan: Callable[[JobRecord], JobPlan]
    """Works a job's plan out from its document; raises BatchError."""
    cluster_failures: Callable[[Iterable[str]], list[MountFailure]]
    """Why cluster volumes that these texts name are not mounted."""
    changed: Callable[[], None]
    """Called when a job has ended, or was added: the queue may move."""
    cgroup: Path | None = None
    supervisor_command: tuple[str, ...] = supervision.COMMAND
    gpus: int = 0


class JobRunner:
    """One job. Everything that changes it goes through here."""

    def __init__(self, record: JobRecord, node: Node) -> None:
        self.record = record
        self.blocking = Blocking(f"the storage of job {record.key}")
        self.paths = SupervisorPaths.of(
            record.id.uuid, state_dir=node.config.node.state_dir, run_dir=node.config.node.run_dir
        )
        self._node = node
        self._lock = trio.Lock()
        self._changed = trio.Event()
        self._deleted = False
        self._terminate = trio.Event()
        if record.progress.execution_state == "terminating":
            self._terminate.set()
        self._cut: trio.CancelScope | None = None
        self._plan: JobPlan | None = None
        self._log = log.bind(job=str(record.key), uuid=record.id.uuid)

    @property
    def progress(self) -> Progress:
        """How far the job is."""
        return self.record.progress

    def plan(self) -> JobPlan:
        """The job's plan; worked out once.

        Raises:
            BatchError: It cannot be, any more.
        """
        if self._plan is None:
            self._plan = self._node.plan(self.record)
        return self._plan

    # -- changes ------------------------------------------------------------------------------

    async def apply(self, event: Event) -> None:
        """Journal what follows from an event, then tell everybody."""
        async with self._lock:
            await self._apply(event)
        if self.progress.ended:
            self._node.changed()

    async def _apply(self, event: Event) -> None:
        following = lifecycle.advance(self.progress, event, datetime.now(UTC))
        following = replace(following, errors=self._redacted(following.errors))
        if following == self.progress:
            return
        await self._write(replace(self.record, progress=following), type(event).__name__)
        self._log.info(
            "job step",
            step=following.step.value,
            state=following.execution_state,
            exit_code=following.exit_code,
            errors=[error.code for error in following.errors] or None,
        )

    async def mark_deleting(self) -> None:
        """Journal that the job is to be deleted."""
        async with self._lock:
            await self._write(replace(self.record, provisioning="deleting"), "DeleteRequested")

    async def _write(self, record: JobRecord, event: str) -> None:
        self.record = await self._node.store.update(record, event)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def forget(self) -> None:
        """The job was deleted: whoever waits for it learns that."""
        self._deleted = True
        self._wake()

    async def wait_changed(self, revision: int) -> JobRecord:
        """Wait until the job's revision is another one.

        Raises:
            NotFound: The job was deleted.
        """
        while self.record.revision == revision and not self._deleted:
            await self._changed.wait()
        if self._deleted:
            raise NotFound("JobNotFound", f"the job {self.record.key} was deleted")
        return self.record

    async def wait_ended(self) -> None:
        """Wait until nothing of the job will change any more."""
        while not self.progress.ended and not self._deleted:
            await self._changed.wait()

    def _redacted(self, errors: tuple[JobError, ...]) -> tuple[JobError, ...]:
        redact = self._node.redactor.redact
        return tuple(
            JobError(e.code, redact(e.message), tuple((n, redact(v)) for n, v in e.details))
            for e in errors
        )

    async def terminate(self) -> None:
        """Begin to end the job; no harm when it has ended."""
        await self.apply(TerminateRequested())
        self._terminate.set()
        if self._cut is not None:
            self._cut.cancel()

    # -- the way through ------------------------------------------------------------------------

    async def admit(self) -> bool:
        """Give the job its place; whether it is for the caller to run it now."""
        async with self._lock:
            if self.progress.step is not Step.QUEUED or self.record.provisioning == "deleting":
                return False  # terminated meanwhile, or admitted twice
            await self._apply(Admitted())
            return True

    async def run(self) -> None:
        """From admission, or from wherever an earlier agent left it, to the end."""
        while not self.progress.ended:
            step = self.progress.step
            event: Event | None = None
            with trio.CancelScope() as scope:
                if step in BEFORE_RUN:
                    self._cut = scope
                event = await self._perform(step)
            self._cut = None
            # A termination may have moved the job on: the step's result is then of no use.
            same = step is self.progress.step or {step, self.progress.step} <= SUPERVISED
            if event is not None and same:
                await self.apply(event)

    async def _perform(self, step: Step) -> Event:
        work: dict[Step, Callable[[], Awaitable[Event]]] = {
            Step.VALIDATE: self._validate,
            Step.SECRETS: self._resolve_secrets,
            Step.MOUNT: self._mount,
            Step.OUTPUTS: self._create_outputs,
            Step.RUN: self._supervise,
            Step.DRAIN: self._supervise,
            Step.UNMOUNT: self._unmount,
            Step.CLEAN: self._clean,
        }
        try:
            return await work[step]()
        except BatchError as error:
            return StepFailed((steps.job_error(error),))
        except Exception as error:  # noqa: BLE001 (a defect ends this job, not the others)
            self._log.exception("job step failed", step=step.value)
            return StepFailed((steps.unexpected(step.value, error),))

    async def _validate(self) -> Event:
        self._plan = None
        self.plan()
        await trio.lowlevel.checkpoint()
        return StepDone()

    async def _resolve_secrets(self) -> Event:
        # Keys and values of secrets come with the document or from the configured accounts; the
        # plan has put them into the volumes and the environment. Key Vault would be asked here.
        self.plan()
        await trio.lowlevel.checkpoint()
        return StepDone()

    async def _mount(self) -> Event:
        plan = self.plan()
        failures = self._node.cluster_failures(plan.texts())
        if not failures:
            await self.blocking.run(lambda: steps.make_directories(plan.layout, self._node.user))

            async def mount(volume: Volume) -> None:
                try:
                    await self._node.mounts.mount(volume)
                except MountFailure as failure:
                    failures.append(failure)  # the others go on: every fault is to be told

            async with trio.open_nursery() as nursery:
                for volume in plan.volumes:
                    nursery.start_soon(mount, volume)
        if failures:
            return StepFailed(tuple(failure.job_error() for failure in failures))
        return StepDone()

    async def _create_outputs(self) -> Event:
        plan, user = self.plan(), self._node.user
        for output in (plan.stdouterr, *plan.outputs.values()):
            work = steps.output_creator(output, plan.layout, user)
            await self.blocking.run(work, timeout_s=60)
        await self._node.mounts.ask()
        warnings = self._node.mounts.warnings(self.record.id.uuid)
        if warnings:
            work = steps.execution_log(plan.stdouterr, warnings, user)
            await self.blocking.run(work, timeout_s=60)
        return StepDone()

    async def _supervise(self) -> Event:
        started = False
        while True:
            sighting = supervision.look(self.paths)
            if isinstance(sighting, supervision.Absent):
                if self._terminate.is_set():
                    # Terminated between the journal's entry and the start: nothing to end.
                    return StepFailed((lifecycle.TERMINATED_EARLY,))
                await self._start_supervisor()
                started = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._terminate_when_asked)
                sighting = await supervision.follow(self.paths, self._tell)
                nursery.cancel_scope.cancel()
            if started or not isinstance(sighting, supervision.Absent):
                break
            # An earlier agent died while it gave the supervisor its instructions: nothing ran.
        cgroup = self._cgroup()
        match sighting:
            case supervision.Finished(status):
                event: Event = outcome.of_status(status, max_wall_clock_s=self._limit_s())
            case supervision.Lost(status, restarted):
                await supervision.clear_remains(self.record.id.uuid, status, cgroup)
                words = supervision.last_words(self.paths)
                event = StepFailed((outcome.lost(restarted=restarted, log=words),))
            case _:
                words = supervision.last_words(self.paths)
                message = "the job's supervisor could not start"
                details = (("Info", words or "it said nothing"),)
                event = StepFailed((JobError("SupervisorFailed", message, details),))
        if cgroup is not None:
            cgroups.remove(cgroup)
        return event

    def _limit_s(self) -> float | None:
        try:
            return self.plan().max_wall_clock_s
        except BatchError:
            return None  # only its words would have used it

    def _cgroup(self) -> Path | None:
        parent = self._node.cgroup
        return None if parent is None else parent / f"job-{self.record.id.uuid}"

    async def _start_supervisor(self) -> None:
        config, plan = self._node.config, self.plan()
        cgroup = self._cgroup()
        if cgroup is not None:
            try:
                cgroups.create(cgroup.parent, cgroup.name)
            except OSError as error:
                self._log.warning("no cgroup for the job", path=str(cgroup), error=str(error))
            cgroup = cgroup if cgroup.is_dir() else None
        user = self._node.user
        document = {
            "version": 1,
            "jobId": self.record.id.uuid,
            "stateDir": os.fspath(self.paths.state_dir),
            "socket": os.fspath(self.paths.socket),
            "phases": plan.phases(),
            "shell": os.fspath(config.jobs.shell),
            "environment": dict(plan.environment),
            "secrets": list(plan.secret_names),
            "workingDirectory": os.fspath(plan.layout.work),
            "user": {"uid": user.uid, "gid": user.gid, "groups": list(user.groups)},
            "logDirectory": plan.stdouterr.path,
            "maxWallClockSeconds": plan.max_wall_clock_s,
            "terminateGraceSeconds": config.jobs.terminate_grace_s,
            "drainTimeoutSeconds": config.jobs.drain_timeout_s,
            "cgroup": None if cgroup is None else os.fspath(cgroup),
            "spoolQuotaBytes": config.jobs.spool_quota_bytes,
        }
        if os.geteuid() != 0:
            document["user"] = None  # the agent is that user already
        identity = await supervision.start(
            self.paths, document, command=self._node.supervisor_command
        )
        self._log.info("supervisor started", pid=identity.pid)

    async def _tell(self, status: Mapping[str, Any]) -> None:
        if status.get("state") == "draining" and self.progress.step is Step.RUN:
            await self.apply(Draining())

    async def _terminate_when_asked(self) -> None:
        await self._terminate.wait()
        jobs = self._node.config.jobs
        await supervision.terminate(
            self.paths,
            grace_s=jobs.terminate_grace_s,
            most_s=jobs.terminate_grace_s + jobs.drain_timeout_s + _TERMINATE_MARGIN_S,
        )

    async def _unmount(self) -> Event:
        failures: list[MountFailure] = []
        for volume in reversed(self._node.mounts.of_owner(self.record.id.uuid)):
            try:
                await self._node.mounts.unmount(volume)
            except MountFailure as failure:
                failures.append(failure)
        if failures:
            return StepFailed(tuple(failure.unmount_error() for failure in failures))
        return StepDone()

    async def _clean(self) -> Event:
        layout = steps.layout_of(self.record.id, self._node.config)
        try:
            await self.blocking.run(lambda: steps.remove_mounts(layout))
        except (OSError, BatchError) as error:
            # Nothing of the job is lost by it: told to the operator, not held against the job.
            self._log.warning("mount points are left behind", error=str(error))
        self.paths.socket.unlink(missing_ok=True)
        return StepDone()
