"""Where in the packs something is: a table on the disk that all mounts of a machine share.

It is a hint, not a truth. A place that it gives is compared with the record there
(:mod:`fuse.packfile`); one that it does not give is a miss. So mounts write it at the same time
without a lock, it may lose entries in a crash, and damage costs no more than a request. In return
nothing has to be read when a mount begins, or held in its memory, however many versions there are.

The file is three rows of buckets, each eight times as long as the one before it:

    bucket  eight times: fingerprint of the key (8 bytes), place (8 bytes); both 0: none

What is put into a full bucket pushes the oldest entry on to the next row. So few versions are in
few pages, which the page cache has, and only behind a full bucket there may be more. It is a sparse
file; a bucket is read and written as one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence

#: Entries of a bucket.
WAYS = 8

#: Bytes of a bucket.
BUCKET = WAYS * 16

#: Buckets of each row: for 32,000, 260,000 and 2,100,000 versions.
ROWS = (1 << 12, 1 << 15, 1 << 18)

#: Bytes between two buckets that are rather written than two calls more made: with the calls, the
#: interpreter's lock goes to and fro.
GAP = 64 * 1024

#: Bytes of the table.
SIZE = sum(ROWS) * BUCKET

Entry = tuple[int, int]

_PAIRS = struct.Struct("<" + "QQ" * WAYS)
_NONE: Entry = (0, 0)


def entries(bucket: bytes | bytearray) -> list[Entry]:
    """Fingerprints and places of a bucket, the latest first."""
    numbers = _PAIRS.unpack(bucket)
    return [entry for entry in zip(numbers[::2], numbers[1::2], strict=True) if entry != _NONE]


def placed(known: list[Entry], entry: Entry) -> tuple[bytes, Entry | None]:
    """A bucket with one more entry, or another place for it; and the entry that has to go."""
    kept = [entry, *(other for other in known if other[0] != entry[0])]
    pushed = kept[WAYS] if len(kept) > WAYS else None
    kept = (kept + [_NONE] * WAYS)[:WAYS]
    return _PAIRS.pack(*(number for each in kept for number in each)), pushed


def find(descriptor: int, key: bytes, *, flags: int = 0) -> int | None:
    """The place of a key, if the table has one.

    Args:
        descriptor: The table.
        key: 32 bytes, a digest.
        flags: For preadv(2).

    Raises:
        OSError: EAGAIN with RWF_NOWAIT; what the disk says.
    """
    wanted = _fingerprint(key)
    for row in range(len(ROWS)):
        known = _read(descriptor, _offset(row, wanted), flags)
        for fingerprint, place in known:
            if fingerprint == wanted:
                return place or None
        if len(known) < WAYS:
            break
    return None


def put(descriptor: int, places: Mapping[bytes, int]) -> None:
    """Note where versions are, by their keys; 0: nowhere. OSError: what the disk says."""
    waiting = [(_fingerprint(key), place) for key, place in places.items()]
    for row in range(len(ROWS)):
        waiting.sort(key=lambda entry: _offset(row, entry[0]))
        pushed: list[Entry] = []
        for group in _neighbours(row, waiting):
            pushed += _put(descriptor, row, group)
        waiting = pushed


def _put(descriptor: int, row: int, group: Sequence[Entry]) -> list[Entry]:
    """Put sorted entries that are not far from each other; those that have to go to the next row.

    The buckets between them are written, too: what another mount puts there meanwhile is lost.
    """
    first, last = _offset(row, group[0][0]), _offset(row, group[-1][0])
    span = bytearray(last - first + BUCKET)
    # What a table lacks that was cut short is zero.
    os.preadv(descriptor, [span], first)
    pushed = []
    for entry in group:
        offset = _offset(row, entry[0]) - first
        place = slice(offset, offset + BUCKET)
        span[place], over = placed(entries(span[place]), entry)
        if over is not None:
            pushed.append(over)
    os.pwrite(descriptor, span, first)
    return pushed


def _neighbours(row: int, waiting: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Groups of sorted entries with no large gap between them."""
    first = 0
    for index in range(1, len(waiting) + 1):
        if index == len(waiting) or (
            _offset(row, waiting[index][0]) - _offset(row, waiting[index - 1][0]) > GAP
        ):
            yield waiting[first:index]
            first = index


def _read(descriptor: int, offset: int, flags: int) -> list[Entry]:
    bucket = bytearray(BUCKET)
    if os.preadv(descriptor, [bucket], offset, flags) < BUCKET:
        return []
    return entries(bucket)


def _offset(row: int, fingerprint: int) -> int:
    return (sum(ROWS[:row]) + fingerprint % ROWS[row]) * BUCKET


def _fingerprint(key: bytes) -> int:
    return int.from_bytes(key[:8], "little")
