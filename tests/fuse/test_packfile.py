"""The format of packs: what is read is what was written, or it is not believed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse import packfile
from fuse.blockfile import NOWAIT, DamagedError

any_lengths = st.lists(st.integers(0, 300), max_size=6)
one_pack_for_all = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)


def key_of(number):
    return hashlib.sha256(number.to_bytes(2, "little")).digest()


def bodies(lengths):
    return [
        (key_of(number), memoryview(random.Random(number).randbytes(length)))
        for number, length in enumerate(lengths)
    ]


@pytest.fixture
def pack(tmp_path):
    descriptor = os.open(tmp_path / "pack", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def written(pack, lengths):
    """Records in an otherwise empty pack; their keys and bodies, where they are, and its end."""
    os.ftruncate(pack, 0)
    records = bodies(lengths)
    *places, end = packfile.append(pack, 0, records)
    return records, places, end


def fetch(pack, offset, key, length, **more):
    buffer = memoryview(bytearray(length))
    return bytes(buffer) if packfile.read(pack, offset, key, buffer, **more) else None


@one_pack_for_all
@given(any_lengths, any_lengths)
def test_what_was_appended_comes_back_and_is_found_again(pack, first, then):
    records, places, end = written(pack, first)
    more = [(key_of(100 + number), body) for number, (_, body) in enumerate(bodies(then))]
    *later, end = packfile.append(pack, end, more)
    records, places = records + more, places + later
    for (key, body), place in zip(records, places, strict=True):
        assert fetch(pack, place, key, len(body)) == body
    assert list(packfile.records(pack)) == list(
        zip([key for key, _ in records], places, strict=True)
    )


@one_pack_for_all
@given(any_lengths, st.data())
def test_a_torn_tail_is_no_record(pack, lengths, data):
    records, places, end = written(pack, lengths)
    cut = data.draw(st.integers(0, end))
    os.ftruncate(pack, cut)
    whole = [
        (key, place)
        for (key, body), place in zip(records, places, strict=True)
        if place + packfile.ALIGNMENT + len(body) <= cut
    ]
    assert list(packfile.records(pack)) == whole
    for (key, body), place in zip(records, places, strict=True):
        found = fetch(pack, place, key, len(body))
        assert found == (body if (key, place) in whole else None)


def test_a_tail_torn_at_any_byte_of_the_last_record_is_no_record(pack):
    records, places, end = written(pack, [70, 130])
    for cut in range(end - 1, places[1] - 1, -1):
        os.ftruncate(pack, cut)
        whole = cut >= places[1] + packfile.ALIGNMENT + 130
        assert len(list(packfile.records(pack))) == (2 if whole else 1)
        assert (fetch(pack, places[1], records[1][0], 130) is not None) == whole
        assert fetch(pack, places[0], records[0][0], 70) == records[0][1]


def test_a_damaged_byte_anywhere_in_a_record_is_noticed(pack):
    ((key, body), _), (place, _), _ = written(pack, [130, 10])
    for position in range(place, place + packfile.ALIGNMENT + len(body)):
        byte = os.pread(pack, 1, position)
        for wrong in (byte[0] ^ 1, byte[0] ^ 0xFF):
            os.pwrite(pack, bytes([wrong]), position)
            with pytest.raises(DamagedError):
                fetch(pack, place, key, len(body))
            # The header has a checksum of its own, so that a scan cannot go astray.
            found = [offset for _, offset in packfile.records(pack)]
            assert (place in found) == (position >= place + packfile.ALIGNMENT)
        os.pwrite(pack, byte, position)
    assert fetch(pack, place, key, len(body)) == body


@one_pack_for_all
@given(st.binary(max_size=400))
def test_whatever_is_in_a_file_it_is_not_believed(pack, noise):
    os.ftruncate(pack, 0)
    os.pwrite(pack, noise, 0)
    assert list(packfile.records(pack)) == []
    with contextlib.suppress(DamagedError):
        assert fetch(pack, 0, key_of(0), 10) is None


def test_another_version_or_length_is_not_believed(pack):
    (one, other), places, _ = written(pack, [100, 100])
    for wrong in ((places[0], other[0], 100), (places[1], one[0], 100), (places[0], one[0], 99)):
        with pytest.raises(DamagedError):
            fetch(pack, *wrong)


def test_more_records_than_one_call_takes(pack):
    records, places, end = written(pack, [3] * 250 + [64] * 900)
    assert [offset for _, offset in packfile.records(pack)] == places
    assert end == 1150 * 128
    assert fetch(pack, places[-1], records[-1][0], 64) == records[-1][1]


def test_a_disk_that_takes_a_part_only_is_full(pack, monkeypatch):
    real = os.pwritev
    monkeypatch.setattr(
        os, "pwritev", lambda file, buffers, offset: real(file, buffers[:1], offset)
    )
    with pytest.raises(OSError, match="part") as caught:
        packfile.append(pack, 0, bodies([100]))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.skipif(not NOWAIT, reason="no RWF_NOWAIT here")
def test_a_read_that_must_not_wait_says_where_it_would_have(pack, monkeypatch):
    ((key, _),), (place,), _ = written(pack, [100])
    real = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda file, buffers, offset, _flags: real(file, buffers[:1], offset)
    )
    with pytest.raises(BlockingIOError):
        fetch(pack, place, key, 100, flags=NOWAIT)
