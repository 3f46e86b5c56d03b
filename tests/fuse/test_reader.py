"""The reader: exact bytes of its version or an error, and memory that is given back."""

from __future__ import annotations

import errno
import gc
import random
import sys

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from fuse import blockfile
from fuse.blockfile import UNIT, Version
from fuse.cache import Extent, MemoryCache
from fuse.diskcache import DiskCache
from fuse.readahead import ReadAhead
from fuse.reader import Reader
from fuse.slabs import capacity
from fuse.volume import Attributes, Kind

MIB = 1024 * 1024


class Store:
    """What of a volume a reader needs; each request ends as ``script`` says."""

    identity = "blob:test"
    preferred_read = 4 * MIB

    def __init__(self, data, script=(), short=(), nursery=None):
        self.data = data
        self.script = list(script)
        self.short = list(short)
        self.nursery = nursery
        self.requests = 0

    def begin_read(self, path, attributes, offset, buffer, progress, done):
        """As ``short`` says: refused, at once, later, cut off half-way; without it refused."""
        way = self.short.pop(0) if self.short else "refused"
        if way == "refused":
            return False
        self.requests += 1

        def end():
            count = len(buffer) if way != "cut" else len(buffer) // 2
            buffer[:count] = self.data[offset : offset + count]
            buffer[count:] = bytes(len(buffer) - count)
            progress(count)
            done(way != "cut")

        async def later():
            await trio.lowlevel.checkpoint()
            end()

        if way == "at once":
            end()
        else:
            self.nursery.start_soon(later)
        return True

    async def read_into(self, path, attributes, offset, buffer, progress):
        self.requests += 1
        fault = self.script.pop(0) if self.script else None
        await trio.lowlevel.checkpoint()
        if fault is not None:
            # Cut off halfway, with bytes in the buffer that are none of this version.
            half = len(buffer) // 2
            buffer[:half] = self.data[offset : offset + half]
            progress(half)
            buffer[half:] = bytes(len(buffer) - half)
            await trio.lowlevel.checkpoint()
            raise fault
        buffer[:] = self.data[offset : offset + len(buffer)]
        progress(len(buffer))


def reader(store, cache, nursery, disk=None):
    attributes = Attributes(Kind.FILE, size=len(store.data), version='"1"')
    return Reader(store, lambda: "f", attributes, cache, nursery, disk)


reads = st.lists(st.tuples(st.integers(0, 3 * MIB), st.integers(1, MIB)), min_size=1, max_size=12)
faults = st.lists(
    st.sampled_from([None, None, errno.ESTALE, errno.EIO, errno.ETIMEDOUT]), max_size=12
)


@given(wanted=reads, numbers=faults, budget=st.sampled_from([MIB, 3 * MIB, 64 * MIB]))
def test_exact_bytes_or_an_error_and_never_more_than_the_budget(wanted, numbers, budget):
    data = random.Random(7).randbytes(3 * MIB + 12_345)
    script = [number and OSError(number, "fault") for number in numbers]

    async def run():
        cache = MemoryCache(budget)
        async with trio.open_nursery() as nursery:
            one = reader(Store(data, script), cache, nursery)
            window = ReadAhead(8 * MIB)
            for start, size in wanted:
                try:
                    got = await one.read(start, size, window)
                except OSError as error:
                    assert error.errno in numbers
                else:
                    assert bytes(got) == data[start : start + size]
                assert cache.used <= budget
            one.close()
            again = await reader(Store(data), cache, nursery).read(0, 4 * UNIT, ReadAhead(MIB))
            assert bytes(again) == data[: 4 * UNIT], "what is kept is right"

    trio.run(run)


async def read_as_the_lane_does(one, start, size, window):
    """From memory, else once what was begun has ended, else as it takes."""
    end = min(start + size, one.attributes.size)
    if start >= end:
        return b""
    there = one.read_now(start, end, window)
    if there is None:
        resumed = trio.Event()
        if one.fetch(start, end, window, resumed.set):
            await resumed.wait()
            there = one.read_now(start, end, window, noted=True)
    return await one.read(start, size, window) if there is None else there


