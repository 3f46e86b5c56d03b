"""What asking for names costs, on trio's virtual clock."""

from __future__ import annotations

import pytest
import trio

from fuse.inodes import InodeTable
from fuse.namespace import LISTABLE, PROBES, Namespace
from fuse.volume import Attributes, Entry, Kind


class CountingVolume:
    """A directory of names in memory that counts what it is asked; not a real store."""

    def __init__(self, names):
        self.versions = dict.fromkeys(names, 1)
        self.stats = 0
        self.lists = 0

    def attributes(self, name):
        return Attributes(Kind.FILE, size=1, version=f"{name}-{self.versions[name]}")

    async def stat(self, path):
        await trio.lowlevel.checkpoint()
        self.stats += 1
        if path not in self.versions:
            raise FileNotFoundError(2, "no such name", path)
        return self.attributes(path)

    async def list(self, path):
        self.lists += 1
        names = list(self.versions)
        for start in range(0, len(names), 1000):
            await trio.lowlevel.checkpoint()
            yield [Entry(name, self.attributes(name)) for name in names[start : start + 1000]]


def namespace(count, timeout=10.0):
    volume = CountingVolume([str(number) for number in range(count)])
    table = InodeTable(Attributes(Kind.DIRECTORY))
    return volume, table, Namespace(volume, table, timeout)


async def test_many_names_cost_a_few_questions_and_one_listing(autojump_clock):
    volume, table, names = namespace(2000)
    for _epoch in range(3):
        for number in range(2000):
            found = await names.find(table.root, str(number))
            assert found.attributes.version == f"{number}-1"
        await trio.sleep(11)
    assert volume.stats <= 3 * (PROBES + 1)
    assert volume.lists <= 3


async def test_a_few_names_of_a_large_directory_cost_no_listing(autojump_clock):
    volume, table, names = namespace(LISTABLE)
    for number in range(PROBES):
        await names.find(table.root, str(number))
    assert (volume.stats, volume.lists) == (PROBES, 0)


async def test_names_that_are_not_there_list_once_a_time_out(autojump_clock):
    volume, table, names = namespace(100)
    for _ in range(500):
        assert await names.find_if_there(table.root, "missing") is None
    assert volume.lists == 1


async def test_too_many_entries_are_asked_about_one_by_one(autojump_clock):
    volume, table, names = namespace(LISTABLE + 2000)
    for _epoch in range(2):
        for number in range(200):
            await names.find(table.root, str(number))
        await trio.sleep(11)
    assert volume.lists == 1


async def test_a_time_out_of_zero_always_asks(autojump_clock):
    volume, table, names = namespace(100, timeout=0.0)
    for _ in range(50):
        await names.find(table.root, "7")
    assert (volume.stats, volume.lists) == (50, 0)


async def test_what_was_removed_here_does_not_come_back_from_a_listing(autojump_clock):
    volume, table, names = namespace(100)
    for number in range(PROBES + 5):
        await names.find(table.root, str(number))
    assert volume.lists == 1
    node = await names.find(table.root, "50")
    table.detach(node)
    del volume.versions["50"]
    with pytest.raises(FileNotFoundError):
        await names.find(table.root, "50")


async def test_a_new_version_is_seen_after_the_time_out(autojump_clock):
    volume, table, names = namespace(50)
    for number in range(50):
        await names.find(table.root, str(number))
    volume.versions["3"] = 2
    await trio.sleep(11)
    for number in range(50):
        found = await names.find(table.root, str(number))
    assert (await names.find(table.root, "3")).attributes.version == "3-2"
    assert found.attributes.version == "49-1"
