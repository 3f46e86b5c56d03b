"""Intents: operations of several requests, on disk before the first one, until they are complete.

A container has no transactions. What takes many requests (renaming a tree, letting two names change
places) is written down first; after a crash the next mount of the volume finds what was under way
and completes or undoes it.

One intent is one file of JSON lines: the first says what is to be done, each later one what has
become known since. A line counts when it ends with a newline and parses: what a crash cut off was
not acted upon, since every step waits for its line to be on disk (fsync). One that is not durable
does not wait: it survives this process, and perhaps not the machine. The file is locked
(flock(2)) for as long as the process that works on it lives, so that no other mount takes a live
operation for one that was left behind.

All methods block on the disk: call them in a thread, unless the intent is not durable.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from fuse.logs import log

#: Version of the format; another one is left alone.
FORMAT: Final = 1

_SUFFIX: Final = ".intent"


class Intent:
    """One operation that is under way; closing it without :meth:`end` leaves it for later.

    Attributes:
        path: Its file.
        kind: What is done: decides how it is completed.
        details: What to do, with everything noted since.
    """

    def __init__(
        self,
        path: Path,
        descriptor: int,
        kind: str,
        details: dict[str, Any],
        *,
        durable: bool = True,
    ) -> None:
        self.path = path
        self.kind = kind
        self.details = details
        self._descriptor = descriptor
        self._durable = durable

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def note(self, **details: Any) -> None:
        """Add to the details. OSError when the disk does not take it."""
        _append(self._descriptor, details, durable=self._durable)
        self.details.update(details)

    def end(self) -> None:
        """The operation is complete, or undone: forget it."""
        self.path.unlink(missing_ok=True)
        if self._durable:
            _sync_directory(self.path.parent)
        self.close()

    def close(self) -> None:
        """Let go of it. What has not ended is found by the next mount."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Intents:
    """The intents of one volume.

    Args:
        directory: Where they lie; made when the first one is written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def begin(self, kind: str, details: dict[str, Any], *, durable: bool = True) -> Intent:
        """Write down what is about to be done. OSError when the disk does not take it.

        Args:
            kind: What is done.
            details: To what.
            durable: Whether it has to survive a power failure.
        """
        path = self.directory / f"{uuid.uuid4().hex}{_SUFFIX}"
        descriptor = self._create(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _append(descriptor, {"format": FORMAT, "kind": kind, **details}, durable=durable)
            if durable:
                _sync_directory(self.directory)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return Intent(path, descriptor, kind, dict(details), durable=durable)

    def _create(self, path: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(path, flags, 0o600)

    def left_behind(self) -> Iterator[Intent]:
        """Operations that nobody works on any more, each to be ended or closed by the caller.

        One that cannot be understood is reported and left where it is.
        """
        for path in sorted(self.directory.glob(f"*{_SUFFIX}")):
            descriptor = _adopt(path)
            if descriptor is None:
                continue
            try:
                details = _replay(_contents(descriptor))
            except ValueError:
                log.exception("an intent cannot be understood", path=str(path))
                os.close(descriptor)
                continue
            if details is None:  # its first line is not whole: nothing was begun
                path.unlink(missing_ok=True)
                os.close(descriptor)
                continue
            kind = str(details.pop("kind"))
            yield Intent(path, descriptor, kind, details)


def _adopt(path: Path) -> int | None:
    """A locked descriptor, or None where somebody works on it or has just ended it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        return None
    return descriptor


def _append(descriptor: int, details: dict[str, Any], *, durable: bool) -> None:
    line = memoryview(json.dumps(details, ensure_ascii=True).encode() + b"\n")
    end = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        while line:
            line = line[os.write(descriptor, line) :]
        if durable:
            os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)  # half a line would spoil the next one
        raise


def _contents(descriptor: int) -> bytes:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return file.read()


def _replay(data: bytes) -> dict[str, Any] | None:
    """The details that the lines add up to; None when not even the first one is whole.

    Raises:
        ValueError: A line in the middle is damaged, or the format is another one.
    """
    details: dict[str, Any] = {}
    lines = data.split(b"\n")[:-1]  # behind the last newline is what was not acknowledged
    for index, line in enumerate(lines):
        try:
            known = json.loads(line)
        except ValueError:
            if index == len(lines) - 1:
                break  # its blocks did not all reach the disk before a power failure
            raise
        if not isinstance(known, dict):
            raise ValueError("a line is no object")  # noqa: TRY004 -- damage, not a wrong type
        details.update(known)
    if not details:
        return None
    found = details.pop("format", None)
    if found != FORMAT or not isinstance(details.get("kind"), str):
        raise ValueError(f"its format is {found!r}, and {FORMAT} is understood here")
    return details


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
