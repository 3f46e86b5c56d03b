"""Which blocks a commit keeps and which it sends: a pure plan.

A block blob is a list of blocks. Overwriting the middle of a large blob keeps the blocks that no
dirty range touches; what was sent ahead of the commit is used; the rest is sent.

Limits are those of "Scalability and performance targets for Blob storage".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fuse.ranges import RangeSet
from fuse.volume import Staged

MIB = 1024 * 1024

#: Most committed blocks of a blob.
BLOCK_LIMIT = 50_000

#: Largest block in bytes (service version 2019-12-12 and later).
LARGEST_BLOCK = 4000 * MIB

#: Largest block blob in bytes, about 190.7 TiB.
LARGEST_BLOB = BLOCK_LIMIT * LARGEST_BLOCK

#: Block size of new blobs, until their length needs larger ones.
BLOCK_SIZE = 8 * MIB

#: Blocks sent ahead of a commit, of a file whose end is not known, are at least this fraction of
#: what lies before them: 8 MiB up to 32 GiB, 256 MiB at 1 TiB. 50,000 of them hold 93 TiB, and
#: memory holds several of them at a time at any length that is met in practice.
_STAGED_FRACTION = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """A committed block: its id as the service writes it (base64), and its length in bytes."""

    identifier: str
    size: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Go on using a committed block."""

    identifier: str


@dataclass(frozen=True, slots=True)
class Use:
    """Use an uncommitted block, sent ahead."""

    identifier: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``[start, end)`` of the new content as a new block."""

    start: int
    end: int


Step = Keep | Use | Send


def block_size(size: int) -> int:
    """Block size for a blob of ``size`` bytes: fits the limit with room to grow by a quarter."""
    return _rounded(math.ceil(size / (BLOCK_LIMIT * 4 // 5)))


def staging_size(offset: int) -> int:
    """Length of a block at ``offset`` of a file whose length is not known yet, in bytes."""
    return _rounded(offset // _STAGED_FRACTION)


def plan(
    base: Sequence[Block],
    base_size: int,
    dirty: Sequence[tuple[int, int]],
    size: int,
    staged: Sequence[Staged] = (),
) -> list[Step]:
    """The new block list, in order.

    Args:
        base: Blocks of the base version, in order.
        base_size: How many bytes of it are still visible.
        dirty: Ranges that differ.
        size: Length of the new content.
        staged: What has been sent of it; what does not fit is sent again.
    """
    changed = RangeSet()
    for start, end in dirty:
        changed.add(start, end)
    known = [
        *_kept(base, min(base_size, size), changed),
        *(_Piece(piece.start, piece.end, Use(piece.identifier)) for piece in staged),
    ]
    steps = list(_filled(sorted(known, key=lambda piece: piece.start), size))
    if len(steps) > BLOCK_LIMIT:  # many small kept blocks: start over with large ones
        return list(_cut(0, size, block_size(size)))
    return steps


@dataclass(frozen=True, slots=True)
class _Piece:
    start: int
    end: int
    step: Keep | Use


def _kept(base: Sequence[Block], visible: int, changed: RangeSet) -> Iterator[_Piece]:
    offset = 0
    for block in base:
        start, offset = offset, offset + block.size
        if offset > visible:
            return
        if block.size and not changed.intersects(start, offset):
            yield _Piece(start, offset, Keep(block.identifier))


def _filled(known: Iterable[_Piece], size: int) -> Iterator[Step]:
    """``known`` in order, with what lies between sent."""
    longest = block_size(size)
    run: list[_Piece] = []  # what the last gap follows, without a gap in it
    position = 0  # everything before is planned
    for piece in known:
        if piece.start < position or piece.end > size or piece.start >= piece.end:
            continue
        if piece.start > position:
            yield from (before.step for before in run)
            yield from _cut(position, piece.start, longest)
            run.clear()
        run.append(piece)
        position = piece.end
    start = _joined(run, position, size, longest)
    yield from (before.step for before in run if before.end <= start)
    yield from _cut(start, size, longest)


def _joined(run: Sequence[_Piece], start: int, end: int, longest: int) -> int:
    """Where to begin sending what ends at ``end`` and has to be sent from ``start`` on.

    Small blocks before it are sent again with it. So a file that is appended to and committed line
    by line has a number of blocks that grows with the logarithm of its last 8 MiB, and each byte
    travels as many times; without that, each line would be a block for ever.
    """
    for piece in reversed(run):
        length = piece.end - piece.start
        if isinstance(piece.step, Use) or length > end - start or end - piece.start > longest:
            break
        start = piece.start
    return start


def _cut(start: int, end: int, step: int) -> Iterator[Send]:
    for position in range(start, end, step):
        yield Send(position, min(end, position + step))


def _rounded(needed: int) -> int:
    return min(LARGEST_BLOCK, max(BLOCK_SIZE, -(-needed // MIB) * MIB))
