"""rename(2) and renameat2(2): what must be in the store before, and what is known after."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fuse import clock
from fuse.contents import Contents
from fuse.errors import fail
from fuse.inodes import Inode, InodeTable, is_directory
from fuse.namespace import Namespace
from fuse.volume import Volume


class Renames:
    """Renames names of a volume, with whatever is open or not committed behind them.

    Args:
        volume: The store.
        inodes: The tree of names.
        names: What is believed of them.
        contents: What is open.
    """

    def __init__(
        self, volume: Volume, inodes: InodeTable, names: Namespace, contents: Contents
    ) -> None:
        self._volume = volume
        self._inodes = inodes
        self._names = names
        self._contents = contents

    async def rename(
        self, old: tuple[Inode, str], new: tuple[Inode, str], *, replace: bool
    ) -> None:
        """Give what ``old`` (directory and name) means the name ``new``.

        With ``replace`` an existing file (or empty directory) gives way, without it EEXIST.
        """
        node = await self._find(*old)
        parent, name = new
        try:
            target: Inode | None = await self._find(parent, name)
        except FileNotFoundError:
            target = None
        if target is node:
            return
        _check_place(node, parent)
        if target is not None:
            _check_replacement(node, target, replace=replace)
        claim = (node,) if target is None else (node, target)
        async with self._names.lock.exclusive(*claim, using=parent):
            with self._in_doubt(*claim, directories=(old[0], parent)):
                await self._move(node, target, parent, name, replace=replace)
        touch(old[0])
        touch(parent)

    async def exchange(self, one: tuple[Inode, str], other: tuple[Inode, str]) -> None:
        """Let two names change places. ENOENT when one of them is not there."""
        first, second = await self._find(*one), await self._find(*other)
        if first is second:
            return
        _check_place(first, other[0])
        _check_place(second, one[0])
        async with self._names.lock.exclusive(first, second):
            with self._in_doubt(first, second, directories=(one[0], other[0])):
                for node in (first, second):
                    await self._contents.commit_below(node)
                await self._volume.exchange(first.path(), second.path())
                self._inodes.exchange(first, second)
                for node in (first, second):
                    node.attributes = await self._volume.stat(node.path())
                    await self._contents.renamed(node)
                    node.expires = self._names.expiry()
        touch(one[0])
        touch(other[0])

    async def _find(self, parent: Inode, name: str) -> Inode:
        async with self._names.lock.shared(parent):
            return await self._names.find(parent, name)

    async def _move(
        self, node: Inode, target: Inode | None, parent: Inode, name: str, *, replace: bool
    ) -> None:
        # The store copies what it has, so what it lacks goes there first.
        await self._contents.commit_below(node)
        if target is not None:
            if target.unmade():
                fail(errno.ENOTEMPTY)
            await self._contents.unlinking(target)
        same_pages = node.cached_version == node.attributes.version
        renamed = await self._volume.rename(
            node.path(), parent.child_path(name), node.attributes, replace=replace
        )
        if target is not None:
            self._contents.unlinked(target)
            self._inodes.detach(target)
        self._inodes.move(node, parent, name)
        node.attributes = renamed
        if same_pages:
            node.cached_version = renamed.version
        await self._contents.renamed(node)
        node.expires = self._names.expiry()

    @contextmanager
    def _in_doubt(self, *nodes: Inode, directories: tuple[Inode, Inode]) -> Iterator[None]:
        """Until it is over either state may be seen; after a failure nobody knows which it is."""
        for node in nodes:
            if not node.linked:
                fail(errno.ESTALE, node.name)
        with nodes[0].changing(), nodes[-1].changing():
            try:
                yield
            except BaseException:
                for node in nodes:
                    node.expires = 0.0
                for directory in directories:
                    directory.names.forget()
                raise


def touch(directory: Inode) -> None:
    """Note that a name in a directory changed just now."""
    directory.touched_ns = clock.now_ns()


def _check_place(node: Inode, parent: Inode) -> None:
    """A directory cannot be moved into itself. EINVAL."""
    if node in parent.ancestry():
        fail(errno.EINVAL, node.name, "a directory cannot be moved into itself")


def _check_replacement(node: Inode, target: Inode, *, replace: bool) -> None:
    if not replace:
        fail(errno.EEXIST)
    if is_directory(target) and not is_directory(node):
        fail(errno.EISDIR)
    if is_directory(node) and not is_directory(target):
        fail(errno.ENOTDIR)
