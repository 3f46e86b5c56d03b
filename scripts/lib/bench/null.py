"""The null driver: our file system over a directory's files in memory. ``python -m bench.null``.

What it reaches is what our FUSE layer lets through when the store costs nothing. Everything but the
volume is the driver's own. It takes the driver's instructions on standard input, and the directory
as its argument.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from fuse import main, opening
from fuse.errors import fail
from fuse.volume import Attributes, Entry, Kind, Progress, Space

_PIECE = 1024 * 1024
_SMALL = 1024 * 1024


class MemoryVolume:
    """Implements what reading needs of :class:`fuse.volume.Volume`; all else is EROFS.

    Args:
        root: The directory; it is read at once.
    """

    source = "null/data"
    identity = "null:data"
    preferred_read = 8 * 1024 * 1024
    commit_interval = None
    name_max = 255
    attribute_timeout = 10.0
    round_trip = 0.0
    versions_are_immutable = True
    keeps_xattrs = False

    def __init__(self, root: Path) -> None:
        self._data: dict[str, memoryview] = {}
        self._entries: dict[str, list[Entry]] = {}
        for parent, directories, files in os.walk(root):
            path = Path(parent).relative_to(root).as_posix()
            prefix = "" if path == "." else f"{path}/"
            entries = [Entry(name, Attributes(Kind.DIRECTORY)) for name in directories]
            for name in files:
                file = Path(parent, name)
                found = file.stat()
                self._data[prefix + name] = _loaded(file, found)
                version = f'"{found.st_mtime_ns:x}"'
                time = found.st_mtime_ns
                attributes = Attributes(Kind.FILE, found.st_size, time, time, version)
                entries.append(Entry(name, attributes))
            self._entries[prefix.rstrip("/")] = entries
        self._files = {
            f"{directory}/{entry.name}" if directory else entry.name: entry.attributes
            for directory, entries in self._entries.items()
            for entry in entries
        }

    async def recover(self) -> None:
        """There is never anything."""
        await trio.lowlevel.checkpoint()

    async def stat(self, path: str) -> Attributes:
        """Of memory."""
        await trio.lowlevel.checkpoint()
        if not path:
            return Attributes(Kind.DIRECTORY)
        if path not in self._files:
            fail(errno.ENOENT, path)
        return self._files[path]

    async def list(self, path: str) -> AsyncGenerator[Sequence[Entry], None]:
        """In one page."""
        await trio.lowlevel.checkpoint()
        yield self._entries[path]

    async def read_into(
        self,
        path: str,
        attributes: Attributes,  # noqa: ARG002 -- the protocol's
        offset: int,
        buffer: memoryview,
        progress: Progress,
    ) -> None:
        """A copy, piece by piece as it would arrive."""
        data = self._data[path]
        for start in range(0, len(buffer), _PIECE):
            end = min(start + _PIECE, len(buffer))
            buffer[start:end] = data[offset + start : offset + end]
            progress(end)
            await trio.lowlevel.checkpoint()

    def begin_read(
        self,
        path: str,
        attributes: Attributes,  # noqa: ARG002 -- the protocol's
        offset: int,
        buffer: memoryview,
        progress: Progress,
        done: Callable[[bool], None],
    ) -> bool:
        """All at once."""
        size = len(buffer)
        buffer[:] = self._data[path][offset : offset + size]
        progress(size)
        done(True)
        return True

    def makes_at_commit(self, path: str) -> bool:  # noqa: ARG002 -- the protocol's
        """Nothing is written."""
        return False

    def staging_size(self, offset: int) -> int:  # noqa: ARG002 -- the protocol's
        """Nothing is written."""
        return 0

    async def settle(self) -> None:
        """Nothing can be half-way."""
        await trio.lowlevel.checkpoint()

    def warnings(self) -> Sequence[str]:
        """None."""
        return []

    async def space(self) -> Space:
        """No limit."""
        await trio.lowlevel.checkpoint()
        return Space()

    async def continues(self, path: str, old: Attributes, new: Attributes) -> bool:  # noqa: ARG002
        """Nothing changes."""
        await trio.lowlevel.checkpoint()
        return False

    def statistics(self) -> dict[str, int | float]:
        """Nothing is counted."""
        return {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def refused(*_args: Any, **_keywords: Any) -> None:
            await trio.lowlevel.checkpoint()
            fail(errno.EROFS, reason=name)

        return refused


def _loaded(path: Path, found: os.stat_result) -> memoryview:
    if found.st_size <= _SMALL:
        return memoryview(path.read_bytes())
    # A hole would take memory for nothing (stat(2): blocks of 512 bytes).
    sparse = found.st_blocks * 512 < found.st_size
    flags = mmap.MAP_SHARED | (0 if sparse else mmap.MAP_POPULATE)
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ))


def run() -> None:
    """Be the driver, with another volume."""
    volume = MemoryVolume(Path(sys.argv[1]))

    @asynccontextmanager
    async def opened(*_args: Any, **_keywords: Any) -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        yield volume

    # Before the driver is imported: the one place where both differ.
    opening.open_root = opened
    main.main(["run"])


if __name__ == "__main__":
    run()
