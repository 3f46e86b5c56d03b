"""The table of places: it forgets the oldest, and gives none that was not put there."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse import packindex
from fuse.packindex import WAYS


def key_of(number):
    """Keys that are in the same bucket of every row."""
    return (number * packindex.ROWS[-1] + 5).to_bytes(8, "little") + bytes(24)


@pytest.fixture
def table(tmp_path):
    descriptor = os.open(tmp_path / "table", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3 * WAYS), st.integers(0, (1 << 64) - 1)), max_size=8 * WAYS)
)
def test_it_gives_the_last_place_of_each_key(table, puts):
    os.ftruncate(table, 0)
    os.ftruncate(table, packindex.SIZE)
    known = {}
    for number, place in puts:
        packindex.put(table, {key_of(number): place})
        known[number] = place or None
    for number in range(3 * WAYS + 1):
        found = packindex.find(table, key_of(number))
        # With more keys than entries in all rows one may be forgotten; none is made up.
        assert found == known.get(number) or (found is None and len(known) > 3 * WAYS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.lists(
        st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(1, 1 << 63), max_size=60),
        max_size=4,
    )
)
def test_many_at_once_are_as_good_as_one_by_one(table, batches):
    known = {}
    os.ftruncate(table, 0)
    for batch in batches:
        packindex.put(table, batch)
        known.update((key[:8], place) for key, place in batch.items())
    for batch in batches:
        for key in batch:
            assert packindex.find(table, key) == known[key[:8]]


def test_a_batch_takes_few_calls_and_leaves_what_is_between(table, monkeypatch):
    os.ftruncate(table, packindex.SIZE)
    random.seed(1)
    first, then = ({random.randbytes(32): 1 + n for n in range(100)} for _ in range(2))
    packindex.put(table, first)
    calls = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *given: calls.append(1) or real(*given))
    packindex.put(table, then)
    assert len(calls) <= 3
    assert all(packindex.find(table, key) == place for key, place in {**first, **then}.items())


def test_the_oldest_of_a_crowd_is_forgotten(table):
    count = 3 * WAYS + 2
    for number in range(count):
        packindex.put(table, {key_of(number): number + 1})
    found = [packindex.find(table, key_of(number)) for number in range(count)]
    assert found == [None, None, *range(3, count + 1)]


def test_few_versions_are_in_few_pages(table):
    os.ftruncate(table, packindex.SIZE)
    for number in range(1000):
        packindex.put(table, {(number * 2654435761 % (1 << 64)).to_bytes(8, "little") * 4: 1})
    assert os.fstat(table).st_blocks * 512 <= packindex.ROWS[0] * packindex.BUCKET


def test_a_table_that_is_cut_short_has_nothing(table):
    packindex.put(table, {key_of(1): 7})
    os.ftruncate(table, 100)
    assert packindex.find(table, key_of(1)) is None
    packindex.put(table, {key_of(1): 8})
    assert packindex.find(table, key_of(1)) == 8
