"""Extended attributes as xattr(7) has them, over what a volume keeps. Pure."""

from __future__ import annotations

import errno

from fuse.errors import fail
from fuse.volume import Attributes, Changes

#: The only namespace that is free for programs. ``security`` and ``system`` (ACLs) would promise
#: what a store cannot enforce, ``trusted`` is for the kernel's own file systems.
PREFIX = b"user."


def name_of(raw: bytes) -> str:
    """The full name of an attribute. EOPNOTSUPP outside of ``user``, EILSEQ where not UTF-8.

    The kernel asks for ``security.capability`` again and again: this must cost nothing.
    """
    if not raw.startswith(PREFIX):
        fail(errno.EOPNOTSUPP)
    if raw == PREFIX:
        fail(errno.EINVAL)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        fail(errno.EILSEQ, reason="names on the store are UTF-8")


def value_of(known: Attributes, name: str) -> bytes:
    """The value of an attribute. ENODATA where there is none."""
    value = dict(known.xattrs).get(name)
    if value is None:
        fail(errno.ENODATA)
    return value


def setting(name: str, value: bytes) -> Changes:
    """What sets an attribute."""
    return Changes(xattrs=((name, value),))


def removing(known: Attributes, name: str) -> Changes:
    """What removes an attribute. ENODATA where there is none."""
    value_of(known, name)
    return Changes(xattrs=((name, None),))
