"""The content of an open file: a version in the store, and what has been written over it.

All handles of a file on this mount share one :class:`Content`, so that a program's writes are
visible to every other program on the node at once. Written bytes go to the journal on the local
disk and are committed to the store by ``fsync``, by ``close``, or, where the volume wants that (a
share whose logs are followed), every so often. Until then the journal has them: a crash of this
process loses nothing that a program was told is written.

Concurrency: one task runs at a time, and changes hands only at an ``await``. The lock is held by
whatever changes content or waits while content must not change (a commit). Reads take no lock:
they look up dirty ranges anew after each wait.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import trio

from fuse import clock, unmade
from fuse.cache import MemoryCache
from fuse.diskcache import DiskCache
from fuse.errors import fail
from fuse.journal import Entry, Journal
from fuse.logs import log
from fuse.pinned import Pinned
from fuse.ranges import RangeSet
from fuse.readahead import ReadAhead
from fuse.reader import Reader
from fuse.records import Replay
from fuse.staging import Stager, Staging
from fuse.volume import Attributes, Changes, Kind, Staged, Volume

Result = TypeVar("Result")

#: What a full disk says.
FULL = {errno.ENOSPC, errno.EDQUOT}

#: Never seen; the disk would have to be broken.
CUT_SHORT = "the journal's file is shorter than what was written to it"

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
        superseded: Another writer was first: what was written is kept for a person to look at.
        reserving: Whether the name is about to be made (:mod:`fuse.unmade`).
        users: Number of open handles.
        retry_at: Before this (trio's clock) the background does not try again.
        retry_wait: How long it waited the last time (seconds).
    """

    def __init__(
        self,
        volume: Volume,
        path: Callable[[], str],
        base: Attributes,
        cache: MemoryCache,
        nursery: trio.Nursery,
        journal: Journal,
        staging: Staging,
        make_room: Callable[[Content, int], Awaitable[bool]],
        disk: DiskCache | None = None,
        reserve: Callable[[Content], Awaitable[None]] | None = None,
    ) -> None:
        self.base = base
        self.size = base.size
        self.base_size = base.size
        self.changes = Changes()
        self.modified = base.unmade
        self.modified_since = trio.current_time() if base.unmade else None
        self.error: OSError | None = None
        self.orphaned = False
        self.superseded = False
        self.reserving = False
        self.users = 0
        self.retry_at = 0.0
        self.retry_wait = 0.0
        self.mtime_ns = base.mtime_ns
        self._volume = volume
        self._path = path
        self._cache = cache
        self._nursery = nursery
        self._journal = journal
        self._entry: Entry | None = None
        self._touched = False
        self._make_room = make_room
        self._reserve = reserve
        self._making = trio.Lock()
        self._stager = Stager(staging, path, lambda: self.base, self._read_written)
        self._dirty = RangeSet()
        self._lock = trio.Lock()
        self._disk = disk
        self._reader: Reader | Pinned = Reader(volume, path, base, cache, nursery, disk)
        self._commit_window = ReadAhead(limit=32 * 1024 * 1024)

    @property
    def dirty_ranges(self) -> list[tuple[int, int]]:
        """What has been written since the base version."""
        return list(self._dirty)

    @property
    def staged(self) -> list[Staged]:
        """What the store has already of the new content."""
        return self._stager.staged

    @property
    def unmade(self) -> bool:
        """Whether the store does not have the file yet."""
        return self.base.unmade and not (self.orphaned or self.superseded)

    @property
    def takes_space(self) -> bool:
        """Whether a commit would free space on the local disk."""
        return self.modified and not self.orphaned and bool(self._dirty)

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

    def read_now(
        self, offset: int, size: int, window: ReadAhead, *, noted: bool = False
    ) -> bytes | memoryview | None:
        """What :meth:`read` would return, where that needs no waiting; else None.

        ``noted``: :meth:`fetch` has been told of the read.
        """
        end = min(offset + size, self.size)
        if self._dirty or end > self.base_size or offset >= end:
            return None
        return self._reader.read_now(offset, end, window, noted=noted)

    def fetch(self, offset: int, size: int, window: ReadAhead, resume: Callable[[], None]) -> bool:
        """Have fetched what :meth:`read_now` lacks, if that can be begun without waiting.

        ``resume`` is called once, maybe before this returns, when :meth:`read_now` is worth another
        try. Where that fails, and where this returns False, only :meth:`read` can tell.
        """
        end = min(offset + size, self.size)
        if self._dirty or end > self.base_size or offset >= end:
            return False
        return self._reader.fetch(offset, end, window, resume)

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write ``data`` at ``offset``. ENOSPC when the disk is full and nothing can be freed."""
        return await self._with_room(len(data), lambda: self._write(offset, data))

    def write_now(self, offset: int, data: bytes | memoryview) -> int | None:
        """What :meth:`write` would return, where that needs no waiting; else None."""
        if self._lock.locked():
            return None
        self._check_current()
        try:
            return self._write(offset, data)
        except OSError as error:
            if error.errno not in FULL:
                raise
            return None

    async def append(self, data: bytes | memoryview) -> int:
        """Write ``data`` at the end, wherever that is by now. Raises as :meth:`write`."""
        return await self._with_room(len(data), lambda: self._write(self.size, data))

    async def truncate(self, size: int) -> None:
        """Cut or extend (with zeros) to ``size`` bytes. ENOSPC when the disk is full."""
        async with self._lock:
            self._check_current()
            self._truncate(size)

    async def change(self, changes: Changes) -> None:
        """Set attributes with the next commit. ENOSPC when the disk is full."""
        async with self._lock:
            self._check_current()
            self._change(changes)

    async def commit(self) -> None:
        """Bring the store up to date. Single-flight: a second caller waits and finds nothing to do.

        Raises:
            OSError: ESTALE when another writer was first, EIO, EACCES, ENOSPC, ... The dirty data
                stays, and a later commit tries again; but once it has been set aside all that
                come get ESTALE.
        """
        async with self._lock:
            self._check_current()
            await self._commit()

    def conceived(self, entry: Entry) -> None:
        """It is a new file: the journal has it, and the store does not."""
        self._entry = entry

    def adopted(self, entry: Entry, state: Replay, mtime_ns: int) -> None:
        """Go on with what an earlier mount was told, and the store does not have."""
        self._entry = entry
        self._dirty = state.dirty
        self.size, self.base_size = state.size, state.base_size
        self.changes, self.mtime_ns = state.changes, mtime_ns
        self._touched = state.records > 1
        self.modified = True
        self.modified_since = trio.current_time()

    async def reserve(self) -> None:
        """Make an empty file of the name in the store, if it has none yet. Holds up no writer.

        Raises:
            OSError: ESTALE when somebody else made one, and something has been done with ours.
        """
        async with self._making:
            if self.unmade:
                try:
                    made = await self._volume.create(self._path(), unmade.making(self.base))
                except FileExistsError:
                    made = await self._theirs()
                self._made(made)

    def renamed(self) -> None:
        """Note the file's new path, should a crash come before the commit."""
        if self._entry is not None and not self.orphaned:
            self._entry.renamed(self._path())

    def set_aside(self, reason: str) -> Path | None:
        """Give up committing: what was written is kept in the recovery directory.

        Returns:
            Where; None when nothing was written.
        """
        self.modified = False
        self.modified_since = None
        self.superseded = True
        self._stager.reset()
        return self._entry.set_aside(reason) if self._entry is not None else None

    async def rebase(self, base: Attributes, *, same_bytes: bool = False) -> None:
        """Go on with another version: what grew, was renamed, or had its attributes set.

        With ``same_bytes`` (renamed, attributes set) also what is dirty goes on over it.
        """
        async with self._lock:
            if base.version == self.base.version or (self.modified and not same_bytes):
                return
            if self.modified:
                if self._entry is not None:
                    self._entry.rebased(base)
                mtime_ns = self.mtime_ns
                self._follow(base)
                self.mtime_ns = mtime_ns
                return
            self._follow(base)
            self.size = self.base_size = base.size

    async def localise(self) -> None:
        """Bring all bytes to the local disk, since the name is about to go away.

        The file lives on for those who have it open, as on a local disk; :meth:`unlinking` and
        :meth:`drop` follow.
        """
        position = 0
        while position < self.size:
            data = await self.read(position, min(LOCALISE_CHUNK, self.size - position))
            async with self._lock:
                for start, stop, dirty in list(self._dirty.pieces(position, position + len(data))):
                    if not dirty and stop <= self.size:
                        self._stage(start, data[start - position : stop - position])
            position += len(data)

    async def pin(self) -> bool:
        """Bring the base to memory, where the disk has no room; False where memory has none."""
        size = self.base_size
        if not self._cache.lend(size):
            return False
        data = bytearray(size)
        try:
            for start in range(0, size, LOCALISE_CHUNK):
                wanted = min(LOCALISE_CHUNK, size - start)
                data[start : start + wanted] = await self._reader.read(
                    start, wanted, self._commit_window
                )
        except BaseException:
            self._cache.give_back(size)
            raise
        self._reader.close()
        self._reader = Pinned(data, self._cache)
        return True

    def unlinking(self) -> None:
        """The name is about to go: what a crash leaves then is nobody's."""
        if self._entry is not None and not self.orphaned:
            self._entry.unlinking()

    def drop(self) -> None:
        """Nothing is committed any more, nor to be recovered: the name is gone, or never cared."""
        self.orphaned = True
        self._stager.reset()
        if self._entry is not None:
            self._entry.discard()

    def take_error(self) -> None:
        """Raise, once, the error of a commit that failed in the background."""
        error, self.error = self.error, None
        if error is not None and self.modified:
            raise OSError(error.errno or errno.EIO, error.strerror, error.filename)

    def close(self) -> None:
        """Free memory. Uncommitted data is the journal's, and the next mount's, after this."""
        self._reader.close()
        self._stager.reset()
        if self._entry is not None:
            if not self.modified and not self.superseded:
                self._entry.discard()
            self._entry.close()
            self._entry = None

    async def _commit(self) -> None:
        if not self.modified or self.orphaned:
            return
        await self._stager.settle()
        if self._entry is not None:
            try:
                self._entry.committing(self.mtime_ns)
            except OSError as error:
                # Only needed to know our own work again after a crash; the commit frees the space.
                if error.errno not in FULL:
                    raise
        async with self._making:
            try:
                base = await self._volume.commit(self._path(), self.base, self, self.changes)
            except OSError as error:
                if not self.base.unmade or error.errno not in {errno.EEXIST, errno.ESTALE}:
                    raise
                self._made(await self._theirs())
                return
        self._stager.reset()
        self._follow(base)
        self.base_size = self.size
        self.changes = Changes()
        self._dirty.clear()
        self._settled()

    async def _theirs(self) -> Attributes:
        """The file that somebody else made of the name, where ours was only opened.

        As if theirs had been there already: open(2) without O_EXCL does not tell.
        """
        found = await self._volume.stat(self._path())
        if self._touched or found.kind is not Kind.FILE:
            fail(errno.ESTALE, reason="somebody else has made a file of this name")
        return found

    def _made(self, base: Attributes) -> None:
        """The store has the file now; what was written goes on over it."""
        if not self._touched:
            self._follow(base)
            self.size = self.base_size = base.size
            self._settled()
            return
        if self._entry is not None:
            self._entry.rebased(base)
        mtime_ns = self.mtime_ns
        self._follow(base)
        self.mtime_ns = mtime_ns
        self._stager.resume()

    def _settled(self) -> None:
        """The store has it all."""
        self.modified = self._touched = False
        self.modified_since = None
        entry, self._entry = self._entry, None
        if entry is not None:
            try:
                entry.discard()
            except OSError as error:
                # The next mount finds it and sees that the store has this very content.
                log.warning("a committed file stays in the journal", reason=error.strerror)
            entry.close()

    def _follow(self, base: Attributes) -> None:
        self._reader.close()
        self._reader = Reader(
            self._volume, self._path, base, self._cache, self._nursery, self._disk
        )
        self.base = base
        self.mtime_ns = base.mtime_ns

    async def _with_room(self, size: int, change: Callable[[], Result]) -> Result:
        """Make a change; while the disk is full, have something freed and try again."""
        while True:
            async with self._lock:
                self._check_current()
                try:
                    return change()
                except OSError as error:
                    if error.errno not in FULL:
                        raise
                    full = error
            # Not in the lock: a rename may wait for it that others' commits have to wait for.
            if not await self._make_room(self, size):
                raise full

    def _check_current(self) -> None:
        if self.superseded:
            fail(errno.ESTALE, reason="somebody else has replaced the file")

    def _begin(self) -> Entry:
        if self._entry is None:
            path = "" if self.orphaned else self._path()
            self._entry = self._journal.begin(path, self.base)
            if self.orphaned:
                self._entry.discard()
        return self._entry

    def _write(self, offset: int, data: bytes | memoryview) -> int:
        self._check_fixed(offset)
        self._stage(offset, data)
        self.size = max(self.size, offset + len(data))
        self._note_change()
        if not self.orphaned:
            self._stager.wrote(offset, offset + len(data))
            if self._reserve and not self.reserving and self._stager.holds_back(self.size):
                self.reserving = True
                self._nursery.start_soon(self._reserve, self)
        return len(data)

    def _truncate(self, size: int) -> None:
        self._check_fixed(size)
        entry = self._begin()
        entry.truncate(size)
        if size < self.size:
            self._dirty.remove(size, max(self.size, size))
            self.base_size = min(self.base_size, size)
        self._stager.truncated(size)
        self.size = size
        self._note_change()

    def _check_fixed(self, offset: int) -> None:
        """Refuse at once what the store would refuse at the commit."""
        if offset < self.base.fixed and not self.orphaned:
            fail(errno.EPERM, reason="what is in this file cannot be changed, only added to")

    def _change(self, changes: Changes) -> None:
        self._begin().changed(changes)
        self.changes = self.changes.merged(changes)
        self._note_change(touch=False)

    def _stage(self, offset: int, data: bytes | memoryview) -> None:
        entry = self._begin()
        end = offset + len(data)
        # What the log says already it need not say again.
        known = all(dirty for _, _, dirty in self._dirty.pieces(offset, end))
        try:
            entry.write(offset, data, known=known and self.changes.mtime_ns is None)
        except OSError:
            self._stager.wrote(offset, end)  # it may be there in part: what was sent is not that
            raise
        self._dirty.add(offset, end)

    def _read_written(self, offset: int, buffer: memoryview) -> None:
        """Written bytes, for the stager's thread."""
        entry = self._entry
        if entry is None:
            fail(errno.EIO, reason="the file was committed meanwhile")
        filled = 0
        while filled < len(buffer):
            count = os.preadv(entry.data, [buffer[filled:]], offset + filled)
            if not count:
                fail(errno.EIO, reason=CUT_SHORT)
            filled += count

    def _read_staged(self, start: int, stop: int) -> bytes:
        if self._entry is None:
            raise AssertionError("dirty ranges without a journal entry")
        return _read_fully(self._entry.data, stop - start, start)

    def _note_change(self, *, touch: bool = True) -> None:
        if touch:
            told = self.changes.mtime_ns
            self.mtime_ns = clock.now_ns(self.mtime_ns if told is None else told)
            if told is not None:  # a write after utimens makes it now again
                self.changes = replace(self.changes, mtime_ns=None)
        self.modified = self._touched = True
        if self.modified_since is None:
            self.modified_since = trio.current_time()


def _read_fully(descriptor: int, size: int, offset: int) -> bytes:
    data = os.pread(descriptor, size, offset)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            fail(errno.EIO, reason=CUT_SHORT)
        data += more
    return data
