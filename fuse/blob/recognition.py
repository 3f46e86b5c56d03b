"""Telling our own work from that of others, where the answer to a request was lost.

A conditional request whose answer is lost is sent again, and then meets its own new version: the
store says that the condition does not hold (412 ConditionNotMet, 409 BlobAlreadyExists). The same
happens to the next mount after a crash between the store's success and the end of the commit. What
the store holds then decides:

- A block list with exactly the ids that were committed here: they are random, so it is ours.
- Else the length, the metadata, and every byte that was written here, read back and compared. The
  bytes of the base that were left alone cannot be compared, the base is gone; but all that was
  acknowledged to a program is in the store, which is what the commit was to bring about. It costs
  two requests where the length differs or the first bytes do, which is what conflicts look like.
- For an empty file or a directory's marker, made on the condition that the name was free: the same
  length, checksum and metadata, not older than the first try.
"""

from __future__ import annotations

import base64
import errno
import hashlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from email.utils import parsedate_to_datetime

import trio

from fuse.blob import headers as properties
from fuse.blob import metadata as posix
from fuse.blob.store import BlobStore
from fuse.ranges import RangeSet
from fuse.volume import Attributes, DirtyContent

#: Bytes that are read back and compared at a time.
CHUNK = 4 * 1024 * 1024


def conflict(error: OSError) -> bool:
    """Whether the store holds something else than a request's condition named."""
    return error.errno in {errno.ESTALE, errno.EEXIST}


class Recognition:
    """Looks at what a :class:`BlobStore` holds after a conflict."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def head(self, path: str) -> Attributes | None:
        """The blob as it is now, None where there is none."""
        response = await self._head(path)
        return None if response is None else properties.attributes(response)

    async def put(
        self, path: str, body: bytes | memoryview, metadata: Mapping[str, str], since: float
    ) -> Attributes | None:
        """The blob, if it is what a Put Blob with these arguments makes.

        Args:
            path: The blob.
            body: Its content.
            metadata: Its metadata.
            since: When the request was sent first (trio's clock): what is older is not ours.
        """
        head = await self._head(path)
        if head is None or int(head["content-length"]) != len(body):
            return None
        found = properties.attributes(head)
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        if head.get("content-md5") != base64.b64encode(digest).decode():
            return None
        # Both times are the store's own, and in whole seconds.
        age = parsedate_to_datetime(head["date"]) - parsedate_to_datetime(head["last-modified"])
        if age.total_seconds() > trio.current_time() - since + 1:
            return None
        return found if _comparable(found.metadata) == _comparable(metadata.items()) else None

    async def commit(
        self,
        path: str,
        content: DirtyContent,
        metadata: Mapping[str, str],
        *,
        ours: Callable[[Attributes], Awaitable[bool]],
        compare_mtime: bool,
    ) -> Attributes | None:
        """The blob, if it is what a commit of ``content`` makes.

        Args:
            path: The blob.
            content: What was to be committed.
            metadata: The metadata that was to go with it.
            ours: Whether that version is proven to be ours already, by its block list.
            compare_mtime: Whether ``modtime`` was set by a program. Otherwise it is a time on this
                node's clock that an earlier try need not have had.
        """
        found = await self.head(path)
        if found is None or found.size != content.size:
            return None
        if await ours(found):
            return found
        ignored = set() if compare_mtime else {posix.MODIFIED}
        if _comparable(found.metadata, ignored) != _comparable(metadata.items(), ignored):
            return None
        written = _written(content)
        if content.size and not written:
            # Only cut, so there are no bytes to compare; the time tells, to the nanosecond.
            same = _comparable(found.metadata) == _comparable(metadata.items())
            return found if same else None
        for start, end in written:
            if not await self.same(path, found, content, start, end):
                return None
        return found

    async def same(
        self, path: str, found: Attributes, content: DirtyContent, start: int, end: int
    ) -> bool:
        """Whether ``[start, end)`` of the version ``found`` and of ``content`` are the same."""
        for position in range(start, end, CHUNK):
            theirs = bytearray(min(CHUNK, end - position))
            await self._store.get_range(
                path, found.version, position, memoryview(theirs), lambda _filled: None
            )
            if bytes(theirs) != bytes(await content.read(position, len(theirs))):
                return False
        return True

    async def _head(self, path: str) -> Mapping[str, str] | None:
        try:
            return (await self._store.head(path)).headers
        except FileNotFoundError:
            return None


def _written(content: DirtyContent) -> list[tuple[int, int]]:
    """What of the content is ours: the dirty ranges, and zeros behind the end of the base."""
    ranges = RangeSet()
    for start, end in content.dirty_ranges:
        ranges.add(start, end)
    ranges.add(content.base_size, content.size)
    return list(ranges)


def _comparable(
    metadata: Iterable[tuple[str, str]], ignored: Collection[str] = ()
) -> dict[str, str]:
    # Names of metadata differ in case depending on who lists them.
    known = {name.lower(): value for name, value in metadata}
    return {name: value for name, value in known.items() if name not in ignored}
