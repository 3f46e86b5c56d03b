"""Names as the kernel has them, bytes, and as volumes have them, text."""

from __future__ import annotations

import errno

from fuse.errors import fail


def made(name: bytes, limit: int | None = None) -> str:
    """A name that is to be made. EILSEQ where it is not UTF-8, ENAMETOOLONG beyond the limit.

    Args:
        name: The name, or the target of a symbolic link.
        limit: Largest length in bytes.
    """
    if limit is not None and len(name) > limit:
        fail(errno.ENAMETOOLONG)
    try:
        return name.decode()
    except UnicodeDecodeError:
        fail(errno.EILSEQ, reason="names on the store are UTF-8")


def sought(name: bytes) -> str:
    """A name that is looked for. One that no store can have is not there: ENOENT."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        fail(errno.ENOENT)
