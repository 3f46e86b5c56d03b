"""From names to inodes: what is believed of the store, for how long, and how it is asked anew."""

from __future__ import annotations

import errno
from contextlib import aclosing

import trio

from fuse.errors import fail
from fuse.inodes import Inode, InodeTable
from fuse.volume import Attributes, Volume

#: After this many questions about single names of a directory the next one lists it instead.
PROBES = 16

#: A directory with more entries than this (one page of Azure Blob) is asked about name by name.
LISTABLE = 5000


class Namespace:
    """Names of a volume, with attributes that are believed for a while.

    Attributes:
        timeout: For how long, in seconds; 0 means that the store is always asked.
    """

    def __init__(self, volume: Volume, inodes: InodeTable, timeout: float) -> None:
        self.timeout = timeout
        self._volume = volume
        self._inodes = inodes

    def expiry(self) -> float:
        """Until when (trio's clock) an answer that came just now is believed."""
        return trio.current_time() + self.timeout

    async def find(self, parent: Inode, name: str) -> Inode:
        """The inode of a name. ENOENT when there is no such name."""
        node = parent.children.get(name)
        if node is not None and (node.is_local or node.expires > trio.current_time()):
            return node
        if name not in parent.hints or parent.hints_expire <= trio.current_time():
            await self._list_if_worthwhile(parent)
        now = trio.current_time()
        node = parent.children.get(name)
        if node is not None and node.expires > now:
            return node
        try:
            if parent.hints_expire > now and name in parent.hints:
                attributes = parent.hints[name]
            else:
                attributes = await self._volume.stat(parent.child_path(name))
        except FileNotFoundError:
            if node is not None:
                self._inodes.detach(node)
            raise
        found = self._inodes.remember(parent, name, attributes, self.expiry())
        await self._follow(found)
        return found

    async def find_if_there(self, parent: Inode, name: str) -> Inode | None:
        """The inode of a name, or None."""
        try:
            return await self.find(parent, name)
        except FileNotFoundError:
            return None

    async def refresh(self, node: Inode) -> None:
        """Ask the store for attributes that are no longer to be believed."""
        orphaned = node.content is not None and node.content.orphaned
        if node.is_local or orphaned or node.expires > trio.current_time():
            return
        if node is self._inodes.root:
            node.expires = self.expiry()
            return
        if node.parent is not None:
            await self._list_if_worthwhile(node.parent)
            if node.expires > trio.current_time():
                return
        attributes = await self._volume.stat(node.path())
        if attributes.kind is not node.attributes.kind:
            fail(errno.ESTALE, node.name)
        if not node.is_local:
            node.attributes = attributes
            node.expires = self.expiry()
            await self._follow(node)

    def listed(self, directory: Inode, count: int) -> None:
        """Note a complete listing that was made just now and put into the inode table."""
        directory.listed = count
        directory.probes = 0
        directory.hints.clear()
        directory.hints_expire = self.expiry()

    async def _list_if_worthwhile(self, parent: Inode) -> None:
        """List a directory in place of asking about its names one by one.

        A job that goes through a directory again and again would ask about every file once per
        time-out. A listing answers for all of them, with the page size of the store in one request.
        """
        parent.probes += 1
        if parent.probes <= PROBES or parent.listed > LISTABLE:
            return
        async with parent.lock:
            # Whoever held the lock may have listed it; names that a fresh listing lacks are few.
            if self.timeout and parent.hints_expire <= trio.current_time():
                await self._list(parent)

    async def _list(self, parent: Inode) -> None:
        asked = trio.current_time()
        hints: dict[str, Attributes] = {}
        count = 0
        async with aclosing(self._volume.list(parent.path())) as pages:
            async for page in pages:
                count += len(page)
                for entry in page:
                    known = parent.children.get(entry.name)
                    if known is None:
                        hints[entry.name] = entry.attributes
                    # What was changed here meanwhile is newer than the answer.
                    elif (
                        known.expires <= asked
                        and not known.is_local
                        and known.attributes.kind is entry.attributes.kind
                    ):
                        known.attributes = entry.attributes
                        known.expires = asked + self.timeout
                        await self._follow(known)
                if count > LISTABLE:
                    break  # more than it saves
        self.listed(parent, count)
        parent.hints_expire = asked + self.timeout
        if parent.changed <= asked:  # else a name may be gone that the answer still had
            parent.hints = {n: a for n, a in hints.items() if n not in parent.children}

    async def _follow(self, node: Inode) -> None:
        """Let open handles read on where the file only grew."""
        content = node.content
        if (
            content is not None
            and not content.modified
            and content.base.version != node.attributes.version
            and await self._volume.continues(node.path(), content.base, node.attributes)
        ):
            await content.rebase(node.attributes)
