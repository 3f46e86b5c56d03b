"""Servers that freeze, vanish and come back."""

import errno
import os
import time

import pytest
import trio

from fuse.volume import Changes
from tests.share.conftest import QUICK, OverlayContent, connect, read, write

pytestmark = pytest.mark.integration
MIB = 1024 * 1024


async def test_frozen_server(samba):
    """Every wait ends; when the server goes on, so does the volume."""
    async with connect(samba.storage) as volume:
        data = os.urandom(8 * MIB)
        known = await write(volume, "f", data)
        samba.freeze()
        started = time.monotonic()
        errors = []

        async def attempt(call, *args):
            with pytest.raises(OSError) as raised:
                await call(*args)
            errors.append(raised.value.errno)

        big = OverlayContent(len(data), data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attempt, volume.stat, "f")
            nursery.start_soon(attempt, read, volume, "f")
            # More than the socket's buffer: the sender itself is stuck.
            nursery.start_soon(attempt, volume.commit, "f", known, big, Changes())
        elapsed = time.monotonic() - started
        assert errors == [errno.ETIMEDOUT] * 3
        assert elapsed < QUICK.retry + 3 * QUICK.connect + 2 * QUICK.silence
        samba.thaw()
        assert await read(volume, "f") == data
        assert volume.statistics()["share_connections"] >= 2


async def test_operations_ride_out_a_short_freeze(samba):
    async with connect(samba.storage) as volume:
        await write(volume, "f", b"content")
        samba.freeze()

        async def thaw_later():
            await trio.sleep(QUICK.silence + 1)
            samba.thaw()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(thaw_later)
            assert await read(volume, "f") == b"content"
            await volume.create("g", Changes())
        assert (await volume.stat("g")).size == 0


async def test_leaving_does_not_hang_on_a_frozen_server(samba):
    started = time.monotonic()
    async with connect(samba.storage) as volume:
        await volume.stat("")
        samba.freeze()
        with trio.move_on_after(0.2):
            await volume.stat("")
    assert time.monotonic() - started < QUICK.silence + 3
    samba.thaw()


async def test_sessions_killed_during_transfers(samba):
    async with connect(samba.storage) as volume:
        data = os.urandom(32 * MIB)
        known = await volume.create("f", Changes())
        content = OverlayContent(len(data), data)
        async with trio.open_nursery() as nursery:

            async def kill_soon():
                with trio.fail_after(10):
                    while (samba.storage.share_directory / "f").stat().st_size < 4 * MIB:
                        await trio.sleep(0.001)
                samba.kill_sessions()

            nursery.start_soon(kill_soon)
            committed = await volume.commit("f", known, content, Changes())
        assert volume.statistics()["share_connections"] == 2
        assert committed == await volume.stat("f")
        buffer, seen = bytearray(len(data)), []

        def kill_once(filled):
            seen.append(filled)
            if filled == 4 * MIB:
                samba.kill_sessions()

        await volume.read_into("f", committed, 0, memoryview(buffer), kill_once)
        assert buffer == data
        assert seen == sorted(set(seen))  # nothing was read twice
        assert volume.statistics()["share_connections"] == 3
        assert volume.statistics()["retries"] >= 2


async def test_idle_death_is_noticed_before_the_next_request(samba):
    async with connect(samba.storage) as volume:
        await volume.stat("")
        samba.kill_sessions()
        with trio.fail_after(5):
            while volume._link.current is not None:
                await trio.sleep(0.01)
        await volume.stat("")


async def test_restart_of_the_server(samba):
    async with connect(samba.storage) as volume:
        known = await write(volume, "f", b"x" * 400_000)
        await read(volume, "f")
        samba.stop()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def restart():
                    await trio.to_thread.run_sync(samba.start)

                nursery.start_soon(restart)
                assert await volume.stat("f") == known
        assert not scope.cancelled_caught
        assert await read(volume, "f") == b"x" * 400_000


async def test_server_gone_for_good(samba):
    async with connect(samba.storage) as volume:
        samba.stop()
        started = time.monotonic()
        with pytest.raises(OSError) as raised:
            await volume.stat("f")
        assert raised.value.errno == errno.ETIMEDOUT
        assert "refused" in raised.value.strerror
        assert time.monotonic() - started < QUICK.retry + QUICK.connect
        samba.start()


async def test_rotated_key(samba):
    async with connect(samba.storage) as volume:
        good = samba.storage.key
        volume.change_key("d3Jvbmc=")
        await volume.stat("")  # the connection that stands goes on
        samba.kill_sessions()
        with trio.fail_after(5):
            while volume._link.current is not None:
                await trio.sleep(0.01)
        for _ in range(3):  # not one logon each: servers lock accounts
            with pytest.raises(OSError) as raised:
                await volume.stat("")
            assert raised.value.errno == errno.EACCES
        volume.change_key(good)
        await volume.stat("")
