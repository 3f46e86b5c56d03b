"""status.json: on disk and synced before anybody else is told."""

# ruff: noqa: PTH104 - pathlib would cost start-up time

import json
import os
from collections.abc import Callable
from typing import Any

from agent.supervisor.log import log

Document = dict[str, Any]
_RETRY_SECONDS = 1.0


class StatusFile:
    """Changes are kept back from readers until they are on the disk."""

    def __init__(
        self, directory: str, document: Document, counters: Callable[[], Document]
    ) -> None:
        self._directory = directory
        self._path = f"{directory}/status.json"
        self._wanted = document
        self._saved = dict(document)
        self._counters = counters
        self._dirty = False
        self._retry_at = 0.0

    def publish(self, **changes: object) -> bool:
        """Write the changes; False when the disk did not take them (they are tried again)."""
        self._wanted.update(changes)
        return self._save()

    def current(self) -> Document:
        """What has been published, with the counters as they are now."""
        return {**self._saved, **self._counters()}

    @property
    def saved(self) -> bool:
        """Whether the disk has all that was published."""
        return not self._dirty

    def tick(self, now: float) -> float | None:
        """Try again what could not be written."""
        if not self._dirty:
            return None
        if now >= self._retry_at:
            self._retry_at = now + _RETRY_SECONDS
            self._save()
        return None if self.saved else self._retry_at

    def _save(self) -> bool:
        self._dirty = True
        document = {**self._wanted, **self._counters()}
        try:
            replace(self._path, json.dumps(document).encode() + b"\n")
        except OSError as error:
            log("error", "status.write-failed", error=str(error))
            return False
        self._saved = dict(self._wanted)
        self._dirty = False
        return True


def replace(path: str, data: bytes) -> None:
    """Put `data` in the place of the file at `path`: all of it or nothing, also after a crash.

    Raises:
        OSError: the old file is as it was.
    """
    temporary = f"{path}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    directory = os.open(path.rpartition("/")[0] or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def previous_state(path: str) -> str | None:
    """The state that an earlier supervisor of this job has left, None when there was none."""
    try:
        with open(path, "rb") as file:
            document = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return "unreadable"
    return str(document.get("state")) if isinstance(document, dict) else "unreadable"
