"""What the API may ask of the jobs of this node: the types, and the protocol.

Nothing here does anything: :mod:`agent.jobs.manager` implements it, the REST server consumes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from agent.jobs.layout import JobId

ExecutionState = Literal["queued", "running", "terminating", "succeeded", "failed"]
ProvisioningState = Literal["creating", "deleting", "succeeded", "failed"]
ENDED: frozenset[ExecutionState] = frozenset({"succeeded", "failed"})
"""Execution states that a job never leaves."""


@dataclass(frozen=True, slots=True)
class JobKey:
    """The name of a job, within the subscription and resource group of the node."""

    workspace: str
    experiment: str
    job: str

    def __str__(self) -> str:
        return f"{self.workspace}/{self.experiment}/{self.job}"


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed, in Batch AI's shape (executionInfo.errors)."""

    code: str
    message: str
    details: tuple[tuple[str, str], ...] = ()
    """Name and value: ``Info`` the cause, ``Hint`` what to do, ``StdErr`` the last lines."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is now; a snapshot, never changed."""

    id: JobId
    properties: Mapping[str, Any]
    """What was asked for (ARM ``properties``): credentials ``{}``, values of secrets null."""
    tool_type: str
    execution_state: ExecutionState
    provisioning_state: ProvisioningState
    creation_time: datetime
    execution_state_transition_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    exit_code: int | None
    errors: tuple[JobError, ...]
    step: str
    """The step that was journalled last: queued, validate, secrets, mount, …, ended."""
    revision: int
    """Grows with every change of this job; for :meth:`JobService.wait_changed`."""

    @property
    def key(self) -> JobKey:
        """The job's name."""
        return JobKey(self.id.workspace, self.id.experiment, self.id.job)

    @property
    def ended(self) -> bool:
        """Whether the job will never change its execution state again."""
        return self.execution_state in ENDED


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One name in an output directory of a job."""

    name: str
    is_directory: bool
    size: int
    """Bytes; 0 for a directory."""
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class MountStatus:
    """One volume that is mounted, or ought to be."""

    id: str
    """12 hexadecimal digits: the name of its run directory."""
    kind: Literal["blob", "share"]
    source: str
    """What is mounted: ``https://account…/container`` or ``//host/share``."""
    mountpoint: str
    scope: Literal["cluster", "job"]
    job: JobKey | None
    state: Literal["mounting", "mounted", "unmounting", "failed"]
    pid: int | None
    """The driver's process."""
    error: str | None = None
    """Why it failed, in words."""
    hint: str | None = None
    warnings: tuple[str, ...] = ()
    """What is mounted, but not quite as was asked for, or needs a look."""


# The protocol's own method ``list`` hides the builtin from the annotations after it.
FileList = list[FileEntry]
MountList = list[MountStatus]


class JobService(Protocol):
    """The jobs of this node.

    Every method raises :class:`agent.errors.NotFound` for a job that does not exist, and only
    :class:`agent.errors.BatchError` for what a caller can do something about.
    """

    async def create(self, key: JobKey, document: object) -> Job:
        """Accept a job; it is journalled, and queued, when this returns.

        The same name with the same document gives the existing job.

        Raises:
            ValidationFailed: Every fault of the document, nothing was touched.
            Conflict: The name is taken by a job with another document.
        """
        ...

    async def get(self, key: JobKey) -> Job:
        """The job as it is now."""
        ...

    async def list(self, workspace: str, experiment: str) -> list[Job]:
        """All jobs of an experiment, oldest first."""
        ...

    async def terminate(self, key: JobKey) -> Job:
        """Begin to end a job; it is ``terminating`` after this, unless it had ended already."""
        ...

    async def delete(self, key: JobKey) -> None:
        """Forget a job and remove its directories on this node; one that runs is ended first."""
        ...

    async def list_files(self, key: JobKey, directory_id: str, path: str) -> FileList:
        """One directory, not its subdirectories; sorted by name.

        Args:
            key: The job.
            directory_id: Id of an output directory, or ``stdouterr``.
            path: Relative to that directory; ``.`` is the directory itself.

        Raises:
            NotFound: No such output directory or path.
        """
        ...

    async def open_stream(
        self, key: JobKey, directory_id: str, path: str, *, offset: int, follow: bool
    ) -> AsyncIterator[bytes]:
        """The bytes of a file from an offset on.

        With ``follow`` it waits for the file to appear and to grow, and ends when the job has
        ended **and** its last byte was given.

        Raises:
            NotFound: No such output directory; or no such file, and none to come.
        """
        ...

    async def read_file(
        self, key: JobKey, directory_id: str, path: str, offset: int, length: int
    ) -> bytes:
        """At most ``length`` bytes at an offset; empty at the end of the file."""
        ...

    async def wait_changed(self, key: JobKey, last_seen: int) -> Job:
        """The job, as soon as its revision is another one than ``last_seen``."""
        ...

    async def ask_mounts(self) -> None:
        """Ask the drivers how they are, so that :meth:`mounts` tells of now. A few seconds."""
        ...

    def mounts(self) -> MountList:
        """Every volume that is mounted or ought to be."""
        ...

    def health(self) -> dict[str, Any]:
        """Counts for the operator: ``running``, ``queued``, ``mounts``, …; JSON."""
        ...


JobServiceProtocol = JobService
