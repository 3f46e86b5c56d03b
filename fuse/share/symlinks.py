r"""Symbolic links as regular files, as the kernel's cifs keeps them with ``mfsymlinks``.

Azure Files has no reparse points. The format is that of Minshall and French: 1067 bytes, namely
``XSym\n``, the target's length in four digits, its MD5, the target itself, blanks to the end.
"""

from __future__ import annotations

import errno
import hashlib
import os

from fuse.errors import fail

FILE_SIZE = 1067
_TARGET_LIMIT = 1024
_HEAD = 5 + 5 + 33


def encode(target: str) -> bytes:
    """Content of the file for a link to ``target``. Raises ENAMETOOLONG."""
    raw = os.fsencode(target)
    if not raw:
        fail(errno.ENOENT)
    if len(raw) > _TARGET_LIMIT:
        fail(errno.ENAMETOOLONG, target, "a share keeps links of at most 1024 bytes")
    digest = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    content = b"XSym\n%04d\n%s\n%s" % (len(raw), digest.encode(), raw)
    return content if len(raw) == _TARGET_LIMIT else (content + b"\n").ljust(FILE_SIZE)


def decode(content: bytes | memoryview) -> str | None:
    """The target, or None where the content is that of an ordinary file."""
    data = bytes(content)
    if len(data) != FILE_SIZE or not data.startswith(b"XSym\n") or not data[5:9].isdigit():
        return None
    length = int(data[5:9])
    target = data[_HEAD : _HEAD + length]
    digest = hashlib.md5(target, usedforsecurity=False).hexdigest()
    if not 0 < length <= _TARGET_LIMIT or data[9:_HEAD] != b"\n%s\n" % digest.encode():
        return None
    return os.fsdecode(target)
