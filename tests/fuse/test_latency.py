"""Percentiles: as they would be of all durations, within the width of a bucket."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fuse.latency import Latencies


@given(
    durations=st.lists(st.floats(1e-5, 100), min_size=1, max_size=200),
    share=st.sampled_from([0.5, 0.9, 0.99, 1.0]),
)
def test_a_percentile_is_that_of_the_durations(durations, share):
    latencies = Latencies()
    for duration in durations:
        latencies.add(duration)
    exact = sorted(durations)[math.ceil(share * len(durations)) - 1]
    assert exact <= latencies.percentile(share) + 1e-6 <= exact * 1.3 + 1e-5


def test_extremes_are_counted_too():
    latencies = Latencies()
    for duration in (0.0, 1e-9, 1e9):
        latencies.add(duration)
    assert latencies.count == 3
    assert latencies.figures("x")["x_p99_ms"] > 60_000


def test_nothing_took_no_time():
    assert Latencies().figures("x") == {
        "x_count": 0, "x_seconds": 0.0, "x_p50_ms": 0.0, "x_p90_ms": 0.0, "x_p99_ms": 0.0,
    }  # fmt: skip
