"""Dirty data on the local disk, so that a crash of the driver loses none of it.

Each mount has a directory of its own below :attr:`fuse.places.Places.journal`, locked (flock(2))
for as long as its process lives: a directory whose lock can be had belongs to a mount that crashed.
In it each file with uncommitted changes has two files: ``<n>.data``, sparse, with the written bytes
at their offsets, and ``<n>.log``, which says what of it counts (:mod:`fuse.records`).

A write is acknowledged when its bytes are in the data file and its range is in the log: both then
survive the end of the process. Power losses are survived by what :meth:`Journal.sync` brought to
the disk since.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import trio

from fuse import records
from fuse.errors import fail
from fuse.logs import log
from fuse.places import Places
from fuse.volume import Attributes, Changes

LOCK = "lock"

#: Suffix of a log that is about to take the place of another one.
NEW = ".new"

#: Uncommitted data is brought from the page cache to the disk this often (seconds).
SYNC_INTERVAL = 5.0


class Entry:
    """The uncommitted changes of one file."""

    def __init__(self, journal: Journal, place: Path, log: bytes, *, goes_on: bool = False) -> None:
        """Write its first records; with ``goes_on`` in place of those of an entry that is there."""
        self._journal = journal
        self._log_path = place.with_suffix(".log")
        self._data_path = place.with_suffix(".data")
        self._log = -1
        self.data = -1
        self._length = 0
        self._unsynced = False
        self._named = False
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        first = place.with_suffix(NEW) if goes_on else self._log_path
        try:
            self.data = os.open(self._data_path, flags | (0 if goes_on else os.O_EXCL), 0o600)
            self._log = os.open(first, flags | os.O_EXCL | os.O_APPEND, 0o600)
            self._append(log)
            if goes_on:
                # The log that it replaces may have been on the disk: that must not become less.
                os.fdatasync(self.data)
                self._append(records.barrier(self._length), syncs=True)
                os.fdatasync(self._log)
                first.rename(self._log_path)
        except BaseException:
            if goes_on:
                first.unlink(missing_ok=True)
            else:
                self.discard()
            self.close()
            raise

    def write(self, start: int, data: bytes | memoryview, *, known: bool) -> None:
        """Keep ``data``, written at ``start``.

        Args:
            start: Offset in the file.
            data: What was written.
            known: Whether the log says already that this range was written.

        Raises:
            OSError: ENOSPC and the like: it was not acknowledged, and does not count.
        """
        view = memoryview(data)
        written = 0
        self._unsynced = True
        while written < len(view):
            written += os.pwrite(self.data, view[written:], start + written)
        if not known:
            self._append(records.write(start, start + written))

    def truncate(self, size: int) -> None:
        """The file has this size now."""
        self._append(records.truncate(size))
        # Frees space; what a reader of the log sees is the same.
        if os.fstat(self.data).st_size > size:
            os.ftruncate(self.data, size)

    def changed(self, changes: Changes) -> None:
        """These attributes are to be set."""
        self._append(records.changes(changes))

    def renamed(self, path: str) -> None:
        """The file is somewhere else."""
        self._append(records.path(path))

    def rebased(self, base: Attributes) -> None:
        """The same bytes have another version now: a copy, or other attributes."""
        self._append(records.base(base))

    def unlinking(self) -> None:
        """The file is about to be removed: after a crash it may be gone."""
        self._append(records.unlink())

    def committing(self, mtime_ns: int) -> None:
        """A commit begins: after a crash this time tells whether it succeeded."""
        self._append(records.commit(mtime_ns))

    def discard(self) -> None:
        """The store has it all, or nobody wants it: nothing is left to recover.

        The data file can still be read through :attr:`data`.
        """
        # The log goes first: without it the data says nothing.
        try:
            self._log_path.unlink(missing_ok=True)
        except OSError:
            if self._log >= 0:  # an empty one says nothing either
                os.ftruncate(self._log, 0)
            raise
        self._data_path.unlink(missing_ok=True)
        self._journal.forget(self)

    def set_aside(self, reason: str) -> Path:
        """Keep it for a person, out of reach of later mounts' commits; returns the log's path."""
        target = self._journal.places.recovery
        kept = keep(self._log_path, self._data_path, target, reason)
        self._journal.forget(self)
        return kept

    def close(self) -> None:
        """Close the files; what was not discarded stays for the next mount."""
        for descriptor in (self._log, self.data):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self.data = -1
        self._journal.forget(self)

    async def sync(self) -> None:
        """Bring to the disk what is in the page cache, and say so in the log."""
        if not self._unsynced or self._log < 0:
            return
        # What comes while the disk is busy is behind what the barrier speaks of.
        self._unsynced, length = False, self._length
        try:
            if not self._named:
                await self._journal.sync_names()
                self._named = True
            if self._log < 0:  # committed while the disk was busy
                return
            await _to_disk(self.data)
            if self._log < 0:
                return
            self._append(records.barrier(length), syncs=True)
            await _to_disk(self._log)
        except BaseException:
            self._unsynced = True
            raise

    def _append(self, record: bytes, *, syncs: bool = False) -> None:
        self._unsynced = self._unsynced or not syncs
        written = os.write(self._log, record)
        if written != len(record):
            # A full disk. Later records must not come behind a torn one.
            os.ftruncate(self._log, self._length)
            fail(errno.ENOSPC, os.fspath(self._log_path))
        self._length += written


async def _to_disk(descriptor: int) -> None:
    duplicate = os.dup(descriptor)  # the file may be closed while the disk is busy
    try:
        await trio.to_thread.run_sync(os.fdatasync, duplicate)
    finally:
        os.close(duplicate)


class Journal:
    """The journal of one mount.

    Args:
        places: Where it is.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.boot = boot_id()
        self._entries: dict[Entry, None] = {}
        self._numbers = count(1)
        self._directory: Path | None = None
        self._lock = -1
        self._taken_over = ExitStack()

    @property
    def directory(self) -> Path:
        """Made when it is needed: a mount that only reads does without, also on a full disk."""
        if self._directory is None:
            make_private(self.places.journal)
            name = uuid.uuid4().hex
            # Locked before it has the name under which others look for what was left behind.
            fresh = self.places.journal / f".{name}"
            fresh.mkdir(mode=0o700)
            try:
                lock = os.open(fresh / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:
                fresh.rmdir()
                raise
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._lock = lock
            self._directory = fresh.rename(self.places.journal / name)
        return self._directory

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, path: str, base: Attributes) -> Entry:
        """Start to note changes of a file. ENOSPC and the like when the disk refuses."""
        head = records.Header(self.places.identity, path, base, self.boot, time.time())
        place = self.directory / f"{next(self._numbers)}"
        entry = Entry(self, place, records.header(head))
        self._entries[entry] = None
        return entry

    def take_over(self) -> list[Path]:
        """Directories of mounts that are no more: this mount's as long as it lives."""
        return self._taken_over.enter_context(abandoned(self.places))

    def go_on(self, log_file: Path, state: records.Replay) -> Entry:
        """Go on with an entry in a directory that was taken over. OSError: it is as it was."""
        log_file.with_suffix(NEW).unlink(missing_ok=True)  # of one that did not get that far
        log = records.rewritten(state, self.boot)
        entry = Entry(self, log_file.with_suffix(""), log, goes_on=True)
        self._entries[entry] = None
        return entry

    def forget(self, entry: Entry) -> None:
        """The entry is closed or empty: nothing of it needs to be synced."""
        self._entries.pop(entry, None)

    async def sync_when_due(self) -> None:
        """Bring dirty data to the disk now and then, until cancelled."""
        while True:
            await trio.sleep(SYNC_INTERVAL)
            await self.sync()

    async def sync(self) -> None:
        """Bring all dirty data to the disk."""
        for entry in list(self._entries):
            try:
                await entry.sync()
            except OSError as error:
                # The data stays in the page cache, and the next round tries again.
                log.warning("the journal cannot be synced", reason=error.strerror)

    async def sync_names(self) -> None:
        """Bring the names of new entries to the disk: the files alone may be found by nobody."""
        for place in (self.directory, self.places.journal, *self.places.journal.parents[:2]):
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                await trio.to_thread.run_sync(os.fsync, descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Give the directories up; what is left in them is for the next mount."""
        self._taken_over.close()
        if self._directory is None:
            return
        (self._directory / LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # ENOTEMPTY: there is uncommitted data
            self._directory.rmdir()
        os.close(self._lock)
        self._directory, self._lock = None, -1


@contextmanager
def abandoned(places: Places) -> Iterator[list[Path]]:
    """The directories of mounts that are no more, held so that no other mount takes them."""
    with ExitStack() as stack:
        directories = sorted(places.journal.glob("[!.]*"))
        yield [directory for directory in directories if stack.enter_context(hold(directory))]


@contextmanager
def hold(directory: Path) -> Iterator[bool]:
    """Lock a directory of the journal; False where somebody else has it. Left empty, it goes."""
    lock = _take(directory)
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        if all(item.name == LOCK for item in directory.iterdir()):
            (directory / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                directory.rmdir()
        os.close(lock)


def is_abandoned(directory: Path) -> bool:
    """Whether no mount has a directory of the journal just now."""
    try:
        lock = os.open(directory / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # given up in good order
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _take(directory: Path) -> int | None:
    """Lock a directory of the journal; None when somebody else has it."""
    # One that was given up in good order has no lock any more: it is made anew.
    try:
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        log.warning("cannot look for left-over data", place=str(directory), reason=error.strerror)
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who had it before us may have removed the name, and a third one may have made it anew.
        if os.path.samestat(os.fstat(lock), (directory / LOCK).stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def keep(log_file: Path, data_file: Path, directory: Path, reason: str) -> Path:
    """Move an entry to the recovery directory; returns its log's new path.

    A crash in the middle leaves the log where it was, and the next call goes on from there.
    """
    make_private(directory)
    target = directory / f"{log_file.parent.name}-{log_file.stem}.log"
    with suppress(FileNotFoundError):  # no data, or moved by an earlier call
        data_file.rename(target.with_suffix(".data"))
    log_file.rename(target)
    note = json.dumps({"version": 1, "reason": reason, "when": time.time()})
    try:
        _write_note(target.with_suffix(".json"), note)
    except OSError as error:
        # The entry is safe and describes itself; only the reason is missing.
        log.warning("the reason cannot be noted", kept=str(target), reason=error.strerror)
    return target


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, for nobody else to look into."""
    if directory.is_dir():
        return
    make_private(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)


def _write_note(file: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(file, flags, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)


def boot_id() -> str:
    """Names this boot of the machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
