"""Small versions of the disk cache: many to a file, shared, evicted by whole packs."""

from __future__ import annotations

import errno
import os
import random
import time

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse import diskcache, diskroom, packfile, packs
from fuse.blockfile import DamagedError, Version
from fuse.diskcache import DiskCache
from fuse.diskfigures import DiskStatistics
from fuse.diskroom import Room
from fuse.packs import Packs

MIB = 1024 * 1024


def version(size, name):
    return Version.of("blob:test", str(name), '"1"', size)


def content(name, size):
    return random.Random(str(name)).randbytes(size)


def fetch(cache, name, size, used=lambda _pack: None):
    buffer = memoryview(bytearray(size))
    return bytes(buffer) if cache.read(version(size, name).key, buffer, 0, used) else None


def keep(cache, names, size, limit=MIB):
    bodies = [(version(size, name).key, memoryview(content(name, size))) for name in names]
    cache.append(bodies, limit)


def packs_in(directory):
    place = directory / packs.DIRECTORY
    return {path for path in place.iterdir() if path.name != packs.INDEX}


def test_what_one_mount_keeps_all_read(tmp_path):
    one, other = Packs(tmp_path), Packs(tmp_path)
    assert fetch(one, "a", 100) is None
    keep(one, "abc", 100)
    keep(other, "def", 100)
    for cache in (one, other, Packs(tmp_path)):
        assert [fetch(cache, name, 100) for name in "abcdef"] == [
            content(name, 100) for name in "abcdef"
        ]
        assert fetch(cache, "a", 99) is None
        assert fetch(cache, "g", 100) is None
    assert len(packs_in(tmp_path)) == 2, "nobody appends to the pack of another"


def test_a_full_pack_is_followed_by_another(tmp_path):
    cache = Packs(tmp_path)
    for number in range(10):
        keep(cache, [f"{number}.{part}" for part in range(5)], 1000, limit=8000)
    sizes = [path.stat().st_size for path in packs_in(tmp_path)]
    assert len(sizes) == 5
    assert max(sizes) <= 8000 + 5 * packfile.size_of(1000)
    keep(cache, range(50), 1000, limit=8000)
    assert max(path.stat().st_size for path in packs_in(tmp_path)) <= 16000
    assert all(fetch(cache, number, 1000) == content(number, 1000) for number in range(50))


def test_a_pack_that_was_evicted_is_a_miss_and_not_written_on(tmp_path):
    cache = Packs(tmp_path)
    keep(cache, "a", 100)
    (pack,) = packs_in(tmp_path)
    pack.unlink()
    assert fetch(cache, "a", 100) is None
    keep(cache, "b", 100)
    assert fetch(cache, "b", 100) == content("b", 100)


def test_a_table_that_is_gone_is_made_from_the_packs(tmp_path):
    keep(Packs(tmp_path), "abc", 100)
    keep(Packs(tmp_path), "de", 100)
    (tmp_path / packs.DIRECTORY / "what else is there").write_bytes(b"no pack")
    (tmp_path / packs.DIRECTORY / "0badcafe").write_bytes(b"no pack either")
    (tmp_path / packs.DIRECTORY / packs.INDEX).unlink()
    cache = Packs(tmp_path)
    assert fetch(cache, "a", 100) is None
    keep(cache, "f", 100)
    assert all(fetch(cache, name, 100) == content(name, 100) for name in "abcdef")


def test_a_directory_that_is_made_anew_is_noticed(tmp_path):
    """By whoever writes next: until then there are misses, and nothing worse."""
    cache = Packs(tmp_path)
    keep(cache, "a", 100)
    assert fetch(cache, "a", 100) == content("a", 100)
    (tmp_path / packs.DIRECTORY).rename(tmp_path / "away")
    assert fetch(cache, "a", 100) is None
    keep(Packs(tmp_path), "b", 100)
    assert fetch(cache, "b", 100) is None
    keep(cache, "c", 100)
    assert [fetch(cache, name, 100) for name in "abc"] == [
        None,
        content("b", 100),
        content("c", 100),
    ]


def test_damage_is_noticed_once_and_then_forgotten(tmp_path):
    cache = Packs(tmp_path)
    keep(cache, "ab", 100)
    (pack,) = packs_in(tmp_path)
    raw = bytearray(pack.read_bytes())
    raw[packfile.ALIGNMENT + 50] ^= 1
    pack.write_bytes(raw)
    with pytest.raises(DamagedError):
        fetch(cache, "a", 100)
    assert fetch(cache, "a", 100) is None
    assert fetch(cache, "b", 100) == content("b", 100)
    keep(cache, "a", 100)
    assert fetch(cache, "a", 100) == content("a", 100)


def test_places_that_lead_nowhere_are_no_trouble(tmp_path):
    """A table full of nonsense: whatever it says is compared with what is there."""
    cache = Packs(tmp_path)
    keep(cache, "ab", 100)
    (pack,) = packs_in(tmp_path)
    index = tmp_path / packs.DIRECTORY / packs.INDEX
    raw = index.read_bytes()
    place = raw.rstrip(b"\0")[-8:]
    assert place, "the last place of the table"
    index.write_bytes(raw.replace(place, bytes([place[0] ^ 1]) + place[1:]))
    found = []
    for name in "ab":
        try:
            found.append(fetch(cache, name, 100))
        except DamagedError:
            found.append(None)
    assert sorted(body is None for body in found) == [False, True]
    assert all(body in {None, content("a", 100), content("b", 100)} for body in found)
    assert pack.exists()