@given(
    wanted=reads,
    short=st.lists(st.sampled_from(["refused", "at once", "later", "cut"]), max_size=20),
    numbers=faults,
    budget=st.sampled_from([MIB, 3 * MIB, 64 * MIB]),
    size=st.sampled_from([3 * MIB + 12_345, MIB, 100_000, 1]),
)
def test_the_short_way_gives_the_same_bytes(wanted, short, numbers, budget, size):
    data = random.Random(7).randbytes(size)
    script = [number and OSError(number, "fault") for number in numbers]

    async def run():
        cache = MemoryCache(budget)
        async with trio.open_nursery() as nursery:
            one = reader(Store(data, script, short, nursery), cache, nursery)
            window = ReadAhead(8 * MIB)

            async def check(start, count):
                try:
                    got = await read_as_the_lane_does(one, start, count, window)
                except OSError as error:
                    assert error.errno in numbers
                else:
                    assert bytes(got) == data[start : start + count]
                assert cache.used <= budget

            for start, count in wanted[::2]:
                await check(start, count)
            async with trio.open_nursery() as together:
                for start, count in wanted[1::2]:
                    together.start_soon(check, start, count)
            one.close()

    trio.run(run)


async def test_what_is_read_twice_while_it_comes_is_asked_for_once(nursery):
    data = random.Random(8).randbytes(100_000)
    store = Store(data, short=["later"], nursery=nursery)
    one = reader(store, MemoryCache(8 * MIB), nursery)
    resumed = []
    for number in range(3):
        assert one.fetch(0, 1000 * (number + 1), ReadAhead(MIB), lambda: resumed.append(None))
    assert not resumed
    await trio.testing.wait_all_tasks_blocked()
    assert len(resumed) == 3
    assert store.requests == 1


async def test_what_a_failed_fetch_left_is_not_kept(tmp_path, nursery):
    data = random.Random(8).randbytes(100_000)
    store = Store(data, [OSError(errno.ESTALE, "replaced")])
    disk = DiskCache(tmp_path / "blocks", 100 * MIB)
    nursery.start_soon(disk.fill)
    one = reader(store, MemoryCache(8 * MIB), nursery, disk)
    with pytest.raises(OSError, match="replaced"):
        await one.read(50_001, 49_999, ReadAhead(MIB))
    await trio.testing.wait_all_tasks_blocked()
    assert disk.statistics.disk_bytes_written == 0
    assert bytes(await one.read(0, len(data), ReadAhead(MIB))) == data
    assert store.requests == 2
    with trio.fail_after(20):
        while disk.statistics.disk_bytes_written < len(data):
            await trio.sleep(0.005)
    again = reader(store, MemoryCache(8 * MIB), nursery, disk)
    assert bytes(await again.read(0, len(data), ReadAhead(MIB))) == data
    assert store.requests == 2, "the second came from the disk"


async def test_a_disk_that_hangs_is_passed_by(tmp_path, nursery, monkeypatch):
    """The buffer that its thread may still write to is nobody's any more."""
    data = random.Random(9).randbytes(MIB)
    store = Store(data)
    disk = DiskCache(tmp_path / "blocks", 100 * MIB)
    nursery.start_soon(disk.fill)
    disk.offer(Version.of(store.identity, "f", '"1"', len(data)), 0, memoryview(data))
    with trio.fail_after(20):
        while disk.statistics.disk_bytes_written < len(data):
            await trio.sleep(0.005)
    given_to_it = []

    def hang(_descriptor, _key, _start, view, _size, *, flags=0, elsewhere=None):
        if flags:
            raise BlockingIOError
        given_to_it.append(view)
        trio.from_thread.run(trio.sleep_forever)

    monkeypatch.setattr("fuse.diskcache.PATIENCE", 0.05)
    monkeypatch.setattr(blockfile, "read", hang)
    one = reader(store, MemoryCache(8 * MIB), nursery, disk)
    got = await one.read(0, len(data), ReadAhead(MIB))
    given_to_it[0][:] = bytes(len(given_to_it[0]))
    assert bytes(got) == data


async def test_memory_is_given_back(nursery):
    """Thousands of files that do not stay, each read and closed, with views coming and going."""
    cache = MemoryCache(4 * MIB)
    data = random.Random(10).randbytes(300_000)
    store = Store(data)
    for _ in range(1000):
        one = reader(store, cache, nursery)
        view = await one.read(0, 100_000, ReadAhead(MIB))
        one.close()
        assert bytes(view) == data[:100_000], "what was handed out outlives its extent"
        del view
        assert cache.used == 0
    gc.collect()
    left = [one for one in gc.get_objects() if isinstance(one, Extent)]
    assert len(left) <= 1


@pytest.fixture
def disk(tmp_path):
    """A disk cache that is off: what it makes a difference for is that versions never change."""
    return DiskCache(tmp_path / "blocks", 0)


