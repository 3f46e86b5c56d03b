"""The file system core: the kernel's requests, answered from a volume.

Every handler turns :class:`OSError` into the errno that the kernel expects. Anything else is a
defect of this program: it is logged with its traceback and answered with EIO, so that one bad
request never takes the mount away from everybody else.

Concurrency: one task runs at a time, and changes hands only at an ``await``. The kernel keeps
changes of names of one directory, and writes and attribute changes of one file, from overlapping.
Beyond that

- a path is used over an ``await`` only under :class:`fuse.treelock.TreeLock`: shared by what acts
  on a file, exclusively by what takes a name away (unlink, rmdir, rename);
- what gives a file a new version does so inside :meth:`fuse.inodes.Inode.changing`, or while its
  content is modified: answers that arrive meanwhile may be older and are passed over;
- an inode that somebody else's version has taken the name of is superseded, for good: its handles
  keep their version, and whoever else comes with its number gets ESTALE and looks the name up
  again (open(2), stat(2) and the like do so by themselves).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, InodeT, ModeT

from fuse import capacity, clock, creation, directories, filenames, setattrs, unmade
from fuse.answers import answers
from fuse.cache import MemoryCache
from fuse.content import Content
from fuse.contents import Contents
from fuse.diskcache import DiskCache
from fuse.entries import entry
from fuse.errors import fail
from fuse.handles import DirectoryHandle, FileHandle, HandleTable
from fuse.inodes import Inode, InodeTable, is_directory
from fuse.interrupts import Interrupts, asks_only
from fuse.journal import Journal
from fuse.load import Meter
from fuse.logs import log
from fuse.namespace import Namespace
from fuse.options import MountOptions
from fuse.places import Places
from fuse.readahead import ReadAhead, largest_window
from fuse.renames import Renames, touch
from fuse.volume import Attributes, Space, Volume
from fuse.xattr_handlers import XattrHandlers

#: Bytes; beyond it EFBIG. What block blobs of 100 MiB blocks can hold, which Azure Files and the
#: largest block blobs (190.7 TiB) also limit in practice: holes are stored as zeros.
LARGEST_FILE = 50_000 * 100 * 1024 * 1024

_PAGE = mmap.PAGESIZE

#: What stores say of a name that is longer than theirs may be.
_NO_SUCH_NAME = {errno.ENOENT, errno.EINVAL, errno.ENAMETOOLONG}

#: Seconds that statfs waits for the store.
STATFS_PATIENCE = 1.0


class FileSystem(XattrHandlers):
    """One mounted volume.

    Args:
        volume: The store.
        root: Attributes of its root directory.
        options: Of the mount.
        nursery: Owns fetches and background commits; lives as long as the mount.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self, volume: Volume, root: Attributes, options: MountOptions, nursery: trio.Nursery
    ) -> None:
        super().__init__()
        self.volume = volume
        self.options = options
        self.cache = MemoryCache(options.memory_budget)
        self.inodes = InodeTable(root)
        self.files: HandleTable[FileHandle] = HandleTable()
        self.directories: HandleTable[DirectoryHandle] = HandleTable()
        self.interrupts = Interrupts()
        nursery.start_soon(self.interrupts.watch)
        self._space = Space()
        self._meter = Meter(trio.current_time, time.process_time)
        timeout = options.attribute_timeout
        self.names = Namespace(
            volume, self.inodes, volume.attribute_timeout if timeout is None else timeout
        )
        places = Places(options.cache_directory, volume.identity)
        self.journal = Journal(places)
        self.disk = DiskCache(places.blocks, options.disk_budget)
        nursery.start_soon(self.disk.fill)
        self.contents = Contents(
            volume, self.inodes, self.names, self.cache, nursery, self.journal, self.disk
        )
        #: Counters of whoever stands in front.
        self.more_figures: Callable[[], Mapping[str, int | float | str]] = dict
        self.renames = Renames(volume, self.inodes, self.names, self.contents)

    # -- names and attributes -----------------------------------------------------------------

    @answers
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: Any = None
    ) -> EntryAttributes:
        """Find a name in a directory."""
        parent, sought = self.inodes.get(parent_inode), filenames.sought(name)
        node = await self._look_up(parent, sought, ctx)
        node.lookups += 1
        return self._entry(node)

    @asks_only
    async def _look_up(self, parent: Inode, sought: str, ctx: Any) -> Inode:
        async with self.names.lock.shared(parent):
            try:
                return await self.names.find(parent, sought)
            except OSError as error:
                # The store may have longer names than are made here, and those can be reached.
                if len(os.fsencode(sought)) > self.volume.name_max and error.errno in _NO_SUCH_NAME:
                    fail(errno.ENAMETOOLONG)
                raise

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """The kernel no longer refers to these inodes."""
        for number, count in inode_list:
            self.inodes.forget(number, count)

    @answers
    async def getattr(self, inode: InodeT, ctx: Any = None) -> EntryAttributes:
        """Attributes of an inode. ESTALE where its name means another file by now."""
        node = self.inodes.get(inode)
        await self._refresh(node, ctx)
        if node.superseded and not node.opens:
            fail(errno.ESTALE)
        return self._entry(node)

    @asks_only
    async def _refresh(self, node: Inode, ctx: Any) -> None:
        async with self.names.lock.shared(node):
            await self.names.refresh(node)

    @answers
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: Any,
        fh: FileHandleT | None,
        ctx: Any = None,
    ) -> EntryAttributes:
        """Set size, mode, owner or times."""
        node = self.inodes.get(inode)
        content = self.files[fh].content if fh is not None else None
        async with self.names.changing(node):
            if fields.update_size:
                if attr.st_size > LARGEST_FILE:
                    fail(errno.EFBIG)
                await self.contents.set_size(node, attr.st_size, content)
            changes = setattrs.requested(attr, fields)
            if changes and node is self.inodes.root:
                setattrs.change_root(node, changes)
            elif changes:
                await self.contents.change(node, changes)
            node.changed_ns = clock.now_ns()
            if fields.update_atime:
                node.atime_ns = attr.st_atime_ns
            if fields.update_mtime:
                node.touched_ns = 0
            return self._entry(node)

    @answers
    @asks_only
    async def readlink(self, inode: InodeT, ctx: Any = None) -> FileNameT:
        """Target of a symbolic link."""
        node = self.inodes.get(inode)
        async with self.names.lock.shared(node):
            await self.names.refresh(node)
            target = await self.volume.readlink(node.path(), node.attributes)
            return FileNameT(os.fsencode(target))

    @answers
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: Any
    ) -> EntryAttributes:
        """Create a symbolic link."""
        async with self._making(parent_inode, name) as (parent, text):
            made = await self.volume.symlink(
                parent.child_path(text),
                filenames.made(target),
                creation.link(parent, ctx, self.options),
            )
            return self._entry(self._born(parent, text, made))

    @answers
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: Any
    ) -> EntryAttributes:
        """Create a directory."""
        async with self._making(parent_inode, name) as (parent, text):
            made = await self.volume.make_directory(
                parent.child_path(text),
                creation.directory(parent, mode, ctx, self.options),
                free=parent.names.absent(text, trio.current_time()),
            )
            node = self._born(parent, text, made)
            self.names.empty(node)
            return self._entry(node)

    @answers
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: Any) -> None:
        """Remove an empty directory."""
        async with self._removing(parent_inode, name) as node:
            if not is_directory(node):
                fail(errno.ENOTDIR)
            if node.unmade():
                fail(errno.ENOTEMPTY)
            await self.volume.remove_directory(node.path())

    @answers
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: Any
    ) -> EntryAttributes:
        """Create a regular file; devices, pipes and sockets have no place in an object store."""
        if not stat.S_ISREG(mode):
            fail(errno.EPERM)
        async with self._making(parent_inode, name) as (parent, text):
            return self._entry(await self._create(parent, text, mode, ctx))

    @answers
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: Any
    ) -> EntryAttributes:
        """Refuse hard links: EPERM, as on other file systems without them."""
        fail(errno.EPERM)

    @answers
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: Any) -> None:
        """Remove a file. Those who have it open keep its content, as on a local disk."""
        async with self._removing(parent_inode, name) as node:
            if is_directory(node):
                fail(errno.EISDIR)
            await self.contents.unlinking(node)
            try:
                await self.volume.unlink(node.path())
            except FileNotFoundError:
                if node.content is None or not node.content.unmade:
                    raise
            self.contents.unlinked(node)

    @answers
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: Any,
    ) -> None:
        """Rename a file or directory; an existing file (or empty directory) gives way."""
        old = self.inodes.get(parent_inode_old), filenames.sought(name_old)
        parent = self.inodes.get(parent_inode_new)
        if flags == pyfuse3.RENAME_EXCHANGE:
            await self.renames.exchange(old, (parent, filenames.sought(name_new)))
        elif flags in {0, pyfuse3.RENAME_NOREPLACE}:
            new = parent, filenames.made(name_new, self.volume.name_max)
            await self.renames.rename(old, new, replace=not flags)
        else:
            fail(errno.EINVAL)

    # -- files --------------------------------------------------------------------------------

    @answers
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: Any
    ) -> tuple[FileInfo, EntryAttributes]:
        """Create and open a file."""
        async with self._making(parent_inode, name) as (parent, text):
            try:
                node = None if flags & os.O_EXCL else self._conceive(parent, text, mode, ctx)
                node = node or await self._create(parent, text, mode, ctx)
                flags = FlagT(flags & ~os.O_TRUNC)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                parent.names.forget()
                node = await self.names.find(parent, text)
                node.lookups += 1
            try:
                info = await self._open(node, flags, ctx)
            except BaseException:
                self.inodes.forget(node.number, 1)
                raise
            return info, self._entry(node)

    def conceived(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[Inode, int, bool] | None:
        """Create and open a file that its first commit makes; None where that is not enough.

        Returns:
            The file, its handle, and whether the kernel may keep the pages that it has.
        """
        parent = self.inodes.get(parent_inode)
        text = filenames.made(FileNameT(name), self.volume.name_max)
        if flags & os.O_EXCL or not self.names.lock.idle:
            return None
        node = self._conceive(parent, text, mode, ctx)
        if node is None:
            return None
        try:
            return node, *self.opened(node, flags & ~os.O_TRUNC, ctx.pid)
        except BaseException:
            self.inodes.forget(node.number, 1)
            raise

    @answers
    async def open(self, inode: InodeT, flags: FlagT, ctx: Any) -> FileInfo:
        """Open a file: from here on its bytes are those of the version found now.

        ESTALE where the name means another file by now: the kernel then looks it up again.
        """
        node = self.inodes.get(inode)
        with self.interrupts.watched(ctx.pid):
            return await self._open_anew(node, flags, ctx)

    async def _open_anew(self, node: Inode, flags: FlagT, ctx: Any) -> FileInfo:
        async with self.names.lock.shared(node):
            await self.names.refresh(node)
            if not node.linked and (node.superseded or node.content is None):
                fail(errno.ESTALE)
            return await self._open(node, flags, ctx)

    @answers
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Read from an open file."""
        return await self.read_from(self.files[fh], off, size)

    @answers
    async def read_from(self, handle: FileHandle, off: int, size: int) -> bytes:
        """As :meth:`read`, of a handle that need not have a number."""
        content = handle.content
        while True:
            base = content.base
            try:
                # A view of the cache's buffer: pyfuse3 takes any contiguous buffer without a copy.
                with self.interrupts.watched(handle.pid):
                    return cast("bytes", await content.read(off, size, handle.window))
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                # Where a rename of ours is under way, the same bytes are there once it has ended.
                async with self.names.lock.shared(handle.inode):
                    if content.base is base:
                        raise

    @answers
    async def write(self, fh: FileHandleT, off: int, buf: bytes | memoryview) -> int:
        """Write to an open file."""
        handle, content = self._written(fh, off, len(buf))
        if handle.flags & os.O_APPEND and not _is_write_back(content, off, len(buf)):
            return await content.append(buf)
        return await content.write(off, buf)

    def write_now(self, number: int, offset: int, data: memoryview) -> int | None:
        """As :meth:`write`, where nobody has to be waited for; else None, and nothing is done."""
        handle, content = self._written(number, offset, len(data))
        return None if handle.flags & os.O_APPEND else content.write_now(offset, data)

    def _written(self, number: int, offset: int, size: int) -> tuple[FileHandle, Content]:
        """What is about to be written to."""
        handle = self.files[number]
        if handle.inode.superseded:
            fail(errno.ESTALE, reason="somebody else has replaced the file")
        if offset + size > LARGEST_FILE:
            fail(errno.EFBIG)
        return handle, handle.content

    @answers
    async def flush(self, fh: FileHandleT) -> None:
        """Close: what was written is in the store when it returns 0."""
        handle = self.files[fh]
        if (handle.writable or handle.content.unmade) and not handle.told:
            await self._commit(handle)

    @answers
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:  # noqa: FBT001 -- pyfuse3's
        """Sync: what was written is in the store when it returns 0."""
        handle = self.files[fh]
        with self.interrupts.watched(handle.pid):
            await self._commit(handle)

    @answers
    async def release(self, fh: FileHandleT) -> None:
        """The last reference to a handle is gone."""
        handle = self.files.remove(fh)
        async with self.names.lock.shared(handle.inode):
            await self.contents.released(handle.inode, handle.content)

    # -- directories --------------------------------------------------------------------------

    @answers
    async def opendir(self, inode: InodeT, ctx: Any) -> FileHandleT:
        """Open a directory."""
        return FileHandleT(self.directories.add(DirectoryHandle(self.inodes.get(inode), ctx.pid)))

    @answers
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory with attributes; a rewind lists anew."""
        handle = self.directories[fh]
        if start_id == 0:
            with self.interrupts.watched(handle.pid):
                await directories.begin(self.names, handle)
        await directories.reply(self.names, self.inodes, handle, start_id, token, self._entry)

    async def releasedir(self, fh: FileHandleT) -> None:
        """Close a directory."""
        directories.end(self.directories.remove(fh))

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:  # noqa: FBT001
        """Names are in the store as soon as the call that made them returns."""

    @answers
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        """Capacity and limits; from memory when the store does not answer.

        ``df``, health probes and daemons that look at every mount of the machine must not hang
        because one store does.
        """
        with trio.move_on_after(STATFS_PATIENCE):
            try:
                self._space = await self.volume.space()
            except OSError as error:
                log.info("capacity is not known just now", reason=error.strerror or str(error))
        return capacity.report(self._space, self.volume.name_max)

    # -- what the driver calls ----------------------------------------------------------------

    def opened(self, node: Inode, flags: int, pid: int) -> tuple[int, bool]:
        """Open the version of a file that is known.

        Returns:
            The handle, and whether the kernel may keep the pages that it has: those of the same
            version stay, so that a second epoch costs no request at all.
        """
        self._check_version(node)
        content = self.contents.current(node)
        handle = self.files.add(FileHandle(node, content, flags, self.window(), pid))
        return handle, self.contents.opened(node, content)

    def window(self) -> ReadAhead:
        """The read-ahead of a reader who begins."""
        limit = self.options.read_ahead_limit
        return ReadAhead(largest_window(limit, self.volume.round_trip))

    def close(self) -> None:
        """Leave what is not committed to the next mount."""
        self.contents.close()
        self.journal.close()

    def statistics(self) -> dict[str, int | float | str]:
        """Counters for ``stats``."""
        store = self.volume.statistics()
        return {
            "inodes": len(self.inodes),
            "open_files": len(self.files),
            "read_ahead_window_bytes": max((one.window.window for one in self.files), default=0),
            **self.cache.figures(),
            "interrupted": self.interrupts.interrupted,
            **self.disk.figures(),
            **self.contents.statistics(),
            **store,
            **self._meter.figures(self.cache.waiting.total, store.get("first_byte_seconds", 0.0)),
            **self.more_figures(),
        }

    # -- internals ----------------------------------------------------------------------------

    def _entry(self, node: Inode) -> EntryAttributes:
        return entry(node, self.options, self.names.timeout)

    @asynccontextmanager
    async def _making(
        self, parent_inode: InodeT, name: FileNameT
    ) -> AsyncIterator[tuple[Inode, str]]:
        """A name is about to be made."""
        parent, text = self.inodes.get(parent_inode), filenames.made(name, self.volume.name_max)
        async with self.names.lock.shared(parent):
            try:
                yield parent, text
            except FileExistsError:
                parent.names.forget()  # somebody else made it
                raise

    @asynccontextmanager
    async def _removing(self, parent_inode: InodeT, name: FileNameT) -> AsyncIterator[Inode]:
        """A name is about to be removed, and is gone afterwards."""
        parent = self.inodes.get(parent_inode)
        async with self.names.lock.shared(parent):
            node = await self.names.find(parent, filenames.sought(name))
        async with self.names.lock.exclusive(node):
            if not node.linked:
                fail(errno.ESTALE)
            try:
                with node.changing():
                    yield node
            except FileNotFoundError:  # somebody else was first
                self.inodes.supersede(node)
                raise
            except BaseException:
                node.expires = 0.0
                raise
            self.inodes.detach(node)
        touch(parent)

    def _born(self, parent: Inode, name: str, attributes: Attributes) -> Inode:
        """The inode, known to the kernel from now on, of what was made just now."""
        stale = parent.children.get(name)
        if stale is not None:  # removed by somebody else before
            self.inodes.supersede(stale)
        touch(parent)
        node = self.inodes.remember(parent, name, attributes, self.names.expiry())
        node.lookups += 1
        return node

    async def _create(self, parent: Inode, name: str, mode: int, ctx: Any) -> Inode:
        attributes = await self.volume.create(
            parent.child_path(name), creation.file(parent, mode, ctx, self.options)
        )
        return self._born(parent, name, attributes)

    def _conceive(self, parent: Inode, name: str, mode: int, ctx: Any) -> Inode | None:
        """A file that its first commit will make; None where it has to be made at once."""
        free = parent.names.free(name, trio.current_time()) and name not in parent.children
        path = parent.child_path(name)
        if not (free and self.volume.makes_at_commit(path)):
            return None
        attributes = unmade.attributes(creation.file(parent, mode, ctx, self.options))
        try:
            entry = self.journal.begin(path, attributes)
        except OSError as error:
            log.info("no room to note a new file", reason=error.strerror)
            return None
        node = self._born(parent, name, attributes)
        self.contents.conceive(node, entry)
        return node

    async def _open(self, node: Inode, flags: int, ctx: Any) -> FileInfo:
        if flags & os.O_TRUNC:  # also with O_RDONLY: Linux cuts then, and the kernel counts on it
            self._check_version(node)
            await self.contents.current(node).truncate(0)
        handle, keep = self.opened(node, flags, ctx.pid)
        return FileInfo(fh=handle, keep_cache=keep)

    def _check_version(self, node: Inode) -> None:
        content = node.content
        idle = content is None or node.is_local or content.orphaned or not content.users
        if content and not idle and content.base.version != node.attributes.version:
            # Two versions under one number would share the kernel's pages.
            self.inodes.supersede(node)
            fail(errno.ESTALE)

    async def _commit(self, handle: FileHandle) -> None:
        """Commit for fsync, which fails whenever the data is not there, or for close."""
        async with self.names.lock.shared(handle.inode):
            try:
                await self.contents.commit(handle.inode, handle.content)
            except OSError:
                handle.told = handle.content.superseded
                raise
            if handle.content.superseded and handle.writable:
                handle.told = True
                fail(errno.ESTALE, reason="somebody else has replaced the file")


def _is_write_back(content: Content, offset: int, size: int) -> bool:
    """Whether this is the kernel writing pages of a mapping, and not a program appending.

    For mapped pages the kernel takes any handle that can be written to; they begin at a page's
    start and never make the file longer.
    """
    return offset % _PAGE == 0 and offset + size <= content.size
