"""Who waits for whom in the tree of names."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from fuse.inodes import InodeTable
from fuse.treelock import TreeLock
from fuse.volume import Attributes, Kind

DIRECTORY = Attributes(Kind.DIRECTORY)


class Tree:
    """``/a/b/c`` and ``/x``, a lock, and a record of what happened."""

    def __init__(self, nursery):
        self.table = InodeTable(DIRECTORY)
        self.root = self.table.root
        self.a = self.table.remember(self.root, "a", DIRECTORY, 0)
        self.b = self.table.remember(self.a, "b", DIRECTORY, 0)
        self.c = self.table.remember(self.b, "c", Attributes(Kind.FILE), 0)
        self.x = self.table.remember(self.root, "x", DIRECTORY, 0)
        self.lock = TreeLock()
        self.entered = []
        self._nursery = nursery
        self._release = {}

    def start(self, name, context):
        self._release[name] = trio.Event()

        async def hold():
            async with context:
                self.entered.append(name)
                await self._release[name].wait()

        self._nursery.start_soon(hold)
        return wait_all_tasks_blocked()

    def end(self, name):
        self._release[name].set()
        return wait_all_tasks_blocked()

    def end_all(self):
        for event in self._release.values():
            event.set()


@pytest.fixture
async def tree():
    async with trio.open_nursery() as nursery:
        made = Tree(nursery)
        yield made
        made.end_all()


async def test_many_share(tree):
    for name in ("one", "two"):
        await tree.start(name, tree.lock.shared(tree.b))
    assert tree.entered == ["one", "two"]


async def test_a_rename_waits_for_what_goes_on_below_and_keeps_it_out(tree):
    await tree.start("commit", tree.lock.shared(tree.c))
    await tree.start("rename", tree.lock.exclusive(tree.a))
    await tree.start("look-up below", tree.lock.shared(tree.b))
    await tree.start("look-up above", tree.lock.shared(tree.root))
    await tree.start("look-up beside", tree.lock.shared(tree.x))
    assert tree.entered == ["commit", "look-up above", "look-up beside"]
    await tree.end("commit")
    assert tree.entered[3:] == ["rename"]
    await tree.end("rename")
    assert tree.entered[4:] == ["look-up below"]


async def test_renames_of_one_tree_take_turns_and_others_do_not_wait(tree):
    await tree.start("deep", tree.lock.exclusive(tree.c))
    await tree.start("high", tree.lock.exclusive(tree.a))
    await tree.start("deep again", tree.lock.exclusive(tree.b))
    await tree.start("beside", tree.lock.exclusive(tree.x))
    assert tree.entered == ["deep", "beside"]
    await tree.end("deep")
    assert tree.entered[2:] == ["high"]
    await tree.end("high")
    assert tree.entered[3:] == ["deep again"]


async def test_a_rename_into_a_directory_that_is_being_renamed_waits(tree):
    await tree.start("a is renamed", tree.lock.exclusive(tree.a))
    await tree.start("x goes into b", tree.lock.exclusive(tree.x, using=tree.b))
    assert tree.entered == ["a is renamed"]
    await tree.end("a is renamed")
    await tree.start("a is renamed again", tree.lock.exclusive(tree.a))
    assert tree.entered[1:] == ["x goes into b"]
    await tree.end("x goes into b")
    assert tree.entered[2:] == ["a is renamed again"]


async def test_a_rename_that_was_given_up_lets_the_others_go_on(tree):
    await tree.start("commit", tree.lock.shared(tree.c))
    scope = trio.CancelScope()

    @asynccontextmanager
    async def given_up():
        with scope:
            async with tree.lock.exclusive(tree.a):
                raise AssertionError("the commit has not ended")
        yield

    await tree.start("given up", given_up())
    await tree.start("look-up", tree.lock.shared(tree.b))
    assert tree.entered == ["commit"]
    scope.cancel()
    await wait_all_tasks_blocked()
    assert "look-up" in tree.entered
