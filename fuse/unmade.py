"""Files that the store does not have yet: what is known of them here, and what makes them there.

A name that is free as far as this node knows costs no request when a program makes a file of it.
The first commit makes it, on the condition that it is still free: one request for a small file. A
file that stays open is made empty after a while, so that other nodes see that it is there, and so
is one that becomes so long that its blocks are sent ahead.
"""

from __future__ import annotations

from fuse.volume import Attributes, Changes, Kind

#: Seconds after which a name is made for other nodes to see.
RESERVE_AFTER = 5.0


def attributes(changes: Changes) -> Attributes:
    """What is known of a file that is to be made with these attributes."""
    time = changes.mtime_ns or 0
    return Attributes(
        Kind.FILE,
        mtime_ns=time,
        ctime_ns=time,
        mode=changes.mode,
        uid=changes.uid,
        gid=changes.gid,
    )


def making(unmade: Attributes) -> Changes:
    """The reverse of :func:`attributes`."""
    return Changes(mode=unmade.mode, uid=unmade.uid, gid=unmade.gid, mtime_ns=unmade.mtime_ns)