def test_a_torn_batch_ends_its_pack(tmp_path, monkeypatch):
    cache = Packs(tmp_path)
    keep(cache, "a", 100)
    real = os.pwritev
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda file, buffers, offset: real(file, buffers[:1], offset))
        with pytest.raises(OSError, match="part") as caught:
            keep(cache, "b", 100)
    assert caught.value.errno == errno.ENOSPC
    assert fetch(cache, "b", 100) is None
    keep(cache, "c", 100)
    assert len(packs_in(tmp_path)) == 2
    assert [fetch(cache, name, 100) for name in "ac"] == [content(name, 100) for name in "ac"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    budget=st.integers(2, 6),
    sizes=st.lists(st.integers(1, diskcache.SMALL - 1), min_size=1, max_size=40),
    batch=st.integers(1, 8),
)
def test_eviction_keeps_the_budget_and_what_is_left_is_right(
    tmp_path_factory, budget, sizes, batch
):
    directory = tmp_path_factory.mktemp("blocks")
    room = Room(directory, budget * MIB, DiskStatistics(), spared=packs.INDEX)
    cache = Packs(directory)
    names = list(enumerate(sizes))
    for first in range(0, len(names), batch):
        bodies = [
            (version(size, number).key, memoryview(content(number, size)))
            for number, size in names[first : first + batch]
        ]
        cache.append(bodies, packs.largest(room.budget))
        room.evict(0)
        used = sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
        assert used <= budget * MIB
    for number, size in names:
        assert fetch(cache, number, size) in {None, content(number, size)}
    if sum(sizes) <= budget * MIB // 2:
        assert all(fetch(cache, number, size) is not None for number, size in names)


# -- as a part of the cache -----------------------------------------------------------------------


async def filled(cache, nursery, *names, size=100_000):
    nursery.start_soon(cache.fill)
    wanted = cache.statistics.disk_bytes_written + size * len(names)
    for name in names:
        cache.offer(version(size, name), 0, memoryview(content(name, size)))
    with trio.fail_after(20):
        while cache.statistics.disk_bytes_written < wanted and cache.state == "ok":
            await trio.sleep(0.005)


async def get(cache, name, size=100_000):
    buffer = memoryview(bytearray(size))
    return bytes(buffer) if await cache.read_into(version(size, name), 0, buffer) else None


async def test_small_versions_are_packed_for_others_and_for_later(tmp_path, nursery):
    first = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(first, nursery, *range(20))
    assert len(packs_in(tmp_path / "blocks")) <= 2
    second = DiskCache(tmp_path / "blocks", 100 * MIB)
    assert [await get(second, number) for number in range(20)] == [
        content(number, 100_000) for number in range(20)
    ]
    assert await get(second, 20) is None
    assert (second.statistics.disk_hits, second.statistics.disk_misses) == (20, 1)


async def test_the_table_is_never_evicted_and_what_is_used_stays(tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(diskcache, "RENEW", -1.0)
    place = tmp_path / "blocks"
    one, other = DiskCache(place, 100 * MIB), DiskCache(place, 100 * MIB)
    await filled(one, nursery, "a")
    await filled(other, nursery, "b")
    then = time.time() - 1000
    for path in place.rglob("*"):
        os.utime(path, (then, then))
    assert await get(other, "a") == content("a", 100_000), "used just now"
    assert await one.make_room(50_000) >= 100_000
    assert await get(one, "a") == content("a", 100_000)
    assert await get(one, "b") is None
    await one.make_room(MIB)
    assert packs_in(place) == set()
    assert (place / packs.DIRECTORY / packs.INDEX).exists()


async def test_damage_counts_and_is_a_miss(tmp_path, nursery):
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(cache, nursery, "a")
    (pack,) = packs_in(tmp_path / "blocks")
    with pack.open("r+b") as file:
        file.seek(5000)
        file.write(b"damaged")
    assert await get(cache, "a") is None
    assert cache.statistics.disk_damaged == 1
    await filled(cache, nursery, "a")
    assert await get(cache, "a") == content("a", 100_000)


async def test_a_disk_with_too_little_space_takes_nothing(tmp_path, nursery, monkeypatch):
    monkeypatch.setattr(diskroom, "FLOOR_SHARE", 1.0)
    monkeypatch.setattr(diskroom, "LARGEST_FLOOR", 1 << 60)
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(cache, nursery, "a")
    assert cache.state == "too little of the disk is free"
    assert await get(cache, "a") is None


async def test_what_is_read_on_a_disk_that_became_read_only_is_right(
    tmp_path, nursery, monkeypatch
):
    cache = DiskCache(tmp_path / "blocks", 100 * MIB)
    await filled(cache, nursery, "a", "b")
    (pack,) = packs_in(tmp_path / "blocks")
    raw = bytearray(pack.read_bytes())
    raw[5000] ^= 1
    pack.write_bytes(raw)
    real = os.open

    def refuse(path, flags, *more, **others):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "read-only")
        return real(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", refuse)
    assert await get(cache, "a") is None
    assert await get(cache, "a") is None, "it cannot be forgotten, and is no better than before"
    assert await get(cache, "b") == content("b", 100_000)
