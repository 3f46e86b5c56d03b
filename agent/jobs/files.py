"""A job's output files, wherever they are at the moment.

The standard streams are read from the job's spool on this node: the same bytes at the same offsets
as on the share, and there even when the share is not. Everything else is read through the mount
while it is mounted, and after that from the storage by the driver's program.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from agent.blocking import Blocking
from agent.errors import BatchError, NotFound, Unavailable
from agent.jobs import beneath
from agent.jobs.layout import OutputPath
from agent.jobs.lifecycle import BEFORE_RUN, Step
from agent.jobs.plan import STDOUTERR, JobPlan
from agent.jobs.runner import JobRunner
from agent.jobs.service import FileEntry
from agent.mounts.manager import MountManager
from agent.mounts.tool import VolumeTool
from agent.mounts.volumes import Volume
from agent.watch import DirectoryWatch, watch

T = TypeVar("T")

_CHUNK = 256 * 1024
_BLOCK = 16 << 20
_BLOCK_AGE_S = 10.0
_POLL_S = 1.0
_LOOK_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class _Block:
    """A piece of a file in the storage, kept for whoever reads on."""

    where: tuple[str, str]
    offset: int
    data: bytes
    at: float
    complete: bool


class JobFiles:
    """Reads files of all jobs."""

    def __init__(self, mounts: MountManager, tool: VolumeTool) -> None:
        self._mounts = mounts
        self._tool = tool
        self._spools = Blocking("the disk of this node")
        self._block: _Block | None = None

    # -- lists --------------------------------------------------------------------------------

    async def listing(self, job: JobRunner, directory_id: str, path: str) -> list[FileEntry]:
        """One directory."""
        output = _output(job.plan(), directory_id)
        relative = _clean(path)
        spooled = {}
        if directory_id == STDOUTERR and not relative:
            spool = job.paths.spool
            found = await self._spools.run(lambda: _spool_entries(spool))
            spooled = {entry.name: entry for entry in found}
        try:
            entries = await self._listing(job, output, relative)
        except NotFound:
            if relative:
                raise
            entries = []  # nothing was ever created in it
        except Unavailable:
            if not spooled:
                raise
            entries = []
        merged = {entry.name: entry for entry in entries} | spooled
        return [merged[name] for name in sorted(merged)]

    async def _listing(self, job: JobRunner, output: OutputPath, path: str) -> list[FileEntry]:
        if job.progress.step in BEFORE_RUN | {Step.QUEUED}:
            return []
        below = _join(output.relative, path)
        volume = job.plan().volume_at(output.volume_root)
        if volume is None or self._mounts.is_mounted(volume.id):
            return await _reading(job, path, lambda: beneath.listing(output.volume_root, below))
        return await self._tool.listing(volume.document, below)

    # -- content ------------------------------------------------------------------------------

    async def read(
        self, job: JobRunner, directory_id: str, path: str, offset: int, length: int
    ) -> bytes:
        """Bytes of a file."""
        output, relative = _output(job.plan(), directory_id), _clean(path)
        if _is_spooled(job, directory_id, relative):
            spool = os.fspath(job.paths.spool)
            return await self._spools.run(lambda: beneath.read(spool, relative, offset, length))
        below = _join(output.relative, relative)
        volume = job.plan().volume_at(output.volume_root)
        if volume is None or self._mounts.is_mounted(volume.id):
            root = output.volume_root
            return await _reading(job, path, lambda: beneath.read(root, below, offset, length))
        return await self._read_stored(volume, below, offset, length)

    async def _read_stored(self, volume: Volume, path: str, offset: int, length: int) -> bytes:
        # Each request costs the start of a program, and a client reads on and on: take more.
        block, where = self._block, (volume.id, path)
        fresh = block is not None and trio.current_time() - block.at < _BLOCK_AGE_S
        if block is not None and fresh and block.where == where:
            start = offset - block.offset
            if start >= 0 and (start + length <= len(block.data) or block.complete):
                return block.data[start : start + length]
        most = max(length, _BLOCK)
        data = await self._tool.read(volume.document, path, offset, most)
        complete = len(data) < most
        self._block = _Block(where, offset, data, trio.current_time(), complete)
        return data[:length]

    async def open_stream(
        self, job: JobRunner, directory_id: str, path: str, *, offset: int, follow: bool
    ) -> AsyncIterator[bytes]:
        """The bytes of a file from an offset on."""
        output, relative = _output(job.plan(), directory_id), _clean(path)
        named = directory_id == STDOUTERR and relative in job.plan().stream_names()
        if named and (job.paths.spool / relative).exists():
            return self._stream_spool(job, job.paths.spool / relative, offset, follow=follow)
        if job.progress.ended or not follow:
            # Asked for before the first byte goes out: what is missing is a clean error.
            await self.read(job, directory_id, path, offset, 1)
            volume = job.plan().volume_at(output.volume_root)
            if volume is not None and not self._mounts.is_mounted(volume.id):
                return self._tool.stream(volume.document, _join(output.relative, relative), offset)
        if named:
            return self._stream_spool(job, job.paths.spool / relative, offset, follow=follow)
        return self._stream_mounted(job, directory_id, path, offset, follow=follow)

    async def _stream_spool(
        self, job: JobRunner, file: Path, offset: int, *, follow: bool
    ) -> AsyncIterator[bytes]:
        root = os.fspath(file.parent)
        while True:
            # Looked at before the file: once it has ended, nothing is written any more.
            final = job.progress.ended or not follow
            revision = job.record.revision
            if not _exists(file):
                if final:
                    return
                # The spool's directory is made by the supervisor, next to its status.
                parent = file.parent if _exists(file.parent) else job.paths.state_dir
                with watch(parent) as changes:
                    if not _exists(file) and _exists(file.parent) is (parent == file.parent):
                        await _change(job, revision, changes)
                continue
            with watch(file.parent) as changes:
                while data := await self._spool_chunk(root, file.name, offset):
                    offset += len(data)
                    yield data
                if final:
                    return
                if not job.progress.ended:
                    await _change(job, revision, changes)

    async def _spool_chunk(self, root: str, name: str, offset: int) -> bytes:
        return await self._spools.run(lambda: beneath.read(root, name, offset, _CHUNK))

    async def _stream_mounted(
        self, job: JobRunner, directory_id: str, path: str, offset: int, *, follow: bool
    ) -> AsyncIterator[bytes]:
        while True:
            final = job.progress.ended or not follow
            try:
                while data := await self.read(job, directory_id, path, offset, _CHUNK):
                    offset += len(data)
                    yield data
            except NotFound:
                if not follow:
                    raise
            if final:
                return
            with trio.move_on_after(_POLL_S):
                await job.wait_ended()


async def _change(job: JobRunner, revision: int, changes: DirectoryWatch) -> None:
    """Wait until the job, or the watched directory, has changed."""

    async def until_job_changes() -> None:
        with contextlib.suppress(NotFound):  # deleted: the next look sees it
            await job.wait_changed(revision)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_job_changes)
        await changes.wait(at_most_s=_LOOK_AGAIN_S)
        nursery.cancel_scope.cancel()


def _output(plan: JobPlan, directory_id: str) -> OutputPath:
    output = plan.output(directory_id)
    if output is None:
        known = ", ".join([STDOUTERR, *plan.outputs])
        raise NotFound(
            "OutputDirectoryNotFound",
            f"the job has no output directory {directory_id!r}",
            hint=f"it has: {known}",
        )
    return output


def _clean(path: str) -> str:
    try:
        return "/".join(beneath.split(path))
    except ValueError as error:
        raise BatchError("InvalidPath", str(error), status=400, exit_code=2) from None


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part and part != ".")


def _is_spooled(job: JobRunner, directory_id: str, path: str) -> bool:
    named = directory_id == STDOUTERR and path in job.plan().stream_names()
    return named and (job.paths.spool / path).exists()


def _exists(path: Path) -> bool:
    """On the node's own disk, where that does not take long."""
    return path.exists()


def _spool_entries(spool: Path) -> list[FileEntry]:
    try:
        return beneath.listing(os.fspath(spool), ".")
    except FileNotFoundError:
        return []


_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


async def _reading(job: JobRunner, path: str, work: Callable[[], T]) -> T:
    try:
        return await job.blocking.run(work)
    except OSError as error:
        raise _words(error, path) from error


def _words(error: OSError, path: str) -> BatchError:
    if error.errno in _MISSING:
        return NotFound("FileNotFound", f"there is no {path!r} in this directory")
    if error.errno in {errno.EISDIR, errno.EINVAL}:
        return BatchError("NotAFile", f"{path!r}: {error.strerror}", status=409, exit_code=4)
    return Unavailable("StorageUnavailable", f"cannot read {path!r}: {error.strerror}")
