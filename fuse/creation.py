"""What a new file, directory or link belongs to, and may be done with it.

As inode_init_owner() of the kernel has it: whoever makes it owns it; in a directory with the
set-group-ID bit the group is the directory's, and directories pass the bit on (inode(7)).
"""

from __future__ import annotations

import stat
from typing import Any

from fuse import clock
from fuse.entries import known_attributes, mode_of
from fuse.inodes import Inode
from fuse.options import MountOptions
from fuse.volume import Changes


def file(parent: Inode, mode: int, ctx: Any, options: MountOptions) -> Changes:
    """Attributes of a new regular file.

    Args:
        parent: The directory that it is made in.
        mode: As asked for, without what the caller's umask takes away.
        ctx: Who asks (pyfuse3's ``RequestContext``).
        options: What the mount shows anyway need not be stored.
    """
    uid, gid, _ = _ownership(parent, ctx, options)
    return Changes(
        mode=_unless(stat.S_IMODE(mode), options.file_mode),
        uid=uid,
        gid=gid,
        mtime_ns=clock.now_ns(),
    )


def directory(parent: Inode, mode: int, ctx: Any, options: MountOptions) -> Changes:
    """Attributes of a new directory. Arguments as of :func:`file`."""
    uid, gid, group_is_inherited = _ownership(parent, ctx, options)
    bits = stat.S_IMODE(mode) | (stat.S_ISGID if group_is_inherited else 0)
    return Changes(
        mode=_unless(bits, options.directory_mode), uid=uid, gid=gid, mtime_ns=clock.now_ns()
    )


def link(parent: Inode, ctx: Any, options: MountOptions) -> Changes:
    """Attributes of a new symbolic link. Arguments as of :func:`file`."""
    uid, gid, _ = _ownership(parent, ctx, options)
    return Changes(uid=uid, gid=gid, mtime_ns=clock.now_ns())


def _ownership(
    parent: Inode, ctx: Any, options: MountOptions
) -> tuple[int | None, int | None, bool]:
    known = known_attributes(parent)
    inherited = bool(mode_of(known, options) & stat.S_ISGID)
    group = (options.gid if known.gid is None else known.gid) if inherited else ctx.gid
    return _unless(ctx.uid, options.uid), _unless(group, options.gid), inherited


def _unless(value: int, default: int) -> int | None:
    """``value``, or None where it is what the mount shows anyway and need not be stored."""
    return None if value == default else value
