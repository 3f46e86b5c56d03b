"""Files that the kernel opens and closes without telling: those of a read-only mount.

A file system that answers FUSE_OPEN with ENOSYS is not asked again (FUSE_NO_OPEN_SUPPORT in
<linux/fuse.h>): every open(2) succeeds where the name is known, and a file whose pages the kernel
has is opened, read and closed without any request. Where nothing can be written all that an open
is for can be had otherwise:

- *The version.* A file is read at the version that its first read found, for as long as the kernel
  knows its inode: it may be open all the while. Another version that turns up under its name gets
  an inode of its own, and so a page cache of its own, unless it continues the old one.
- *Freshness.* An open(2) looks its name up, as always, once the attribute time-out is over.
- *Read-ahead.* Each thread that reads a file has a window of its own.

What is kept for a file that was read is a handful of objects; for those that were not read lately
it is built again when they are.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator

from fuse.filesystem import FileSystem
from fuse.handles import FileHandle
from fuse.inodes import Inode

#: Files that are kept ready, and threads of each whose read-ahead is remembered: more than a node
#: has loaders, since with one too many each would find another's in its place.
FILES = 1024
THREADS = 64

_Threads = OrderedDict[int, FileHandle]


class Untold:
    """Handles for reads that come without one.

    Args:
        filesystem: A mount whose volume's versions never change, read-only.
    """

    def __init__(self, filesystem: FileSystem) -> None:
        self._filesystem = filesystem
        self._handles: OrderedDict[int, _Threads] = OrderedDict()
        filesystem.inodes.forgotten = self._forgotten

    def __iter__(self) -> Iterator[FileHandle]:
        for threads in self._handles.values():
            yield from threads.values()

    def __len__(self) -> int:
        return len(self._handles)

    def handle(self, inode: int, pid: int) -> FileHandle:
        """What thread ``pid`` reads an inode by. ESTALE where there is no such inode."""
        threads = self._handles.get(inode)
        if threads is None:
            node = self._filesystem.inodes.get(inode)
            node.opens = node.opens or 1
            self._shrink()
            threads = self._handles[inode] = OrderedDict()
        else:
            self._handles.move_to_end(inode)
        handle = threads.get(pid)
        if handle is None:
            handle = threads[pid] = self._open(self._filesystem.inodes.get(inode), pid)
            if len(threads) > THREADS:
                self._close_idle(threads)
        return handle

    def _open(self, node: Inode, pid: int) -> FileHandle:
        contents = self._filesystem.contents
        content = contents.current(node)
        contents.opened(node, content)
        return FileHandle(node, content, os.O_RDONLY, self._filesystem.window(), pid)

    def _close(self, handle: FileHandle) -> None:
        if not self._filesystem.contents.released_now(handle.inode, handle.content):
            raise AssertionError("nothing can be written here")

    def _close_idle(self, threads: _Threads) -> None:
        """Close the handle that was used first and waits for nothing, if there is one."""
        for pid, handle in threads.items():
            if not handle.pending:
                del threads[pid]
                self._close(handle)
                return

    def _shrink(self) -> None:
        """Let the file go that was read first and waits for nothing, where there are too many."""
        if len(self._handles) < FILES:
            return
        for inode, threads in self._handles.items():
            if not any(handle.pending for handle in threads.values()):
                del self._handles[inode]
                for handle in threads.values():
                    self._close(handle)
                return

    def _forgotten(self, node: Inode) -> None:
        """The kernel has forgotten an inode: nobody has it open."""
        for handle in self._handles.pop(node.number, _Threads()).values():
            self._close(handle)
        node.opens = 0
