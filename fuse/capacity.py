"""What statfs(2) says of a mount."""

from __future__ import annotations

import pyfuse3

from fuse.volume import Space

#: Bytes reported where the store has no limit: 1 PiB.
UNLIMITED = 1 << 50

BLOCK = 4096


def report(space: Space, name_max: int) -> pyfuse3.StatvfsData:
    """Capacity and limits.

    Args:
        space: What the volume said.
        name_max: Longest name that can be made, in bytes.
    """
    result = pyfuse3.StatvfsData()
    result.f_bsize = result.f_frsize = BLOCK
    result.f_blocks = (space.total or UNLIMITED) // BLOCK
    result.f_bfree = result.f_bavail = (space.free if space.total else UNLIMITED) // BLOCK
    result.f_files = result.f_ffree = result.f_favail = 1 << 32
    result.f_namemax = name_max
    return result
