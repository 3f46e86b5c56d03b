"""The child that copies spools to the log directory, with the rights of the job's user.

It may hang in any call on the share, and be killed at any point: what it knows beyond the far
file itself is only what the supervisor hands to its successor.
"""

# ruff: noqa: PTH116 - pathlib would cost start-up time

import contextlib
import errno
import json
import os
import select
import stat
import time
from dataclasses import dataclass, field
from typing import NoReturn

from agent.supervisor.ledger import Cursor, ForeignContent

_COALESCE_SECONDS = 0.1
"""Least time between two turns: a chatty job must not cost a sync a line."""
_TURN_BYTES = 8 << 20
"""Most bytes of one stream before the others have their turn, and before a sync."""
_COMPARE_BYTES = 64 << 10
"""How much of an existing far file is compared with the spool before it is gone on with."""
_SYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

WAKE = b"w"
FINISH = b"f"


class NotAFile(Exception):  # noqa: N818 - named for what it is
    """In the place of the log file there is something else, put there by the job or its user."""


@dataclass(slots=True)
class Stream:
    """One spool and the file that it goes to."""

    name: str
    source: int
    """The spool, open for reading."""
    cursor: Cursor
    descriptor: int = -1
    seen: int = 0
    error: str | None = None
    hopeless: bool = False
    complete: bool = False


def _words(path: str, error: OSError) -> str:
    number = error.errno or 0
    return f"{path}: {os.strerror(number)} ({errno.errorcode.get(number, number)})"


