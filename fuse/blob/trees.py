"""Renaming directories: many copies and deletions that count as one.

First everything is copied, then everything is deleted: until the first deletion the old tree is
whole, and whatever goes wrong is undone by deleting copies. From then on the new tree is whole, and
what is interrupted is completed by deleting the rest. An intent on disk says how far it is: what
fails in the middle is settled in the background, what a crash interrupts by the next mount.

Every copy and every deletion is conditional on the version that the plan was made with: what other
nodes write meanwhile is never overwritten and never deleted.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from fuse.blob import names
from fuse.blob.copies import CHASES, IF_FREE, Copies, Head
from fuse.blob.listing import Blob, Listing
from fuse.blob.unsettled import Undertaking, Unsettled
from fuse.errors import fail
from fuse.groups import single_error
from fuse.intents import Intent
from fuse.logs import log
from fuse.volume import Kind

Item = TypeVar("Item")

#: The kind of its intents.
KIND: Final = "rename"

#: Phases after the copying.
DELETING: Final = "deleting"
UNDOING: Final = "undoing"

#: Copies and deletions under way at a time.
CONCURRENCY: Final = 24

#: Seconds for undoing a rename that failed.
UNDO_PATIENCE: Final = 60.0

#: How often to look for what was made in the old directory while it was renamed.
_ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Move:
    """One blob of a tree.

    Attributes:
        source: What it is called before, and its version.
        target: What it is called after.
    """

    source: Blob
    target: str


class Trees:
    """Renames directories of one container. All names are blobs' names."""

    def __init__(self, listing: Listing, copies: Copies, unsettled: Unsettled) -> None:
        self._listing = listing
        self._copies = copies
        self._unsettled = unsettled

    async def rename(self, source: str, target: str, *, replace: bool) -> None:
        """Rename a directory; with ``replace`` an empty one may be in the way.

        Raises:
            OSError: ENOENT, ENOTEMPTY or EEXIST, ENAMETOOLONG before anything is done; the reason
                of the store when it failed and was undone.
        """
        plan = await self._plan(source, target)
        if not plan:
            fail(errno.ENOENT, source)
        await self._check_target(target, replace=replace)
        details = {
            "source": source,
            "target": target,
            "blobs": [[move.source.name[len(source) :], move.source.etag] for move in plan],
        }
        async with self._unsettled.begun(KIND, details) as under_way:
            under_way.left = 2 * len(plan)
            await self._copy_or_undo(plan, under_way)
            await under_way.note(phase=DELETING)
            await self._delete_or_undo(plan, under_way)
            await self._latecomers(source, target)

    async def resume(self, intent: Intent) -> None:
        """Complete or undo a rename that a crash interrupted. OSError leaves it for later."""
        source, target = str(intent.details["source"]), str(intent.details["target"])
        planned = [
            (f"{source}{suffix}", str(etag), f"{target}{suffix}")
            for suffix, etag in intent.details["blobs"]
        ]
        said = {"source": source, "target": target, "blobs": len(planned)}
        phase = intent.details.get("phase")
        if phase == DELETING:
            kept = await self._resume_deleting(planned, source, target)
            log.warning("completed a rename that was interrupted", kept=sorted(kept), **said)
        elif phase == UNDOING:
            await _each(planned, lambda item: self._remove_copy(item[0], item[2], ""))
            log.warning("undid a rename that had failed", **said)
        elif await self._resume_copying(planned, source, target, intent):
            log.warning("completed a rename that was interrupted", **said)
        else:
            log.warning("undid a rename that was interrupted: its source changed", **said)
        await trio.to_thread.run_sync(intent.end)

    # -- steps --------------------------------------------------------------------------------

    async def _plan(self, source: str, target: str) -> list[Move]:
        moves = []
        marker = await self._copies.head(source)
        if marker is not None and marker.attributes.kind is Kind.DIRECTORY:
            moves.append(Move(Blob(source, marker.etag, marker.attributes), target))
        async with aclosing(self._listing.pages(f"{source}/")) as pages:
            async for page in pages:
                moves += [Move(blob, f"{target}{blob.name[len(source) :]}") for blob in page.blobs]
        for move in moves:
            names.check_length(move.target)
        return moves

    async def _check_target(self, target: str, *, replace: bool) -> None:
        prefix = f"{target}/"
        below = await self._listing.some(prefix, 2)
        if any(blob.name != prefix or blob.attributes.size for blob in below):
            fail(errno.ENOTEMPTY if replace else errno.EEXIST, target)
        marker = await self._copies.head(target)
        if marker is not None and (not replace or marker.attributes.kind is not Kind.DIRECTORY):
            fail(errno.ENOTDIR if replace else errno.EEXIST, target)

    async def _copy_or_undo(self, plan: Sequence[Move], under_way: Undertaking) -> None:
        """Copy everything; on failure delete the copies, and the old tree is as it was."""
        begun: dict[str, str] = {}

        async def copy(move: Move) -> None:
            begun[move.target] = ""
            begun[move.target] = (await self._copy(move, resumed=False)).etag
            under_way.left -= 1

        try:
            await _each(plan, copy)
        except OSError as error:
            await self._undo(plan, begun, under_way, error)
            raise

    async def _delete_or_undo(self, plan: Sequence[Move], under_way: Undertaking) -> None:
        """Delete the old names; what forbids it usually forbids the first deletion already."""
        first, *rest = reversed(plan)  # the marker last: the directory ends when it is empty

        async def delete(move: Move) -> None:
            await self._delete(move)
            under_way.left -= 1

        try:
            await delete(first)
        except OSError as error:
            if getattr(error, "uncertain", False):  # it may have been done
                raise
            await self._undo(plan, {move.target: "" for move in plan}, under_way, error)
            raise
        await _each(rest, delete)

    async def _undo(
        self, plan: Sequence[Move], begun: dict[str, str], under_way: Undertaking, cause: OSError
    ) -> None:
        async def undo(move: Move) -> None:
            await self._remove_copy(move.source.name, move.target, begun[move.target])

        await _note_undoing(under_way)
        with trio.move_on_after(UNDO_PATIENCE) as patience:
            try:
                await _each([move for move in plan if move.target in begun], undo)
                await under_way.end()
            except OSError as error:
                # Whoever asked is told why the rename failed; it is undone later.
                log.warning("a rename cannot be undone now", undoing=error.strerror)
        if patience.cancelled_caught:
            log.warning("undoing a rename takes too long", cause=cause.strerror)

    async def _latecomers(self, source: str, target: str) -> None:
        """Take along what was made in the old directory while it was renamed."""
        for _ in range(_ROUNDS):
            late = await self._plan(source, target)
            if not late:
                return
            for move in late:
                try:
                    await self._copy(move, resumed=False)
                    await self._delete(move)
                except FileExistsError:
                    log.warning("a name is in both directories", name=move.source.name)

    # -- after a crash ------------------------------------------------------------------------

    async def _resume_copying(
        self, planned: Sequence[tuple[str, str, str]], source: str, target: str, intent: Intent
    ) -> bool:
        """Go on copying, or undo where a source is no longer what was to be renamed."""
        there = {move.source.name: move for move in await self._plan(source, target)}
        moves = [
            there[name]
            for name, etag, _ in planned
            if name in there and there[name].source.etag == etag
        ]
        changed = len(moves) < len(planned)

        async def copy(move: Move) -> None:
            await self._copy(move, resumed=True)

        if not changed:
            try:
                await _each(moves, copy)
            except OSError as error:
                if error.errno not in {errno.EEXIST, errno.ESTALE, errno.ENOENT}:
                    raise
                changed = True  # by somebody, between the look and the copy
        if changed:
            await _each(planned, lambda item: self._remove_copy(item[0], item[2], ""))
            return False
        await trio.to_thread.run_sync(lambda: intent.note(phase=DELETING))
        await self._remove_all(moves)
        return True

    async def _resume_deleting(
        self, planned: Sequence[tuple[str, str, str]], source: str, target: str
    ) -> set[str]:
        """Delete what has been copied; returns what is kept because it, or its copy, changed."""
        there = {move.source.name: move for move in await self._plan(source, target)}
        copies = {move.source.name for move in await self._plan(target, source)}
        left = [item for item in planned if item[0] in there]
        certain = [
            there[name]
            for name, etag, copy in left
            if there[name].source.etag == etag and copy in copies
        ]
        kept = {name for name, _, _ in left} - {move.source.name for move in certain}
        return kept | await self._remove_all(certain)

    async def _remove_all(self, moves: Sequence[Move]) -> set[str]:
        """Delete old names; returns those that stay, since they are other versions by now."""
        kept: set[str] = set()

        async def remove(move: Move) -> None:
            try:
                await self._copies.remove(move.source.name, move.source.etag)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                kept.add(move.source.name)

        await _each(reversed(moves), remove)
        return kept

    # -- one blob -----------------------------------------------------------------------------

    async def _copy(self, move: Move, *, resumed: bool) -> Head:
        try:
            return await self._copies.copy(move.source, move.target, IF_FREE)
        except FileExistsError:
            there = await self._copies.head(move.target)
            if there is None:
                raise
            kinds = {move.source.attributes.kind, there.attributes.kind}
            ours = resumed and self._copies.is_copy(there, move.source.name)
            if not ours and kinds != {Kind.DIRECTORY}:
                raise
            return await self._copies.copy(move.source, move.target, {"If-Match": there.etag})

    async def _delete(self, move: Move) -> None:
        """Delete the old name; a version that came meanwhile is taken along first."""
        etag = move.source.etag
        for _ in range(CHASES):
            try:
                await self._copies.remove(move.source.name, etag)
                return
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
            newer = await self._copies.head(move.source.name)
            there = await self._copies.head(move.target)
            if newer is None:
                return
            if there is None or not self._copies.is_copy(there, move.source.name):
                log.warning("a file changed under both its names", name=move.source.name)
                return
            blob = Blob(move.source.name, newer.etag, newer.attributes)
            await self._copies.copy(blob, move.target, {"If-Match": there.etag})
            etag = newer.etag
        fail(errno.EBUSY, move.source.name, "somebody keeps writing to it")

    async def _remove_copy(self, source: str, target: str, etag: str) -> None:
        """Delete a copy; never the only one, and nothing that somebody else wrote there."""
        if await self._copies.head(source) is None:
            return
        if not etag:
            there = await self._copies.head(target)
            if there is None or not self._copies.is_copy(there, source):
                return
            etag = there.etag
        try:
            await self._copies.remove(target, etag)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise


async def _note_undoing(under_way: Undertaking) -> None:
    """Who asked is told that it failed: it must not be completed later."""
    try:
        await under_way.note(phase=UNDOING)
    except OSError as error:
        log.warning("the next mount may complete a rename that failed", reason=error.strerror)
        if under_way.intent is not None:
            under_way.intent.details["phase"] = UNDOING


async def _each(items: Iterable[Item], action: Callable[[Item], Awaitable[None]]) -> None:
    """Run ``action`` for all items, some at a time.

    After an error nothing more is begun. What is under way is waited for: a request that is given
    up may still be carried out, and what is to be undone must be known.
    """
    waiting = iter(items)
    errors: list[OSError] = []

    async def work() -> None:
        for item in waiting:
            try:
                await action(item)
            except OSError as error:
                errors.append(error)
            if errors:
                return

    with single_error():
        async with trio.open_nursery() as nursery:
            for _ in range(CONCURRENCY):
                nursery.start_soon(work)
    if errors:
        raise errors[0]
