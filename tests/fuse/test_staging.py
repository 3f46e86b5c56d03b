"""Sending ahead: only what is surely finished, and never what was changed after it was read."""

from __future__ import annotations

import errno

import trio
from hypothesis import given
from hypothesis import strategies as st

from fuse import staging
from fuse.blob.blocks import Block, Keep, Use, plan
from fuse.buffers import BufferBudget
from fuse.ranges import RangeSet
from fuse.staging import Ledger, Stager, Staging
from fuse.volume import Attributes, Kind, Staged

SIZE = 8

operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 100), st.integers(1, 40)),
        st.tuples(st.just("append"), st.just(0), st.integers(9, 40)),
        st.tuples(st.just("truncate"), st.integers(0, 120), st.just(0)),
        st.tuples(st.just("take"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("send"), st.just(0), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("arrive"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("fail"), st.integers(0, 5), st.just(0)),
        st.tuples(st.just("commit"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(
    base=st.binary(max_size=60),
    cuts=st.lists(st.integers(1, 20), max_size=6),
    operations=operations,
)
def test_what_counts_as_sent_is_the_content(base, cuts, operations):
    """Whatever the order of writes, truncations, reads, arrivals, failures and commits."""
    ledger = Ledger(lambda _offset: SIZE)
    content = bytearray(base)
    dirty, base_size = RangeSet(), len(base)
    blocks, store = blocks_of(base, cuts)
    fill = 0
    flying = []  # [piece, bytes as they were when it was read, or None]
    for name, number, length in operations:
        if name in {"write", "append"}:
            start = len(content) if name == "append" else number
            fill = fill % 255 + 1
            content.extend(bytes(max(0, start + length - len(content))))
            content[start : start + length] = bytes([fill]) * length
            dirty.add(start, start + length)
            ledger.wrote(start, start + length)
        elif name == "truncate":
            if number < len(content):
                dirty.remove(number, len(content))
                base_size = min(base_size, number)
            content[number:] = bytes(max(0, number - len(content)))
            ledger.truncated(number)
        elif name == "take":
            piece = ledger.take(complete=bool(number))
            if piece is not None:
                flying.append([piece, None])
        elif name == "send":
            while (piece := ledger.take()) is not None:
                arrive(piece, bytes(content[piece.start : piece.end]), store)
        elif name == "commit":
            sent = [piece.staged for piece in ledger if piece.staged]
            assert all(any(a <= s.start and s.end <= b for a, b in dirty) for s in sent)
            steps = plan(blocks, base_size, list(dirty), len(content), sent)
            result = bytearray()
            for step in steps:
                if isinstance(step, Keep | Use):
                    result += store[step.identifier]
                else:
                    result += content[step.start : step.end]
            assert result == content
            used = [step.identifier for step in steps if isinstance(step, Use)]
            assert used == [s.identifier for s in sent], "what was sent travels once"
            blocks, store = blocks_of(bytes(content), cuts)
            dirty, base_size = RangeSet(), len(content)
            ledger.clear()
        elif flying:
            flight = flying[number % len(flying)]
            piece, body = flight
            if name == "read":
                # A piece that has ended may lie behind the end by now.
                flight[1] = bytes(content[piece.start : piece.end])
            elif name == "fail":
                ledger.drop(piece)
                flying.remove(flight)
            elif body is not None:
                flying.remove(flight)
                arrive(piece, body, store)


def test_a_piece_that_is_written_over_is_sent_again_but_only_once():
    """Who writes headers last (zip, torch.save) should not find it all left to close."""
    ledger = Ledger(lambda _offset: SIZE)
    ledger.wrote(0, 3 * SIZE + 1)
    while ledger.take():
        pass
    assert [piece.start for piece in ledger.wrote(SIZE + 2, SIZE + 4)] == [SIZE]
    again = ledger.take()
    assert (again.start, again.end) == (SIZE, 2 * SIZE)
    assert ledger.take() is None
    assert ledger.wrote(SIZE + 2, SIZE + 4) == [again]
    assert ledger.take() is None, "a page that is written again and again would be sent each time"
    ledger.wrote(3 * SIZE + 1, 6 * SIZE)
    assert ledger.take().start == 3 * SIZE, "others go on"


def test_who_comes_back_to_each_record_is_followed_at_a_distance():
    """A zip archive's writer: the header again when the record is complete."""
    ledger = Ledger(lambda _offset: SIZE)
    record, taken, ended = 20, 0, 0
    for start in range(0, 50 * record, record):
        for position in range(start, start + record, 4):
            ledger.wrote(position, position + 4)
            while ledger.take():
                taken += 1
        ended += len(ledger.wrote(start, start + 3))
    while ledger.take(complete=True):
        taken += 1
    assert taken - ended >= 50 * record // SIZE - 1, "all of it was sent ahead"
    assert ended <= 5, "the distance is learnt"


def test_a_piece_that_was_cut_off_is_not_sent_again():
    ledger = Ledger(lambda _offset: SIZE)
    ledger.wrote(0, 2 * SIZE + 1)
    while ledger.take():
        pass
    ledger.wrote(1, 2)
    ledger.truncated(SIZE - 1)
    assert ledger.take() is None


def arrive(piece, body, store):
    identifier = f"sent{len(store)}"
    store[identifier] = body
    piece.staged = Staged(piece.start, piece.end, identifier)


def blocks_of(content, cuts):
    blocks, store, position = [], {}, 0
    for length in [*cuts, len(content)]:
        body = content[position : position + length]
        if body:
            identifier = f"base{position}"
            blocks.append(Block(identifier, len(body)))
            store[identifier] = body
        position += len(body)
    return blocks, store


def test_the_last_block_waits_until_the_writer_has_gone_on():
    ledger = Ledger(lambda _offset: SIZE)
    ledger.wrote(0, SIZE)
    assert ledger.take() is None
    ledger.wrote(SIZE, SIZE + 1)
    piece = ledger.take()
    assert (piece.start, piece.end) == (0, SIZE)
    assert ledger.take() is None


def test_several_writers_of_one_file_are_followed():
    ledger = Ledger(lambda _offset: SIZE)
    for step in range(0, SIZE + 2, 2):
        for origin in (0, 1000, 2000):
            ledger.wrote(origin + step, origin + step + 2)
    taken = {ledger.take().start for _ in range(3)}
    assert taken == {0, 1000, 2000}


def test_a_header_written_last_does_not_break_the_run():
    ledger = Ledger(lambda _offset: SIZE)
    ledger.wrote(0, SIZE + 2)
    assert ledger.take().start == 0
    assert [piece.start for piece in ledger.wrote(0, 2)] == [0]
    ledger.wrote(SIZE + 2, 2 * SIZE + 4)
    assert sorted([ledger.take().start, ledger.take().start]) == [0, SIZE]


def test_random_writes_are_not_sent_ahead():
    ledger = Ledger(lambda _offset: SIZE)
    for offset in range(0, 100 * SIZE, 3 * SIZE):
        ledger.wrote(offset, offset + SIZE)
    assert ledger.take() is None


class SlowVolume:
    """Takes pieces when the test says so."""

    def __init__(self):
        self.gate = trio.Event()
        self.bodies = {}
        self.failing = None
        self.pause = 0.0
        self.refusing = False
        self.asked = self.now = self.most = 0

    def staging_size(self, offset):
        return SIZE

    async def stage(self, path, base, start, body):
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
            await trio.sleep(self.pause)
        finally:
            self.now -= 1
        if self.failing:
            raise self.failing
        if self.refusing:
            return None
        name = f"{path}:{start}:{len(self.bodies)}"
        self.bodies[name] = bytes(body)
        return Staged(start, start + len(body), name)


class Writer:
    """A staging file in memory with a Stager over it."""

    def __init__(self, volume, nursery):
        self.path = "f"
        self.data = bytearray()
        self.shared = Staging(volume, nursery)
        base = Attributes(Kind.FILE, version="v1")
        self.stager = Stager(self.shared, lambda: self.path, lambda: base, self.read)

    def read(self, offset, buffer):
        buffer[:] = self.data[offset : offset + len(buffer)]

    def write(self, offset, data):
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data
        self.stager.wrote(offset, offset + len(data))

    async def sent(self):
        """Where the pieces lie that count, once the commit may begin."""
        await self.stager.settle()
        return [(sent.start, sent.end) for sent in self.stager.staged]


async def test_blocks_travel_while_the_file_is_written(nursery, eventually_async):
    volume = SlowVolume()
    writer = Writer(volume, nursery)
    volume.gate.set()
    for index in range(10):
        writer.write(index * 4, bytes([index]) * 4)
    await eventually_async(lambda: len(volume.bodies) == 4)
    assert await writer.sent() == [(0, 8), (8, 16), (16, 24), (24, 32)]
    for sent in writer.stager.staged:
        assert volume.bodies[sent.identifier] == writer.data[sent.start : sent.end]
    assert writer.shared.statistics()["staged_bytes"] == 32
    writer.stager.reset()
    assert writer.stager.staged == []


async def test_an_overwrite_ends_what_is_on_its_way(nursery, eventually_async):
    volume = SlowVolume()
    writer = Writer(volume, nursery)
    writer.write(0, b"a" * 20)
    await eventually_async(lambda: volume.now == 2)
    writer.write(3, b"b")
    await eventually_async(lambda: volume.asked == 3)
    await eventually_async(lambda: volume.now == 2)  # no more of what nobody will use
    volume.gate.set()
    assert await writer.sent() == [(0, 8), (8, 16)]
    assert b"aaabaaaa" in volume.bodies.values()


async def test_a_truncation_ends_what_lies_behind_it(nursery, eventually_async):
    volume = SlowVolume()
    volume.gate.set()
    writer = Writer(volume, nursery)
    writer.write(0, b"a" * 33)
    await eventually_async(lambda: len(volume.bodies) == 4)
    del writer.data[20:]
    writer.stager.truncated(20)
    assert await writer.sent() == [(0, 8), (8, 16)]


async def test_a_failure_is_no_failure_of_the_write(nursery, eventually_async):
    volume = SlowVolume()
    volume.failing = OSError(errno.EIO, "down")
    volume.gate.set()
    writer = Writer(volume, nursery)
    writer.write(0, b"a" * 20)
    assert await writer.sent() == []
    assert writer.shared.statistics()["staging_failures"] == 2
    volume.failing = None
    writer.write(20, b"a" * 20)
    await eventually_async(lambda: len(volume.bodies) == 2)
    assert await writer.sent() == [(16, 24), (24, 32)]


async def test_a_volume_that_refuses_is_not_asked_again(nursery, eventually_async):
    volume = SlowVolume()
    volume.refusing = True
    volume.gate.set()
    writer = Writer(volume, nursery)
    writer.write(0, b"a" * 9)
    await writer.sent()
    assert volume.asked == 1
    volume.refusing = False
    writer.write(9, b"a" * 100)
    assert await writer.sent() == []
    assert volume.asked == 1


async def test_a_commit_does_not_wait_for_ever(nursery, eventually_async, monkeypatch):
    monkeypatch.setattr(staging, "PATIENCE", 0.05)
    volume = SlowVolume()  # its gate stays shut
    writer = Writer(volume, nursery)
    writer.write(0, b"a" * 20)
    await eventually_async(lambda: volume.now == 2)
    assert await writer.sent() == []
    await eventually_async(lambda: volume.now == 0)


async def test_a_commit_has_the_rest_sent_as_before(nursery, monkeypatch):
    """A store that is slower than the writer is kept busy until all of it is there."""
    monkeypatch.setattr(staging, "PARALLEL", 2)
    monkeypatch.setattr(staging, "PATIENCE", 0.5)
    volume = SlowVolume()
    volume.gate.set()
    volume.pause = 0.1
    writer = Writer(volume, nursery)
    writer.write(0, b"a" * (20 * SIZE + 1))
    assert len(await writer.sent()) == 20, "all of it takes longer than anybody waits for a piece"
    assert volume.most == 2


async def test_what_was_sent_to_an_old_name_does_not_count(nursery, eventually_async):
    volume = SlowVolume()
    volume.gate.set()
    writer = Writer(volume, nursery)
    writer.write(0, b"a" * 9)
    await eventually_async(lambda: len(volume.bodies) == 1)
    writer.path = "g"
    writer.write(9, b"a" * 10)
    await eventually_async(lambda: len(volume.bodies) == 2)
    assert await writer.sent() == [(8, 16)]


async def test_memory_for_bodies_is_bounded(nursery, eventually_async, monkeypatch):
    monkeypatch.setattr(staging, "BUFFERS", 4 * SIZE)
    volume = SlowVolume()
    writer = Writer(volume, nursery)
    writer.write(0, b"a" * 101)
    await eventually_async(lambda: volume.now == 4)
    volume.gate.set()
    await eventually_async(lambda: len(volume.bodies) == 12)
    assert len(await writer.sent()) == 12
    assert volume.most == 4
    assert writer.shared.buffers.used == 0


async def test_two_buffers_larger_than_the_budget_are_held_at_a_time(nursery, eventually_async):
    budget = BufferBudget(10)
    gate, held = trio.Event(), []

    async def hold():
        async with budget.held(1000):
            held.append(None)
            await gate.wait()
            held.pop()

    for _ in range(5):
        nursery.start_soon(hold)
    await eventually_async(lambda: len(held) == 2)
    assert budget.used == 10
    gate.set()
    await eventually_async(lambda: not budget.used)
    assert not held
