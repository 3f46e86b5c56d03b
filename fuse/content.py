"""The content of an open file: a version in the store, and what has been written over it.

All handles of a file on this mount share one :class:`Content`, so that a program's writes are
visible to every other program on the node at once. Written bytes go to a staging file on the
local disk and are committed to the store by ``fsync``, by ``close``, or, where the volume wants
that (a share whose logs are followed), every so often.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from fuse.cache import MemoryCache
from fuse.ranges import RangeSet
from fuse.readahead import ReadAhead
from fuse.reader import Reader
from fuse.volume import Attributes, Changes, Staged, Volume

#: Bytes brought over at a time when an open file loses its name.
LOCALISE_CHUNK = 4 * 1024 * 1024


class Content:
    """A base version, dirty ranges over it, and attributes still to be set.

    Attributes:
        base: The version in the store that the content rests on.
        size: Current length in bytes, as programs on this node see it.
        base_size: How much of the base is still visible (a truncation hides the rest for good).
        changes: Attributes to set with the next commit.
        modified: Whether the store lacks something.
        modified_since: When the oldest uncommitted write was made (trio's clock), or None.
        error: Why the last commit in the background failed; reported by the next fsync or close.
        orphaned: The file has been unlinked: nothing is committed any more.
        users: Number of open handles.
    """

    def __init__(
        self,
        volume: Volume,
        path: Callable[[], str],
        base: Attributes,
        cache: MemoryCache,
        nursery: trio.Nursery,
        staging_directory: Path,
    ) -> None:
        self.base = base
        self.size = base.size
        self.base_size = base.size
        self.changes = Changes()
        self.modified = False
        self.modified_since: float | None = None
        self.error: OSError | None = None
        self.orphaned = False
        self.users = 0
        self.mtime_ns = base.mtime_ns
        self._volume = volume
        self._path = path
        self._cache = cache
        self._nursery = nursery
        self._staging_directory = staging_directory
        self._staging: int | None = None
        self._dirty = RangeSet()
        self._lock = trio.Lock()
        self._reader = Reader(volume, path, base, cache, nursery)
        self._commit_window = ReadAhead(limit=32 * 1024 * 1024)

    @property
    def dirty_ranges(self) -> list[tuple[int, int]]:
        """What has been written since the base version."""
        return list(self._dirty)

    @property
    def staged(self) -> list[Staged]:
        """What the store has already of the new content."""
        return []

    def attributes(self) -> Attributes:
        """The file's attributes as programs on this node see them now."""
        return self.base.changed(
            size=self.size,
            mtime_ns=self.changes.mtime_ns if self.changes.mtime_ns is not None else self.mtime_ns,
            ctime_ns=max(self.base.ctime_ns, self.mtime_ns),
            mode=self.changes.mode if self.changes.mode is not None else self.base.mode,
            uid=self.changes.uid if self.changes.uid is not None else self.base.uid,
            gid=self.changes.gid if self.changes.gid is not None else self.base.gid,
        )

    async def read(
        self, offset: int, size: int, window: ReadAhead | None = None
    ) -> bytes | memoryview:
        """Up to ``size`` bytes at ``offset``, fewer only at the end of the file."""
        window = window or self._commit_window
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        if not self._dirty and end <= self.base_size:
            return await self._reader.read(offset, end - offset, window)
        parts: list[bytes | memoryview] = []
        for start, stop, dirty in list(self._dirty.pieces(offset, end)):
            if dirty:
                parts.append(self._read_staged(start, stop))
                continue
            below = min(stop, self.base_size)
            if start < below:
                parts.append(await self._reader.read(start, below - start, window))
            if stop > max(start, below):
                parts.append(bytes(stop - max(start, below)))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def write(self, offset: int, data: bytes) -> int:
        """Write ``data`` at ``offset``. Raises ENOSPC (or what it is) when the disk refuses."""
        async with self._lock:
            return self._write(offset, data)

    async def append(self, data: bytes) -> int:
        """Write ``data`` at the end, wherever that is by now."""
        async with self._lock:
            return self._write(self.size, data)

    async def truncate(self, size: int) -> None:
        """Cut or extend (with zeros) to ``size`` bytes."""
        async with self._lock:
            if size < self.size:
                self._dirty.remove(size, max(self.size, size))
                self.base_size = min(self.base_size, size)
                if self._staging is not None:
                    os.ftruncate(self._staging, size)
            self.size = size
            self._note_change()

    def change(self, changes: Changes) -> None:
        """Set attributes with the next commit."""
        self.changes = self.changes.merged(changes)
        self._note_change(touch=False)

    async def commit(self) -> None:
        """Bring the store up to date. Single-flight: a second caller waits and finds nothing to do.

        Raises:
            OSError: ESTALE when another writer was first, EIO, EACCES, ENOSPC, ... The dirty data
                stays, and a later commit tries again.
        """
        async with self._lock:
            if not self.modified or self.orphaned:
                return
            base = await self._volume.commit(self._path(), self.base, self, self.changes)
            self._reader.close()
            self._reader = Reader(self._volume, self._path, base, self._cache, self._nursery)
            self.base = base
            self.base_size = self.size
            self.mtime_ns = base.mtime_ns
            self.changes = Changes()
            self._dirty.clear()
            if self._staging is not None:
                os.ftruncate(self._staging, 0)
            self.modified = False
            self.modified_since = None

    async def rebase(self, base: Attributes) -> None:
        """Go on with another version: what grew, was renamed, or had its attributes set."""
        async with self._lock:
            if self.modified or base.version == self.base.version:
                return
            self._reader.close()
            self._reader = Reader(self._volume, self._path, base, self._cache, self._nursery)
            self.base = base
            self.size = self.base_size = base.size
            self.mtime_ns = base.mtime_ns

    async def localise(self) -> None:
        """Bring all bytes to the staging file, since the name is about to go away.

        The file lives on for those who have it open, as on a local disk, and is never committed.
        """
        position = 0
        while position < self.size:
            data = await self.read(position, min(LOCALISE_CHUNK, self.size - position))
            async with self._lock:
                for start, stop, dirty in list(self._dirty.pieces(position, position + len(data))):
                    if not dirty:
                        self._stage(start, data[start - position : stop - position])
            position += len(data)
        self.orphaned = True

    def take_error(self) -> None:
        """Raise, once, the error of a commit that failed in the background."""
        error, self.error = self.error, None
        if error is not None and self.modified:
            raise OSError(error.errno or errno.EIO, error.strerror, error.filename)

    def close(self) -> None:
        """Free memory and the staging file. Uncommitted data is gone after this."""
        self._reader.close()
        if self._staging is not None:
            os.close(self._staging)
            self._staging = None

    def _write(self, offset: int, data: bytes) -> int:
        self._stage(offset, data)
        self.size = max(self.size, offset + len(data))
        self._note_change()
        return len(data)

    def _stage(self, offset: int, data: bytes | memoryview) -> None:
        if self._staging is None:
            self._staging = _open_staging(self._staging_directory)
        view = memoryview(data)
        written = 0
        while written < len(view):
            written += os.pwrite(self._staging, view[written:], offset + written)
        self._dirty.add(offset, offset + written)

    def _read_staged(self, start: int, stop: int) -> bytes:
        if self._staging is None:
            raise AssertionError("dirty ranges without a staging file")
        data = os.pread(self._staging, stop - start, start)
        while len(data) < stop - start:
            more = os.pread(self._staging, stop - start - len(data), start + len(data))
            if not more:
                raise OSError(errno.EIO, "the staging file is shorter than what was written to it")
            data += more
        return data

    def _note_change(self, *, touch: bool = True) -> None:
        if touch:
            self.mtime_ns = time.time_ns()
            if self.changes.mtime_ns is not None:  # a write after utimens makes it now again
                self.changes = Changes(self.changes.mode, self.changes.uid, self.changes.gid)
        self.modified = True
        if self.modified_since is None:
            self.modified_since = trio.current_time()


def _open_staging(directory: Path) -> int:
    """An anonymous file on the cache disk, readable by nobody else."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # overlayfs before Linux 6.3 and some network file systems have no O_TMPFILE.
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
    descriptor, name = tempfile.mkstemp(prefix="staging-", dir=directory)
    os.unlink(name)  # noqa: PTH108 -- mkstemp deals in strings
    return descriptor
