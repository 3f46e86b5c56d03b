"""What the kernel is told of an inode."""

from __future__ import annotations

import stat
from typing import NamedTuple

import trio
from pyfuse3 import EntryAttributes, InodeT, ModeT

from fuse.dirnames import ABSENCE
from fuse.inodes import Inode
from fuse.options import MountOptions
from fuse.volume import Attributes, Kind

_TYPE_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}


def known_attributes(node: Inode) -> Attributes:
    """Attributes as programs on this node are to see them.

    An open file that was changed here is as the programs here see it, whoever asks; one that was
    replaced by somebody else stays, for those who have it open, what it was.
    """
    content = node.content
    if content is None or not (content.modified or content.orphaned or node.superseded):
        return node.attributes
    known = content.attributes()
    if content.changes.xattrs:
        xattrs = {**dict(known.xattrs), **dict(content.changes.xattrs)}
        kept = {name: value for name, value in xattrs.items() if value is not None}
        known = known.changed(xattrs=tuple(sorted(kept.items())))
    return known


def mode_of(known: Attributes, options: MountOptions) -> int:
    """Permission bits, or what the mount shows where the store keeps none."""
    if known.mode is not None:
        return known.mode
    if known.kind is Kind.SYMLINK:
        return 0o777
    return options.directory_mode if known.kind is Kind.DIRECTORY else options.file_mode


class Shown(NamedTuple):
    """What the kernel is told of an inode.

    Attributes:
        number: The inode's.
        entry_timeout: How long (seconds) the kernel may believe the name.
        attribute_timeout: How long (seconds) it may believe the rest.
        mode: Type and permissions.
        links: How many names it has.
        uid: Owner.
        gid: Group.
        size: Bytes.
        mtime_ns: When its content changed, nanoseconds since the epoch.
        ctime_ns: When anything of it changed.
        atime_ns: When it was read last.
    """

    number: int
    entry_timeout: float
    attribute_timeout: float
    mode: int
    links: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int

    @property
    def blocks(self) -> int:
        """Its size in the 512 bytes of stat(2), rounded up."""
        return -(-self.size // 512)

    @property
    def block_size(self) -> int:
        """Bytes that programs are advised to read at a time."""
        return 4096


def shown(node: Inode, options: MountOptions, timeout: float) -> Shown:
    """Attributes of an inode, and for how much longer the kernel may believe them.

    Args:
        node: The inode.
        options: What to show where the store says nothing.
        timeout: For how long (seconds) an answer is believed that nobody else can change.
    """
    known = known_attributes(node)
    linked = node.linked
    if node.superseded:
        left = 0.0
    elif node.is_local or not linked:
        left = timeout
    else:
        left = max(0.0, node.expires - trio.current_time())
    # The first commit of what is not made yet may find that somebody else was first, with another.
    unmade = node.content is not None and node.content.unmade
    modified = known.mtime_ns
    return Shown(
        node.number,
        left,
        min(left, ABSENCE) if unmade else left,
        _TYPE_BITS[known.kind] | mode_of(known, options),
        1 if linked else 0,
        options.uid if known.uid is None else known.uid,
        options.gid if known.gid is None else known.gid,
        known.size,
        max(modified, node.touched_ns),
        max(known.ctime_ns or modified, node.touched_ns, node.changed_ns),
        modified if node.atime_ns is None else node.atime_ns,
    )


def entry(node: Inode, options: MountOptions, timeout: float) -> EntryAttributes:
    """What is :func:`shown`, for pyfuse3."""
    seen = shown(node, options, timeout)
    result = EntryAttributes()
    result.st_ino = InodeT(seen.number)
    result.generation = 0
    result.entry_timeout = seen.entry_timeout
    result.attr_timeout = seen.attribute_timeout
    result.st_mode = ModeT(seen.mode)
    result.st_nlink = seen.links
    result.st_uid = seen.uid
    result.st_gid = seen.gid
    result.st_rdev = 0
    result.st_size = seen.size
    result.st_blksize = seen.block_size
    result.st_blocks = seen.blocks
    result.st_mtime_ns = seen.mtime_ns
    result.st_ctime_ns = seen.ctime_ns
    result.st_atime_ns = seen.atime_ns
    return result
