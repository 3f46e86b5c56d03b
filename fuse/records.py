"""The journal's records: what a mount was told and the store does not have yet. No I/O in here.

A log is a sequence of records, each ``crc32 | length | kind | payload``. A crash can only tear the
last one, which was never acknowledged then: it is cut. A whole record that does not match its
checksum is damage; what came behind it was acknowledged, so that what is left is not the file.
"""

from __future__ import annotations

import base64
import enum
import json
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from fuse.ranges import RangeSet
from fuse.volume import Attributes, Changes, Kind

#: Of the header record: logs of another version are left alone.
VERSION = 1

_HEAD = struct.Struct("<IIB")
_RANGE = struct.Struct("<QQ")
_SIZE = struct.Struct("<Q")

#: Longest payload that is believed (bytes): metadata of a blob is 8 KiB at most.
_LONGEST = 1 << 20

#: What replay says of a log that goes on behind what can be read.
DAMAGED = "the log is damaged"


class Record(enum.IntEnum):
    """Kinds of records."""

    HEADER = 1
    WRITE = 2
    TRUNCATE = 3
    CHANGES = 4
    PATH = 5
    BARRIER = 6
    UNLINK = 7
    BASE = 8
    COMMIT = 9


#: Lengths of the payloads that have one.
_LENGTHS = {
    Record.WRITE: _RANGE.size,
    Record.TRUNCATE: _SIZE.size,
    Record.BARRIER: _SIZE.size,
    Record.UNLINK: 0,
    Record.COMMIT: _SIZE.size,
}


class JournalError(Exception):
    """A log that says nothing that could be believed."""


class VersionError(JournalError):
    """A log that another version of this program wrote, and could read."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a log begins with.

    Attributes:
        identity: Of the volume.
        path: Of the file in the volume.
        base: The version that the writes rest on.
        boot: Boot id of the machine (proc(5)): what was not synced before a reboot is not believed.
        created: Seconds since the epoch.
    """

    identity: str
    path: str
    base: Attributes
    boot: str
    created: float


@dataclass(slots=True)
class Replay:
    """A file as its log tells it.

    Attributes:
        header: How it began.
        path: Where it is by now.
        base: The version that the writes rest on by now.
        size: Length in bytes.
        base_size: Bytes of the base that are still visible.
        dirty: What was written.
        changes: Attributes to set.
        committing: Modification time (nanoseconds since the epoch) of a commit of all this that was
            begun, and may have succeeded; None where there was none.
        unlinking: Its removal had begun: it need not be there any more.
        records: Number of records believed.
        length: Bytes of the log that were believed.
        damage: Why this is not all that was acknowledged, although no power was lost; else empty.
        doubtful: Something was written after the last barrier before the machine went down.
    """

    header: Header
    path: str
    base: Attributes
    size: int
    base_size: int
    dirty: RangeSet = field(default_factory=RangeSet)
    changes: Changes = field(default_factory=Changes)
    committing: int | None = None
    unlinking: bool = False
    records: int = 1
    length: int = 0
    damage: str = ""
    doubtful: bool = False


def header(content: Header) -> bytes:
    """The first record of a log."""
    document = {
        "version": VERSION,
        "identity": content.identity,
        "path": content.path,
        "base": attributes_to_json(content.base),
        "boot": content.boot,
        "created": content.created,
    }
    return _record(Record.HEADER, json.dumps(document).encode())


def write(start: int, end: int) -> bytes:
    """``[start, end)`` is in the data file."""
    return _record(Record.WRITE, _RANGE.pack(start, end))


def truncate(size: int) -> bytes:
    """The file was cut or extended."""
    return _record(Record.TRUNCATE, _SIZE.pack(size))


def changes(value: Changes) -> bytes:
    """Attributes were set."""
    document = {
        "mode": value.mode,
        "uid": value.uid,
        "gid": value.gid,
        "mtime": value.mtime_ns,
        "xattrs": [[name, _text(data)] for name, data in value.xattrs],
    }
    return _record(Record.CHANGES, json.dumps(document).encode())


def path(value: str) -> bytes:
    """The file was renamed."""
    return _record(Record.PATH, json.dumps(value).encode())


def base(value: Attributes) -> bytes:
    """The same bytes have another version now."""
    return _record(Record.BASE, json.dumps(attributes_to_json(value)).encode())


def barrier(length: int) -> bytes:
    """What the first ``length`` bytes of the log tell of is on disk, not only in the page cache."""
    return _record(Record.BARRIER, _SIZE.pack(length))


def unlink() -> bytes:
    """The file is about to be removed from the store."""
    return _record(Record.UNLINK, b"")


def commit(mtime_ns: int) -> bytes:
    """What is noted so far is about to be committed, with this modification time."""
    return _record(Record.COMMIT, _SIZE.pack(mtime_ns))


def rewritten(state: Replay, boot: str) -> bytes:
    """A log that tells what ``state`` does, for somebody who goes on with it on this boot."""
    head = state.header
    parts = [header(Header(head.identity, state.path, state.base, boot, head.created))]
    if state.base_size != state.base.size:
        parts.append(truncate(state.base_size))
    parts += [write(start, end) for start, end in state.dirty]
    if state.size != max([state.base_size, *(end for _, end in state.dirty)]):
        parts.append(truncate(state.size))
    if state.changes:
        parts.append(changes(state.changes))
    if state.committing is not None:
        parts.append(commit(state.committing))
    return b"".join(parts)


