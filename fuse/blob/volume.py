"""A blob container as a volume."""

from __future__ import annotations

import base64
import errno
import functools
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import trio
from azure.core import MatchConditions
from azure.storage.blob import BlobBlock, BlobPrefix, BlobProperties

from fuse.blob import metadata as posix
from fuse.blob.blocks import Block, Keep, Send, plan
from fuse.blob.store import BlobStore
from fuse.errors import fail
from fuse.groups import single_error
from fuse.volume import Attributes, Changes, DirtyContent, Entry, Kind, Progress, Space, Staged

MIB = 1024 * 1024

#: Content up to this size is sent in one request (bytes).
SINGLE_PUT = 8 * MIB

#: Blocks on their way at a time; with 8 MiB each they take 64 MiB.
UPLOADS = 8

#: Entries of one List Blobs page: the service's limit.
PAGE = 5000

#: How often to look whether a copy inside the store has ended (seconds).
COPY_POLL = 0.25

_DIRECTORY = Attributes(Kind.DIRECTORY)


class BlobVolume:
    """Implements :class:`fuse.volume.Volume` over a :class:`BlobStore`."""

    preferred_read = 8 * MIB
    commit_interval: float | None = None
    name_max = 255
    attribute_timeout = 10.0
    keeps_xattrs = False

    def __init__(self, store: BlobStore) -> None:
        self.source = f"{store.account}/{store.container}"
        self.identity = f"blob:{store.endpoint}/{store.container}"
        self._store = store
        self._client = store.client

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, *, account: str, endpoint: str, container: str, key: str
    ) -> AsyncIterator[BlobVolume]:
        """Open a container.

        Raises:
            MountError: It cannot be used, and why.
        """
        store = BlobStore(account=account, endpoint=endpoint, container=container, key=key)
        async with store.opened():
            yield cls(store)

    # -- names --------------------------------------------------------------------------------

    async def stat(self, path: str) -> Attributes:
        """A blob's properties, or a directory where only names below it exist."""
        if not path:
            return _DIRECTORY
        try:
            return _from_headers((await self._store.head(path)).headers)
        except FileNotFoundError:
            if await self._has_children(path):
                return _DIRECTORY
            raise

    async def list(self, path: str) -> AsyncGenerator[Sequence[Entry], None]:
        """The names below ``path``, a page of the service at a time."""
        prefix = f"{path}/" if path else ""
        pages = self._client.walk_blobs(
            name_starts_with=prefix, include=["metadata"], delimiter="/", results_per_page=PAGE
        ).by_page()
        directories: set[str] = set()
        while True:
            page = await self._store.call(path, functools.partial(_next_page, pages))
            if page is None:
                return
            entries: list[Entry] = []
            for item in page:
                entry = _entry(item, prefix)
                if entry is None or entry.name in directories:
                    continue
                if entry.attributes.kind is Kind.DIRECTORY:
                    directories.add(entry.name)
                entries.append(entry)
            yield entries

    async def make_directory(self, path: str, mode: int | None) -> Attributes:
        """A marker blob, as blobfuse and azcopy make them."""
        if await self._has_children(path):
            fail(errno.EEXIST, path)
        metadata = posix.changed(
            {posix.FOLDER: "true"}.items(), Changes(mode=mode), kind=Kind.DIRECTORY, rewritten=False
        )
        await self._put(path, b"", metadata, {"If-None-Match": "*"})
        return Attributes(
            Kind.DIRECTORY, mode=mode, mtime_ns=_now(), metadata=tuple(metadata.items())
        )

    async def remove_directory(self, path: str) -> None:
        """Delete the marker of a directory that nothing is in."""
        if await self._has_children(path):
            fail(errno.ENOTEMPTY, path)
        with suppress(FileNotFoundError):  # without a marker it ended with the last name in it
            await self._store.call(path, self._client.delete_blob, path)

    async def unlink(self, path: str) -> None:
        """Delete a blob."""
        await self._store.call(path, self._client.delete_blob, path)

    async def rename(
        self, source: str, target: str, attributes: Attributes, *, replace: bool
    ) -> Attributes:
        """Copy inside the store, then delete: a flat container has no rename."""
        if attributes.kind is not Kind.DIRECTORY:
            return await self._rename_blob(source, target, replace=replace)
        if await self._has_children(target):
            fail(errno.ENOTEMPTY if replace else errno.EEXIST, target)
        names = await self._store.call(source, self._names_below, f"{source}/")
        limiter = trio.CapacityLimiter(UPLOADS)
        with single_error():
            async with trio.open_nursery() as nursery:
                for name in names:
                    renamed = f"{target}{name[len(source) :]}"
                    nursery.start_soon(self._rename_one, limiter, name, renamed)
        with suppress(FileNotFoundError):  # there may be no marker to move
            await self._rename_blob(source, target, replace=True)
        return attributes

    async def symlink(self, path: str, target: str) -> Attributes:
        """A blob with the target as content, as blobfuse and azcopy make them."""
        body = target.encode()
        made = await self._put(path, body, {posix.SYMLINK: "true"}, {"If-None-Match": "*"})
        return made.changed(kind=Kind.SYMLINK, size=len(body))

    async def readlink(self, path: str, attributes: Attributes) -> str:
        """The content of a link's blob."""
        buffer = bytearray(attributes.size)
        await self.read_into(path, attributes, 0, memoryview(buffer), lambda _filled: None)
        return buffer.decode(errors="surrogateescape")

    # -- content ------------------------------------------------------------------------------

    async def read_into(
        self, path: str, attributes: Attributes, offset: int, buffer: memoryview, progress: Progress
    ) -> None:
        """One conditional range request."""
        try:
            await self._store.get_range(path, attributes.version, offset, buffer, progress)
        except FileNotFoundError:
            fail(errno.ESTALE, path, "the blob was deleted while it was open")

    async def create(
        self, path: str, mode: int | None, uid: int | None, gid: int | None
    ) -> Attributes:
        """An empty blob, made only if the name is free."""
        metadata = posix.changed((), Changes(mode=mode, uid=uid, gid=gid), rewritten=True)
        return await self._put(path, b"", metadata, {"If-None-Match": "*"})

    async def commit(
        self, path: str, base: Attributes | None, content: DirtyContent, changes: Changes
    ) -> Attributes:
        """One Put Blob, or the blocks that changed and a new block list; conditional either way."""
        metadata = posix.changed(base.metadata if base else (), changes, rewritten=True)
        condition = {"If-Match": base.version} if base else {"If-None-Match": "*"}
        if content.size <= SINGLE_PUT:
            body = await content.read(0, content.size) if content.size else b""
            return await self._put(path, body, metadata, condition)
        return await self._commit_blocks(path, base, content, metadata)

    async def set_attributes(
        self, path: str, attributes: Attributes, changes: Changes
    ) -> Attributes:
        """Keep mode, owner and times in the blob's metadata."""
        if attributes.kind is Kind.DIRECTORY and not attributes.metadata:
            # No marker to keep them in: make one, and the directory also outlives its last file.
            base = {posix.FOLDER: "true"}
            merged = posix.changed(base.items(), changes, kind=Kind.DIRECTORY, rewritten=False)
            await self._put(path, b"", merged, {"If-None-Match": "*"})
            return await self.stat(path)
        merged = posix.changed(attributes.metadata, changes, kind=attributes.kind, rewritten=False)
        blob = self._client.get_blob_client(path)
        condition: dict[str, Any] = {}
        if attributes.version:
            condition = {
                "etag": attributes.version,
                "match_condition": MatchConditions.IfNotModified,
            }
        answer = await self._store.call(path, blob.set_blob_metadata, merged, **condition)
        fresh = posix.attributes(
            size=attributes.size,
            etag=str(answer["etag"]),
            last_modified=_time(answer["last_modified"]),
            metadata=merged,
        )
        return fresh.changed(
            mtime_ns=attributes.mtime_ns if changes.mtime_ns is None else changes.mtime_ns
        )

    async def continues(self, path: str, old: Attributes, new: Attributes) -> bool:
        """A block blob that changed was replaced as a whole."""
        del path, old, new
        await trio.lowlevel.checkpoint()
        return False

    async def exchange(self, one: str, other: str) -> None:
        """A flat container has no such operation. EINVAL."""
        await trio.lowlevel.checkpoint()
        fail(errno.EINVAL, one, f"cannot change places with {other}")

    def staging_size(self, offset: int) -> int:
        """Nothing is sent ahead."""
        del offset
        return 0

    async def stage(
        self, path: str, base: Attributes, start: int, body: bytes | memoryview
    ) -> Staged | None:
        """Nothing is sent ahead."""
        del path, base, start, body
        await trio.lowlevel.checkpoint()
        return None

    async def space(self) -> Space:
        """A container has no limit that anyone would meet."""
        await trio.lowlevel.checkpoint()
        return Space()

    def statistics(self) -> dict[str, int | float]:
        """Requests, bytes, retries, errors."""
        return dict(self._store.counters)

    # -- internals ----------------------------------------------------------------------------

    async def _has_children(self, path: str) -> bool:
        names = await self._store.call(path, self._names_below, f"{path}/" if path else "", 1)
        return bool(names)

    def _names_below(self, prefix: str, limit: int | None = None) -> Sequence[str]:
        found: list[str] = []
        for name in self._client.list_blob_names(
            name_starts_with=prefix, results_per_page=2 if limit else PAGE
        ):
            if name != prefix or limit is None:
                found.append(name)
            if limit is not None and len(found) >= limit:
                break
        return found

    async def _rename_one(self, limiter: trio.CapacityLimiter, source: str, target: str) -> None:
        async with limiter:
            await self._rename_blob(source, target, replace=True)

    async def _rename_blob(self, source: str, target: str, *, replace: bool) -> Attributes:
        origin = self._client.get_blob_client(source)
        copy = self._client.get_blob_client(target)
        condition: dict[str, Any] = (
            {} if replace else {"etag": "*", "match_condition": MatchConditions.IfMissing}
        )
        found = await self._store.call(source, origin.get_blob_properties)
        answer = await self._store.call(
            source,
            copy.start_copy_from_url,
            origin.url,
            source_etag=found.etag,
            source_match_condition=MatchConditions.IfNotModified,
            **condition,
        )
        status = str(answer["copy_status"])
        while True:
            properties = await self._store.call(target, copy.get_blob_properties)
            status = str(properties.copy.status or status)
            if status != "pending":
                break
            await trio.sleep(COPY_POLL)
        if status != "success":
            fail(errno.EIO, source, f"the copy inside the store ended as {status}")
        await self._store.call(
            source,
            origin.delete_blob,
            etag=found.etag,
            match_condition=MatchConditions.IfNotModified,
        )
        return _attributes(properties)

    async def _put(
        self,
        path: str,
        body: bytes | memoryview,
        metadata: dict[str, str],
        condition: dict[str, str],
    ) -> Attributes:
        headers = {f"x-ms-meta-{name}": value for name, value in metadata.items()}
        response = await self._store.put_blob(path, body, {**headers, **condition})
        return posix.attributes(
            size=len(body), etag=response.headers["etag"], last_modified=None, metadata=metadata
        ).changed(mtime_ns=_now(), ctime_ns=_now())

    async def _commit_blocks(
        self, path: str, base: Attributes | None, content: DirtyContent, metadata: dict[str, str]
    ) -> Attributes:
        blob = self._client.get_blob_client(path)
        blocks: list[Block] = []
        length = 24
        if base is not None and base.size and content.base_size:
            committed, _ = await self._store.call(path, blob.get_block_list, "committed")
            blocks = [Block(block.id, block.size) for block in committed]
            # All ids of a blob have one length; with ids too short to be unique, start over.
            length = len(blocks[0].identifier) if blocks else length
            if length < 16:
                blocks, length = [], 24
        steps = plan(blocks, content.base_size, content.dirty_ranges, content.size)
        names: list[str] = []
        limiter = trio.CapacityLimiter(UPLOADS)
        with single_error():
            async with trio.open_nursery() as nursery:
                for step in steps:
                    if isinstance(step, Keep):
                        names.append(step.identifier)
                        continue
                    # The SDK encodes ids once more on the way out and decodes them on the way in.
                    name = secrets.token_hex(length)[:length]
                    names.append(name)
                    await limiter.acquire_on_behalf_of(name)
                    nursery.start_soon(self._send_block, path, name, step, content, limiter)
        condition: dict[str, Any] = (
            {"etag": base.version, "match_condition": MatchConditions.IfNotModified}
            if base
            else {"etag": "*", "match_condition": MatchConditions.IfMissing}
        )
        answer = await self._store.call(
            path,
            blob.commit_block_list,
            [BlobBlock(name) for name in names],
            metadata=metadata,
            **condition,
        )
        return posix.attributes(
            size=content.size,
            etag=str(answer["etag"]),
            last_modified=_time(answer["last_modified"]),
            metadata=metadata,
        )

    async def _send_block(
        self,
        path: str,
        name: str,
        step: Send,
        content: DirtyContent,
        limiter: trio.CapacityLimiter,
    ) -> None:
        try:
            body = await content.read(step.start, step.end - step.start)
            encoded = base64.b64encode(name.encode()).decode()
            await self._store.put_block(path, encoded, body)
        finally:
            limiter.release_on_behalf_of(name)


