"""Renaming one blob: a copy, then the deletion of the old name.

A note on the local disk says what is under way, so that the next mount deletes the old name if a
crash came between the two. It is written without waiting for the disk (no fsync): the end of this
process does not touch it, and after a power failure, where it may be missing, both names stay.
"""

from __future__ import annotations

import errno
from typing import Final

import trio

from fuse.blob import headers as properties
from fuse.blob import metadata as posix
from fuse.blob.copies import CHASES, IF_FREE, Copies, Head
from fuse.blob.listing import Blob
from fuse.blob.unsettled import Unsettled
from fuse.errors import fail
from fuse.intents import Intent, Intents
from fuse.logs import log
from fuse.volume import Attributes

#: The kind of its intents.
KIND: Final = "move"


class Moves:
    """Renames blobs of one container. All names are blobs' names.

    Args:
        copies: In the container.
        intents: Where notes are written; None: nowhere.
        unsettled: Told of deletions of which nobody knows whether they were done.
    """

    def __init__(self, copies: Copies, intents: Intents | None, unsettled: Unsettled) -> None:
        self._copies = copies
        self._intents = intents
        self._unsettled = unsettled

    async def move(
        self, source: str, target: str, attributes: Attributes, *, replace: bool
    ) -> Attributes:
        """Rename a blob; with ``replace`` another one may be in the way.

        If the deletion is refused, the old name stays as it was. So does the new one if it had to
        be free; what it replaced otherwise is gone, and it keeps the copy.
        """
        note = self._note(source, target, attributes.version)
        try:
            moved = await self._move(source, target, attributes, note, replace=replace)
        except OSError as error:
            if note is not None:
                if note.details.get("copied") and getattr(error, "uncertain", False):
                    self._unsettled.leave(note, error)
                else:
                    note.end()
            raise
        except BaseException:
            if note is not None:
                note.close()
            raise
        if note is not None:
            note.end()
        return moved

    async def resume(self, intent: Intent) -> None:
        """Delete the old name, if what it means is certainly what the new one has."""
        details = intent.details
        source, target = str(details["source"]), str(details["target"])
        said = {"source": source, "target": target}
        old = await self._copies.head(source)
        if old is not None:
            new = await self._copies.head(target)
            copied = details.get("copied")
            if new is None or (not copied and not self._copies.is_copy(new, source)):
                log.info("a rename had not begun when it was interrupted", **said)
            elif old.etag == details.get("etag") and (
                new.etag == copied or self._has_all(new, source, old)
            ):
                await self._copies.remove(source, old.etag)
                log.warning("completed a rename that was interrupted", **said)
            else:
                log.warning("a rename was interrupted, and both names stay: they differ", **said)
        await trio.to_thread.run_sync(intent.end)

    # -- internals ----------------------------------------------------------------------------

    def _note(self, source: str, target: str, etag: str) -> Intent | None:
        """On the loop: the page cache takes it in less time than a thread's start."""
        if self._intents is None:
            return None
        try:
            details = {"source": source, "target": target, "etag": etag}
            return self._intents.begin(KIND, details, durable=False)
        except OSError as error:
            log.info("no room to note a rename", reason=error.strerror)
            return None

    async def _move(
        self,
        source: str,
        target: str,
        attributes: Attributes,
        note: Intent | None,
        *,
        replace: bool,
    ) -> Attributes:
        blob = Blob(source, attributes.version, attributes)
        condition = {} if replace else IF_FREE
        copied: Head | None = None
        for _ in range(CHASES):
            if blob.etag:
                try:
                    copied = await self._copies.copy(blob, target, condition)
                    _add(note, copied=copied.etag)
                    await self._copies.remove(source, blob.etag)
                    return copied.attributes
                except OSError as error:
                    if error.errno != errno.ESTALE:
                        if copied is not None:
                            await self._undo(copied, source, target, error, replace=replace)
                        raise
            # Somebody wrote to it: a rename moves what has the name by now.
            newer = await self._copies.head(source)
            if newer is None:
                fail(errno.ENOENT, source)
            if newer.etag == blob.etag:
                fail(errno.ESTALE, target, "the target changed")
            blob = Blob(source, newer.etag, newer.attributes)
            _add(note, etag=blob.etag, copied="")
            if copied is not None:
                condition = {"If-Match": copied.etag}
        raise OSError(errno.EBUSY, "somebody keeps writing to it", source)

    async def _undo(
        self, copied: Head, source: str, target: str, cause: OSError, *, replace: bool
    ) -> None:
        """Delete the copy, if it is certain that it is not the only one left."""
        if replace or getattr(cause, "uncertain", False) or not await self._copies.head(source):
            log.warning("the old name could not be removed", source=source, target=target)
            return
        await self._copies.remove(target, copied.etag)

    def _has_all(self, new: Head, source: str, old: Head) -> bool:
        """Whether a blob is certainly a copy of this very version.

        One that was copied from the name later than in the second of its last change is. Within
        that second it may be of the version before, so that content and metadata have to be equal.
        """
        if not self._copies.is_copy(new, source):
            return False
        if new.copied_ns > old.attributes.ctime_ns:
            return True
        digests = {properties.digest(one.attributes) for one in (old, new)}
        return (
            old.attributes.size == new.attributes.size
            and len(digests) == 1
            and None not in digests
            and posix.same(dict(new.attributes.metadata), posix.modified(old.attributes))
        )


def _add(note: Intent | None, **details: str) -> None:
    if note is not None:
        try:
            note.note(**details)
        except OSError as error:
            log.info("no room to note a rename", reason=error.strerror)
