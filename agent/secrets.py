"""Secrets of jobs: kept in a private file while the job exists, and kept out of every log.

A job's document holds storage keys and the values of ``secrets``. It is written as it came to
``<state_dir>/jobs/<uuid>/secret/job.json`` (0600, in a directory that is 0700), and deleted with
the job. The journal holds the redacted form alone.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Shorter values ("1", "yes") would black out half the log, and protect nothing.
_SHORTEST = 4
REDACTED = "[redacted]"


def forms(value: str) -> set[str]:
    """A secret value, and the ways in which it turns up in text."""
    raw = value.encode("utf-8", "surrogateescape")
    encoded = {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    texts = {value} | encoded | {text.rstrip("=") for text in encoded}
    for text in {value} | encoded:
        quoted = {
            urllib.parse.quote(text, safe="", errors="surrogateescape"),
            urllib.parse.quote(text, errors="surrogateescape"),
            urllib.parse.quote_plus(text, errors="surrogateescape"),
        }
        texts |= quoted | {
            q.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d") for q in quoted
        }
    texts |= {
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
    }
    return {text for text in texts if len(text) >= _SHORTEST}


class Redactor:
    """Knows all secret values of the moment, and blacks them out of text.

    Values are counted: two jobs may hold the same key.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._forms: list[str] = []

    def add(self, values: Iterable[str]) -> None:
        """Redact these values from now on."""
        for value in values:
            self._counts[value] = self._counts.get(value, 0) + 1
        self._compile()

    def discard(self, values: Iterable[str]) -> None:
        """Forget values that were added, once for each time that they were."""
        for value in values:
            left = self._counts.pop(value, 0) - 1
            if left > 0:
                self._counts[value] = left
        self._compile()

    def _compile(self) -> None:
        found = {form for value in self._counts if len(value) >= _SHORTEST for form in forms(value)}
        # The longest first: one form may contain another.
        self._forms = sorted(found, key=len, reverse=True)

    def redact(self, text: str) -> str:
        """The text without any secret."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, REDACTED)
        return text

    def redact_all(self, value: Any) -> Any:
        """The same for whatever a log entry may hold."""
        match value:
            case str():
                return self.redact(value)
            case bytes():
                return self.redact(value.decode("utf-8", "replace"))
            case dict():
                return {self.redact_all(k): self.redact_all(v) for k, v in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.redact_all(item) for item in value]
            case None | bool() | int() | float():
                return value
        return self.redact(str(value)) if self.redact(str(value)) != str(value) else value


class SecretFiles:
    """The documents of jobs, as they came."""

    def __init__(self, jobs_dir: Path) -> None:
        self._jobs_dir = jobs_dir

    def _file(self, uuid: str) -> Path:
        return self._jobs_dir / uuid / "secret" / "job.json"

    def write(self, uuid: str, document: object) -> None:
        """Keep a document; on disk when this returns."""
        file = self._file(uuid)
        file.parent.parent.mkdir(mode=0o700, exist_ok=True)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        temporary = file.with_suffix(".new")
        with open(temporary, "w", encoding="utf-8", opener=_private) as out:
            json.dump(document, out)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
        for directory in (file.parent, file.parent.parent, self._jobs_dir):
            sync_directory(directory)

    def read(self, uuid: str) -> Any:
        """A document that was written.

        Raises:
            FileNotFoundError: There is none.
        """
        return json.loads(self._file(uuid).read_text("utf-8"))

    def delete(self, uuid: str) -> None:
        """Delete a document, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._file(uuid).parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def sync_directory(directory: Path) -> None:
    """Make renames and new names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
