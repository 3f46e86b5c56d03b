"""Reading a directory through an open handle.

A handle reads a snapshot: the listing made when it was read from its beginning. What is removed
here afterwards is left out of what was not read yet; what is made afterwards may be missing until
the directory is read from its beginning again (readdir(3) allows both).
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pyfuse3
from pyfuse3 import EntryAttributes, FileNameT, ReaddirToken

from fuse.handles import DirectoryHandle
from fuse.inodes import Inode, InodeTable
from fuse.namespace import Namespace

#: ``.`` and ``..`` come first. They take a position each and count for no look-up.
DOTS = (b".", b"..")


async def begin(names: Namespace, handle: DirectoryHandle) -> None:
    """Take a snapshot for a handle that is read from its beginning."""
    end(handle)
    if not handle.inode.linked:  # removed, and therefore empty
        return
    async with names.lock.shared(handle.inode):
        entries, changes, expires = await names.list(handle.inode)
    handle.entries, handle.changes, handle.expires = entries, changes, expires
    handle.asked = expires - names.timeout


def end(handle: DirectoryHandle) -> None:
    """Let the snapshot go."""
    if handle.changes is not None:
        handle.inode.names.unwatch(handle.changes)
    handle.entries, handle.changes = (), None


async def reply(
    names: Namespace,
    inodes: InodeTable,
    handle: DirectoryHandle,
    start: int,
    token: ReaddirToken,
    entry: Callable[[Inode], EntryAttributes],
) -> None:
    """Give the kernel the names from position ``start`` on, as many as it takes."""
    directory = handle.inode
    above = directory.parent or inodes.root
    for position in range(start, len(DOTS)):
        shown = entry(above if position else directory)
        if not pyfuse3.readdir_reply(token, FileNameT(DOTS[position]), shown, position + 1):
            return
    for position in range(max(start - len(DOTS), 0), len(handle.entries)):
        found = handle.entries[position]
        if handle.changes is not None and handle.changes.get(found.name) is False:
            continue
        node = await names.observe(
            directory, found.name, found.attributes, handle.asked, handle.expires
        )
        name = FileNameT(os.fsencode(found.name))
        if not pyfuse3.readdir_reply(token, name, entry(node), position + len(DOTS) + 1):
            inodes.release(node)
            return
        node.lookups += 1
