"""What a file system can say at once, from memory: no store, no disk, nobody to wait for.

Each method answers, raises the :class:`OSError` that is the answer, or returns None (False): then
it has changed nothing, and the handler of the same name in :mod:`fuse.filesystem` is to be asked.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from fuse import filenames, xattrs
from fuse.entries import Shown, shown
from fuse.errors import fail
from fuse.filesystem import FileSystem
from fuse.handles import FileHandle
from fuse.inodes import Inode
from fuse.untold import Untold


class Caller(NamedTuple):
    """Who asks: as much of pyfuse3's ``RequestContext`` as the handlers look at.

    Attributes:
        uid: The user.
        gid: The group.
        pid: The thread; 0 when it is not known.
    """

    uid: int
    gid: int
    pid: int


class Immediate:
    """Answers of a mounted volume that need no waiting.

    Args:
        filesystem: The mount.
    """

    def __init__(self, filesystem: FileSystem) -> None:
        self._filesystem = filesystem
        self._inodes = filesystem.inodes
        self._names = filesystem.names
        self._lock = filesystem.names.lock
        self._files = filesystem.files
        self._contents = filesystem.contents
        self._name_max = filesystem.volume.name_max
        options, volume = filesystem.options, filesystem.volume
        #: Where nothing can be written, the kernel need not tell who opens what.
        self.untold = (
            Untold(filesystem) if options.read_only and volume.versions_are_immutable else None
        )

    def lookup(self, inode: int, name: bytes) -> Shown | None:
        """Find a name in a directory, and count that the kernel was told of it."""
        parent, sought = self._inodes.get(inode), filenames.sought(name)
        if not self._lock.idle or len(name) > self._name_max:
            return None
        node = self._names.known(parent, sought)
        if node is None:
            return None
        node.lookups += 1
        return self.shown(node)

    def getattr(self, inode: int) -> Shown | None:
        """Attributes of an inode."""
        node = self._inodes.get(inode)
        if not (self._lock.idle and self._names.settled(node)):
            return None
        if node.superseded and not node.opens:
            fail(errno.ESTALE)
        return self.shown(node)

    def open(self, inode: int, flags: int, pid: int) -> tuple[int, bool, bool] | None:
        """Open a file.

        Returns:
            The handle; whether the kernel may keep the pages that it has; whether closing it will
            have nothing to bring to the store.

        Raises:
            OSError: ENOSYS: the kernel is not to ask, here and from now on.
        """
        if self.untold is not None:
            fail(errno.ENOSYS)
        node = self._inodes.get(inode)
        if flags & os.O_TRUNC or not (
            self._lock.idle and node.linked and self._names.settled(node)
        ):
            return None
        handle, keep = self._filesystem.opened(node, flags, pid)
        reads = flags & os.O_ACCMODE == os.O_RDONLY
        return handle, keep, reads and not self._files[handle].content.unmade

    def create(
        self, inode: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Shown, int, bool] | None:
        """Create and open a file: what is shown of it, its handle, and whether pages may stay."""
        found = self._filesystem.conceived(inode, name, mode, flags, caller)
        if found is None:
            return None
        node, handle, keep = found
        return self.shown(node), handle, keep

    def handle(self, number: int, inode: int, pid: int) -> FileHandle:
        """What a read of thread ``pid`` goes through."""
        return self._files[number] if self.untold is None else self.untold.handle(inode, pid)

    def may_have(self, name: bytes) -> bool:
        """Whether a file may have an extended attribute of that name."""
        return name.startswith(xattrs.PREFIX) or not self._filesystem.volume.keeps_xattrs

    def flush(self, handle: int) -> bool:
        """Close a descriptor that has nothing to bring to the store. ENOSYS as :meth:`open`."""
        if self.untold is not None:
            fail(errno.ENOSYS)
        found = self._files[handle]
        return found.told or not (found.writable or found.content.unmade)

    def release(self, handle: int) -> bool:
        """Note that the last reference to a handle is gone."""
        found = self._files[handle]
        if not (self._lock.idle and self._contents.released_now(found.inode, found.content)):
            return False
        self._files.remove(handle)
        return True

    def shown(self, node: Inode) -> Shown:
        """What the kernel is told of an inode."""
        return shown(node, self._filesystem.options, self._names.timeout)
