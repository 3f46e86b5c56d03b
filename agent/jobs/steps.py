"""The steps' work on directories, and their failures in a job's words. All of it blocks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agent.config import Config, JobUser
from agent.errors import BatchError
from agent.jobs import beneath
from agent.jobs.layout import JobId, JobLayout, OutputPath
from agent.jobs.service import JobError
from agent.mounts import mountinfo
from agent.mounts.manager import remove_mountpoints

EXECUTION_LOG = "execution.log"


def layout_of(job: JobId, config: Config) -> JobLayout:
    """Where a job's directories are."""
    return JobLayout(job, os.fspath(config.node.jobs_root))


def make_directories(layout: JobLayout, user: JobUser) -> None:
    """Make a job's directories: ``wd`` and ``tmp`` its own, what is above them not its to change.

    So it can neither rename a mount point nor put a link in its place.
    """
    Path(layout.mounts).mkdir(parents=True, exist_ok=True)
    for directory in (layout.work, layout.temp):
        path = Path(directory)
        path.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(path, user.uid, user.gid, follow_symlinks=False)


def output_creator(output: OutputPath, layout: JobLayout, user: JobUser) -> Callable[[], None]:
    """Work that makes one output directory, on its volume and nowhere else."""

    def create() -> None:
        local = output.volume_root == layout.temp
        if not local and not mountinfo.at(mountinfo.read(), output.volume_root):
            # Else it would be made on the node's disk, and vanish with the job.
            message = f"no volume is mounted at {output.volume_root}"
            raise BatchError("OutputDirectoryFailed", message)
        try:
            beneath.create(output.volume_root, output.relative, uid=user.uid, gid=user.gid)
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                reason = "a part of the path is a link or a file, not a directory"
            raise BatchError(
                "OutputDirectoryFailed",
                f"cannot create the output directory {output.path}: {reason}",
                hint="is there room on the volume, and may this account write to it?",
            ) from error

    return create


def execution_log(output: OutputPath, warnings: Sequence[str], user: JobUser) -> Callable[[], None]:
    """Work that tells the job's owner, beside stdout and stderr, what the node warns of.

    The file has the name that Batch AI gave its own; there is none where nothing is to be told.
    """
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    text = "".join(f"{stamp} warning: {warning}\n" for warning in warnings)
    path = f"{output.relative}/{EXECUTION_LOG}".lstrip("/")

    def write() -> None:
        try:
            beneath.write(output.volume_root, path, text, uid=user.uid, gid=user.gid)
        except OSError as error:
            raise BatchError(
                "OutputDirectoryFailed",
                f"cannot write {output.path}/{EXECUTION_LOG}: {error.strerror or error}",
                hint="is there room on the volume, and may this account write to it?",
            ) from error

    return write


def remove_mounts(layout: JobLayout) -> None:
    """Remove a job's empty mount points; ``wd`` and ``tmp`` stay until the job is deleted."""
    if Path(layout.mounts).exists():
        remove_mountpoints(Path(layout.mounts))


def remove_job(layout: JobLayout) -> None:
    """Remove a job's directories.

    Raises:
        OSError: A volume is still mounted in there: it would be emptied.
    """
    root = Path(layout.root)
    inside = mountinfo.below(mountinfo.read(), os.fspath(root))
    if inside:
        raise OSError(errno.EBUSY, "a volume is still mounted", inside[0].mountpoint)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root)
    for parent in (root.parent, root.parent.parent):
        with contextlib.suppress(OSError):
            parent.rmdir()  # of the experiment, the workspace: if this was their last job


def remove_state(state_dir: Path, uuid: str) -> None:
    """Remove what the node keeps of a job: spool, logs, secrets."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(state_dir / "jobs" / uuid)


def remove_unknown(jobs_dir: Path, known: set[str]) -> None:
    """Remove the state of jobs that the journal does not have.

    Such are made when the agent dies between writing a job's document and journalling it.
    """
    for directory in jobs_dir.iterdir():
        if directory.name not in known:
            shutil.rmtree(directory, ignore_errors=True)


def job_error(error: BatchError) -> JobError:
    """A step's failure as the job's."""
    details = [("Info", fault.message) for fault in error.details]
    if error.hint:
        details.append(("Hint", error.hint))
    return JobError(error.code, error.message, tuple(details))


def unexpected(step: str, error: Exception) -> JobError:
    """A failure that nobody foresaw."""
    causes = list(flatten(error))
    cause = "; ".join(f"{type(each).__name__}: {each}" for each in causes)
    code = "NodeError" if all(isinstance(each, OSError) for each in causes) else "InternalError"
    hint = ("Hint", "the agent's log tells more: journalctl -u batchai-agent")
    return JobError(code, f"the node failed at step {step!r}: {cause}", (("Info", cause), hint))


def flatten(error: BaseException) -> list[BaseException]:
    """The single errors of a group, however deep."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in flatten(each)]
    return [error]
