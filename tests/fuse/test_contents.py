"""The contents of a mount's inodes: conflicts and failures, and who hears of them."""

from __future__ import annotations

import contextlib
import errno

import pytest
import trio

from fuse.cache import MemoryCache
from fuse.contents import Contents
from fuse.diskcache import DiskCache
from fuse.inodes import InodeTable
from fuse.journal import Journal
from fuse.namespace import Namespace
from fuse.places import Places
from fuse.recovery import recover
from fuse.volume import Attributes, Kind
from tests.fuse.memory_volume import MemoryVolume


@contextlib.asynccontextmanager
async def mount(volume, directory):
    inodes = InodeTable(Attributes(Kind.DIRECTORY))
    names = Namespace(volume, inodes, 1.0)
    journal = Journal(Places(directory, volume.identity))
    async with trio.open_nursery() as nursery:
        disk = DiskCache(directory / "blocks", 0)
        contents = Contents(volume, inodes, names, MemoryCache(500), nursery, journal, disk)
        yield contents, inodes, journal
        contents.close()
        journal.close()
        nursery.cancel_scope.cancel()


def node_of(volume, inodes):
    return inodes.remember(inodes.root, "f", volume.attributes("f"), trio.current_time() + 60)


async def test_every_program_hears_of_a_conflict(tmp_path):
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    async with mount(volume, tmp_path) as (contents, inodes, _):
        node = node_of(volume, inodes)
        content = contents.current(node)
        contents.opened(node, content)
        contents.opened(node, content)  # two programs, each with a write of its own
        await content.write(0, b"A")
        await content.write(4, b"B")
        volume.put("f", b"theirs")
        with pytest.raises(OSError, match="Stale") as first:
            await contents.commit(node, content)
        assert first.value.errno == errno.ESTALE
        with pytest.raises(OSError, match="replaced") as second:  # the other one's fsync
            await contents.commit(node, content)
        assert second.value.errno == errno.ESTALE


async def test_a_conflict_met_in_the_background_is_told_at_close(tmp_path):
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    async with mount(volume, tmp_path) as (contents, inodes, _):
        node = node_of(volume, inodes)
        content = contents.current(node)
        contents.opened(node, content)
        await content.write(0, b"A")
        volume.put("f", b"theirs")
        await contents.commit_stale(everything=True)  # `flush`, or the interval of a share
        with pytest.raises(OSError, match="replaced") as told:
            await contents.commit(node, content)
        assert told.value.errno == errno.ESTALE


async def test_a_truncation_that_failed_is_not_made_up_for_at_the_next_mount(tmp_path):
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    async with mount(volume, tmp_path) as (contents, inodes, _):
        node = node_of(volume, inodes)
        volume.failing = OSError(errno.EIO, "down")
        with pytest.raises(OSError, match="down"):
            await contents.set_size(node, 0, None)
    volume.failing = None
    await recover(volume, Places(tmp_path, volume.identity))
    assert volume.files["f"] == b"0123456789", "truncate(2) said EIO; the file was emptied later"


async def test_nothing_is_due_before_there_is_a_content(tmp_path):
    volume = MemoryVolume()
    volume.files["f"], volume.versions["f"] = b"x", "1"
    async with mount(volume, tmp_path) as (contents, inodes, _), trio.open_nursery() as nursery:
        nursery.start_soon(contents.in_use)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        contents.current(node_of(volume, inodes))
        with trio.fail_after(1):
            await contents.in_use()
