"""RangeSet against a plain set of integers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fuse.ranges import RangeSet

bounds = st.tuples(st.integers(0, 60), st.integers(0, 60))
operations = st.lists(st.tuples(st.sampled_from(["add", "remove"]), bounds), max_size=30)


def build(steps):
    ranges, model = RangeSet(), set()
    for operation, (start, end) in steps:
        getattr(ranges, operation)(start, end)
        if operation == "add":
            model |= set(range(start, end))
        else:
            model -= set(range(start, end))
    return ranges, model


@given(operations)
def test_holds_what_a_set_holds(steps):
    ranges, model = build(steps)
    assert {byte for start, end in ranges for byte in range(start, end)} == model
    assert ranges.total == len(model)
    assert bool(ranges) == bool(model)


@given(operations)
def test_ranges_are_ascending_and_apart(steps):
    ranges, _ = build(steps)
    listed = list(ranges)
    assert all(start < end for start, end in listed)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(listed))


@given(operations, bounds)
def test_pieces_cover_without_gap_and_tell_inside_from_outside(steps, span):
    ranges, model = build(steps)
    start, end = span
    pieces = list(ranges.pieces(start, end))
    if start < end:
        assert pieces[0][0] == start
        assert pieces[-1][1] == end
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
    for low, high, inside in pieces:
        assert low < high
        assert all((byte in model) == inside for byte in range(low, high))
    assert ranges.intersects(start, end) == bool(model & set(range(start, end)))
