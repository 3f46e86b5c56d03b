"""What asking for names costs, on trio's virtual clock."""

from __future__ import annotations

import pytest
import trio

from fuse.inodes import InodeTable
from fuse.namespace import FRACTION, LISTABLE, PROBES, Namespace
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


async def test_a_few_names_of_a_very_large_directory_are_asked_about_one_by_one(autojump_clock):
    volume, table, names = namespace(LISTABLE + 2000)
    for number in range(100):
        await names.find(table.root, str(number))
    assert (volume.stats, volume.lists) == (PROBES + 84, 1)


async def test_many_names_of_a_very_large_directory_cost_a_few_listings(autojump_clock):
    volume, table, names = namespace(4 * LISTABLE)
    for number in range(4 * LISTABLE):
        await names.find(table.root, str(number))
    assert volume.stats <= 4 * LISTABLE // FRACTION * 3
    assert volume.lists <= 5
    await trio.sleep(11)
    volume.stats = volume.lists = 0
    for number in range(4 * LISTABLE):
        await names.find(table.root, str(number))
    assert (volume.stats, volume.lists) == (4 * LISTABLE // FRACTION, 1)


async def test_each_page_is_believed_from_when_it_was_asked_for(autojump_clock):
    volume, table, names = namespace(LISTABLE + 1000)
    whole = volume.list

    async def slowly(path):
        async for page in whole(path):
            await trio.sleep(3)
            yield page

    volume.list = slowly
    began = trio.current_time()
    listed = await names.list(table.root)
    assert [end for end, _ in listed.pages] == [1000, 2000, 3000, 4000, 5000, 6000]
    assert [asked - began for _, asked in listed.pages] == [0, 3, 6, 9, 12, 15]
    table.root.names.unwatch(listed.changes)


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


class Opened:
    """As much of a file's content as matters here."""

    def __init__(self, base):
        self.base = base
        self.modified = self.orphaned = False

    async def rebase(self, base):
        await trio.lowlevel.checkpoint()
        self.base = base


async def opened(volume, table, names, *, grows):
    async def continues(path, old, new):
        await trio.lowlevel.checkpoint()
        return grows

    volume.continues = continues
    node = await names.find(table.root, "3")
    node.opens, node.lookups, node.content = 1, 1, Opened(node.attributes)
    return node


async def test_an_open_file_that_was_replaced_keeps_its_number_and_version(autojump_clock):
    volume, table, names = namespace(10)
    node = await opened(volume, table, names, grows=False)
    volume.versions["3"] = 2
    await trio.sleep(11)
    await names.refresh(node)
    assert node.superseded
    assert node.attributes.version == "3-1"
    new = await names.find(table.root, "3")
    assert (new.number != node.number, new.attributes.version) == (True, "3-2")


async def test_an_open_file_that_grew_goes_on_under_its_number(autojump_clock):
    volume, table, names = namespace(10)
    node = await opened(volume, table, names, grows=True)
    volume.versions["3"] = 2
    await trio.sleep(11)
    assert await names.find(table.root, "3") is node
    assert node.content.base.version == node.attributes.version == "3-2"


async def test_an_answer_that_a_commit_has_overtaken_counts_for_nothing(autojump_clock):
    volume, table, names = namespace(10)
    node = await opened(volume, table, names, grows=False)
    asked = trio.current_time()
    await trio.sleep(1)
    mine = Attributes(Kind.FILE, size=5, version="mine")
    node.attributes = node.content.base = mine
    node.expires = names.expiry()
    older = volume.attributes("3")
    assert await names.observe(table.root, "3", older, asked, asked + 10) is node
    assert node.attributes is mine


async def test_an_open_file_that_was_removed_elsewhere_is_superseded(autojump_clock):
    volume, table, names = namespace(10)
    node = await opened(volume, table, names, grows=False)
    del volume.versions["3"]
    await trio.sleep(11)
    await names.refresh(node)
    assert node.superseded
    assert await names.find_if_there(table.root, "3") is None


async def test_a_directory_made_here_is_known_to_be_empty_for_a_while(autojump_clock):
    volume, table, names = namespace(0)
    names.empty(table.root)
    for number in range(1000):
        assert await names.find_if_there(table.root, f"{number}") is None
    assert (volume.stats, volume.lists) == (0, 0)
    volume.versions["7"] = 1
    await trio.sleep(11)
    assert await names.find_if_there(table.root, "7") is not None
    for number in range(100, 1000):
        assert await names.find_if_there(table.root, f"{number}") is None
    assert (volume.stats, volume.lists) == (0, 1)


async def test_the_silence_of_a_listing_is_believed_for_a_second(autojump_clock):
    volume, table, names = namespace(100)
    for number in range(PROBES + 1):
        assert await names.find_if_there(table.root, f"missing-{number}") is None
    volume.versions["missing-3"] = 1
    assert await names.find_if_there(table.root, "missing-3") is None
    await trio.sleep(1.1)
    assert await names.find_if_there(table.root, "missing-3") is not None


async def slow(volume, seconds):
    """Make each page of the volume's listings take so long."""
    whole = volume.list

    async def slowly(path):
        async for page in whole(path):
            await trio.sleep(seconds)
            yield page

    volume.list = slowly


async def test_a_listing_that_takes_longer_than_the_time_out_is_believed_for_a_while(
    autojump_clock,
):
    volume, table, names = namespace(LISTABLE)
    await slow(volume, 3)
    for number in range(LISTABLE):
        await names.find(table.root, str(number))
    assert (volume.stats, volume.lists) == (PROBES, 1)
    volume.versions["7"] = 2
    await trio.sleep(names.timeout + 1)
    assert (await names.find(table.root, "7")).attributes.version == "7-2"


async def test_what_a_program_listed_slowly_need_not_be_asked_about(autojump_clock):
    volume, table, names = namespace(LISTABLE)
    await slow(volume, 3)
    listed = await names.list(table.root)
    table.root.names.unwatch(listed.changes)
    for entry in listed.entries:
        await names.find(table.root, entry.name)
    assert (volume.stats, volume.lists) == (0, 1)


async def test_a_slow_listing_knows_less_than_what_was_done_meanwhile(autojump_clock):
    volume, table, names = namespace(LISTABLE, timeout=4.0)
    node = await names.find(table.root, "7")
    await slow(volume, 3)

    async def change():
        await trio.sleep(8)  # when the page with its name has come
        volume.versions["7"] = 2
        node.attributes, node.expires = volume.attributes("7"), names.expiry()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        listed = await names.list(table.root)
    table.root.names.unwatch(listed.changes)
    assert node.expires < trio.current_time()
    found = await names.find(table.root, "7")
    assert found.attributes.version == "7-2"
