"""The read-ahead window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuse.readahead import DEPTH, FIRST_WINDOW, UNIT, WHOLE_FILE, ReadAhead, largest_window

MIB = 1024 * 1024
LIMIT = 64 * MIB
GIB = 1024 * MIB


@given(
    st.lists(st.tuples(st.integers(0, GIB - 1), st.integers(1, MIB)), max_size=20),
    st.integers(1, GIB),
)
def test_plan_covers_the_read_and_stays_in_the_file(reads, file_size):
    window = ReadAhead(LIMIT)
    for offset, size in reads:
        if offset >= file_size:
            continue
        plan = window.plan(offset, size, file_size)
        assert plan.demand[0] <= offset
        assert min(offset + size, file_size) <= plan.demand[1] <= plan.ahead_end <= file_size
        assert plan.ahead_end <= max(plan.demand[1], min(file_size, offset + size + LIMIT))


def test_a_cold_random_read_fetches_no_more_than_two_units():
    window = ReadAhead(LIMIT)
    for offset in (700 * MIB + 17, 3 * MIB, 400 * MIB + 4095, 90 * MIB):
        plan = window.plan(offset, 4096, GIB)
        assert plan.ahead_end - plan.demand[0] <= 2 * UNIT


def test_sequential_reads_double_the_window_up_to_the_limit():
    window = ReadAhead(LIMIT)
    seen = []
    for index in range(40):
        window.plan(index * MIB, MIB, GIB)
        seen.append(window.window)
    assert seen[0] >= FIRST_WINDOW
    assert seen == sorted(seen)
    assert seen[-1] == LIMIT


def test_a_seek_shrinks_the_window_to_nothing():
    window = ReadAhead(LIMIT)
    for index in range(10):
        window.plan(index * MIB, MIB, GIB)
    plan = window.plan(800 * MIB, 4096, GIB)
    assert window.window == 0
    assert plan.ahead_end - plan.demand[0] <= 2 * UNIT


def test_requests_of_the_kernel_may_arrive_in_any_order():
    window = ReadAhead(LIMIT)
    for index in (0, 2, 1, 3, 5, 4, 7, 6, 9, 8):
        window.plan(index * MIB, MIB, GIB)
    assert window.window > 4 * MIB


def test_a_small_file_is_fetched_whole():
    plan = ReadAhead(LIMIT).plan(100, 10, WHOLE_FILE)
    assert plan.demand == (0, WHOLE_FILE)


def test_a_window_is_as_large_as_the_store_is_far():
    limit = 64 * 1024 * 1024
    sizes = [largest_window(limit, seconds) for seconds in (0.0, 0.001, 0.005, 0.02, float("inf"))]
    assert sizes == sorted(sizes)
    assert sizes[0] == DEPTH
    assert DEPTH < sizes[1] < sizes[2] < limit
    assert sizes[3] == sizes[4] == limit
    assert largest_window(DEPTH // 2, 0.0) == DEPTH // 2
