"""What a setattr request asks a volume to change."""

from __future__ import annotations

import stat
from typing import Any

from pyfuse3 import EntryAttributes

from fuse import clock
from fuse.inodes import Inode
from fuse.volume import Changes


def requested(attr: EntryAttributes, fields: Any) -> Changes:
    """Changes to make; size and access time are not among them.

    The kernel takes set-user-ID bits away by itself, with a mode of its own in the request.

    Args:
        attr: New values.
        fields: pyfuse3's ``SetattrFields``: which of them to set.
    """
    return Changes(
        mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
    )


def change_root(root: Inode, changes: Changes) -> None:
    """A store keeps nothing of its root: what is set lasts as long as the mount."""
    known = root.attributes
    root.attributes = known.changed(
        mode=known.mode if changes.mode is None else changes.mode,
        uid=known.uid if changes.uid is None else changes.uid,
        gid=known.gid if changes.gid is None else changes.gid,
        mtime_ns=known.mtime_ns if changes.mtime_ns is None else changes.mtime_ns,
        ctime_ns=clock.now_ns(),
    )
