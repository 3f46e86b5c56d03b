"""Reading a directory through an open handle.

A handle reads a snapshot: the listing made when it was read from its beginning. What is removed
here afterwards is left out of what was not read yet; what is made afterwards may be missing until
the directory is read from its beginning again (readdir(3) allows both).
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Callable
from operator import itemgetter

import pyfuse3
from pyfuse3 import EntryAttributes, FileNameT, ReaddirToken

from fuse.errors import fail
from fuse.handles import DirectoryHandle
from fuse.inodes import Inode, InodeTable
from fuse.namespace import Listed, Namespace
from fuse.volume import Kind

#: ``.`` and ``..`` come first. They take a position each and count for no look-up.
DOTS = (b".", b"..")


async def begin(names: Namespace, handle: DirectoryHandle) -> None:
    """Take a snapshot for a handle that is read from its beginning."""
    end(handle)
    if not handle.inode.linked:  # removed, and therefore empty
        return
    async with names.lock.shared(handle.inode):
        try:
            handle.listed = await names.list(handle.inode)
        except FileNotFoundError as error:
            if not getattr(error, "volume_gone", False):
                raise
            # C libraries take ENOENT for the end of a directory that was removed while it was open
            # (readdir(3) of glibc): a mirror of a lost container would delete everything.
            fail(errno.EIO, handle.inode.name, error.strerror)


def end(handle: DirectoryHandle) -> None:
    """Let the snapshot go."""
    if handle.listed.changes is not None:
        handle.inode.names.unwatch(handle.listed.changes)
    handle.listed = Listed()


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
    listed = handle.listed
    changes = {} if listed.changes is None else listed.changes
    beginning = listed.pages[0][1] if listed.pages else 0.0
    first = max(start - len(DOTS), 0)
    pages = iter(listed.pages[bisect_right(listed.pages, first, key=itemgetter(0)) :])
    end, asked = first, beginning
    for position in range(first, len(listed.entries)):
        while position >= end:
            end, asked = next(pages)
        found = listed.entries[position]
        name, attributes = found.name, found.attributes
        if changes.get(name) is False:
            continue
        # That there is a directory may have been said by any page.
        known = beginning if attributes.kind is Kind.DIRECTORY else asked
        told = directory, name, attributes, known, max(known + names.timeout, listed.until)
        node = names.observe_now(*told) or await names.observe(*told)
        encoded = FileNameT(os.fsencode(name))
        if not pyfuse3.readdir_reply(token, encoded, entry(node), position + len(DOTS) + 1):
            inodes.release(node)
            return
        node.lookups += 1
