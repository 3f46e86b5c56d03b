"""Where a job's directories and outputs are. Pure: nothing is touched here."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JobId:
    """What tells a job from every other, deleted ones of the same name included."""

    subscription: str
    resource_group: str
    workspace: str
    experiment: str
    job: str
    uuid: str

    @property
    def segment(self) -> str:
        """``jobOutputDirectoryPathSegment`` (storage guide, "Access Stdout and Stderr output")."""
        return (
            f"{self.subscription}/{self.resource_group}/workspaces/{self.workspace}"
            f"/experiments/{self.experiment}/jobs/{self.job}/{self.uuid}"
        )


@dataclass(frozen=True, slots=True)
class JobLayout:
    """The job's directories on the node: ``<jobs root>/<workspace>/<experiment>/<job>/…``.

    Attributes:
        id: The job.
        jobs_root: Absolute path that all jobs lie below.
    """

    id: JobId
    jobs_root: str

    @property
    def root(self) -> str:
        """The job's own directory."""
        return posixpath.join(self.jobs_root, self.id.workspace, self.id.experiment, self.id.job)

    @property
    def mounts(self) -> str:
        """``$AZ_BATCHAI_JOB_MOUNT_ROOT``."""
        return posixpath.join(self.root, "mounts")

    @property
    def work(self) -> str:
        """The working directory."""
        return posixpath.join(self.root, "wd")

    @property
    def temp(self) -> str:
        """``$AZ_BATCHAI_JOB_TEMP``, local to the node."""
        return posixpath.join(self.root, "tmp")


@dataclass(frozen=True, slots=True)
class OutputPath:
    """A directory that the agent makes for the job.

    Attributes:
        volume_root: The mount point (or the job's temporary directory) that it must stay below.
        relative: Its path below that.
    """

    volume_root: str
    relative: str

    @property
    def path(self) -> str:
        """Its absolute path."""
        return posixpath.join(self.volume_root, self.relative)


def locate(path: str, roots: list[str]) -> OutputPath | None:
    """Which of ``roots`` an absolute path lies in, or None. Purely by name; ``..`` is refused."""
    if not path.startswith("/") or ".." in path.split("/"):
        return None
    clean = posixpath.normpath(path)
    for root in sorted(roots, key=len, reverse=True):
        base = posixpath.normpath(root)
        if clean == base:
            return OutputPath(base, "")
        if clean.startswith(f"{base}/"):
            return OutputPath(base, clean[len(base) + 1 :])
    return None
