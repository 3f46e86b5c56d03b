"""The plan of a commit: what it keeps, what it sends, and that the result is the new content."""

from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.blob import blocks
from fuse.blob.blocklist import ID_LENGTH, BlockList, document, naming
from fuse.blob.blocks import Block, Keep, Send, Use, block_size, plan, staging_size
from fuse.ranges import RangeSet
from fuse.volume import Staged


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
        staged = []
        for start, end in dirty:
            wanted[start:end] = b"\xff" * (end - start)
            cuts = sorted(data.draw(st.lists(st.integers(start, end), max_size=4, unique=True)))
            staged += [
                Staged(first, last, f"sent{first}") for first, last in itertools.pairwise(cuts)
            ]

        steps = plan(listed, base_size, list(dirty), size, staged)

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
            elif isinstance(step, Use):
                piece = next(piece for piece in staged if piece.identifier == step.identifier)
                assert piece.start == len(result), "it stays where it was"
                result += wanted[piece.start : piece.end]
            else:
                assert step.start == len(result)
                assert 0 < step.end - step.start <= block_size(size)
                result += wanted[step.start : step.end]
        assert result == wanted
        assert sum(isinstance(step, Use) for step in steps) == len(staged)


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


def test_blocks_sent_ahead_suffice_for_very_long_files():
    offset, sizes = 0, []
    for _ in range(blocks.BLOCK_LIMIT):
        sizes.append(staging_size(offset))
        offset += sizes[-1]
    assert offset > 90 << 40
    assert sizes == sorted(sizes)
    assert sizes[0] == blocks.BLOCK_SIZE
    assert sizes[-1] == blocks.LARGEST_BLOCK
    assert staging_size(1 << 40) <= 256 << 20, "several of them have room in memory"


def test_the_longest_blob_of_the_service_can_be_planned():
    steps = plan([], 0, [(0, blocks.LARGEST_BLOB)], blocks.LARGEST_BLOB)
    assert len(steps) == blocks.BLOCK_LIMIT


def test_appending_and_committing_again_and_again_makes_few_blocks():
    """And sends each byte a number of times that grows with the logarithm only."""
    known, size, sent, line = [], 0, 0, 100
    for number in range(3000):
        size += line
        steps = plan(known, size - line, [(size - line, size)], size)
        lengths = {block.identifier: block.size for block in known}
        known = []
        for step in steps:
            if isinstance(step, Keep):
                known.append(Block(step.identifier, lengths[step.identifier]))
            else:
                known.append(Block(f"{number}-{step.start}", step.end - step.start))
                sent += step.end - step.start
    assert len(known) <= 14
    assert sent <= 14 * size


def wire(text):
    return base64.b64encode(text.encode()).decode()


def test_a_block_list_is_read_as_the_service_writes_it():
    known = BlockList.parse(
        '"0x8"',
        b"""\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><BlockList><CommittedBlocks>
        <Block><Name>AAA=</Name><Size>8388608</Size></Block>
        <Block><Name>AAE=</Name><Size>5</Size></Block></CommittedBlocks>
        <UncommittedBlocks><Block><Name>AAI=</Name><Size>7</Size></Block></UncommittedBlocks>
        </BlockList>""",
    )
    assert known == BlockList(
        '"0x8"', [Block("AAA=", 8388608), Block("AAE=", 5)], [Block("AAI=", 7).identifier]
    )
    with pytest.raises(ValueError, match="no block list"):
        BlockList.parse("", b"<html>")


def test_a_block_list_is_written_in_order():
    assert document([Keep("AAA="), Use("AAI=")]).endswith(
        b"<BlockList><Committed>AAA=</Committed><Uncommitted>AAI=</Uncommitted></BlockList>"
    )


@pytest.mark.parametrize(
    ("committed", "uncommitted", "length", "kept"),
    [
        ([], [], ID_LENGTH, 0),
        (["0000001", "0000002"], [], 7, 2),
        (["1", "2"], [], ID_LENGTH, 0),  # too short to be drawn at random
        (["0000001", "00000002"], [], ID_LENGTH, 0),  # which length it would be nobody knows
        ([], ["0000001"], 7, 0),
        (["0000001", "0000002"], ["0000003"], 7, 2),
        (["0000001", "0000002"], ["000000003"], 9, 0),
    ],
)
def test_new_ids_go_with_those_that_are_there(committed, uncommitted, length, kept):
    known = BlockList(
        "v", [Block(wire(name), 8) for name in committed], [wire(name) for name in uncommitted]
    )
    names, blocks_kept = naming(known)
    assert len(blocks_kept) == kept
    drawn = {names.new() for _ in range(1000)}
    assert len(drawn) == 1000
    assert {len(base64.b64decode(name)) for name in drawn} == {length}
    assert not drawn & {wire(name) for name in (*committed, *uncommitted)}