@dataclass(slots=True)
class Shipper:
    """Turns: look at the spools, bring the far files up to them, report."""

    directory: str
    streams: list[Stream]
    wake: int
    report_to: int
    finishing: bool = False
    orphaned: bool = False
    _last_turn: float = field(default=-1.0)

    def run(self) -> None:
        """Ship until told to finish and everything is there, or until the supervisor is gone."""
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        due: float | None = 0.0
        while True:
            now = time.monotonic()
            if due is not None and now >= due:
                due = self._turn(now)
                self._last_turn = time.monotonic()
                self._report()
                done = all(stream.complete for stream in self.streams)
                if (self.finishing and done) or (self.orphaned and (due is None or due > now)):
                    return
                continue
            # rounded up: a timeout cut to whole milliseconds would spin through the last of them
            timeout = None if due is None else int((due - now) * 1000) + 1
            if not poll.poll(timeout):
                continue
            self._take_orders()
            soon = self._last_turn + _COALESCE_SECONDS
            due = soon if due is None else min(due, soon)

    def _take_orders(self) -> None:
        orders = os.read(self.wake, 4096)
        if not orders:
            # The supervisor is dead and its pipes with it: one last turn, then nobody cares.
            self.orphaned = True
            self._last_turn = -1.0
        if FINISH in orders or self.orphaned:
            self.finishing = True
            for stream in self.streams:
                stream.cursor.hurry()

    def _turn(self, now: float) -> float | None:
        """Try every stream that is due; returns when the next turn is, None: when woken."""
        due: float | None = None
        for stream in self.streams:
            # also of those that wait: the supervisor wakes us for what we have not seen
            stream.seen = os.fstat(stream.source).st_size
            if stream.cursor.retry_at <= now:
                try:
                    more = self._ship(stream)
                except OSError as error:
                    hopeless = error.errno == errno.ELOOP
                    self._failed(stream, _words(self._path(stream), error), hopeless=hopeless)
                except (ForeignContent, NotAFile) as error:
                    self._failed(stream, f"{self._path(stream)} {error}", hopeless=True)
                else:
                    stream.error, stream.hopeless = None, False
                    if more:
                        due = now
            if stream.cursor.retry_at > now:
                due = stream.cursor.retry_at if due is None else min(due, stream.cursor.retry_at)
        return due

    def _failed(self, stream: Stream, words: str, *, hopeless: bool) -> None:
        # looked at again: the attempt may have taken long
        stream.seen = os.fstat(stream.source).st_size
        stream.error, stream.hopeless, stream.complete = words, hopeless, False
        if stream.descriptor >= 0:
            descriptor, stream.descriptor = stream.descriptor, -1
            with contextlib.suppress(OSError):  # the failure that brought us here is told
                os.close(descriptor)
        stream.cursor.failed(time.monotonic())

    def _path(self, stream: Stream) -> str:
        return f"{self.directory}/{stream.name}"

    def _ship(self, stream: Stream) -> bool:
        """Bring one far file up to its spool; True when there is more to do."""
        stream.seen = spooled = os.fstat(stream.source).st_size
        if stream.complete and stream.cursor.confirmed == spooled:
            return False
        stream.complete = False
        self._open(stream, spooled)
        cursor, wrote = stream.cursor, 0
        while wrote < _TURN_BYTES and (chunk := cursor.next_chunk(spooled)) is not None:
            offset, length = chunk
            data = os.pread(stream.source, length, offset)
            if not data:
                raise OSError(errno.EIO, "the spool is shorter than it was")
            count = os.pwrite(stream.descriptor, data, offset)
            cursor.wrote(count)
            wrote += count
            self._report()
        if cursor.position != cursor.confirmed:  # also what a dead shipper wrote and left unsynced
            _sync(stream.descriptor)
        cursor.synced()
        if cursor.position != spooled:
            return True
        if self.finishing:
            self._verify(stream, spooled)
        return False

    def _open(self, stream: Stream, spooled: int) -> None:
        """Have the right file open and know where to go on in it.

        The name is looked up every time: the share may have been mounted anew, the directory
        replaced, the file deleted, and writes to a file without a name would be lost.
        """
        path = self._path(stream)
        if stream.descriptor >= 0:
            try:
                named = os.stat(path, follow_symlinks=False)
            except FileNotFoundError:
                named = None
            held = os.fstat(stream.descriptor)
            same = named is not None and (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
            if same and held.st_size == stream.cursor.position:
                return
            descriptor, stream.descriptor = stream.descriptor, -1
            os.close(descriptor)
        # O_NONBLOCK: a FIFO in the file's place must not hold us
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            stream.descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            if error.errno in {errno.ENXIO, errno.EISDIR}:
                raise NotAFile("is not a regular file: nothing is written to it") from error
            if error.errno == errno.ELOOP:
                raise NotAFile("is a symbolic link: it is not followed") from error
            raise
        found = os.fstat(stream.descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotAFile("is not a regular file: nothing is written to it")
        far = found.st_size
        agreement = self._agreement(stream, min(far, spooled)) if far else 0
        stream.cursor.opened(far=far, spooled=spooled, agreement=agreement)

    def _agreement(self, stream: Stream, length: int) -> int:
        """Where far file and spool first differ, looking at the end of `length` bytes."""
        start = max(0, length - _COMPARE_BYTES)
        ours = os.pread(stream.source, length - start, start)
        descriptor = os.open(
            self._path(stream), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        )
        try:
            theirs = os.pread(descriptor, length - start, start)
        finally:
            os.close(descriptor)
        if ours == theirs:
            return length
        pairs = zip(ours, theirs, strict=False)
        same = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
        # When already the first byte compared differs, nothing is known of those before it.
        return start + same if same else 0

    def _verify(self, stream: Stream, spooled: int) -> None:
        """Close, for the errors that come with it, and look at the file as others see it."""
        descriptor, stream.descriptor = stream.descriptor, -1
        os.close(descriptor)
        found = os.stat(self._path(stream), follow_symlinks=False)
        if found.st_size != spooled:
            raise OSError(errno.EIO, f"has {found.st_size} bytes after {spooled} were written")
        stream.complete = True

    def _report(self) -> None:
        record = {
            "finishing": self.finishing,
            "streams": [
                {
                    "shipped": stream.cursor.confirmed,
                    "seen": stream.seen,
                    "owned": stream.cursor.owned,
                    "error": stream.error,
                    "hopeless": stream.hopeless,
                    "complete": stream.complete,
                }
                for stream in self.streams
            ],
        }
        data = json.dumps(record).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self.report_to, data) :]
        except BrokenPipeError:
            self.orphaned = True


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _SYNC_UNSUPPORTED:
            raise


def run_and_exit(shipper: Shipper) -> NoReturn:
    """The body of the forked child."""
    code = 1
    try:
        shipper.run()
        code = 0
    finally:
        os._exit(code)
