"""POSIX attributes in blob metadata, under the names that azcopy writes.

``hdi_isfolder`` marks a directory (Hadoop, blobfuse, azcopy) where the blob has no content,
``is_symlink`` a symbolic link whose target is the blob's content (blobfuse, azcopy);
``permissions`` is st_mode in decimal, ``posix_owner`` and ``posix_group`` are numbers, ``modtime``
is nanoseconds since the epoch (azcopy ``--preserve-posix-properties``). A value that does not parse
is left alone and not believed. Everything else is extended attributes (:mod:`fuse.blob.xattrs`).
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime

from fuse.blob import xattrs
from fuse.volume import Attributes, Changes, Kind

FOLDER = "hdi_isfolder"
SYMLINK = "is_symlink"
MODE = "permissions"
OWNER = "posix_owner"
GROUP = "posix_group"
MODIFIED = "modtime"

#: Nanoseconds.
SECOND = 1_000_000_000


def attributes(
    *,
    size: int,
    etag: str,
    last_modified: datetime | None,
    metadata: Mapping[str, str] | None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Attributes:
    """Attributes of a blob from its properties."""
    known = {name.lower(): value for name, value in (metadata or {}).items()}
    changed = int(last_modified.timestamp()) * SECOND if last_modified else 0
    kind = Kind.FILE
    if known.get(FOLDER, "").lower() == "true" and not size:
        kind = Kind.DIRECTORY
    elif known.get(SYMLINK, "").lower() == "true":
        kind = Kind.SYMLINK
    mode = _number(known.get(MODE))
    modified = _first(_number(known.get(MODIFIED)), changed)
    return Attributes(
        kind=kind,
        size=size,
        mtime_ns=modified,
        # The store counts in whole seconds: a modification in this one is more exact.
        ctime_ns=modified if changed <= modified < changed + SECOND else changed,
        version="" if kind is Kind.DIRECTORY else quoted(etag),
        mode=None if mode is None else stat.S_IMODE(mode),
        uid=_number(known.get(OWNER)),
        gid=_number(known.get(GROUP)),
        metadata=tuple(sorted((metadata or {}).items())),
        headers=headers,
        fixed=_fixed(dict(headers).get("x-ms-blob-type"), size),
        xattrs=xattrs.attributes(metadata) if metadata else (),
    )


def plain(
    size: int, version: str, changed: int, headers: tuple[tuple[str, str], ...]
) -> Attributes:
    """Attributes of a blob without metadata: a file, and nobody's.

    Args:
        size: In bytes.
        version: Its ETag, with quotes.
        changed: When it was modified last, nanoseconds since the epoch.
        headers: As :attr:`fuse.volume.Attributes.headers`.
    """
    return Attributes(
        Kind.FILE,
        size,
        changed,
        changed,
        version,
        headers=headers,
        fixed=0 if ("x-ms-blob-type", "BlockBlob") in headers else _fixed_by(headers, size),
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

    Raises:
        OSError: ENOSPC when the extended attributes become larger than a blob's metadata.
    """
    result = xattrs.changed(dict(metadata), changes.xattrs)
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


def quoted(etag: str) -> str:
    """An ETag as HTTP has it: headers come with quotes, listings without."""
    return etag if not etag or etag.startswith('"') else f'"{etag}"'


def modified(attributes: Attributes) -> dict[str, str]:
    """The metadata of a blob with its modification time, which the store's own is soon to differ.

    The store counts a change of metadata, and a copy, as a modification; a file system does not.
    Not of append and page blobs: what others write to them leaves the metadata as it is.
    """
    metadata = dict(attributes.metadata)
    known = any(name.lower() == MODIFIED for name in metadata)
    whole = dict(attributes.headers).get("x-ms-blob-type", "BlockBlob") == "BlockBlob"
    if known or not whole or not attributes.mtime_ns:
        return metadata
    complete = {**metadata, MODIFIED: str(attributes.mtime_ns)}
    return complete if xattrs.fits(complete) else metadata


def same(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two say the same: names of metadata differ in case depending on who tells them."""
    return {name.lower(): value for name, value in one.items()} == {
        name.lower(): value for name, value in other.items()
    }


def _fixed(blob_type: str | None, size: int) -> int:
    """How much of a blob cannot be changed: an append blob can only grow, a page blob not even."""
    if blob_type == "PageBlob":
        return sys.maxsize
    return size if blob_type == "AppendBlob" else 0


def _fixed_by(headers: tuple[tuple[str, str], ...], size: int) -> int:
    return _fixed(dict(headers).get("x-ms-blob-type"), size)


def _number(text: str | None) -> int | None:
    return (
        int(text)
        if text is not None and text.isascii() and text.isdigit() and len(text) < 20
        else None
    )


def _first(*values: int | None) -> int:
    return next((value for value in values if value is not None), 0)
