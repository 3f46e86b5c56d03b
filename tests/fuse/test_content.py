"""Open files over a volume in memory: what programs see, and what the store gets."""

from __future__ import annotations

import errno

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse import readahead
from fuse.cache import MemoryCache
from fuse.content import Content
from fuse.journal import Journal
from fuse.places import Places
from fuse.readahead import ReadAhead
from fuse.staging import Staging
from tests.fuse import memory_volume

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 300), st.binary(min_size=1, max_size=90)),
        st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=90)),
        st.tuples(st.just("truncate"), st.integers(0, 300), st.just(b"")),
        st.tuples(st.just("read"), st.integers(0, 350), st.binary(min_size=1, max_size=90)),
        st.tuples(st.just("commit"), st.just(0), st.just(b"")),
    ),
    max_size=25,
)


async def no_room(content, size):
    """There is nothing else to commit."""


def contents(volume, base, nursery, directory, budget=128, make_room=no_room):
    journal = Journal(Places(directory, volume.identity))
    staging = Staging(volume, nursery)
    return Content(
        volume, lambda: "f", base, MemoryCache(budget), nursery, journal, staging, make_room
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(initial=st.binary(max_size=300), operations=steps)
def test_behaves_like_a_local_file(tmp_path, initial, operations):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readahead, "UNIT", 16)
        patch.setattr(readahead, "WHOLE_FILE", 40)
        behaves_like_a_local_file(tmp_path, initial, operations)


def behaves_like_a_local_file(tmp_path, initial, operations):
    async def run():
        volume = memory_volume.MemoryVolume()
        base = volume.put("f", initial)
        model = bytearray(initial)
        async with trio.open_nursery() as nursery:
            content = contents(volume, base, nursery, tmp_path)
            window = ReadAhead(256)
            for name, offset, data in operations:
                if name == "write":
                    await content.write(offset, data)
                    model.extend(bytes(max(0, offset + len(data) - len(model))))
                    model[offset : offset + len(data)] = data
                elif name == "append":
                    await content.append(data)
                    model += data
                elif name == "truncate":
                    await content.truncate(offset)
                    del model[offset:]
                    model.extend(bytes(offset - len(model)))
                elif name == "commit":
                    await content.commit()
                    assert volume.files["f"] == model
                else:
                    found = await content.read(offset, len(data), window)
                    assert bytes(found) == model[offset : offset + len(data)]
                assert content.size == len(model)
            await content.commit()
            assert volume.files["f"] == model
            assert content.base == volume.attributes("f")
            content.close()
            nursery.cancel_scope.cancel()

    trio.run(run)


async def test_a_failed_commit_keeps_the_data(tmp_path, nursery):
    volume = memory_volume.MemoryVolume()
    content = contents(volume, volume.put("f", b"old"), nursery, tmp_path)
    await content.write(0, b"NEW and longer")
    volume.failing = OSError(errno.EIO, "down")
    with pytest.raises(OSError, match="down"):
        await content.commit()
    assert content.modified
    volume.failing = None
    await content.commit()
    assert volume.files["f"] == b"NEW and longer"


async def test_the_second_of_two_writers_gets_estale_and_keeps_its_data(tmp_path, nursery):
    volume = memory_volume.MemoryVolume()
    content = contents(volume, volume.put("f", b"one"), nursery, tmp_path)
    await content.write(0, b"mine")
    volume.put("f", b"somebody else's")
    with pytest.raises(OSError) as caught:
        await content.commit()
    assert caught.value.errno == errno.ESTALE
    assert volume.files["f"] == b"somebody else's"
    assert bytes(await content.read(0, 10)) == b"mine"


async def test_a_replaced_file_is_never_mixed(tmp_path, nursery):
    volume = memory_volume.MemoryVolume()
    content = contents(volume, volume.put("f", b"a" * 2_000_000), nursery, tmp_path)
    assert bytes(await content.read(0, 10)) == b"a" * 10
    volume.put("f", b"b" * 2_000_000)
    with pytest.raises(OSError) as caught:
        await content.read(1_900_000, 10)
    assert caught.value.errno == errno.ESTALE


async def test_unlinked_while_open_lives_on_and_is_never_committed(tmp_path, nursery):
    volume = memory_volume.MemoryVolume()
    content = contents(volume, volume.put("f", b"x" * 500), nursery, tmp_path)
    await content.write(100, b"dirty")
    await content.localise()
    del volume.files["f"]
    content.drop()
    wanted = bytearray(b"x" * 500)
    wanted[100:105] = b"dirty"
    assert bytes(await content.read(0, 500)) == wanted
    await content.commit()
    assert "f" not in volume.files


async def test_a_failed_fetch_is_tried_again_by_the_next_read(tmp_path, nursery):
    volume = memory_volume.MemoryVolume()
    content = contents(volume, volume.put("f", b"y" * 200), nursery, tmp_path)
    volume.failing = OSError(errno.EIO, "down")
    with pytest.raises(OSError, match="down"):
        await content.read(0, 10)
    volume.failing = None
    assert bytes(await content.read(0, 10)) == b"y" * 10


async def test_memory_stays_within_its_budget(tmp_path, nursery):
    volume = memory_volume.MemoryVolume()
    volume.preferred_read = 65536
    budget = 512 * 1024
    base = volume.put("f", bytes(4_000_000))
    content = contents(volume, base, nursery, tmp_path, budget=budget)
    window = ReadAhead(1024 * 1024)
    for offset in range(0, 4_000_000, 10_000):
        await content.read(offset, 10_000, window)
        assert content._cache.used <= budget + 2 * 65536
    assert volume.reads < 100
