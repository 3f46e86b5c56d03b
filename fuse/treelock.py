"""Who may use a path over an ``await``, and who may change what it means.

A request that names a file to the store by its path holds the lock *shared* on the inode; one that
takes the name away (rename, unlink, rmdir) holds it *exclusively*, which covers everything below
the inode too. Otherwise a commit or a look-up deep in a tree that is being renamed would act on a
path that no longer means the file.

The kernel holds locks of its own (a directory's for every change of its names, a file's for writes
and changes of attributes), but none for the paths of what lies deeper, nor for what the driver does
by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from fuse.inodes import Inode


class TreeLock:
    """A readers-writer lock over the tree of inodes. Not re-entrant.

    Those who want it exclusively wait for those who share it, and are not overtaken by later ones.
    """

    def __init__(self) -> None:
        self._sharers: dict[Inode, int] = {}
        self._owners: list[frozenset[Inode]] = []
        self._queue: list[frozenset[Inode]] = []
        self._waiters = trio.lowlevel.ParkingLot()

    @property
    def idle(self) -> bool:
        """Whether nobody has any part of the tree exclusively, or waits for it."""
        return not (self._owners or self._queue)

    @asynccontextmanager
    async def shared(self, node: Inode) -> AsyncIterator[None]:
        """Use paths of ``node`` and of what is in it."""
        while (self._owners or self._queue) and self._claimed(node):
            await self._waiters.park()
        self._share(node)
        try:
            yield
        finally:
            self._unshare(node)
            self._waiters.unpark_all()

    @asynccontextmanager
    async def exclusive(self, *nodes: Inode, using: Inode | None = None) -> AsyncIterator[None]:
        """Change what the paths of ``nodes``, and of everything below them, mean.

        ``using`` is shared with it, in one step: two steps could wait for each other.
        """
        claim = frozenset(nodes)
        self._queue.append(claim)
        try:
            while not self._free(claim, using):
                await self._waiters.park()
            self._owners.append(claim)
        finally:
            # Where the wait was given up, those behind it have one less to wait for.
            _remove(self._queue, claim)
            self._waiters.unpark_all()
        if using is not None:
            self._share(using)
        try:
            yield
        finally:
            _remove(self._owners, claim)
            if using is not None:
                self._unshare(using)
            self._waiters.unpark_all()

    def _claimed(self, node: Inode) -> bool:
        line = set(node.ancestry())
        return any(not line.isdisjoint(claim) for claim in (*self._owners, *self._queue))

    def _share(self, node: Inode) -> None:
        self._sharers[node] = self._sharers.get(node, 0) + 1

    def _unshare(self, node: Inode) -> None:
        self._sharers[node] -= 1
        if not self._sharers[node]:
            del self._sharers[node]

    def _free(self, claim: frozenset[Inode], using: Inode | None) -> bool:
        before = [*self._owners, *itertools.takewhile(lambda it: it is not claim, self._queue)]
        if any(_overlap(claim, other) for other in before):
            return False
        if using is not None:
            line = set(using.ancestry())
            if any(not line.isdisjoint(other) for other in before):
                return False
        return all(claim.isdisjoint(node.ancestry()) for node in self._sharers)


def _overlap(one: frozenset[Inode], other: frozenset[Inode]) -> bool:
    return any(not other.isdisjoint(node.ancestry()) for node in one) or any(
        not one.isdisjoint(node.ancestry()) for node in other
    )


def _remove(claims: list[frozenset[Inode]], claim: frozenset[Inode]) -> None:
    """Remove this very claim: equal ones may be queued behind it."""
    for index, known in enumerate(claims):
        if known is claim:
            del claims[index]
            return
