"""What the kernel is told of an inode."""

from __future__ import annotations

import stat

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


def entry(node: Inode, options: MountOptions, timeout: float) -> EntryAttributes:
    """Attributes of an inode, and for how much longer the kernel may believe them.

    Args:
        node: The inode.
        options: What to show where the store says nothing.
        timeout: For how long (seconds) an answer is believed that nobody else can change.
    """
    known = known_attributes(node)
    if node.superseded:
        left = 0.0
    elif node.is_local or not node.linked:
        left = timeout
    else:
        left = max(0.0, node.expires - trio.current_time())
    result = EntryAttributes()
    result.st_ino = InodeT(node.number)
    result.generation = 0
    result.entry_timeout = result.attr_timeout = left
    if node.content is not None and node.content.unmade:
        # Its first commit may find that somebody else was first, with another file.
        result.attr_timeout = min(left, ABSENCE)
    result.st_mode = ModeT(_TYPE_BITS[known.kind] | mode_of(known, options))
    result.st_nlink = 1 if node.linked else 0
    result.st_uid = options.uid if known.uid is None else known.uid
    result.st_gid = options.gid if known.gid is None else known.gid
    result.st_rdev = 0
    result.st_size = known.size
    result.st_blksize = 4096
    result.st_blocks = -(-known.size // 512)
    result.st_mtime_ns = max(known.mtime_ns, node.touched_ns)
    result.st_ctime_ns = max(known.ctime_ns or known.mtime_ns, node.touched_ns, node.changed_ns)
    result.st_atime_ns = known.mtime_ns if node.atime_ns is None else node.atime_ns
    return result
