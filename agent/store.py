"""The journal: jobs, and the steps that they took, in SQLite.

Write-ahead log with ``synchronous=FULL``: what a method has returned from survives a power failure.
One connection, one call at a time, in a thread: a busy disk must not stop the agent's loop.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import trio

from agent.errors import BatchError
from agent.jobs.layout import JobId
from agent.jobs.lifecycle import Progress, Step
from agent.jobs.records import JobRecord
from agent.jobs.service import JobError

T = TypeVar("T")

# One script for each version: to be appended to, never changed.
MIGRATIONS = (
    """
    CREATE TABLE jobs (
        uuid TEXT PRIMARY KEY,
        subscription TEXT NOT NULL,
        resource_group TEXT NOT NULL,
        workspace TEXT NOT NULL,
        experiment TEXT NOT NULL,
        job TEXT NOT NULL,
        properties TEXT NOT NULL,
        tool_type TEXT NOT NULL,
        priority INTEGER NOT NULL,
        created TEXT NOT NULL,
        provisioning TEXT NOT NULL,
        step TEXT NOT NULL,
        execution_state TEXT NOT NULL,
        transition_time TEXT NOT NULL,
        start_time TEXT,
        end_time TEXT,
        exit_code INTEGER,
        errors TEXT NOT NULL,
        fatal INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        UNIQUE (workspace, experiment, job)
    ) STRICT;
    CREATE TABLE events (
        -- AUTOINCREMENT: a revision is never used again, not even after the job was deleted
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        uuid TEXT NOT NULL REFERENCES jobs (uuid) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
        at TEXT NOT NULL,
        event TEXT NOT NULL,
        step TEXT NOT NULL
    ) STRICT;
    CREATE INDEX events_by_job ON events (uuid);
    """,
)

_COLUMNS = (
    "uuid, subscription, resource_group, workspace, experiment, job, properties, tool_type, "
    "priority, created, provisioning, step, execution_state, transition_time, start_time, "
    "end_time, exit_code, errors, fatal, revision"
)


class Store:
    """The journal of one node. Close it with :meth:`close`."""

    def __init__(self, path: Path) -> None:
        """Open or create it, and bring it to this version.

        Raises:
            BatchError: It cannot be opened, is damaged, or is of a newer agent's making.
        """
        self._limiter = trio.CapacityLimiter(1)
        # The file exists, private, before SQLite opens it: its siblings take its mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=5
        )
        try:
            self._prepare(path)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise BatchError(
                "JournalDamaged",
                f"the journal {path} cannot be used: {error}",
                hint="move it away to begin with an empty one; running jobs are then forgotten",
            ) from error
        except BatchError:
            self._connection.close()
            raise

    def _prepare(self, path: Path) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA foreign_keys = ON")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise BatchError(
                "JournalTooNew",
                f"the journal {path} has version {version}, this agent knows {len(MIGRATIONS)}",
                hint="start the newer agent that wrote it, or move the journal away",
            )
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            self._connection.executescript(
                f"BEGIN; {script} PRAGMA user_version = {number}; COMMIT;"
            )

    def close(self) -> None:
        """Close the journal."""
        self._connection.close()

    async def _do(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._limiter)

    async def insert(self, record: JobRecord, event: str) -> JobRecord:
        """Journal a new job.

        Raises:
            sqlite3.IntegrityError: The name is taken.
        """
        return await self._do(lambda: self._write(record, event, insert=True))

    async def update(self, record: JobRecord, event: str) -> JobRecord:
        """Journal a change; the record that comes back has the new revision."""
        return await self._do(lambda: self._write(record, event, insert=False))

    def _write(self, record: JobRecord, event: str, *, insert: bool) -> JobRecord:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            row = _to_row(record)
            cursor = connection.execute(
                "INSERT INTO events (uuid, at, event, step) VALUES (?, ?, ?, ?)",
                (record.id.uuid, _text(datetime.now(UTC)), event, record.progress.step.value),
            )
            revision = cursor.lastrowid
            assert revision is not None
            row["revision"] = revision
            if insert:
                marks = ", ".join(f":{name}" for name in row)
                connection.execute(f"INSERT INTO jobs ({_COLUMNS}) VALUES ({marks})", row)  # noqa: S608
            else:
                sets = ", ".join(f"{name} = :{name}" for name in row)
                connection.execute(f"UPDATE jobs SET {sets} WHERE uuid = :uuid", row)  # noqa: S608
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return replace(record, revision=revision)

    async def delete(self, uuid: str) -> None:
        """Forget a job and its events."""
        await self._do(lambda: self._connection.execute("DELETE FROM jobs WHERE uuid = ?", (uuid,)))

    async def load(self) -> list[JobRecord]:
        """All jobs, oldest first."""

        def query() -> list[Any]:
            sql = f"SELECT {_COLUMNS} FROM jobs ORDER BY created, uuid"  # noqa: S608 (constants)
            return self._connection.execute(sql).fetchall()

        names = _COLUMNS.split(", ")
        return [_from_row(dict(zip(names, row, strict=True))) for row in await self._do(query)]

    async def events(self, uuid: str) -> list[tuple[int, str, str]]:
        """Revision, event and step that followed, in order: what happened to a job."""
        sql = "SELECT revision, event, step FROM events WHERE uuid = ? ORDER BY revision"
        return await self._do(lambda: self._connection.execute(sql, (uuid,)).fetchall())


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat()


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _to_row(record: JobRecord) -> dict[str, Any]:
    progress, job = record.progress, record.id
    return {
        "uuid": job.uuid,
        "subscription": job.subscription,
        "resource_group": job.resource_group,
        "workspace": job.workspace,
        "experiment": job.experiment,
        "job": job.job,
        "properties": json.dumps(dict(record.properties)),
        "tool_type": record.tool_type,
        "priority": record.priority,
        "created": _text(record.created),
        "provisioning": record.provisioning,
        "step": progress.step.value,
        "execution_state": progress.execution_state,
        "transition_time": _text(progress.transition_time),
        "start_time": _text(progress.start_time),
        "end_time": _text(progress.end_time),
        "exit_code": progress.exit_code,
        "errors": json.dumps([[e.code, e.message, e.details] for e in progress.errors]),
        "fatal": int(progress.fatal),
        "revision": record.revision,
    }


def _from_row(row: dict[str, Any]) -> JobRecord:
    errors = tuple(
        JobError(code, message, tuple((name, value) for name, value in details))
        for code, message, details in json.loads(row["errors"])
    )
    progress = Progress(
        step=Step(row["step"]),
        execution_state=row["execution_state"],
        transition_time=datetime.fromisoformat(row["transition_time"]),
        start_time=_time(row["start_time"]),
        end_time=_time(row["end_time"]),
        exit_code=row["exit_code"],
        errors=errors,
        fatal=bool(row["fatal"]),
    )
    return JobRecord(
        id=JobId(
            subscription=row["subscription"],
            resource_group=row["resource_group"],
            workspace=row["workspace"],
            experiment=row["experiment"],
            job=row["job"],
            uuid=row["uuid"],
        ),
        properties=json.loads(row["properties"]),
        tool_type=row["tool_type"],
        priority=row["priority"],
        created=datetime.fromisoformat(row["created"]),
        provisioning=row["provisioning"],
        progress=progress,
        revision=row["revision"],
    )