def _attributes(properties: BlobProperties) -> Attributes:
    return posix.attributes(
        size=properties.size,
        etag=str(properties.etag),
        last_modified=properties.last_modified,
        metadata=properties.metadata,
    )


def _from_headers(headers: Mapping[str, str]) -> Attributes:
    prefix = "x-ms-meta-"
    return posix.attributes(
        size=int(headers["content-length"]),
        etag=headers["etag"],
        last_modified=parsedate_to_datetime(headers["last-modified"]),
        metadata={
            name.removeprefix(prefix): value
            for name, value in headers.items()
            if name.startswith(prefix)
        },
    )


def _entry(item: BlobProperties | BlobPrefix, prefix: str) -> Entry | None:
    """The directory entry of a listed item; None for names that no path can say."""
    if isinstance(item, BlobPrefix):
        name = item.name[len(prefix) :].rstrip("/")
        return Entry(name, _DIRECTORY) if name else None
    name = item.name[len(prefix) :]
    if not name or "\0" in name or name in {".", ".."}:
        return None
    return Entry(name, _attributes(item))


def _next_page(pages: Iterator[Iterator[Any]]) -> Sequence[Any] | None:
    page = next(pages, None)
    return None if page is None else list(page)


def _time(value: str | datetime) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _now() -> int:
    return time.time_ns()
