"""Extended attributes in blob metadata: pure, and readable for other programs wherever possible.

``user.project`` with a printable value is the metadata entry ``project``, as anybody would write
it, and metadata that others wrote shows as ``user.<name>``. What metadata cannot carry (binary or
empty values, capitals, names that are no identifiers, other namespaces) is kept under
``xattr_<name in base32>`` with a base64 value. Names that say what a file is (``hdi_isfolder``,
``permissions``, ...) are not extended attributes.

Rules of metadata: names are C# identifiers and compared without case, values are ASCII without
surrounding spaces, and all of it together has 8 KiB ("Setting and retrieving properties and
metadata for Blob service resources").
"""

from __future__ import annotations

import base64
import binascii
import errno
import re
from collections.abc import Iterable, Mapping
from typing import Final

from fuse.errors import fail

#: Bytes that all metadata names and values of a blob may take together.
METADATA_LIMIT: Final = 8 * 1024

_NAMESPACE: Final = "user."
_ENCODED: Final = "xattr_"
_IDENTIFIER: Final = re.compile(r"[a-z_][a-z0-9_]*\Z")
_PRINTABLE: Final = re.compile(rb"[!-~](?:[ -~]*[!-~])?\Z")

#: Metadata that describes the file itself (Hadoop, blobfuse, azcopy), and no attribute of a user.
RESERVED: Final = frozenset(
    {
        "hdi_isfolder",
        "is_symlink",
        "permissions",
        "posix_owner",
        "posix_group",
        "modtime",
        "posix_atime",
        "posix_ctime",
        "posix_nlink",
        "posix_ino",
    }
)


def attributes(metadata: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    """The extended attributes that a blob's metadata says, sorted. Never fails."""
    found: dict[str, bytes] = {}
    for name, value in sorted(metadata.items()):
        known = _decoded(name.lower(), value)
        if known is not None:
            found[known[0]] = known[1]
    return tuple(sorted(found.items()))


def changed(
    metadata: Mapping[str, str], changes: Iterable[tuple[str, bytes | None]]
) -> dict[str, str]:
    """Metadata with extended attributes set, or removed where the value is None.

    Raises:
        OSError: ENOSPC, as other file systems say, when it would become larger than a blob holds.
    """
    wanted = dict(changes)
    if not wanted:
        return dict(metadata)
    result = {}
    for name, value in metadata.items():
        known = _decoded(name.lower(), value)
        if known is None or known[0] not in wanted:
            result[name] = value
    for name, content in wanted.items():
        if content is not None:
            entry, text = _encoded(name, content)
            result[entry] = text
    if not fits(result):
        fail(errno.ENOSPC, reason=f"a blob holds no more than {METADATA_LIMIT} bytes of metadata")
    return result


def fits(metadata: Mapping[str, str]) -> bool:
    """Whether a blob can hold so much metadata."""
    return sum(len(name) + len(value) for name, value in metadata.items()) <= METADATA_LIMIT


def _encoded(name: str, value: bytes) -> tuple[str, str]:
    plain = name.removeprefix(_NAMESPACE)
    if (
        name.startswith(_NAMESPACE)
        and _IDENTIFIER.match(plain)
        and plain not in RESERVED
        and not plain.startswith(_ENCODED)
        and _PRINTABLE.match(value)
    ):
        return plain, value.decode("ascii")
    hidden = base64.b32encode(name.encode(errors="surrogateescape")).decode("ascii")
    return _ENCODED + hidden.rstrip("=").lower(), base64.b64encode(value).decode("ascii")


def _decoded(name: str, value: str) -> tuple[str, bytes] | None:
    """The attribute that a metadata entry is; None for what describes the file itself."""
    if name in RESERVED:
        return None
    if name.startswith(_ENCODED):
        text = name.removeprefix(_ENCODED).upper()
        try:
            full = base64.b32decode(text + "=" * (-len(text) % 8)).decode(errors="surrogateescape")
            content = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass  # others may use such names too
        else:
            # Only what we would write so ourselves: anything else is a name of its own.
            if _encoded(full, content) == (name, value):
                return full, content
    return _NAMESPACE + name, _bytes(value)


def _bytes(value: str) -> bytes:
    """A value as bytes: the same whether it came in a header (Latin-1) or in XML (Unicode)."""
    try:
        raw = value.encode("latin-1")
        raw.decode()
    except UnicodeError:
        return value.encode(errors="surrogateescape")
    return raw
