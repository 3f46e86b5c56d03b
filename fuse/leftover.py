"""A file's changes as a crash or a conflict left them: content over a base that may be gone."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from fuse import records
from fuse.errors import fail
from fuse.journal import boot_id
from fuse.volume import Attributes, Progress, Staged, Volume

#: What is said of writes whose bytes did not reach the disk before the machine went down.
CUT_SHORT = "the data file is cut short"


class Base(Protocol):
    """Where the bytes of a version can be had: a volume, or who asks one."""

    async def read_into(
        self, path: str, attributes: Attributes, offset: int, buffer: memoryview, progress: Progress
    ) -> None:
        """See :meth:`fuse.volume.Volume.read_into`."""
        ...


class Leftover:
    """One file's uncommitted changes, as :class:`fuse.volume.DirtyContent` over its base.

    Args:
        log_file: Its log; the data lies beside it.

    Raises:
        fuse.records.JournalError: The log says nothing that could be believed.
        OSError: It cannot be read.
    """

    def __init__(self, log_file: Path) -> None:
        self.log_file = log_file
        self.data_file = log_file.with_suffix(".data")
        # What is kept for a person may be looked at as a whole.
        boot = None if log_file.with_suffix(".json").exists() else boot_id()
        self.replay = records.replay(log_file.read_bytes(), boot=boot)
        self._volume: Base | None = None
        self._data = -1

    @contextmanager
    def over(self, volume: Base | None) -> Iterator[Leftover]:
        """Readable in here: written ranges from the disk, the rest from the volume's base."""
        self._volume = volume
        with suppress(FileNotFoundError):  # nothing was written, or it is gone
            self._data = os.open(self.data_file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield self
        finally:
            self._volume = None
            if self._data >= 0:
                os.close(self._data)
                self._data = -1

    @property
    def path(self) -> str:
        """Of the file in its volume."""
        return self.replay.path

    @property
    def base(self) -> Attributes:
        """The version that was written over."""
        return self.replay.base

    @property
    def size(self) -> int:
        """Length of the new content in bytes."""
        return self.replay.size

    @property
    def base_size(self) -> int:
        """Bytes of the base that the new content still shows."""
        return self.replay.base_size

    @property
    def dirty_ranges(self) -> Sequence[tuple[int, int]]:
        """What was written."""
        return list(self.replay.dirty)

    @property
    def mtime_ns(self) -> int:
        """When it was written last; of a commit that was begun exactly what that one sent."""
        if self.replay.committing is not None:
            return self.replay.committing
        try:
            return self.data_file.stat().st_mtime_ns
        except FileNotFoundError:
            return self.log_file.stat().st_mtime_ns

    @property
    def staged(self) -> Sequence[Staged]:
        """Nothing: what was sent ahead may have vanished."""
        return []

    @property
    def is_empty(self) -> bool:
        """Whether nothing was changed or made, as far as it can be believed."""
        return self.is_untouched and not self.base.unmade

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was changed since it was opened, as far as it can be believed."""
        return self.replay.records == 1

    @property
    def damage(self) -> str:
        """Why this is not all that was acknowledged; empty when it is."""
        end = max((end for _, end in self.replay.dirty), default=0)
        return self.replay.damage or (CUT_SHORT if self.data_length < end else "")

    @property
    def data_length(self) -> int:
        """Bytes that the data file has; what was written behind them is lost."""
        try:
            return self.data_file.stat().st_size
        except FileNotFoundError:
            return 0

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes of the new content; ESTALE where they would be those of a base that is gone."""
        parts: list[bytes] = []
        for start, end, written in self.replay.dirty.pieces(offset, offset + size):
            if written:
                data = os.pread(self._data, end - start, start) if self._data >= 0 else b""
                if len(data) != end - start:
                    fail(errno.EIO, self.path, CUT_SHORT)
                parts.append(data)
                continue
            below = min(end, self.base_size)
            if start < below:
                if self._volume is None:
                    fail(errno.ESTALE, self.path, "the version it rests on is not at hand")
                buffer = memoryview(bytearray(below - start))
                await self._volume.read_into(self.path, self.base, start, buffer, _ignore)
                parts.append(bytes(buffer))
            parts.append(bytes(end - max(start, below)))
        return b"".join(parts)

    async def commit(self, volume: Volume) -> Attributes:
        """Bring the store up to date, if the file is still what was written over.

        Raises:
            OSError: ESTALE, EEXIST, ENOENT: it is not. Others: it could not be done now.
        """
        with self.over(volume):
            return await volume.commit(self.path, self.base, self, self.replay.changes)

    def discard(self) -> None:
        """Delete it for good."""
        self.log_file.unlink(missing_ok=True)
        self.data_file.unlink(missing_ok=True)
        self.log_file.with_suffix(".json").unlink(missing_ok=True)


def _ignore(_filled: int) -> None:
    """Nobody waits for parts."""
