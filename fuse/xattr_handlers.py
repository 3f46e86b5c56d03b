"""The kernel's requests about extended attributes."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import pyfuse3
from pyfuse3 import InodeT

from fuse import clock, xattrs
from fuse.answers import answers
from fuse.contents import Contents
from fuse.entries import known_attributes
from fuse.errors import fail
from fuse.inodes import InodeTable
from fuse.namespace import Namespace
from fuse.volume import Attributes, Changes, Volume


class XattrHandlers(pyfuse3.Operations):  # type: ignore[misc]  # pyfuse3's base is untyped
    """The part of :class:`fuse.filesystem.FileSystem` that is about them."""

    volume: Volume
    inodes: InodeTable
    names: Namespace
    contents: Contents

    @answers
    async def getxattr(self, inode: InodeT, name: bytes, ctx: Any = None) -> bytes:
        """The value of an extended attribute. ENODATA."""
        self._check_xattrs()
        text, node = xattrs.name_of(name), self.inodes.get(inode)
        async with self.names.lock.shared(node):
            await self.names.refresh(node)
            return xattrs.value_of(known_attributes(node), text)

    @answers
    async def listxattr(self, inode: InodeT, ctx: Any = None) -> Sequence[bytes]:
        """Names of the extended attributes."""
        self._check_xattrs()
        node = self.inodes.get(inode)
        async with self.names.lock.shared(node):
            await self.names.refresh(node)
            return [name.encode() for name, _ in known_attributes(node).xattrs]

    @answers
    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: Any = None) -> None:
        """Set an extended attribute (pyfuse3 has checked XATTR_CREATE and XATTR_REPLACE)."""
        self._check_xattrs()
        changes = xattrs.setting(xattrs.name_of(name), value)
        await self._change_xattrs(inode, lambda _: changes)

    @answers
    async def removexattr(self, inode: InodeT, name: bytes, ctx: Any = None) -> None:
        """Remove an extended attribute. ENODATA."""
        self._check_xattrs()
        text = xattrs.name_of(name)
        await self._change_xattrs(inode, lambda known: xattrs.removing(known, text))

    def _check_xattrs(self) -> None:
        if not self.volume.keeps_xattrs:
            fail(errno.ENOSYS)  # the kernel makes EOPNOTSUPP of it, and asks no more

    async def _change_xattrs(self, inode: InodeT, change: Callable[[Attributes], Changes]) -> None:
        node = self.inodes.get(inode)
        if node is self.inodes.root:
            fail(errno.EOPNOTSUPP)
        async with self.names.changing(node):
            content = node.content
            if content is not None and content.modified and not content.orphaned:
                # There may be no room for it in the store: then setxattr says so, not close.
                await self.contents.commit(node, content)
            await self.contents.change(node, change(known_attributes(node)))
            node.changed_ns = clock.now_ns()
