"""What a crash or a conflict left behind: commit it, hand it out, or throw it away.

Two places hold such data. The journal's directories of mounts that crashed, or that could not
commit everything before they ended: the next mount of the volume commits those by itself, under the
condition that the file is still at the version that was written over. And the recovery directory,
for what lost to another writer: only a person knows which of the two is right.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, BinaryIO

import trio

from fuse import records
from fuse.errors import fail
from fuse.journal import NEW, abandoned, hold, is_abandoned, keep
from fuse.leftover import CUT_SHORT, Base, Leftover
from fuse.logs import log
from fuse.places import Places
from fuse.volume import Volume

#: What a commit says when the file is no longer what was written over.
_CONFLICT = {errno.ESTALE, errno.EEXIST, errno.ENOENT}

#: What a person is told of writes that may have reached the disk before the machine went down.
_DOUBTFUL = (
    "the machine went down before all of it was known to be on disk; what was known to be is in "
    "the store, the rest is kept here as it was found"
)

_LATER = "it takes a while"

#: Bytes handled at a time.
_CHUNK = 4 * 1024 * 1024


@dataclass(slots=True)
class Report:
    """What became of leftovers at a mount.

    Attributes:
        committed: Paths that the store has now.
        conflicts: Path → why it was put into the recovery directory.
        waiting: Path → why it could not be committed now; it is tried again.
    """

    committed: list[str] = field(default_factory=list)
    conflicts: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)


async def recover(
    volume: Volume, places: Places, *, read_only: bool = False, patience: float = inf
) -> Report:
    """Commit what earlier mounts of the volume left behind. Nothing is ever overwritten or lost.

    Args:
        volume: Where to.
        places: Where it lies.
        read_only: Nothing can be committed.
        patience: Seconds; what is not committed by then waits (:mod:`fuse.adoption`).
    """
    report = Report()
    with abandoned(places) as directories:
        found = [log_file for directory in directories for log_file in directory.glob("*.log")]
        leftovers = [item for log_file in found if (item := _read(log_file, places, report))]
        # Of several generations of a file the oldest rests on what the store has.
        leftovers.sort(key=lambda item: (item.replay.header.created, item.log_file))
        with trio.move_on_after(patience) as scope:
            for leftover in leftovers:
                await _recover(volume, places, leftover, report, read_only=read_only)
        if scope.cancelled_caught:
            for leftover in leftovers:
                if leftover.log_file.exists():
                    report.waiting.setdefault(leftover.path, _LATER)
            log.warning("left-over data is committed in the background", files=len(report.waiting))
        for directory in directories:
            for log_file in directory.glob(f"*{NEW}"):
                log_file.unlink()  # it did not take its log's place
            for data_file in directory.glob("*.data"):
                if not data_file.with_suffix(".log").exists():
                    data_file.unlink()  # committed, or never acknowledged
    return report


def _read(log_file: Path, places: Places, report: Report) -> Leftover | None:
    """A leftover of the journal, unless there is nothing in it that could be committed."""
    try:
        if not log_file.stat().st_size:
            log_file.unlink()  # the crash came before anything was acknowledged
            return None
        return Leftover(log_file)
    except records.VersionError as error:
        _wait(str(log_file), str(error), report)
    except records.JournalError as error:
        _keep(str(log_file), log_file, places, str(error), report)
    except OSError as error:
        _wait(str(log_file), error.strerror or str(error), report)
    return None


async def _recover(
    volume: Volume, places: Places, leftover: Leftover, report: Report, *, read_only: bool
) -> None:
    path, log_file = leftover.path, leftover.log_file
    if leftover.replay.header.identity != volume.identity:
        _wait(str(log_file), f"it belongs to {leftover.replay.header.identity}", report)
        return
    if leftover.is_empty and not (leftover.replay.damage or leftover.replay.doubtful):
        leftover.discard()
        return
    if read_only:
        _wait(path, "the volume is mounted read-only", report)
        return
    if leftover.damage:
        _keep(path, log_file, places, leftover.damage, report)
        return
    try:
        if leftover.replay.unlinking and not await _is_there(volume, path):
            leftover.discard()
            return
        if not leftover.is_empty:
            await leftover.commit(volume)
    except OSError as error:
        reason = error.strerror or str(error)
        if leftover.is_untouched and error.errno in {errno.EEXIST, errno.ESTALE}:
            leftover.discard()  # a new file that nothing was written to, and there is one
        elif error.errno in _CONFLICT:
            _keep(path, log_file, places, reason, report)
        else:
            _wait(path, reason, report)
        return
    except Exception as error:
        log.exception("defect while committing left-over data", path=path)
        _wait(path, f"defect: {error}", report)
        return
    if not leftover.is_empty:
        report.committed.append(path)
        log.info("left-over data is in the store now", path=path, bytes=leftover.replay.dirty.total)
    if leftover.replay.doubtful:
        _keep(path, log_file, places, _DOUBTFUL, report)
    else:
        leftover.discard()


def _wait(what: str, reason: str, report: Report) -> None:
    report.waiting[what] = reason
    log.warning("left-over data waits in the journal", path=what, reason=reason)


def _keep(what: str, log_file: Path, places: Places, reason: str, report: Report) -> None:
    place = keep(log_file, log_file.with_suffix(".data"), places.recovery, reason)
    report.conflicts[what] = reason
    log.warning("left-over data is kept aside", path=what, reason=reason, kept=str(place))


async def _is_there(volume: Volume, path: str) -> bool:
    try:
        await volume.stat(path)
    except FileNotFoundError:
        return False
    return True


# -- by hand --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """One entry for the command line.

    Attributes:
        id: Names it within the cache directory.
        volume: Identity of its volume.
        path: Of the file in the volume.
        size: Length of the content in bytes.
        dirty_bytes: Bytes that were written and are known.
        when: Seconds since the epoch.
        reason: Why it is here.
        state: ``conflict`` (recovery directory), ``waiting`` (the next mount commits it) or
            ``damaged``.
        log_file: Where it is.
    """

    id: str
    volume: str
    path: str
    size: int
    dirty_bytes: int
    when: float
    reason: str
    state: str
    log_file: Path

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("id", "volume", "path", "size", "dirty_bytes", "when", "reason", "state")
        return {**{name: getattr(self, name) for name in names}, "log_file": str(self.log_file)}


def kept(root: Path) -> list[Kept]:
    """All that is kept below a cache directory, of volumes that are not mounted just now too."""
    found: list[Kept] = []
    for log_file in sorted((root / "recovery").glob("*/*.log")):
        note = _note(log_file)
        found.append(_kept(log_file, str(note.get("reason", "")), "conflict", note.get("when")))
    for volume in sorted((root / "journal").glob("*")):
        for directory in sorted(volume.glob("[!.]*")):
            if is_abandoned(directory):
                found += [
                    _kept(log_file, "left behind by a mount that ended", "waiting", None)
                    for log_file in sorted(directory.glob("*.log"), key=_number)
                ]
    return found


@dataclass(slots=True)
class Exported:
    """What became of an export.

    Attributes:
        known: Ranges of the file that are there; the others are holes.
        reason: Why they are, in the words of who was asked for them; empty where there are none.
    """

    known: list[tuple[int, int]] = field(default_factory=list)
    reason: str = ""


async def export(leftover: Leftover, target: Path, base: Base | None) -> Exported:
    """Write a leftover's content to a new local file.

    Args:
        leftover: What to write.
        target: A file that does not exist yet.
        base: Has the version that was written over, if anybody has; None: only what was written is
            exported.

    Returns:
        What of it is there: of a damaged one as much as can be read.

    Raises:
        OSError: EEXIST when the target exists; what the disk says.
    """
    done = Exported()
    with _new_file(target) as file, leftover.over(base):
        file.truncate(leftover.size)
        for start, end, written in leftover.replay.dirty.pieces(0, leftover.size):
            there = min(end, max(start, leftover.data_length)) if written else end
            if there < end:
                done.reason = CUT_SHORT
            position = start
            while position < there:
                stop = min(there, position + _CHUNK)
                try:
                    data = await leftover.read(position, stop - position)
                except OSError as error:
                    if written:
                        raise
                    done.reason = error.strerror or str(error)
                else:
                    file.seek(position)
                    file.write(data)
                    done.known.append((position, stop))
                position = stop
    return done


def _new_file(target: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return open(os.open(target, flags, 0o600), "wb")


@contextmanager
def held(entry: Kept) -> Iterator[Leftover]:
    """Work on an entry that no mount takes up meanwhile.

    Raises:
        OSError: EBUSY: a mount has taken it up; ENOENT: it is not there any more.
        fuse.records.JournalError: It is damaged.
    """
    if entry.state == "conflict":
        yield Leftover(entry.log_file)
        return
    with hold(entry.log_file.parent) as free:
        if not free:
            fail(errno.EBUSY, entry.path, "a mount is committing it just now")
        yield Leftover(entry.log_file)


def _kept(log_file: Path, reason: str, state: str, when: object) -> Kept:
    name = log_file.relative_to(log_file.parents[2]).with_suffix("").as_posix()
    stamp = when if isinstance(when, int | float) else log_file.stat().st_mtime
    try:
        leftover = Leftover(log_file)
    except records.JournalError as error:
        return Kept(name, "", "", 0, 0, stamp, reason or str(error), "damaged", log_file)
    return Kept(
        id=name,
        volume=leftover.replay.header.identity,
        path=leftover.path,
        size=leftover.size,
        dirty_bytes=leftover.replay.dirty.total,
        when=stamp,
        reason=reason,
        state=state,
        log_file=log_file,
    )


def _note(log_file: Path) -> dict[str, Any]:
    try:
        document = json.loads(log_file.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        return {"when": time.time()}
    return document if isinstance(document, dict) else {}


def _number(file: Path) -> tuple[int, str]:
    return (int(file.stem) if file.stem.isdigit() else 0, file.stem)


__all__ = ["Exported", "Kept", "Leftover", "Report", "export", "held", "kept", "recover"]
