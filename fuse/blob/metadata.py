"""POSIX attributes in blob metadata, under the names that azcopy writes.

``hdi_isfolder`` marks a directory (Hadoop, blobfuse, azcopy), ``is_symlink`` a symbolic link whose
target is the blob's content (blobfuse, azcopy); ``permissions`` is st_mode in decimal,
``posix_owner`` and ``posix_group`` are numbers, ``modtime`` is nanoseconds since the epoch (azcopy
``--preserve-posix-properties``). A value that does not parse is left alone and not believed.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping
from datetime import datetime

from fuse.volume import Attributes, Changes, Kind

FOLDER = "hdi_isfolder"
SYMLINK = "is_symlink"
MODE = "permissions"
OWNER = "posix_owner"
GROUP = "posix_group"
MODIFIED = "modtime"


def attributes(
    *, size: int, etag: str, last_modified: datetime | None, metadata: Mapping[str, str] | None
) -> Attributes:
    """Attributes of a blob from its properties."""
    known = {name.lower(): value for name, value in (metadata or {}).items()}
    changed = int(last_modified.timestamp() * 1_000_000_000) if last_modified else 0
    kind = Kind.FILE
    if known.get(FOLDER, "").lower() == "true":
        kind = Kind.DIRECTORY
    elif known.get(SYMLINK, "").lower() == "true":
        kind = Kind.SYMLINK
    mode = _number(known.get(MODE))
    return Attributes(
        kind=kind,
        size=0 if kind is Kind.DIRECTORY else size,
        mtime_ns=_first(_number(known.get(MODIFIED)), changed),
        ctime_ns=changed,
        version="" if kind is Kind.DIRECTORY else etag,
        mode=None if mode is None else stat.S_IMODE(mode),
        uid=_number(known.get(OWNER)),
        gid=_number(known.get(GROUP)),
        metadata=tuple(sorted((metadata or {}).items())),
    )


def changed(
    metadata: Iterable[tuple[str, str]],
    changes: Changes,
    *,
    kind: Kind = Kind.FILE,
    rewritten: bool,
) -> dict[str, str]:
    """Metadata with ``changes`` applied.

    Args:
        metadata: What the blob has.
        changes: Attributes to set.
        kind: Of the entry; its type bits go into ``permissions``.
        rewritten: The content is new: an older explicit modification time no longer holds.
    """
    result = dict(metadata)
    if rewritten:
        for name in [name for name in result if name.lower() == MODIFIED]:
            del result[name]
    bits = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}
    for name, value in (
        (MODE, None if changes.mode is None else changes.mode | bits[kind]),
        (OWNER, changes.uid),
        (GROUP, changes.gid),
        (MODIFIED, changes.mtime_ns),
    ):
        if value is not None:
            for old in [old for old in result if old.lower() == name]:
                del result[old]
            result[name] = str(value)
    return result


def _number(text: str | None) -> int | None:
    return (
        int(text)
        if text is not None and text.isascii() and text.isdigit() and len(text) < 20
        else None
    )


def _first(*values: int | None) -> int:
    return next((value for value in values if value is not None), 0)
