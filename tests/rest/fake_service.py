"""A fake job service: records that a test moves on by hand. Runs nothing, mounts nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import trio

from agent.errors import BatchError, Fault, NotFound, ValidationFailed
from agent.jobs.layout import JobId
from agent.jobs.service import FileEntry, Job, JobError, JobKey, MountStatus

CREATED = datetime(2018, 6, 13, 22, 41, 54, 916000, tzinfo=UTC)
UUID = "00000000-0000-4000-8000-000000000001"


def missing(code: str, message: str) -> BatchError:
    return NotFound(code, message, hint="look with: batchai job list")


class FakeService:
    """Implements JobService's protocol in memory."""

    def __init__(self) -> None:
        self.jobs: dict[JobKey, Job] = {}
        self.documents: dict[JobKey, object] = {}
        self.files: dict[tuple[JobKey, str, str], bytearray] = {}
        self.changed = trio.Event()
        self.refusal: Exception | None = None
        self.delete_gate: trio.Event | None = None
        self.terminate_ends = True
        self.followers = 0

    def _wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def update(self, key: JobKey, **changes: Any) -> Job:
        job = self.jobs[key]
        self.jobs[key] = replace(job, revision=job.revision + 1, **changes)
        self._wake()
        return self.jobs[key]

    def end(self, key: JobKey, code: int | None = 0, error: JobError | None = None) -> None:
        self.update(
            key,
            execution_state="succeeded" if code == 0 else "failed",
            start_time=CREATED,
            end_time=CREATED,
            exit_code=code,
            errors=(error,) if error else (),
        )

    def write(self, key: JobKey, name: str, data: bytes, directory: str = "stdouterr") -> None:
        self.files.setdefault((key, directory, name), bytearray()).extend(data)
        self._wake()

    async def create(self, key: JobKey, document: object) -> Job:
        if self.refusal is not None:
            raise self.refusal
        if not isinstance(document, dict):
            raise ValidationFailed([Fault("WrongType", "must be an object", "$")])
        self.documents[key] = document
        properties = dict(document.get("properties", document))
        for volume in properties.get("mountVolumes", {}).get("azureFileShares", ()):
            volume["credentials"] = {}
        self.jobs[key] = Job(
            id=JobId("sub", "rg", key.workspace, key.experiment, key.job, UUID),
            properties=properties,
            tool_type="custom",
            execution_state="queued",
            provisioning_state="succeeded",
            creation_time=CREATED,
            execution_state_transition_time=CREATED,
            start_time=None,
            end_time=None,
            exit_code=None,
            errors=(),
            step="queued",
            revision=1,
        )
        self._wake()
        return self.jobs[key]

    async def get(self, key: JobKey) -> Job:
        if key not in self.jobs:
            raise missing("JobNotFound", f"there is no job {key}")
        return self.jobs[key]

    async def list(self, workspace: str, experiment: str) -> list[Job]:
        return [
            job
            for key, job in self.jobs.items()
            if (key.workspace, key.experiment) == (workspace, experiment)
        ]

    async def terminate(self, key: JobKey) -> Job:
        job = await self.get(key)
        if job.ended:
            return job
        self.update(key, execution_state="terminating")
        if self.terminate_ends:
            self.end(key, None)
        return self.jobs[key]

    async def delete(self, key: JobKey) -> None:
        await self.get(key)
        self.update(key, provisioning_state="deleting")
        if self.delete_gate is not None:
            await self.delete_gate.wait()
        del self.jobs[key]
        self._wake()

    def _check(self, key: JobKey, directory_id: str) -> None:
        if key not in self.jobs:
            raise missing("JobNotFound", f"there is no job {key}")
        if directory_id not in {"stdouterr", "MODEL"}:
            raise missing("OutputDirectoryNotFound", f"no output directory {directory_id}")

    async def list_files(self, key: JobKey, directory_id: str, path: str) -> list[FileEntry]:
        self._check(key, directory_id)
        prefix = "" if path == "." else path + "/"
        entries: dict[str, FileEntry] = {}
        for (owner, directory, name), data in self.files.items():
            if (owner, directory) == (key, directory_id) and name.startswith(prefix):
                first, slash, _ = name.removeprefix(prefix).partition("/")
                entries[first] = FileEntry(first, bool(slash), 0 if slash else len(data), CREATED)
        return list(entries.values())

    async def open_stream(
        self, key: JobKey, directory_id: str, path: str, *, offset: int, follow: bool
    ) -> AsyncIterator[bytes]:
        self._check(key, directory_id)
        if (key, directory_id, path) not in self.files and (self.jobs[key].ended or not follow):
            raise missing("FileNotFound", f"there is no file {path}")
        return self._follow(key, directory_id, path, offset, follow)

    async def _follow(
        self, key: JobKey, directory_id: str, path: str, offset: int, follow: bool
    ) -> AsyncIterator[bytes]:
        self.followers += 1
        try:
            while True:
                changed, ended = self.changed, self.jobs[key].ended
                data = bytes(self.files.get((key, directory_id, path), b"")[offset:])
                if data == b"BOOM":
                    raise OSError(5, "Input/output error")
                if data:
                    yield data
                    offset += len(data)
                elif ended or not follow:
                    return
                else:
                    await changed.wait()
        finally:
            self.followers -= 1

    async def read_file(
        self, key: JobKey, directory_id: str, path: str, offset: int, length: int
    ) -> bytes:
        self._check(key, directory_id)
        return bytes(self.files[key, directory_id, path][offset : offset + length])

    async def wait_changed(self, key: JobKey, last_seen: int) -> Job:
        while (job := await self.get(key)).revision == last_seen:
            await self.changed.wait()
        return job

    async def ask_mounts(self):
        await trio.lowlevel.checkpoint()

    def mounts(self) -> list[MountStatus]:
        return [
            MountStatus(
                "0123456789ab", "share", "//h/s", "/m/s", "cluster", None, "failed", None,
                "wrong key", "check the key",
            )
        ]  # fmt: skip

    def health(self) -> dict[str, Any]:
        return {"running": 1, "queued": 0}
