"""FUSE's messages, as far as this driver reads and writes them itself (<linux/fuse.h>).

All numbers are in the machine's byte order, and structures have no padding beyond what is named.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Final

from fuse.entries import Shown

_NANOSECONDS: Final = 1_000_000_000

#: The longest time-out that the kernel is told (seconds): decades.
_FOR_EVER: Final = 1 << 30

# enum fuse_opcode
LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
UNLINK: Final = 10
RMDIR: Final = 11
RENAME: Final = 12
OPEN: Final = 14
READ: Final = 15
WRITE: Final = 16
RELEASE: Final = 18
FSYNC: Final = 20
GETXATTR: Final = 22
LISTXATTR: Final = 23
FLUSH: Final = 25
INIT: Final = 26
READDIR: Final = 28
CREATE: Final = 35
INTERRUPT: Final = 36
IOCTL: Final = 39
BATCH_FORGET: Final = 42
READDIRPLUS: Final = 44
RENAME2: Final = 45

#: What changes something: SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE,
#: SETXATTR, REMOVEXATTR, CREATE, FALLOCATE, RENAME2, COPY_FILE_RANGE, TMPFILE.
CHANGES: Final = frozenset({4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 47, 51})

#: struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid.
HEADER: Final = struct.Struct("=IIQQIII4x")

# The bodies behind it; in brackets what is passed over.
FORGET_IN: Final = struct.Struct("=Q")  # nlookup
BATCH_FORGET_IN: Final = struct.Struct("=I4x")  # count
FORGET_ONE: Final = struct.Struct("=QQ")  # nodeid, nlookup
OPEN_IN: Final = struct.Struct("=I4x")  # flags [open_flags]
READ_IN: Final = struct.Struct("=QQI20x")  # fh, offset, size [read_flags, lock_owner, flags]
WRITE_IN: Final = struct.Struct("=QQI20x")  # fh, offset, size [write_flags, lock_owner, flags]
HANDLE_IN: Final = struct.Struct("=Q")  # fh, which release and flush begin with
CREATE_IN: Final = struct.Struct("=II8x")  # flags, mode [umask, open_flags]; the name follows
RENAME_IN: Final = struct.Struct("=Q")  # newdir; both names follow
RENAME2_IN: Final = struct.Struct("=QI4x")  # newdir, flags; both names follow
GETXATTR_IN: Final = struct.Struct("=I4x")  # size
INTERRUPT_IN: Final = struct.Struct("=Q")  # unique

#: struct fuse_out_header: len, error (0 or a negative errno), unique.
REPLY: Final = struct.Struct("=IiQ")

#: Where the size is in the body of a listing, which is a struct fuse_read_in, too.
_SIZE: Final = struct.Struct("=16xI")

# The header and what follows it, in one piece.
_TIMES: Final = "QQQqqqIIIIIIIIII"  # struct fuse_attr
_ENTRY: Final = struct.Struct("=IiQ QQQQII" + _TIMES)  # struct fuse_entry_out
_ATTRIBUTES: Final = struct.Struct("=IiQ QI4x" + _TIMES)  # struct fuse_attr_out
_OPENED: Final = struct.Struct("=IiQ QI4x")  # struct fuse_open_out
_CREATED: Final = struct.Struct("=IiQ QQQQII" + _TIMES + "QI4x")  # an entry, and an open file
_WRITTEN: Final = struct.Struct("=IiQ I4x")  # struct fuse_write_out

#: struct fuse_init_out up to max_write: major, minor, max_readahead, flags, max_background,
#: congestion_threshold, max_write.
_INIT_OUT: Final = struct.Struct("=IIIIHHI")

# Flags of an open file (FOPEN_*).
KEEP_CACHE: Final = 1 << 1
NO_FLUSH: Final = 1 << 5

#: Of a request that the kernel wants interrupted, in its unique number (fs/fuse/dev.c).
INTERRUPT_BIT: Final = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file system tells the kernel when they meet.

    Attributes:
        max_background: Requests that nobody waits for (read-ahead, releases) that may be under way.
        congestion_threshold: From how many of them on the kernel holds back read-ahead.
    """

    max_background: int
    congestion_threshold: int


def entry(unique: int, shown: Shown) -> bytes:
    """The answer to a look-up."""
    return _ENTRY.pack(_ENTRY.size, 0, unique, *_entry(shown))


def created(unique: int, shown: Shown, handle: int, flags: int) -> bytes:
    """The answer to create: of a look-up, and of an open."""
    return _CREATED.pack(_CREATED.size, 0, unique, *_entry(shown), handle, flags)


def attributes(unique: int, shown: Shown) -> bytes:
    """The answer to getattr."""
    seconds, rest = _split(shown.attribute_timeout)
    return _ATTRIBUTES.pack(_ATTRIBUTES.size, 0, unique, seconds, rest, *_attributes(shown))


def opened(unique: int, handle: int, flags: int) -> bytes:
    """The answer to open; ``flags`` are of ``FOPEN_*``."""
    return _OPENED.pack(_OPENED.size, 0, unique, handle, flags)


def written(unique: int, count: int) -> bytes:
    """The answer to write."""
    return _WRITTEN.pack(_WRITTEN.size, 0, unique, count)


def done(unique: int, error: int = 0) -> bytes:
    """The answer of a request that has no other: success, or an errno."""
    return REPLY.pack(REPLY.size, -error, unique)


def limit_size(body: memoryview, most: int) -> int:
    """Have a listing answered with no more than so many bytes; how many it may have then."""
    (size,) = _SIZE.unpack_from(body)
    if size > most:
        body[16:20] = most.to_bytes(4, sys.byteorder)
    return min(int(size), most)


def set_limits(answer: bytearray | memoryview, limits: Limits) -> None:
    """Change the answer to FUSE_INIT; one that is an error, or cut short, stays as it is."""
    if len(answer) < REPLY.size + _INIT_OUT.size or REPLY.unpack_from(answer)[1]:
        return
    told = list(_INIT_OUT.unpack_from(answer, REPLY.size))
    told[4:6] = limits.max_background, limits.congestion_threshold
    _INIT_OUT.pack_into(answer, REPLY.size, *told)


def _split(seconds: float) -> tuple[int, int]:
    whole = int(min(seconds, _FOR_EVER))
    return whole, 0 if whole == _FOR_EVER else int((seconds - whole) * _NANOSECONDS)


def _entry(shown: Shown) -> tuple[int, ...]:
    entry_seconds, entry_rest = _split(shown.entry_timeout)
    attribute_seconds, attribute_rest = _split(shown.attribute_timeout)
    return (
        shown.number, 0, entry_seconds, attribute_seconds, entry_rest, attribute_rest,
        *_attributes(shown),
    )  # fmt: skip


def _attributes(shown: Shown) -> tuple[int, ...]:
    accessed, accessed_rest = divmod(shown.atime_ns, _NANOSECONDS)
    modified, modified_rest = divmod(shown.mtime_ns, _NANOSECONDS)
    changed, changed_rest = divmod(shown.ctime_ns, _NANOSECONDS)
    return (
        shown.number, shown.size, shown.blocks,
        accessed, modified, changed, accessed_rest, modified_rest, changed_rest,
        shown.mode, shown.links, shown.uid, shown.gid, 0, shown.block_size, 0,
    )  # fmt: skip
