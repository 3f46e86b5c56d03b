"""Which blocks a commit keeps and which it sends: a pure plan.

A block blob is a list of blocks. Overwriting the middle of a large blob keeps the blocks that no
dirty range touches and sends the rest anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fuse.ranges import RangeSet

MIB = 1024 * 1024

#: Most committed blocks of a blob ("Scale targets for Blob storage").
BLOCK_LIMIT = 50_000

#: Largest block in bytes (service version 2019-12-12 and later).
LARGEST_BLOCK = 4000 * MIB

#: Block size of new blobs, until their length needs larger ones.
BLOCK_SIZE = 8 * MIB


@dataclass(frozen=True, slots=True)
class Block:
    """A committed block: its id as the service gives it, and its length in bytes."""

    identifier: str
    size: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Go on using a committed block."""

    identifier: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send ``[start, end)`` of the new content as a new block."""

    start: int
    end: int


def block_size(size: int) -> int:
    """Block size for a blob of ``size`` bytes: fits the limit with room to grow by a quarter."""
    needed = math.ceil(size / (BLOCK_LIMIT * 4 // 5))
    return min(LARGEST_BLOCK, max(BLOCK_SIZE, -(-needed // MIB) * MIB))


def plan(
    base: Sequence[Block], base_size: int, dirty: Sequence[tuple[int, int]], size: int
) -> list[Keep | Send]:
    """The new block list, in order.

    Args:
        base: Blocks of the base version, in order.
        base_size: How many bytes of it are still visible.
        dirty: Ranges that differ.
        size: Length of the new content.
    """
    changed = RangeSet()
    for start, end in dirty:
        changed.add(start, end)
    steps: list[Keep | Send] = []
    position = 0  # everything before is planned
    offset = 0
    for block in base:
        end = offset + block.size
        if end > min(base_size, size):
            break
        if block.size and not changed.intersects(offset, end):
            steps.extend(_cut(position, offset, size))
            steps.append(Keep(block.identifier))
            position = end
        offset = end
    steps.extend(_cut(position, size, size))
    if len(steps) > BLOCK_LIMIT:  # many small kept blocks: start over with large ones
        return list(_cut(0, size, size))
    return steps


def _cut(start: int, end: int, size: int) -> Iterator[Send]:
    step = block_size(size)
    for position in range(start, end, step):
        yield Send(position, min(end, position + step))