def replay(log: bytes, *, boot: str | None) -> Replay:
    """What a log tells, as far as it can be believed on a machine with this boot id.

    Args:
        log: All of it.
        boot: Boot id of the machine now; None: believe also what may not have reached the disk.

    Raises:
        VersionError: It is of another version.
        JournalError: There is no whole header.
    """
    records, damage = _parse(log)
    if not records or records[0][0] is not Record.HEADER:
        raise JournalError("the log has no header")
    found = _header(records[0][1])
    believed = records
    if boot is not None and found.boot != boot:
        # After a power loss the page cache is gone: only what was synced counts.
        synced = [
            _SIZE.unpack(payload)[0] for kind, payload, _ in records if kind is Record.BARRIER
        ]
        limit = max(synced, default=0)
        believed = records[:1] + [record for record in records[1:] if record[2] <= limit]
    state = Replay(found, found.path, found.base, found.base.size, found.base.size)
    state.length = records[0][2]
    for kind, payload, end in believed[1:]:
        _apply(state, kind, payload)
        state.records += 1
        state.length = end
    if believed is records:
        state.damage = damage
    else:
        state.doubtful = bool(damage) or any(
            kind not in {Record.BARRIER, Record.COMMIT} for kind, _, _ in records[len(believed) :]
        )
    return state


def _apply(state: Replay, kind: Record, payload: bytes) -> None:
    if kind in {Record.WRITE, Record.TRUNCATE}:  # an older explicit time no longer holds
        state.changes = replace(state.changes, mtime_ns=None)
    if kind in {Record.WRITE, Record.TRUNCATE, Record.CHANGES}:  # it is still in use
        state.unlinking = False
        state.committing = None
    if kind is Record.WRITE:
        start, end = _RANGE.unpack(payload)
        state.dirty.add(start, end)
        state.size = max(state.size, end)
    elif kind is Record.TRUNCATE:
        (size,) = _SIZE.unpack(payload)
        state.dirty.remove(size, max(size, state.size))
        state.base_size = min(state.base_size, size)
        state.size = size
    elif kind is Record.CHANGES:
        state.changes = state.changes.merged(_changes(json.loads(payload)))
    elif kind is Record.PATH:
        state.path = str(json.loads(payload))
    elif kind is Record.UNLINK:
        state.unlinking = True
    elif kind is Record.COMMIT:
        (state.committing,) = _SIZE.unpack(payload)
    elif kind is Record.BASE:
        state.base = attributes_from_json(json.loads(payload))


def _record(kind: Record, payload: bytes) -> bytes:
    body = bytes([kind]) + payload
    return _HEAD.pack(zlib.crc32(body), len(payload), kind) + payload


def _parse(log: bytes) -> tuple[list[tuple[Record, bytes, int]], str]:
    """Whole records with their kind, payload and end; and what is wrong behind them, or ""."""
    found: list[tuple[Record, bytes, int]] = []
    position = 0
    while position + _HEAD.size <= len(log):
        checksum, length, number = _HEAD.unpack_from(log, position)
        try:
            kind = Record(number)
        except ValueError:
            return found, DAMAGED
        if length > _LONGEST or length != _LENGTHS.get(kind, length):
            return found, DAMAGED
        start, end = position + _HEAD.size, position + _HEAD.size + length
        if end > len(log):
            return found, ""
        payload = log[start:end]
        if zlib.crc32(bytes([kind]) + payload) != checksum:
            return found, DAMAGED
        found.append((kind, payload, end))
        position = end
    return found, ""


def _header(payload: bytes) -> Header:
    document = json.loads(payload)
    if document.get("version") != VERSION:
        raise VersionError(f"the log has version {document.get('version')}, not {VERSION}")
    return Header(
        identity=str(document["identity"]),
        path=str(document["path"]),
        base=attributes_from_json(document["base"]),
        boot=str(document["boot"]),
        created=float(document["created"]),
    )


def attributes_to_json(value: Attributes) -> dict[str, Any]:
    """Attributes as JSON; new fields of the class are carried along by name."""
    document: dict[str, Any] = {
        name: getattr(value, name)
        for name in Attributes.__slots__
        if name not in {"kind", "xattrs"}
    }
    document["kind"] = value.kind.value
    document["xattrs"] = [[name, _text(data)] for name, data in value.xattrs]
    return document


def attributes_from_json(document: dict[str, Any]) -> Attributes:
    """The reverse of :func:`attributes_to_json`."""
    known = {name: document[name] for name in Attributes.__slots__ if name in document}
    for name, value in known.items():
        if isinstance(value, list):
            known[name] = tuple(tuple(item) for item in value)
    known["kind"] = Kind(document["kind"])
    known["xattrs"] = tuple((name, _bytes(data) or b"") for name, data in document["xattrs"])
    return Attributes(**known)


def _changes(document: dict[str, Any]) -> Changes:
    return Changes(
        mode=document["mode"],
        uid=document["uid"],
        gid=document["gid"],
        mtime_ns=document["mtime"],
        xattrs=tuple((name, _bytes(data)) for name, data in document["xattrs"]),
    )


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
