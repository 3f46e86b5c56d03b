"""Storing and completing kept data by hand, through the driver that has the volume mounted."""

from __future__ import annotations

import base64
import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuse import fields
from fuse.errors import fail
from fuse.fields import Fields
from fuse.leftover import Leftover
from fuse.logs import log
from fuse.records import JournalError
from fuse.recovery import held, kept
from fuse.volume import Staged, Volume

#: Most bytes of a version in one answer.
FETCH = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Arguments of the control operation ``restore``.

    Attributes:
        ids: Entries by their ids; an empty list: all of the volume's.
        overwrite: Replace what the store has by now. Only for entries whose every byte is known.
    """

    ids: list[str] = field(default_factory=list)
    overwrite: bool = False

    @classmethod
    def read(cls, given: Fields) -> Restore:
        """Of their JSON.

        Raises:
            Fault: They are none.
        """
        return cls(
            ids=given.may("ids", fields.many(fields.text(), most=100_000), []),
            overwrite=given.may("overwrite", fields.flag, default=False),
        )


async def restore(volume: Volume, cache: Path, wanted: Restore) -> dict[str, Any]:
    """Commit entries; each that the store has then is removed from the cache directory.

    Returns:
        ``stored``: ids; ``failed``: id → why, of those that are still kept.
    """
    stored: list[str] = []
    failed: dict[str, str] = {}
    known = {entry.id: entry for entry in kept(cache) if entry.volume == volume.identity}
    for identifier in wanted.ids or known:
        entry = known.get(identifier)
        if entry is None:
            failed[identifier] = "there is no such entry of this volume"
            continue
        try:
            with held(entry) as leftover:
                if wanted.overwrite:
                    await _replace(volume, leftover)
                else:
                    await leftover.commit(volume)
                leftover.discard()
        except (OSError, JournalError) as error:
            failed[identifier] = getattr(error, "strerror", None) or str(error)
            continue
        stored.append(identifier)
        log.info("kept data is in the store now", path=entry.path, overwrite=wanted.overwrite)
    return {"stored": stored, "failed": failed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Arguments of the control operation ``base``.

    Attributes:
        id: An entry of the volume's.
        start: Offset in the version that it was written over.
        size: Bytes wanted.
    """

    id: str
    start: int
    size: int

    @classmethod
    def read(cls, given: Fields) -> Fetch:
        """Of their JSON.

        Raises:
            Fault: They are none.
        """
        return cls(
            id=given.must("id", fields.text()),
            start=given.must("start", fields.number(least=0)),
            size=given.must("size", fields.number(least=1, most=FETCH)),
        )


async def fetch(volume: Volume, cache: Path, wanted: Fetch) -> dict[str, Any]:
    """A part of the version that an entry was written over, for an export.

    Returns:
        ``data``: base64; or ``errno`` and ``reason``.
    """
    known = {entry.id: entry for entry in kept(cache) if entry.volume == volume.identity}
    try:
        if wanted.id not in known:
            fail(errno.ENOENT, reason="there is no such entry of this volume")
        leftover = Leftover(known[wanted.id].log_file)
        buffer = bytearray(wanted.size)
        await volume.read_into(
            leftover.path, leftover.base, wanted.start, memoryview(buffer), lambda _filled: None
        )
    except (OSError, JournalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return {"errno": getattr(error, "errno", None) or errno.EIO, "reason": reason}
    return {"data": base64.b64encode(buffer).decode("ascii")}


async def _replace(volume: Volume, leftover: Leftover) -> None:
    """Make the leftover the file's whole content, whatever the store has."""
    if not is_whole(leftover):
        reason = "parts of it were never written here, and their version is gone; export it"
        raise OSError(None, reason)
    try:
        found = await volume.stat(leftover.path)
    except FileNotFoundError:
        found = None
    with leftover.over(None):
        await volume.commit(leftover.path, found, _Whole(leftover), leftover.replay.changes)


def is_whole(leftover: Leftover) -> bool:
    """Whether every byte is known without the version that was written over."""
    pieces = leftover.replay.dirty.pieces(0, leftover.base_size)
    return all(written for _start, _end, written in pieces)


class _Whole:
    """A leftover as content that shows nothing of any base."""

    base_size = 0
    staged: Sequence[Staged] = ()

    def __init__(self, leftover: Leftover) -> None:
        self._leftover = leftover
        self.size = leftover.size
        self.mtime_ns = leftover.mtime_ns
        self.dirty_ranges: Sequence[tuple[int, int]] = [(0, self.size)] if self.size else []

    async def read(self, offset: int, size: int) -> bytes:
        """Bytes of the content."""
        return await self._leftover.read(offset, size)