async def test_who_opens_it_again_finds_it_in_memory(nursery, disk):
    data = random.Random(11).randbytes(300_000)
    store, cache = Store(data), MemoryCache(4 * MIB)
    for _ in range(3):
        one = reader(store, cache, nursery, disk)
        assert bytes(await one.read(0, len(data), ReadAhead(MIB))) == data
        one.close()
    assert store.requests == 1
    other = Attributes(Kind.FILE, size=len(data), version='"2"')
    one = Reader(store, lambda: "f", other, cache, nursery, disk)
    await one.read(0, len(data), ReadAhead(MIB))
    assert store.requests == 2, "another version is another content"


async def test_old_extents_make_room_for_new_ones(nursery, disk):
    data = random.Random(12).randbytes(300_000)
    store, cache = Store(data), MemoryCache(MIB)
    for number in range(20):
        one = Reader(
            store,
            lambda number=number: f"f{number}",
            Attributes(Kind.FILE, size=len(data), version='"1"'),
            cache,
            nursery,
            disk,
        )
        assert bytes(await one.read(0, len(data), ReadAhead(MIB))) == data
        one.close()
        assert cache.used <= MIB
    assert cache.evictions >= 16


async def test_small_files_that_were_read_use_the_same_memory(nursery, disk):
    """The kernel has their pages: a fresh buffer for each costs more than receiving the bytes."""
    cache = MemoryCache(16 * MIB)
    for number in range(200):
        data = random.Random(number).randbytes(100_000 - number)
        attributes = Attributes(Kind.FILE, size=len(data), version='"1"')
        name = f"f{number}"
        one = Reader(Store(data), lambda name=name: name, attributes, cache, nursery, disk)
        assert bytes(await one.read(0, len(data), ReadAhead(MIB))) == data
        one.close()
        assert cache.used <= 2 * MIB + 2 * capacity(100_000)
    kept = Reader(Store(b""), lambda: name, attributes, cache, nursery, disk)
    assert bytes(kept.read_now(0, len(data), ReadAhead(MIB))) == data, "the last ones are there"


async def test_whoever_finds_no_room_waits_for_it(nursery, disk):
    """Sixteen readers of half the budget each: none fails, and the budget holds."""
    data = random.Random(13).randbytes(8 * MIB)
    cache = MemoryCache(MIB)
    store = Store(data)

    async def read(place):
        one = reader(store, cache, nursery, disk)
        got = await one.read(place * MIB // 2, MIB // 2, ReadAhead(0))
        assert bytes(got) == data[place * MIB // 2 : (place + 1) * MIB // 2]
        assert cache.used <= MIB

    with trio.fail_after(20):
        async with trio.open_nursery() as readers:
            for place in range(16):
                readers.start_soon(read, place)


async def test_what_one_reader_gives_up_another_one_fetches(nursery, disk):
    data = random.Random(14).randbytes(100_000)
    store, cache = Store(data), MemoryCache(MIB)
    arrived = trio.Event()

    async def stuck(*_arguments):
        arrived.set()
        await trio.sleep_forever()

    store.read_into, answering = stuck, store.read_into
    got = []

    async def read():
        one = reader(store, cache, nursery, disk)
        got.append(bytes(await one.read(0, len(data), ReadAhead(0))))

    async with trio.open_nursery() as impatient:
        impatient.start_soon(read)
        await arrived.wait()
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        store.read_into = answering
        impatient.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert got == [data]


def test_an_extent_holds_what_it_counts():
    """The budget speaks of memory: a buffer is as large as its extent, and no larger."""
    cache = MemoryCache(64 * MIB)
    tiny = cache.make(cache.shelf("t"), 0, 10_000)
    assert sys.getsizeof(tiny.view.obj) < tiny.size + 1024
    small = cache.make(cache.shelf("s"), 0, 100_000)
    assert len(small.view.obj) == small.size == capacity(100_000)
    assert len(small.view) == 100_000
    assert cache.used == tiny.size + small.size
    large = cache.make(cache.shelf("l"), 0, 2 * MIB)
    assert len(large.view.obj) == large.size == 2 * MIB


def test_a_large_buffer_is_used_again_once_nobody_reads_from_it():
    cache = MemoryCache(4 * MIB)
    first = cache.make(cache.shelf("1"), 0, 2 * MIB)
    second = cache.make(cache.shelf("2"), 0, 2 * MIB)
    first.finish()
    second.finish()
    reply, free = first.view[:5], second.view.obj
    assert cache.make(cache.shelf("3"), 0, 2 * MIB).view.obj is not first.view.obj
    assert cache.make(cache.shelf("4"), 0, 2 * MIB).view.obj is free
    assert bytes(reply) == bytes(5)
