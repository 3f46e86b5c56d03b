"""The format of one cached chunk: a header, a table of checksums, and up to 8 MiB of a version.

A chunk is kept in units of 32 KiB, each with a checksum over the chunk's key, the unit's number and
its bytes. So a file that was torn by a crash, damaged by the disk, or put under another name says
of each unit whether it is to be believed; and several processes can write the same file at the
same time, since for one key they all write the same bytes. Nothing in here waits for anything but
the disk.

    0      magic, the key's digest (32 bytes)
    64     one checksum of 8 bytes a unit; 0: the unit is not there
    4096   the units, each at its place
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import xxhash

#: Bytes of one unit.
UNIT = 32 * 1024

#: Bytes of a version in one file.
CHUNK = 8 * 1024 * 1024

MAGIC = b"batchai-block-01"

DATA = 4096

#: Flag of :func:`read`: rather fail than wait for the disk (preadv(2)); 0 where there is none.
NOWAIT = getattr(os, "RWF_NOWAIT", 0)

_TABLE = 64
_ENTRY = struct.Struct("<Q")
_UNITS = CHUNK // UNIT


#: Fills a buffer with a unit of that number, if it has it.
Elsewhere = Callable[[int, memoryview], bool]


class DamagedError(Exception):
    """A chunk's file holds something else than it says, or than its name says."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of one file: what all of its chunks have in common."""

    key: bytes
    size: int

    @classmethod
    def of(cls, identity: str, path: str, version: str, size: int) -> Version:
        """Of a file in a volume."""
        text = "\0".join((identity, path, version, str(size)))
        return cls(hashlib.sha256(text.encode(errors="surrogateescape")).digest(), size)

    def chunks(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """``(number, start, end)`` of the chunks of ``[start, end)``, offsets within the chunk."""
        position = start
        while position < end:
            number = position // CHUNK
            stop = min(end, (number + 1) * CHUNK)
            yield number, position - number * CHUNK, stop - number * CHUNK
            position = stop

    def chunk_key(self, number: int) -> bytes:
        """Digest of one chunk's identity."""
        return hashlib.sha256(self.key + number.to_bytes(8, "little")).digest()

    def chunk_size(self, number: int) -> int:
        """Bytes of the version in one chunk."""
        return min(CHUNK, self.size - number * CHUNK)

    def unit_key(self, number: int) -> bytes:
        """Digest of one unit's identity, counted from the version's beginning."""
        return hashlib.sha256(self.key + number.to_bytes(8, "little") + b"unit").digest()


def digest_header(key: bytes) -> bytes:
    """What a chunk's file begins with; ``key`` has 32 bytes and names volume, path and version."""
    return MAGIC + key


def units(start: int, end: int) -> range:
    """Numbers of the units that ``[start, end)`` of a chunk touches."""
    return range(start // UNIT, -(-end // UNIT))


def read(
    descriptor: int,
    key: bytes,
    start: int,
    view: memoryview,
    size: int,
    *,
    flags: int = 0,
    elsewhere: Elsewhere | None = None,
) -> bool:
    """Fill ``view`` from offset ``start`` of a chunk.

    Args:
        descriptor: The chunk's file.
        key: Digest of what it must hold.
        start: Within the chunk; a multiple of the unit.
        view: Ends at a unit's end, or at the chunk's.
        size: Length of the chunk in bytes: less than CHUNK for the last one of a version.
        flags: For preadv(2): NOWAIT or 0.
        elsewhere: Asked for units that the chunk does not have.

    Returns:
        Whether all of it is there; else the buffer's content is undefined.

    Raises:
        DamagedError: It is there, but not unharmed.
        OSError: EAGAIN with NOWAIT; what the disk says.
    """
    head = bytearray(DATA)
    end = start + len(view)
    # What a version begins with is mostly there: one call then.
    count = os.preadv(descriptor, [head] if start else [head, view], 0, flags)
    if count < DATA:
        return _is_not_there(flags)
    if head[: len(MAGIC) + len(key)] != digest_header(key):
        raise DamagedError
    if end > size:
        return False
    wanted = units(start, end)
    checksums = _table(len(wanted)).unpack_from(head, _TABLE + wanted.start * _ENTRY.size)
    # Before looking at the units: where one is not there yet is a hole, which is not in the page
    # cache either, and a thread would have to find out that there is nothing to wait for.
    if not all(checksums):
        if elsewhere is None:
            return False
        count = DATA
        for unit, piece in pieces(start, view):
            if not checksums[unit - wanted.start] and not elsewhere(unit, piece):
                return False
    if count < DATA + len(view) and not _read_units(descriptor, start, view, checksums, flags):
        return _is_not_there(flags)
    for (unit, piece), checksum in zip(pieces(start, view), checksums, strict=True):
        if checksum and checksum != _checksum(key, unit, piece):
            raise DamagedError
    return True


def pieces(start: int, view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The units of a chunk that begin at offset ``start``: number and bytes of each."""
    for unit in units(start, start + len(view)):
        yield unit, view[unit * UNIT - start :][:UNIT]


def _read_units(
    descriptor: int, start: int, view: memoryview, checksums: Sequence[int], flags: int
) -> bool:
    """Fill ``view``, or what has a checksum of it; False where the file ends before."""
    first = 0
    for there, run in groupby(checksums, bool):
        last = first + sum(1 for _ in run) * UNIT
        part = view[first:last]
        if there and os.preadv(descriptor, [part], DATA + start + first, flags) < len(part):
            return False
        first = last
    return True


def _is_not_there(flags: int) -> bool:
    """Say so, unless that is not known: not to wait is to stop where the page cache does."""
    if flags & NOWAIT:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return False


@cache
def _table(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


def write(
    descriptor: int,
    key: bytes,
    start: int,
    view: memoryview,
    size: int,
    direct: int | None = None,
) -> int:
    """Keep what ``view`` has of a chunk from offset ``start`` on, in whole units.

    Args:
        descriptor: The chunk's file.
        key: Digest of what it holds.
        start: Within the chunk.
        view: The bytes.
        size: Length of the chunk in bytes.
        direct: The same file, opened with O_DIRECT: the bytes then go past the page cache, which
            saves a copy of them and the room.

    Returns:
        Bytes that were kept; parts of units at both ends are not.

    Raises:
        OSError: What the disk says; what was kept by then is whole.
    """
    first = -(-start // UNIT)
    end = start + len(view)
    last = _UNITS if end >= size else end // UNIT
    last = min(last, -(-end // UNIT))
    if first >= last:
        return 0
    begin, stop = first * UNIT, min(last * UNIT, end)
    body = view[begin - start : stop - start]
    table = b"".join(_entries(key, first, last, body))
    if not begin and stop == size and direct is None:  # all there is: one call
        head = bytearray(DATA)
        head[: len(MAGIC) + len(key)] = digest_header(key)
        head[_TABLE : _TABLE + len(table)] = table
        written = os.pwritev(descriptor, [head, body], 0)
        if written < DATA + len(body):
            # Of the head that is there already, what is missing is a unit that proves damaged.
            _write_all(descriptor, body[max(0, written - DATA) :], DATA + max(0, written - DATA))
        return len(body)
    _write_all(descriptor, memoryview(digest_header(key)), 0)
    past = _write_past(direct, body, DATA + begin) if direct is not None else 0
    _write_all(descriptor, body[past:], DATA + begin + past)
    _write_all(descriptor, memoryview(table), _TABLE + first * _ENTRY.size)
    return len(body)


def _write_past(direct: int, body: memoryview, offset: int) -> int:
    """Write as many whole pages as can be written with O_DIRECT; how many bytes that was."""
    whole = len(body) - len(body) % mmap.PAGESIZE
    try:
        return os.pwrite(direct, body[:whole], offset) if whole else 0
    except OSError as error:
        if error.errno != errno.EINVAL:  # memory or disk are not aligned for it
            raise
        return 0


def _entries(key: bytes, first: int, last: int, body: memoryview) -> Iterator[bytes]:
    for unit in range(first, last):
        piece = body[(unit - first) * UNIT : (unit - first + 1) * UNIT]
        yield _ENTRY.pack(_checksum(key, unit, piece))


def _checksum(key: bytes, unit: int, piece: memoryview) -> int:
    # XXH3, not CRC32: twelve times as fast here, which is what a re-read costs.
    seed = int.from_bytes(key[:8], "little") ^ unit
    return xxhash.xxh3_64_intdigest(piece, seed) or 1


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
