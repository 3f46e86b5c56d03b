"""Renaming blobs, and letting two names change places; with what a crash left of it."""

from __future__ import annotations

import errno
import posixpath
import secrets
from collections.abc import Callable
from typing import Any, Final

import trio

from fuse.blob.copies import IF_FREE, Copies, Head
from fuse.blob.listing import Blob, Listing
from fuse.blob.moves import KIND as MOVE
from fuse.blob.moves import Moves
from fuse.blob.trees import KIND as TREE
from fuse.blob.trees import Trees
from fuse.blob.unsettled import Unsettled, names_of
from fuse.errors import fail
from fuse.intents import Intent, Intents
from fuse.logs import log
from fuse.volume import Kind

_EXCHANGE: Final = "exchange"
_EXCHANGE_TREES: Final = "exchange-trees"


class Renames:
    """Renames in one container. All names are blobs' names.

    Args:
        listing: Of the container.
        copies: In it.
        intents: Where operations of several requests are written down; None: nowhere.
        moved: Told of each name whose tree may be another one now, after something was settled.

    Attributes:
        unsettled: What failed half-way.
        trees: Renames directories.
        blobs: Renames blobs.
    """

    def __init__(
        self,
        listing: Listing,
        copies: Copies,
        intents: Intents | None,
        moved: Callable[[str], None],
    ) -> None:
        self._moved = moved
        self._listing = listing
        self._copies = copies
        self.unsettled = Unsettled(intents, self._resume, _EXCHANGE_TREES)
        self.trees = Trees(listing, copies, self.unsettled)
        self.blobs = Moves(copies, intents, self.unsettled)

    async def exchange(self, one: str, other: str) -> None:
        """Let two names change places. ENOENT; EINVAL where one is inside the other."""
        if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
            fail(errno.EINVAL, one)
        first, second = await self._copies.head(one), await self._copies.head(other)
        if (
            first is not None
            and second is not None
            and Kind.DIRECTORY not in {first.attributes.kind, second.attributes.kind}
        ):
            await self._exchange_blobs(one, first, other, second)
        else:
            await self._exchange_trees(one, other)

    # -- internals ----------------------------------------------------------------------------

    async def _exchange_blobs(self, one: str, first: Head, other: str, second: Head) -> None:
        temporary = _temporary(one)
        details = {"one": one, "other": other, "temporary": temporary}
        etags = {"one_etag": first.etag, "other_etag": second.etag}
        copy, remove = self._copies.copy, self._copies.remove
        kept: Head | None = None
        moved: Head | None = None
        async with self.unsettled.begun(_EXCHANGE, {**details, **etags}) as under_way:
            try:
                kept = await copy(_blob(one, first), temporary, IF_FREE)
                moved = await copy(_blob(other, second), one, {"If-Match": first.etag})
                await copy(_blob(temporary, kept), other, {"If-Match": second.etag})
            except OSError as error:
                if not getattr(error, "uncertain", False):  # else it is looked how far it came
                    if kept is not None and moved is not None:
                        await copy(_blob(temporary, kept), one, {"If-Match": moved.etag})
                    if kept is not None:
                        await remove(temporary, kept.etag)
                    await under_way.end()
                raise
            await remove(temporary, kept.etag)

    async def _exchange_trees(self, one: str, other: str) -> None:
        for name in (one, other):
            if not await self._exists(name):
                fail(errno.ENOENT, name)
        temporary = _temporary(one)
        details = {"one": one, "other": other, "temporary": temporary}
        async with self.unsettled.begun(_EXCHANGE_TREES, details) as under_way:
            await self._move(one, temporary)
            try:
                await self._move(other, one)
            except OSError:
                await self._move(temporary, one)
                await under_way.end()
                raise
            await self._move(temporary, other)

    async def _resume(self, intent: Intent) -> None:
        for name in names_of(intent):
            self._moved(name)
        if intent.kind == TREE:
            await self.trees.resume(intent)
        elif intent.kind == MOVE:
            await self.blobs.resume(intent)
        elif intent.kind == _EXCHANGE:
            await self._resume_exchange(intent)
        elif intent.kind == _EXCHANGE_TREES:
            await self._resume_exchange_trees(intent)
        else:
            log.error("an intent of an unknown kind", kind=intent.kind, path=str(intent.path))

    async def _resume_exchange(self, intent: Intent) -> None:
        """Undo before the first name has changed, complete afterwards."""
        details: dict[str, Any] = intent.details
        one, other, temporary = details["one"], details["other"], details["temporary"]
        kept = await self._copies.head(temporary)
        if kept is not None:
            first, second = await self._copies.head(one), await self._copies.head(other)
            if first is not None and self._copies.is_copy(first, other):
                if second is not None and second.etag == details["other_etag"]:
                    copy = self._copies.copy
                    await copy(_blob(temporary, kept), other, {"If-Match": second.etag})
                elif second is None or not self._copies.is_copy(second, temporary):
                    fail(errno.ESTALE, other, f"it changed; its new content is at {temporary}")
            elif first is None or first.etag != details["one_etag"]:
                fail(errno.ESTALE, one, f"it changed; what it was is at {temporary}")
            await self._copies.remove(temporary, kept.etag)
        log.warning("an interrupted exchange of names is settled", one=one, other=other)
        await trio.to_thread.run_sync(intent.end)

    async def _resume_exchange_trees(self, intent: Intent) -> None:
        details: dict[str, Any] = intent.details
        one, other, temporary = details["one"], details["other"], details["temporary"]
        # What it consists of comes first.
        if self.unsettled.is_pending((one, other, temporary), intent):
            fail(errno.EBUSY, one, "a part of it is incomplete")
        if await self._exists(temporary):
            if not await self._exists(one):
                await self._move(temporary, one)
            elif not await self._exists(other):
                await self._move(temporary, other)
            else:
                fail(errno.EEXIST, temporary, f"both {one} and {other} are there, and so is it")
        log.warning("an interrupted exchange of names is settled", one=one, other=other)
        await trio.to_thread.run_sync(intent.end)

    async def _exists(self, name: str) -> bool:
        there = await self._copies.head(name)
        return there is not None or bool(await self._listing.some(f"{name}/", 1))

    async def _move(self, source: str, target: str) -> None:
        there = await self._copies.head(source)
        if there is None or there.attributes.kind is Kind.DIRECTORY:
            await self.trees.rename(source, target, replace=False)
        else:
            await self.blobs.move(source, target, there.attributes, replace=False)


def _blob(name: str, head: Head) -> Blob:
    return Blob(name, head.etag, head.attributes)


def _temporary(name: str) -> str:
    directory, base = posixpath.split(name)
    return posixpath.join(directory, f".{base[:200]}.{secrets.token_hex(8)}.exchange")
