"""Committing to append blobs: they grow, and nothing else.

New content that only continues the version that was opened is appended, block by block, each on the
condition that the blob is as long as it should be and has not been touched by others. Blocks that
went through before a failure stay; the next try finds them by their position, compares them, and
goes on behind them.
"""

from __future__ import annotations

import errno

from fuse.blob import headers as properties
from fuse.blob import metadata as posix
from fuse.blob.recognition import Recognition, conflict
from fuse.blob.store import BlobStore
from fuse.errors import fail
from fuse.volume import Attributes, Changes, DirtyContent

#: Largest block of Append Block in bytes (before service version 2022-11-02).
LARGEST_APPEND = 4 * 1024 * 1024


class Appends:
    """Appends to the blobs of a :class:`BlobStore`."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._recognition = Recognition(store)

    async def commit(
        self, path: str, base: Attributes, content: DirtyContent, changes: Changes
    ) -> Attributes:
        """Bring the blob from ``base`` to ``content``.

        Raises:
            OSError: EPERM when the content did not only grow (open(2) says the same of files with
                the append-only attribute); ESTALE when others changed the blob meanwhile.
        """
        if content.base_size < base.size or any(
            start < base.size for start, _ in content.dirty_ranges
        ):
            fail(errno.EPERM, path, "an append blob can only be appended to")
        found = base
        while found.size < content.size:
            try:
                found = await self._append(path, found, content)
            except OSError as error:
                if not conflict(error):
                    raise
                found = await self._behind(path, found, content, error)
        return await self._describe(path, base, found, changes)

    async def _append(self, path: str, found: Attributes, content: DirtyContent) -> Attributes:
        size = min(LARGEST_APPEND, content.size - found.size)
        body = await content.read(found.size, size)
        response = await self._store.request(
            "PUT",
            path,
            query="comp=appendblock",
            headers={"If-Match": found.version, "x-ms-blob-condition-appendpos": str(found.size)},
            body=body,
        )
        return properties.made(found, found.size + size, response.headers, dict(found.metadata))

    async def _behind(
        self, path: str, known: Attributes, content: DirtyContent, error: OSError
    ) -> Attributes:
        """The blob as it is, if it has gone on from ``known`` with bytes of ``content``."""
        found = await self._recognition.head(path)
        if (
            found is None
            or properties.blob_type(found) != properties.APPEND
            or not known.size < found.size <= content.size
            or not await self._recognition.same(path, found, content, known.size, found.size)
        ):
            raise error
        return found

    async def _describe(
        self, path: str, base: Attributes, found: Attributes, changes: Changes
    ) -> Attributes:
        """Set what changes of the metadata, which appending leaves alone."""
        metadata = posix.changed(base.metadata, changes, rewritten=True)
        if metadata == dict(base.metadata):
            return found
        try:
            response = await self._store.request(
                "PUT",
                path,
                query="comp=metadata",
                headers={"If-Match": found.version, **properties.named(metadata)},
            )
        except OSError as error:
            latest = await self._recognition.head(path) if conflict(error) else None
            if latest is None or latest.size != found.size or dict(latest.metadata) != metadata:
                raise
            return latest  # by an earlier try, whose answer was lost
        return properties.made(found, found.size, response.headers, metadata)
