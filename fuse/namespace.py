"""From names to inodes: what is believed of the store, for how long, and how it is asked anew.

Concurrency: one task runs at a time, and changes hands only at an ``await``. So whatever was found
before an ``await`` is looked up again after it, and an answer of the store counts only where it is
newer than what is known: a commit or a rename of ours may have overtaken it
(:meth:`Namespace.observe`). Who calls in here holds :attr:`Namespace.lock` at least shared.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import trio

from fuse.dirnames import ABSENCE
from fuse.entries import known_attributes
from fuse.errors import fail
from fuse.inodes import Inode, InodeTable
from fuse.treelock import TreeLock
from fuse.volume import Attributes, Entry, Volume

#: After this many questions about single names of a directory the next one lists it instead.
PROBES = 16

#: A directory with more entries than this (one page of Azure Blob) is asked about name by name,
#: until there were as many questions as a fraction of its entries: listing it costs less then.
LISTABLE = 5000
FRACTION = 50

#: No directory with more entries than this is listed for the sake of single names: it would be kept
#: in memory.
LARGEST = 200_000

#: A directory that was made here, with no more entries than this, is listed for the first name
#: that it is not known to have: that costs what the question costs, and answers the next ones too.
RELISTABLE = 1000


@dataclass(frozen=True, slots=True)
class Listed:
    """A listing for a program.

    Attributes:
        entries: What it had.
        changes: What is changed here from its beginning on.
        pages: Of each page of it where it ends among the entries, and when it was asked for
            (trio's clock): of a large directory, the first may be old when the last arrives.
        until: Until when (trio's clock) all of it is believed at least.
    """

    entries: Sequence[Entry] = ()
    changes: dict[str, bool] | None = None
    pages: Sequence[tuple[int, float]] = ()
    until: float = 0.0


class Namespace:
    """Names of a volume, with attributes that are believed for a while.

    Attributes:
        timeout: For how long, in seconds; 0 means that the store is always asked.
        lock: Who may use paths, and who may change what they mean.
    """

    def __init__(self, volume: Volume, inodes: InodeTable, timeout: float) -> None:
        self.timeout = timeout
        self.lock = TreeLock()
        self._volume = volume
        self._inodes = inodes

    def expiry(self) -> float:
        """Until when (trio's clock) an answer that came just now is believed."""
        return trio.current_time() + self.timeout

    def _listing_expiry(self, asked: float) -> float:
        """Until when a listing that ended just now is believed.

        One that takes longer than the time-out would be out of date before anybody could look at
        it, and every name in it would be asked about, or all of it again. So it is believed after
        its end for as long as it took, but for one time-out at most.
        """
        now = trio.current_time()
        return max(asked + self.timeout, now + min(now - asked, self.timeout))

    def known(self, parent: Inode, name: str) -> Inode | None:
        """The inode of a name, or None where that cannot be said without waiting.

        Raises:
            OSError: ENOENT when it is known that there is no such name.
        """
        now = trio.current_time()
        node = parent.children.get(name)
        if node is not None and (node.is_local or node.expires > now):
            return node
        hint = parent.names.hint(name, now)
        if hint is not None:
            listed = parent.names
            return self.observe_now(parent, name, hint, listed.asked, listed.expires)
        if node is None and parent.names.absent(name, now):
            fail(errno.ENOENT, name)
        return None

    async def find(self, parent: Inode, name: str) -> Inode:
        """The inode of a name. ENOENT when there is no such name."""
        for attempt in ("what is known", "after a listing"):
            known = self.known(parent, name)
            if known is not None:
                return known
            now = trio.current_time()
            node = parent.children.get(name)
            if parent.names.absent(name, now):
                if node is not None:
                    self._inodes.supersede(node)
                fail(errno.ENOENT, name)
            hint = parent.names.hint(name, now)
            if hint is not None:
                listed = parent.names
                return await self.observe(parent, name, hint, listed.asked, listed.expires)
            if attempt == "what is known":
                await self._list_if_worthwhile(parent, unknown=node is None)
        asked = trio.current_time()
        try:
            attributes = await self._volume.stat(parent.child_path(name))
        except FileNotFoundError:
            self._vanished(parent, name, asked)
            parent.names.missed(name, asked + min(self.timeout, ABSENCE))
            raise
        return await self.observe(parent, name, attributes, asked, self.expiry())

    async def find_if_there(self, parent: Inode, name: str) -> Inode | None:
        """The inode of a name, or None."""
        try:
            return await self.find(parent, name)
        except FileNotFoundError:
            return None

    async def refresh(self, node: Inode) -> None:
        """Ask the store for attributes that are no longer to be believed.

        The node may turn out to be superseded. What was unlinked here is as it was.
        """
        if self.settled(node):
            return
        parent, name, path = node.parent, node.name, node.path()
        if parent is None:  # the root: a volume says nothing of it that could change
            node.expires = self.expiry()
            return
        await self._list_if_worthwhile(parent, unknown=False)
        if self.settled(node):
            return
        asked = trio.current_time()
        try:
            attributes = await self._volume.stat(path)
        except FileNotFoundError:
            self._vanished(parent, name, asked)
        else:
            await self.observe(parent, name, attributes, asked, self.expiry())

    async def observe(
        self, parent: Inode, name: str, attributes: Attributes, asked: float, expires: float
    ) -> Inode:
        """Take in what the store says of a name; the inode that the name means from now on.

        Args:
            parent: The directory.
            name: The name in it.
            attributes: What the store said.
            asked: When it was asked (trio's clock).
            expires: Until when that may be believed.
        """
        while (known := self.observe_now(parent, name, attributes, asked, expires)) is None:
            node = parent.children[name]
            content = node.content
            base = _pinned(node)
            if attributes.kind is node.attributes.kind and await self._volume.continues(
                parent.child_path(name), base, attributes
            ):
                if self._unchanged(node, parent, name) and node.content is content:
                    # It is one living file, or it only grew: open handles read on.
                    if content is not None:
                        await content.rebase(attributes)
                    else:
                        node.attributes = attributes
            elif self._unchanged(node, parent, name) and _pinned(node) is base:
                self._inodes.supersede(node)
        return known

    def observe_now(
        self, parent: Inode, name: str, attributes: Attributes, asked: float, expires: float
    ) -> Inode | None:
        """As :meth:`observe`, or None where the store has to be asked about an open file."""
        node = parent.children.get(name)
        if node is not None:
            if node.is_local or self._known_at(node) > asked:
                return node
            if node.opens and _pinned(node).version != attributes.version:
                return None
        return self._inodes.remember(parent, name, attributes, expires)

    async def list(self, directory: Inode) -> Listed:
        """List a directory for a program.

        Whoever calls ends the collection of changes with ``directory.names.unwatch``.
        """
        expires = self.expiry()
        changes = directory.names.watch()
        unmade = directory.unmade()
        entries: list[Entry] = []
        pages: list[tuple[int, float]] = []
        asked = expires - self.timeout
        try:
            async with aclosing(self._volume.list(directory.path())) as answers:
                async for page in answers:
                    entries.extend(page)
                    pages.append((len(entries), asked))
                    asked = trio.current_time()
        except BaseException:
            directory.names.unwatch(changes)
            raise
        began = expires - self.timeout
        until = self._listing_expiry(began)
        if len(entries) <= LISTABLE:
            known = {entry.name: entry.attributes for entry in entries}
            directory.names.filled(known, changes, began, self.timeout, until)
        else:
            directory.names.overfilled(len(entries))
        if unmade:
            entries += _not_listed(directory, unmade, entries)
            pages.append((len(entries), asked))
        return Listed(entries, changes, pages, until)

    def empty(self, directory: Inode) -> None:
        """Note that a directory was made just now: there is nothing in it yet."""
        directory.names.ours = True
        directory.names.filled({}, {}, trio.current_time(), self.timeout, self.expiry())

    @asynccontextmanager
    async def changing(self, node: Inode) -> AsyncIterator[None]:
        """Attributes of the version that is there now are about to change. ESTALE: there is none.

        Call it without the lock, which is held meanwhile.
        """
        async with self.lock.shared(node):
            await self.refresh(node)
            if node.superseded:
                fail(errno.ESTALE)
            with node.changing():
                yield

    def settled(self, node: Inode) -> bool:
        """Whether there is nothing to ask about a node."""
        orphaned = node.content is not None and node.content.orphaned
        return not node.linked or orphaned or node.is_local or node.expires > trio.current_time()

    def _known_at(self, node: Inode) -> float:
        """When the attributes of a node were told or made (trio's clock)."""
        return node.expires - self.timeout

    def _unchanged(self, node: Inode, parent: Inode, name: str) -> bool:
        return parent.children.get(name) is node and not node.is_local

    def _vanished(self, parent: Inode, name: str, asked: float) -> None:
        node = parent.children.get(name)
        if node is not None and not node.is_local and self._known_at(node) <= asked:
            self._inodes.supersede(node)

    async def _list_if_worthwhile(self, parent: Inode, *, unknown: bool) -> None:
        """List a directory in place of asking about its names one by one.

        A job that goes through a directory again and again would ask about every file once per
        time-out. A listing answers for all of them, with the page size of the store in one request.

        Args:
            parent: The directory.
            unknown: Whether the question is about a name that nothing is known of.
        """
        names = parent.names
        names.probes += 1
        if not self.timeout:
            return
        small = unknown and names.ours and (names.listed or 0) <= RELISTABLE
        if not small and names.probes <= _worthwhile(names.listed or 0):
            return
        async with names.lock:
            # Whoever held the lock may have listed it; names that a fresh listing lacks are few.
            believed = names.absent_until if unknown else names.expires
            if believed <= trio.current_time() and parent.linked:
                await self._list(parent)

    async def _list(self, parent: Inode) -> None:
        asked = trio.current_time()
        found: dict[str, Attributes] = {}
        # It is not known how large it is where the last listing was given up.
        limit = min(LARGEST, max(LISTABLE, 2 * (parent.names.listed or 0)))
        with parent.names.watched() as changes:
            async with aclosing(self._volume.list(parent.path())) as pages:
                async for page in pages:
                    found.update((entry.name, entry.attributes) for entry in page)
                    if len(found) > limit:
                        break  # more than it saves
            expires = self._listing_expiry(asked)
            for name, attributes in found.items():
                # What nobody has asked for needs no inode.
                if name in parent.children and not self.observe_now(
                    parent, name, attributes, asked, expires
                ):
                    await self.observe(parent, name, attributes, asked, expires)
            if len(found) > limit:
                parent.names.overfilled(len(found))
                return
            parent.names.filled(found, changes, asked, self.timeout, expires)
        for name in parent.children:
            parent.names.hints.pop(name, None)


def _pinned(node: Inode) -> Attributes:
    """The version that whoever has a node open is to read."""
    return node.content.base if node.content is not None else node.attributes


def _not_listed(directory: Inode, unmade: Sequence[Inode], listed: Sequence[Entry]) -> list[Entry]:
    """Those of the files that were only here when a listing began which it lacks."""
    names = {entry.name for entry in listed}
    return [
        Entry(node.name, known_attributes(node))
        for node in unmade
        if directory.children.get(node.name) is node and node.name not in names
    ]


def _worthwhile(listed: int) -> int:
    """How many questions about single names of a directory cost as much as listing it does."""
    if listed <= LISTABLE:
        return PROBES
    return sys.maxsize if listed > LARGEST else max(PROBES, listed // FRACTION)
