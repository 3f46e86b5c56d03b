"""Sending content to blobs: one Put Blob, or blocks and a block list; conditional either way."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import trio

from fuse.blob import headers as properties
from fuse.blob import metadata as posix
from fuse.blob.append import Appends
from fuse.blob.attempts import Attempt, Attempts
from fuse.blob.blocklist import document
from fuse.blob.blocks import LARGEST_BLOB, Block, Keep, Send, Step, Use, plan
from fuse.blob.blockstore import Blocks, BlockStore
from fuse.blob.errors import StoreError
from fuse.blob.recognition import Recognition, conflict
from fuse.blob.store import BlobStore
from fuse.buffers import BufferBudget
from fuse.errors import fail
from fuse.groups import single_error
from fuse.unmade import making
from fuse.volume import Attributes, Changes, DirtyContent, Staged

MIB = 1024 * 1024

#: Content up to this size is sent in one request (bytes).
SINGLE_PUT = 8 * MIB

#: Blocks of one commit on their way at a time.
UPLOADS = 8

#: Bytes of all commits that are in memory at a time.
BUFFERS = 64 * MIB


class Uploads:
    """Puts new content into the blobs of a :class:`BlobStore`.

    Attributes:
        allowed: Whether the store has taken something, and has not refused the right to it since.
    """

    def __init__(self, store: BlobStore) -> None:
        self.allowed = False
        self._store = store
        self._appends = Appends(store)
        self._recognition = Recognition(store)
        self._attempts = Attempts()
        self._buffers = BufferBudget(BUFFERS)
        self._blocks = BlockStore(store)

    async def put(
        self,
        path: str,
        body: bytes | memoryview,
        metadata: Mapping[str, str],
        condition: Mapping[str, str],
    ) -> Attributes:
        """Make ``body`` a block blob's whole content in one request.

        Raises:
            OSError: EEXIST or ESTALE when the condition does not hold, unless what is there is what
                an earlier try of this very request made before its answer was lost.
        """
        since = trio.current_time()
        try:
            return await self._put(path, None, body, metadata, condition)
        except StoreError as error:
            if not (conflict(error) and error.uncertain):
                raise
            found = await self._recognition.put(path, body, metadata, since)
            if found is None:
                raise
            return found

    async def commit(
        self, path: str, base: Attributes | None, content: DirtyContent, changes: Changes
    ) -> Attributes:
        """Make ``content`` a blob's content. See :meth:`fuse.volume.Volume.commit`."""
        if base is not None and base.unmade:
            return await self._make(path, base, content, changes)
        kind = properties.blob_type(base)
        if base is not None and kind == properties.APPEND:
            return await self._appends.commit(path, base, content, changes)
        if kind == properties.PAGE:
            fail(errno.EPERM, path, "page blobs can only be read here")
        if content.size > LARGEST_BLOB:
            fail(errno.EFBIG, path)
        try:
            return await self._commit(path, base, content, changes)
        except OSError as error:
            earlier = self._attempts.forget(path, base) if conflict(error) else None
            found = await self._made_by(path, earlier) if earlier else None
            if found is None:
                raise
        # An earlier commit of this file went through, its answer never came, and programs have
        # written more since: all of that rests on what it made.
        return await self._commit(path, found, content, changes)

    async def _make(
        self, path: str, unmade: Attributes, content: DirtyContent, changes: Changes
    ) -> Attributes:
        """Commit a file that is not in the store yet, unless it was made empty before."""
        first = making(unmade)
        # Of a file that was written to, its time is that of the last write.
        known = dataclasses.replace(first, mtime_ns=None).merged(changes)
        try:
            return await self.commit(path, None, content, known)
        except OSError as error:
            if not conflict(error):
                raise
            found = await self._recognition.head(path)
            metadata = posix.changed((), first, rewritten=True)
            if found is None or found.size or not posix.same(dict(found.metadata), metadata):
                raise
        # It was, by a request whose answer was lost, or whose sender has ended since.
        return await self.commit(path, found, content, changes)

    async def stage(
        self, path: str, base: Attributes, start: int, body: bytes | memoryview
    ) -> Staged | None:
        """Send a block ahead of its commit. See :meth:`fuse.volume.Volume.stage`."""
        if properties.blob_type(base) != properties.BLOCK:
            return None
        blocks = self._blocks.of(path, base)
        if base.size:
            await self._blocks.learn(path, base, blocks)
        identifier = await self._blocks.put(path, blocks, body)
        return Staged(start, start + len(body), identifier)

    async def _commit(
        self, path: str, base: Attributes | None, content: DirtyContent, changes: Changes
    ) -> Attributes:
        metadata = _metadata(base, content, changes)
        sent: list[Step] = []
        try:
            if content.size > SINGLE_PUT:
                return await self._put_blocks(path, base, content, metadata, sent)
            async with self._buffers.held(content.size):
                body = await content.read(0, content.size) if content.size else b""
                with self._remembered(path, base, lambda: Attempt.of_content(body)):
                    return await self._put(path, base, body, metadata, _condition(base))
        except OSError as error:
            if not conflict(error):
                raise
            found = await self._recognised(path, content, metadata, sent, changes)
            if found is None:
                raise
            return found

    @contextmanager
    def _remembered(
        self, path: str, base: Attributes | None, attempt: Callable[[], Attempt]
    ) -> Iterator[None]:
        """Remember a request that may have been carried out although it failed."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, StoreError) or error.uncertain:
                self._attempts.remember(path, base, attempt())
            raise
        self._attempts.forget(path, base)

    @contextmanager
    def _noting_rights(self) -> Iterator[None]:
        try:
            yield
        except PermissionError:
            self.allowed = False
            raise
        self.allowed = True

    async def _made_by(self, path: str, attempt: Attempt) -> Attributes | None:
        """What is in the store, if ``attempt`` made it."""
        found = await self._recognition.head(path)
        if found is None or found.size != attempt.size:
            return None
        if attempt.blocks:
            known = await self._blocks.listed(path)
            made = Attempt.of_blocks(found.size, (block.identifier for block in known.committed))
            return found if known.version == found.version and made == attempt else None
        return found if properties.digest(found) == attempt.digest else None

    async def _recognised(
        self,
        path: str,
        content: DirtyContent,
        metadata: Mapping[str, str],
        sent: Sequence[Step],
        changes: Changes,
    ) -> Attributes | None:
        """What is in the store, if an earlier try of this commit made it."""

        async def ours(found: Attributes) -> bool:
            attempt = _attempt(found.size, sent)
            return bool(sent) and await self._made_by(path, attempt) == found

        return await self._recognition.commit(
            path, content, metadata, ours=ours, compare_mtime=changes.mtime_ns is not None
        )

    async def _put(
        self,
        path: str,
        base: Attributes | None,
        body: bytes | memoryview,
        metadata: Mapping[str, str],
        condition: Mapping[str, str],
    ) -> Attributes:
        headers = {**_said(base, metadata), **condition}
        with self._noting_rights():
            response = await self._store.put_blob(path, body, headers)
        made = properties.made(base, len(body), response.headers, metadata)
        return properties.with_digest(made, response.headers)

    async def _put_blocks(
        self,
        path: str,
        base: Attributes | None,
        content: DirtyContent,
        metadata: Mapping[str, str],
        sent: list[Step],
    ) -> Attributes:
        """Send what is missing and commit the list; ``sent`` becomes that list."""
        blocks = self._blocks.of(path, base)
        staged = content.staged
        if base is not None and base.size and content.base_size:
            await self._blocks.learn(path, base, blocks)
        steps = self._plan(blocks, content, staged)
        sent[:] = await self._send(path, blocks, steps, content)
        try:
            made = await self._put_block_list(path, base, content.size, sent, metadata)
        except StoreError as error:
            if error.code != "InvalidBlockList":
                raise
            # Blocks that are not committed vanish when anybody writes the blob, and after a week.
            # Their bytes are still here, and are sent again, once.
            if base is not None:
                await self._blocks.learn(path, base, blocks, anew=True)
            staged = ()
            steps = self._plan(blocks, content, staged)
            sent[:] = await self._send(path, blocks, steps, content)
            made = await self._put_block_list(path, base, content.size, sent, metadata)
        self._blocks.committed(path, base, made, _lengths(blocks.kept, staged, steps, sent))
        return made

    def _plan(self, blocks: Blocks, content: DirtyContent, staged: Sequence[Staged]) -> list[Step]:
        return plan(blocks.kept, content.base_size, content.dirty_ranges, content.size, staged)

    async def _send(
        self, path: str, blocks: Blocks, steps: Sequence[Step], content: DirtyContent
    ) -> list[Step]:
        """Send what has to be sent; the list with those blocks' ids in it."""
        done: list[Step] = list(steps)
        queue = ((index, step) for index, step in enumerate(steps) if isinstance(step, Send))
        with single_error():
            async with trio.open_nursery() as nursery:
                for _ in range(UPLOADS):
                    nursery.start_soon(self._send_some, path, blocks, queue, content, done)
        return done

    async def _send_some(
        self,
        path: str,
        blocks: Blocks,
        queue: Iterator[tuple[int, Send]],
        content: DirtyContent,
        done: list[Step],
    ) -> None:
        for index, step in queue:
            size = step.end - step.start
            async with self._buffers.held(size):
                body = await content.read(step.start, size)
                done[index] = Use(await self._blocks.put(path, blocks, body))

    async def _put_block_list(
        self,
        path: str,
        base: Attributes | None,
        size: int,
        steps: Sequence[Step],
        metadata: Mapping[str, str],
    ) -> Attributes:
        headers = {**_said(base, metadata), **_condition(base)}
        with self._remembered(path, base, lambda: _attempt(size, steps)), self._noting_rights():
            response = await self._store.request(
                "PUT",
                path,
                query="comp=blocklist",
                headers=headers,
                body=document(_listed(steps)),
            )
        return properties.made(base, size, response.headers, metadata)


