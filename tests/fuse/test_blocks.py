"""The plan of a commit: what it keeps, what it sends, and that the result is the new content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.blob import blocks
from fuse.blob.blocks import Block, Keep, Send, block_size, plan
from fuse.ranges import RangeSet


@given(data=st.data())
def test_the_planned_blob_is_the_new_content(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_SIZE", 8)
        patch.setattr(blocks, "MIB", 1)
        sizes = data.draw(st.lists(st.integers(0, 12), max_size=8))
        base = bytes(index % 251 + 1 for index in range(sum(sizes)))
        listed = [Block(f"id{index}", size) for index, size in enumerate(sizes)]
        size = data.draw(st.integers(0, 120))
        base_size = data.draw(st.integers(0, min(size, len(base))))
        dirty = RangeSet()
        for _ in range(data.draw(st.integers(0, 4))):
            start = data.draw(st.integers(0, size))
            dirty.add(start, data.draw(st.integers(start, size)))
        wanted = bytearray(base[:base_size].ljust(size, b"\0"))
        for start, end in dirty:
            wanted[start:end] = b"\xff" * (end - start)

        steps = plan(listed, base_size, list(dirty), size)

        offsets = {}
        position = 0
        for block in listed:
            offsets[block.identifier] = (position, position + block.size)
            position += block.size
        result = bytearray()
        for step in steps:
            if isinstance(step, Keep):
                start, end = offsets[step.identifier]
                assert start == len(result), "a kept block stays where it was"
                result += base[start:end]
            else:
                assert step.start == len(result)
                assert 0 < step.end - step.start <= block_size(size)
                result += wanted[step.start : step.end]
        assert result == wanted


def test_only_changed_blocks_travel():
    base = [Block(f"id{index}", 8 * 1024 * 1024) for index in range(100)]
    size = 100 * 8 * 1024 * 1024
    steps = plan(base, size, [(13 * 8 * 1024 * 1024 + 5, 13 * 8 * 1024 * 1024 + 6)], size)
    assert [step for step in steps if isinstance(step, Send)] == [
        Send(13 * 8 * 1024 * 1024, 14 * 8 * 1024 * 1024)
    ]


def test_block_size_keeps_the_list_within_the_limit():
    for size in (1, 8 << 20, 400 << 30, 190 << 40):
        assert -(-size // block_size(size)) <= blocks.BLOCK_LIMIT
        assert block_size(size) <= blocks.LARGEST_BLOCK


def test_too_many_small_blocks_are_written_anew():
    base = [Block(f"id{index}", 1) for index in range(blocks.BLOCK_LIMIT)]
    steps = plan(base, len(base), [(len(base), len(base) + 5)], len(base) + 5)
    assert len(steps) <= blocks.BLOCK_LIMIT
    assert all(isinstance(step, Send) for step in steps)
