"""The journal's records: what is read back is what was noted, or a prefix of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse import records
from fuse.volume import Attributes, Changes, Kind

BASE = Attributes(
    Kind.FILE,
    size=100,
    version='"0x8D"',
    mode=0o640,
    metadata=(("a", "b"),),
    headers=(("content-type", "x/y"),),
    xattrs=(("user.x", b"\0\xff"),),
)
HEADER = records.Header("memory:test", "d/ü", BASE, "boot-1", 1234.5)

offsets = st.integers(0, 2**40)
notes = st.one_of(
    st.tuples(st.just("write"), offsets, st.integers(1, 2**20)),
    st.tuples(st.just("truncate"), st.integers(0, 2**40), st.just(0)),
    st.tuples(st.just("changes"), st.integers(0, 0o7777), st.integers(0, 2**62)),
    st.tuples(st.just("path"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("barrier"), st.just(0), st.just(0)),
)


def encoded(note, log):
    name, first, second = note
    if name == "write":
        return records.write(first, first + second)
    if name == "truncate":
        return records.truncate(first)
    if name == "changes":
        xattrs = (("user.a", b"\1"), ("user.b", None))
        return records.changes(Changes(mode=first, mtime_ns=second, xattrs=xattrs))
    if name == "path":
        return records.path(f"new/{first}")
    return records.barrier(len(log))


def log_of(written):
    """The log, and where each of its records ends."""
    log = records.header(HEADER)
    ends = [len(log)]
    for note in written:
        log += encoded(note, log)
        ends.append(len(log))
    return log, ends


def state(log, boot="boot-1"):
    found = records.replay(log, boot=boot)
    return (
        found.path,
        found.base,
        found.size,
        found.base_size,
        list(found.dirty),
        found.changes,
        found.records,
    )


def test_the_header_comes_back():
    found = records.replay(records.header(HEADER), boot="boot-1")
    assert found.header == HEADER
    assert (found.path, found.size, found.base_size) == ("d/ü", 100, 100)
    assert not found.dirty


def test_what_was_noted_comes_back():
    log = records.header(HEADER)
    log += records.write(50, 150) + records.changes(Changes(mode=0o600, mtime_ns=7))
    log += records.truncate(80) + records.write(200, 210) + records.path("b")
    log += records.base(BASE.changed(version="2")) + records.unlink()
    found = records.replay(log, boot="boot-1")
    assert list(found.dirty) == [(50, 80), (200, 210)]
    assert (found.size, found.base_size, found.path) == (210, 80, "b")
    assert found.changes == Changes(mode=0o600), "a write after utimens makes it now again"
    assert found.base.version == "2"
    assert found.unlinking


@given(written=st.lists(notes, max_size=12), data=st.data())
def test_a_torn_log_is_its_last_whole_prefix(written, data):
    log, ends = log_of(written)
    cut = data.draw(st.integers(0, len(log)))
    whole = [end for end in ends if end <= cut]
    if not whole:
        with pytest.raises(records.JournalError):
            records.replay(log[:cut], boot="boot-1")
        return
    assert state(log[:cut]) == state(log[: whole[-1]])


@given(written=st.lists(notes, max_size=8), data=st.data())
def test_a_damaged_log_is_believed_up_to_the_damage(written, data):
    log, ends = log_of(written)
    place = data.draw(st.integers(0, len(log) - 1))
    damaged = bytearray(log)
    damaged[place] ^= data.draw(st.integers(1, 255))
    whole = [end for end in ends if end <= place]
    if not whole:
        with pytest.raises(records.JournalError):
            records.replay(bytes(damaged), boot="boot-1")
        return
    assert state(bytes(damaged)) == state(log[: whole[-1]])


@given(written=st.lists(notes, max_size=12))
def test_after_a_power_loss_only_what_a_barrier_speaks_of_is_believed(written):
    log, ends = log_of(written)
    barriers = [index for index, note in enumerate(written) if note[0] == "barrier"]
    synced = ends[barriers[-1]] if barriers else ends[0]
    assert state(log, boot="boot-2") == state(log[:synced])


@given(written=st.lists(notes, max_size=12), committing=st.none() | st.integers(0, 2**62))
def test_a_log_that_is_rewritten_tells_the_same(written, committing):
    log, _ = log_of(written)
    if committing is not None:
        log += records.commit(committing)
    told = records.replay(log, boot="boot-1")
    again = records.replay(records.rewritten(told, "boot-2"), boot="boot-2")
    for name in ("path", "base", "size", "base_size", "changes", "committing", "damage"):
        assert getattr(again, name) == getattr(told, name), name
    assert list(again.dirty) == list(told.dirty)
    assert (again.header.identity, again.header.created) == ("memory:test", 1234.5)
    assert again.header.boot == "boot-2"
    assert not again.doubtful


def test_another_version_says_so(monkeypatch):
    monkeypatch.setattr(records, "VERSION", 9)
    log = records.header(HEADER)
    monkeypatch.undo()
    with pytest.raises(records.VersionError):
        records.replay(log, boot="boot-1")


def test_a_whole_record_that_is_wrong_is_damage_and_a_torn_one_is_not():
    log = records.header(HEADER) + records.truncate(0)
    last = records.write(0, 50)
    assert not records.replay(log + last[:-1], boot="boot-1").damage
    wrong = last[:-1] + bytes([last[-1] ^ 1])
    assert records.replay(log + wrong, boot="boot-1").damage


def test_what_is_used_after_its_removal_began_is_not_removed():
    log = records.header(HEADER) + records.unlink()
    assert records.replay(log, boot="boot-1").unlinking
    assert not records.replay(log + records.write(0, 1), boot="boot-1").unlinking


def test_the_time_of_a_commit_holds_until_the_next_change():
    log = records.header(HEADER) + records.truncate(50) + records.commit(77)
    assert records.replay(log, boot="boot-1").committing == 77
    log += records.write(1, 2)
    assert records.replay(log, boot="boot-1").committing is None
