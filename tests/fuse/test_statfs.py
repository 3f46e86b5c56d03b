"""Capacity: known from the store, or else from memory, but never waited for."""

from __future__ import annotations

import errno

import trio

from fuse.filesystem import STATFS_PATIENCE, FileSystem
from fuse.options import MountOptions
from fuse.volume import Attributes, Kind, Space
from tests.fuse.memory_volume import MemoryVolume


async def test_a_store_that_is_silent_or_fails_hangs_nobody(nursery, tmp_path, autojump_clock):
    volume = MemoryVolume()
    answers = [Space(total=8192, free=4096)]

    async def space():
        if not answers:
            await trio.sleep_forever()
        answer = answers.pop()
        if isinstance(answer, OSError):
            raise answer
        return answer

    volume.space = space
    options = MountOptions(mountpoint=tmp_path, cache_directory=tmp_path)
    filesystem = FileSystem(volume, Attributes(Kind.DIRECTORY), options, nursery)
    assert (await filesystem.statfs(None)).f_blocks == 2
    answers.append(OSError(errno.ETIMEDOUT, "down"))
    assert (await filesystem.statfs(None)).f_blocks == 2
    begun = trio.current_time()
    assert (await filesystem.statfs(None)).f_bfree == 1
    assert trio.current_time() - begun <= STATFS_PATIENCE