def _listed(steps: Iterable[Step]) -> list[Keep | Use]:
    return [step for step in steps if not isinstance(step, Send)]


def _attempt(size: int, steps: Iterable[Step]) -> Attempt:
    return Attempt.of_blocks(size, (step.identifier for step in _listed(steps)))


def _lengths(
    kept: Sequence[Block], staged: Sequence[Staged], steps: Sequence[Step], sent: Sequence[Step]
) -> list[Block]:
    """The blocks of a version that was committed as ``sent``, after the plan in ``steps``."""
    known = {block.identifier: block.size for block in kept}
    known |= {piece.identifier: piece.end - piece.start for piece in staged}
    for planned, step in zip(steps, _listed(sent), strict=True):
        if isinstance(planned, Send):
            known[step.identifier] = planned.end - planned.start
    return [Block(step.identifier, known[step.identifier]) for step in _listed(sent)]


def _metadata(base: Attributes | None, content: DirtyContent, changes: Changes) -> dict[str, str]:
    """Metadata of the new version; it says when the content was written last, unless it is set."""
    mtime = content.mtime_ns if changes.mtime_ns is None else changes.mtime_ns
    return posix.changed(
        base.metadata if base else (), changes.merged(Changes(mtime_ns=mtime)), rewritten=True
    )


def _condition(base: Attributes | None) -> dict[str, str]:
    return {"If-Match": base.version} if base else {"If-None-Match": "*"}


def _said(base: Attributes | None, metadata: Mapping[str, str]) -> dict[str, str]:
    """Headers for everything that goes with the content and would be lost otherwise."""
    return {**properties.carried(base), **properties.named(metadata)}
