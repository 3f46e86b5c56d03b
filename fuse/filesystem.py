"""The file system core: the kernel's requests, answered from a volume.

Every handler turns :class:`OSError` into the errno that the kernel expects. Anything else is a
defect of this program: it is logged with its traceback and answered with EIO, so that one bad
request never takes the mount away from everybody else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import Any, cast

import pyfuse3
import structlog
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, InodeT, ModeT

from fuse.answers import answers
from fuse.cache import MemoryCache
from fuse.content import Content
from fuse.errors import fail
from fuse.handles import DirectoryHandle, FileHandle, HandleTable
from fuse.inodes import Inode, InodeTable, is_directory
from fuse.namespace import Namespace
from fuse.options import MountOptions
from fuse.readahead import ReadAhead
from fuse.volume import Attributes, Changes, Kind, Space, Volume

log = structlog.get_logger("fuse")

_TYPE_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}

#: Reported by statfs where the store has no limit: 1 PiB.
_UNLIMITED = 1 << 50

#: Seconds that statfs waits for the store.
STATFS_PATIENCE = 1.0


class FileSystem(pyfuse3.Operations):  # type: ignore[misc]  # pyfuse3's base is untyped
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
        self._nursery = nursery
        self._space = Space()
        timeout = options.attribute_timeout
        self.names = Namespace(
            volume, self.inodes, volume.attribute_timeout if timeout is None else timeout
        )

    # -- names and attributes -----------------------------------------------------------------

    @answers
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: Any = None
    ) -> EntryAttributes:
        """Find a name in a directory."""
        node = await self.names.find(self.inodes.get(parent_inode), self._name(name))
        node.lookups += 1
        return self._entry(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        """The kernel no longer refers to these inodes."""
        for number, count in inode_list:
            self.inodes.forget(number, count)

    @answers
    async def getattr(self, inode: InodeT, ctx: Any = None) -> EntryAttributes:
        """Attributes of an inode."""
        node = self.inodes.get(inode)
        await self.names.refresh(node)
        return self._entry(node)

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
        if fields.update_size:
            await self._set_size(node, attr.st_size, self.files[fh].content if fh else None)
        changes = Changes(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        if changes:
            await self._change(node, changes)
        return self._entry(node)

    @answers
    async def readlink(self, inode: InodeT, ctx: Any = None) -> FileNameT:
        """Target of a symbolic link."""
        node = self.inodes.get(inode)
        await self.names.refresh(node)
        return FileNameT(os.fsencode(await self.volume.readlink(node.path(), node.attributes)))

    @answers
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: Any
    ) -> EntryAttributes:
        """Create a symbolic link."""
        parent, text = self.inodes.get(parent_inode), self._name(name)
        made = await self.volume.symlink(parent.child_path(text), self._name(target))
        return self._born(parent, text, made)

    @answers
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: Any
    ) -> EntryAttributes:
        """Create a directory."""
        parent, text = self.inodes.get(parent_inode), self._name(name)
        made = await self.volume.make_directory(
            parent.child_path(text), _unless(stat.S_IMODE(mode), self.options.directory_mode)
        )
        return self._born(parent, text, made)

    @answers
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: Any) -> None:
        """Remove an empty directory."""
        parent, text = self.inodes.get(parent_inode), self._name(name)
        node = await self.names.find(parent, text)
        if not is_directory(node):
            fail(errno.ENOTDIR)
        await self.volume.remove_directory(node.path())
        self.inodes.detach(node)

    @answers
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: Any
    ) -> EntryAttributes:
        """Create a regular file; devices, pipes and sockets have no place in an object store."""
        if not stat.S_ISREG(mode):
            fail(errno.EPERM)
        node = await self._create(self.inodes.get(parent_inode), self._name(name), mode, ctx)
        node.lookups += 1
        return self._entry(node)

    @answers
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: Any
    ) -> EntryAttributes:
        """Refuse hard links: EPERM, as on other file systems without them."""
        fail(errno.EPERM)

    @answers
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: Any) -> None:
        """Remove a file. Those who have it open keep its content, as on a local disk."""
        parent, text = self.inodes.get(parent_inode), self._name(name)
        node = await self.names.find(parent, text)
        if is_directory(node):
            fail(errno.EISDIR)
        async with node.lock:
            await self._orphan(node)
            await self.volume.unlink(parent.child_path(text))
        self.inodes.detach(node)

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
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            fail(errno.EINVAL)
        replace = not flags & pyfuse3.RENAME_NOREPLACE
        parent, text = self.inodes.get(parent_inode_new), self._name(name_new)
        node = await self.names.find(self.inodes.get(parent_inode_old), self._name(name_old))
        target = await self.names.find_if_there(parent, text)
        if target is node:
            return
        if target is not None:
            _check_replacement(node, target, replace=replace)
        # The store copies what it has, so what it lacks goes there first.
        for known in node.descendants():
            if known.content is not None:
                await known.content.commit()
                known.attributes = known.content.base
        if target is not None:
            await self._orphan(target)
        renamed = await self.volume.rename(
            node.path(), parent.child_path(text), node.attributes, replace=replace
        )
        if target is not None:
            self.inodes.detach(target)
        self.inodes.move(node, parent, text)
        node.attributes = renamed
        node.expires = self.names.expiry()
        await self._settle_renamed(node)

    # -- files --------------------------------------------------------------------------------

    @answers
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: Any
    ) -> tuple[FileInfo, EntryAttributes]:
        """Create and open a file."""
        parent, text = self.inodes.get(parent_inode), self._name(name)
        try:
            node = await self._create(parent, text, mode, ctx)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            node = await self.names.find(parent, text)
        info = await self._open(node, flags)
        node.lookups += 1
        return info, self._entry(node)

    @answers
    async def open(self, inode: InodeT, flags: FlagT, ctx: Any = None) -> FileInfo:
        """Open a file: from here on its bytes are those of the version found now."""
        node = self.inodes.get(inode)
        await self.names.refresh(node)
        return await self._open(node, flags)

    @answers
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        """Read from an open file."""
        handle = self.files[fh]
        # A view of the cache's buffer: pyfuse3 takes any contiguous buffer, without a copy.
        return cast("bytes", await handle.content.read(off, size, handle.window))

    @answers
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        """Write to an open file."""
        handle = self.files[fh]
        if handle.flags & os.O_APPEND:
            return await handle.content.append(buf)
        return await handle.content.write(off, buf)

    @answers
    async def flush(self, fh: FileHandleT) -> None:
        """Close: what was written is in the store when it returns 0."""
        handle = self.files[fh]
        if handle.writable:
            await self._commit(handle)

    @answers
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:  # noqa: FBT001 -- pyfuse3's
        """Sync: what was written is in the store when it returns 0."""
        await self._commit(self.files[fh])

    @answers
    async def release(self, fh: FileHandleT) -> None:
        """The last reference to a handle is gone."""
        handle = self.files.remove(fh)
        handle.inode.opens -= 1
        handle.content.users -= 1
        if handle.content.modified and not handle.content.orphaned:
            try:
                await self._commit(handle)
            except OSError:
                # close reported it; the data is kept and tried again by commit_stale.
                log.exception("close left data that is not in the store", path=_path(handle.inode))
                return
        self._settle(handle.inode, handle.content)

    # -- directories --------------------------------------------------------------------------

    @answers
    async def opendir(self, inode: InodeT, ctx: Any) -> FileHandleT:
        """Open a directory."""
        return FileHandleT(self.directories.add(DirectoryHandle(self.inodes.get(inode))))

    @answers
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory with attributes; a rewind lists anew."""
        handle = self.directories[fh]
        if start_id == 0:
            handle.entries = [
                entry async for page in self.volume.list(handle.inode.path()) for entry in page
            ]
            self.names.listed(handle.inode, len(handle.entries))
        expires = self.names.expiry()
        for index in range(start_id, len(handle.entries)):
            entry = handle.entries[index]
            node = self.inodes.remember(handle.inode, entry.name, entry.attributes, expires)
            name = FileNameT(os.fsencode(entry.name))
            if not pyfuse3.readdir_reply(token, name, self._entry(node), index + 1):
                self.inodes.release(node)
                return
            node.lookups += 1

    async def releasedir(self, fh: FileHandleT) -> None:
        """Close a directory."""
        self.directories.remove(fh)

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
        space = self._space
        result = pyfuse3.StatvfsData()
        result.f_bsize = result.f_frsize = 4096
        result.f_blocks = (space.total or _UNLIMITED) // 4096
        result.f_bfree = result.f_bavail = (space.free if space.total else _UNLIMITED) // 4096
        result.f_files = result.f_ffree = result.f_favail = 1 << 32
        result.f_namemax = self.volume.name_max
        return result

    # -- what the driver calls ----------------------------------------------------------------

    async def commit_stale(self, *, everything: bool = False) -> dict[str, str]:
        """Commit what is due, or everything; returns path → why it failed."""
        failures: dict[str, str] = {}
        now = trio.current_time()
        for node in self.inodes:
            content = node.content
            if content is None or not content.modified or content.orphaned:
                continue
            interval = self.volume.commit_interval
            due = interval is not None and now - (content.modified_since or now) >= interval
            if not (everything or due or not content.users):
                continue
            try:
                await content.commit()
            except Exception as error:
                # A defect is no reason to drop the data either: it is reported like a refusal.
                content.error = error if isinstance(error, OSError) else OSError(errno.EIO)
                failures[_path(node)] = getattr(error, "strerror", None) or str(error)
                log.exception("commit failed, will be tried again", path=_path(node))
            else:
                self._committed(node, content)
        return failures

    def statistics(self) -> dict[str, int | float]:
        """Counters for ``stats``."""
        return {
            "inodes": len(self.inodes),
            "open_files": len(self.files),
            "memory_used_bytes": self.cache.used,
            "memory_budget_bytes": self.cache.budget,
            "memory_evictions": self.cache.evictions,
            **self.volume.statistics(),
        }

    # -- internals ----------------------------------------------------------------------------

    def _name(self, name: bytes) -> str:
        try:
            text = name.decode()
        except UnicodeDecodeError:
            fail(errno.EILSEQ, reason="names on the store are UTF-8")
        if len(name) > self.volume.name_max:
            fail(errno.ENAMETOOLONG)
        return text

    def _entry(self, node: Inode) -> EntryAttributes:
        content = node.content
        # An open file that was changed here is as the programs here see it, whoever asks.
        local = content is not None and (content.modified or content.orphaned)
        known = content.attributes() if content is not None and local else node.attributes
        entry = EntryAttributes()
        entry.st_ino = InodeT(node.number)
        entry.generation = 0
        entry.entry_timeout = entry.attr_timeout = self.names.timeout
        default = (
            self.options.directory_mode
            if known.kind is Kind.DIRECTORY
            else 0o777
            if known.kind is Kind.SYMLINK
            else self.options.file_mode
        )
        mode = default if known.mode is None else known.mode
        entry.st_mode = ModeT(_TYPE_BITS[known.kind] | mode)
        entry.st_nlink = 0 if node.parent is None and node is not self.inodes.root else 1
        entry.st_uid = self.options.uid if known.uid is None else known.uid
        entry.st_gid = self.options.gid if known.gid is None else known.gid
        entry.st_rdev = 0
        entry.st_size = known.size
        entry.st_blksize = 4096
        entry.st_blocks = -(-known.size // 512)
        entry.st_atime_ns = entry.st_mtime_ns = known.mtime_ns
        entry.st_ctime_ns = known.ctime_ns or known.mtime_ns
        return entry

    def _born(self, parent: Inode, name: str, attributes: Attributes) -> EntryAttributes:
        node = self.inodes.remember(parent, name, attributes, self.names.expiry())
        node.lookups += 1
        return self._entry(node)

    async def _create(self, parent: Inode, name: str, mode: int, ctx: Any) -> Inode:
        attributes = await self.volume.create(
            parent.child_path(name),
            _unless(stat.S_IMODE(mode), self.options.file_mode),
            _unless(ctx.uid, self.options.uid),
            _unless(ctx.gid, self.options.gid),
        )
        stale = parent.children.get(name)
        if stale is not None:  # deleted elsewhere, and made anew by us
            self.inodes.detach(stale)
        return self.inodes.remember(parent, name, attributes, self.names.expiry())

    async def _open(self, node: Inode, flags: int) -> FileInfo:
        content = node.content
        if content is None or not (
            content.modified or content.orphaned or content.base.version == node.attributes.version
        ):
            # Handles on a version that has been replaced keep their own content.
            content = self._content(node, node.attributes)
            node.content = content
        if flags & os.O_TRUNC and flags & (os.O_WRONLY | os.O_RDWR) and content.size:
            await content.truncate(0)
        info = FileInfo()
        info.fh = FileHandleT(
            self.files.add(
                FileHandle(node, content, flags, ReadAhead(self.options.read_ahead_limit))
            )
        )
        node.opens += 1
        content.users += 1
        # Pages of the same version stay: a second epoch costs no request at all.
        info.keep_cache = content.modified or node.cached_version == content.base.version
        node.cached_version = content.base.version
        return info

    def _content(self, node: Inode, base: Attributes) -> Content:
        return Content(
            self.volume, node.path, base, self.cache, self._nursery, self.options.cache_directory
        )

    async def _commit(self, handle: FileHandle) -> None:
        content = handle.content
        try:
            await content.commit()
        except OSError:
            content.error = None  # reported right here
            raise
        self._committed(handle.inode, content)
        content.take_error()

    def _committed(self, node: Inode, content: Content) -> None:
        if node.content is content and not content.modified and not content.orphaned:
            node.attributes = content.base
            node.cached_version = content.base.version
            node.expires = self.names.expiry()
        self._settle(node, content)

    def _settle(self, node: Inode, content: Content) -> None:
        """Close a content that nobody uses and that holds nothing the store lacks."""
        if content.users or (content.modified and not content.orphaned):
            return
        content.close()
        if node.content is content:
            node.content = None
        self.inodes.release(node)

    async def _set_size(self, node: Inode, size: int, content: Content | None) -> None:
        content = content or node.content
        if content is not None:
            await content.truncate(size)
            if not content.users:
                await content.commit()
                self._committed(node, content)
            return
        await self.names.refresh(node)
        if is_directory(node):
            fail(errno.EISDIR)
        node.content = content = self._content(node, node.attributes)
        try:
            await content.truncate(size)
            await content.commit()
        except BaseException:
            content.orphaned = True
            self._settle(node, content)
            raise
        self._committed(node, content)

    async def _change(self, node: Inode, changes: Changes) -> None:
        content = node.content
        if content is not None and (content.modified or content.orphaned):
            content.change(changes)
            return
        if node is self.inodes.root:
            fail(errno.EPERM)
        await self.names.refresh(node)
        node.attributes = await self.volume.set_attributes(node.path(), node.attributes, changes)
        node.expires = self.names.expiry()
        if content is not None and node.content is content:
            await content.rebase(node.attributes)
        if node.cached_version:  # the same bytes under a new version
            node.cached_version = node.attributes.version

    async def _orphan(self, node: Inode) -> None:
        """Prepare for the loss of a name: open handles keep the bytes."""
        if node.content is None:
            return
        if node.content.users:
            await node.content.localise()
        else:
            node.content.orphaned = True
            self._settle(node, node.content)

    async def _settle_renamed(self, node: Inode) -> None:
        """A store without rename made new versions with the same bytes: go on with those."""
        for known in node.descendants():
            known.hints.clear()
            if known is not node:
                known.expires = 0.0
            if known.content is not None and not known.content.orphaned:
                if known is not node:
                    known.attributes = await self.volume.stat(known.path())
                await known.content.rebase(known.attributes)


def _unless(value: int, default: int) -> int | None:
    """``value``, or None where it is what the mount shows anyway and need not be stored."""
    return None if value == default else value


def _check_replacement(node: Inode, target: Inode, *, replace: bool) -> None:
    if not replace:
        fail(errno.EEXIST)
    if is_directory(target) and not is_directory(node):
        fail(errno.EISDIR)
    if is_directory(node) and not is_directory(target):
        fail(errno.ENOTDIR)


def _path(node: Inode) -> str:
    try:
        return node.path()
    except OSError:
        return f"{node.name} (unlinked)"
