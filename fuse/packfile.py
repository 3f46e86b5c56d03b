"""The format of a pack: small versions and single units, one behind the other, with headers.

A pack is only ever appended to, by the one mount that made it; others read it. Each record says of
itself whether it is to be believed: what was torn by a crash, cut short or damaged is not. So a
pack needs no lock, no end mark and no fsync. Nothing in here waits for anything but the disk.

    0      magic, the key (32 bytes), length, checksum of the body, checksum of all that
    64     the body; then zeros up to the next multiple of 64: the next record
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence

import xxhash

from fuse.blockfile import NOWAIT, DamagedError

#: Records begin at multiples of this (bytes).
ALIGNMENT = 64

_HEADER = struct.Struct("<8s32sQQQ")
_MAGIC = b"batpack1"
_PADDING = bytes(ALIGNMENT)

#: Buffers of one writev(2), at least (POSIX has 16, Linux 1024).
_VECTORS = 1023

assert _HEADER.size == ALIGNMENT


def size_of(length: int) -> int:
    """Bytes that a record of a version of ``length`` bytes takes."""
    return ALIGNMENT + -(-length // ALIGNMENT) * ALIGNMENT


def header(key: bytes, body: bytes | memoryview) -> bytes:
    """What stands before the body of a version; ``key`` has 32 bytes and names it."""
    fields = _HEADER.pack(_MAGIC, key, len(body), _checksum(key, body), 0)[:-8]
    return fields + xxhash.xxh3_64_digest(fields)[::-1]


def append(descriptor: int, offset: int, records: Sequence[tuple[bytes, memoryview]]) -> list[int]:
    """Write records behind each other, in as few calls as there can be.

    Args:
        descriptor: The pack.
        offset: Its end so far, a multiple of ``ALIGNMENT``.
        records: Key and body of each.

    Returns:
        Where each one is, and the pack's new end.

    Raises:
        OSError: What the disk says. ENOSPC also where it took only a part: the pack has no further
            records then.
    """
    places = [offset]
    buffers: list[bytes | memoryview] = []
    for key, body in records:
        buffers += (header(key, body), body)
        if len(body) % ALIGNMENT:
            buffers.append(_PADDING[len(body) % ALIGNMENT :])
        places.append(places[-1] + size_of(len(body)))
    for first in range(0, len(buffers), _VECTORS):
        vector = buffers[first : first + _VECTORS]
        size = sum(map(len, vector))
        if os.pwritev(descriptor, vector, offset) < size:
            raise OSError(errno.ENOSPC, "the disk took only a part")
        offset += size
    return places


def read(descriptor: int, offset: int, key: bytes, view: memoryview, *, flags: int = 0) -> bool:
    """Fill ``view`` with a version, whose length it has.

    Args:
        descriptor: The pack.
        offset: Where its record is said to be.
        key: The version's.
        view: Where the bytes go.
        flags: For preadv(2): NOWAIT or 0.

    Returns:
        Whether there are that many bytes; else the buffer's content is undefined.

    Raises:
        DamagedError: There is something else, or it is not unharmed.
        OSError: EAGAIN with NOWAIT; what the disk says.
    """
    head = bytearray(ALIGNMENT)
    if os.preadv(descriptor, [head, view], offset, flags) < ALIGNMENT + len(view):
        # Without waiting, preadv(2) also stops where the page cache does.
        if flags & NOWAIT:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return False
    if head != header(key, view):
        raise DamagedError
    return True


def records(descriptor: int) -> Iterator[tuple[bytes, int]]:
    """Key and place of the records of a pack, up to the first one that is torn.

    Bodies are not looked at: who reads one compares its checksum.
    """
    end = os.fstat(descriptor).st_size
    offset = 0
    while len(head := os.pread(descriptor, ALIGNMENT, offset)) == ALIGNMENT:
        magic, key, length, _, checksum = _HEADER.unpack(head)
        whole = offset + ALIGNMENT + length <= end
        if magic != _MAGIC or checksum != xxhash.xxh3_64_intdigest(head[:-8]) or not whole:
            return
        yield key, offset
        offset += size_of(length)


def _checksum(key: bytes, body: bytes | memoryview) -> int:
    return xxhash.xxh3_64_intdigest(body, int.from_bytes(key[:8], "little"))
