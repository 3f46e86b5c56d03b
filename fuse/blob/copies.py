"""Copies inside the store, conditional on both sides: what renames are made of.

Copy Blob keeps type, content and content headers; what else is to be kept is said with it
(metadata, tier). A copy within an account is usually complete with the answer; one that is not is
waited for.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import trio

from fuse.blob import headers as properties
from fuse.blob import metadata as posix
from fuse.blob.listing import Blob
from fuse.blob.store import BlobStore
from fuse.errors import fail
from fuse.logs import log
from fuse.volume import Attributes

#: How often to look whether a copy has ended (seconds): at first, and at most.
FIRST_LOOK = 0.05
SLOWEST_LOOK = 2.0

#: How long an interrupted copy may take to be called off (seconds).
ABORT_PATIENCE = 5.0

#: How often a blob that others write to is copied anew before a rename gives up.
CHASES = 10

#: Only a name that is free.
IF_FREE: Mapping[str, str] = {"If-None-Match": "*"}


@dataclass(frozen=True, slots=True)
class Head:
    """A blob as it is now.

    Attributes:
        etag: Its version.
        attributes: What it is.
        source: Where it was copied from, while it is exactly what the copy made; else empty.
        copied_ns: When that copy ended, in whole seconds, as nanoseconds since the epoch; 0:
            unknown.
    """

    etag: str
    attributes: Attributes
    source: str
    copied_ns: int = 0


class Copies:
    """Copies and conditional deletions in a :class:`BlobStore`."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def head(self, name: str) -> Head | None:
        """The blob of a name, or None."""
        if not name:  # the URL would be the container's
            return None
        try:
            headers = (await self._store.head(name)).headers
        except FileNotFoundError:
            return None
        copied = headers.get("x-ms-copy-source", "")
        if headers.get("x-ms-copy-status") != "success":
            copied = ""
        ended = headers.get("x-ms-copy-completion-time")
        return Head(headers["etag"], properties.attributes(headers), copied, _ns(ended))

    async def copy(self, source: Blob, target: str, condition: Mapping[str, str]) -> Head:
        """Copy exactly this version of a blob to ``target``.

        Modification time, metadata and tier go along.

        Args:
            source: What to copy.
            target: A blob's name.
            condition: On the target, as request headers: ``If-None-Match`` or ``If-Match``.

        Raises:
            OSError: ESTALE when the source or the target is another version by now, EEXIST when the
                target was to be free, ENOENT without a source.
        """
        attributes = source.attributes
        metadata = posix.modified(attributes)
        headers = {
            **{f"x-ms-meta-{name}": value for name, value in metadata.items()},
            **condition,
            "x-ms-copy-source": self._store.url(source.name),
            "x-ms-source-if-match": source.etag,
        }
        tier = properties.carried(attributes).get("x-ms-access-tier")
        if tier:
            headers["x-ms-access-tier"] = tier
        try:
            said = (await self._store.request("PUT", target, headers=headers)).headers
        except OSError as error:
            # Tried again after a lost answer, a copy meets its own result, or itself under way.
            found = await self._own(error, source, target)
            if found is None:
                raise
            return found
        if said.get("x-ms-copy-status", "success") != "success":
            await self._ended(target, said.get("x-ms-copy-id", ""))
            done = await self.head(target)
            if done is None:
                fail(errno.ESTALE, target, "the copy was deleted as soon as it was made")
            return done
        ctime = _ns(said.get("last-modified"))
        # The creation time is the copy's own, and not known from its answer.
        kept = tuple(item for item in attributes.headers if item[0] != "x-ms-creation-time")
        copied = attributes.changed(
            version=said["etag"] if attributes.version else "",
            ctime_ns=ctime or attributes.ctime_ns,
            metadata=tuple(sorted(metadata.items())),
            headers=kept,
        )
        return Head(said["etag"], copied, self._store.url(source.name))

    async def remove(self, name: str, etag: str) -> None:
        """Delete one version of a blob. ESTALE when it is another one; gone already is fine."""
        try:
            await self._store.request("DELETE", name, headers={"If-Match": etag})
        except FileNotFoundError:
            return
        except OSError as error:
            # Some stores say of a missing blob that the condition does not hold.
            if error.errno != errno.ESTALE or await self.head(name) is not None:
                raise

    def is_copy(self, found: Head, source: str) -> bool:
        """Whether a blob is what a copy of ``source`` made, unchanged since."""
        return bool(found.source) and _plain(found.source) == _plain(self._store.url(source))

    async def _own(self, error: OSError, source: Blob, target: str) -> Head | None:
        code = getattr(error, "code", None)
        if not getattr(error, "uncertain", False) and code != "PendingCopyOperation":
            return None
        if error.errno not in {errno.EEXIST, errno.ESTALE, errno.EBUSY}:
            return None
        await self._ended(target, "")
        found = await self.head(target)
        if found is None or not self.is_copy(found, source.name):
            return None
        return found if found.attributes.size == source.attributes.size else None

    async def _ended(self, target: str, identifier: str) -> None:
        """Wait until no copy to ``target`` is under way; call it off when interrupted."""
        delay = FIRST_LOOK
        try:
            while True:
                try:
                    headers = (await self._store.head(target)).headers
                except FileNotFoundError:
                    return
                status = headers.get("x-ms-copy-status", "success")
                if status == "success":
                    return
                if status != "pending":
                    why = headers.get("x-ms-copy-status-description", "no reason given")
                    await self.remove(target, headers["etag"])  # it has no content
                    fail(errno.EIO, target, f"the copy inside the store {status}: {why}")
                await trio.sleep(delay)
                delay = min(SLOWEST_LOOK, delay * 2)
        except trio.Cancelled:
            if identifier:
                with trio.move_on_after(ABORT_PATIENCE, shield=True):
                    await self._call_off(target, identifier)
            raise

    async def _call_off(self, target: str, identifier: str) -> None:
        """Abort a copy, and delete the empty blob that is left of it."""
        try:
            await self._store.request(
                "PUT",
                target,
                query=f"comp=copy&copyid={identifier}",
                headers={"x-ms-copy-action": "abort"},
            )
            headers = (await self._store.head(target)).headers
            if headers.get("x-ms-copy-status") != "success":
                await self.remove(target, headers["etag"])
        except OSError as error:
            # Whoever is interrupted learns of that, not of this. It may just have ended, too.
            log.warning("a copy could not be called off", target=target, reason=error.strerror)


def _plain(url: str) -> str:
    return url.partition("?")[0]


def _ns(date: str | None) -> int:
    return int(parsedate_to_datetime(date).timestamp()) * 10**9 if date else 0
