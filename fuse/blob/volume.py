"""A blob container as a volume."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import trio

from fuse.blob import metadata as posix
from fuse.blob import names
from fuse.blob.blocks import staging_size
from fuse.blob.copies import IF_FREE, Copies
from fuse.blob.directories import PLAIN, Directories, can_be_marked
from fuse.blob.growth import has_grown
from fuse.blob.listing import Listing
from fuse.blob.renames import Renames
from fuse.blob.store import BlobStore
from fuse.blob.upload import Uploads
from fuse.errors import fail
from fuse.intents import Intents
from fuse.places import Places
from fuse.volume import Attributes, Changes, DirtyContent, Entry, Kind, Progress, Space, Staged

MIB = 1024 * 1024

#: Seconds before a mount is ready that it completes or undoes what earlier ones left half-way.
RECOVERY: Final = 5.0

#: Real names of shortened components that are remembered.
_REMEMBERED: Final = 10_000


class BlobVolume:
    """Implements :class:`fuse.volume.Volume` over a :class:`BlobStore`.

    Args:
        store: The container.
        cache_directory: Where what is half-way is written down (:class:`fuse.places.Places`), so
            that the next mount can complete it after a crash; None: nowhere.
    """

    preferred_read = 8 * MIB
    commit_interval: float | None = None
    name_max = 255
    attribute_timeout = 10.0
    versions_are_immutable = True
    keeps_xattrs = True

    def __init__(self, store: BlobStore, cache_directory: Path | None = None) -> None:
        self.source = f"{store.account}/{store.container}"
        self.identity = f"blob:{store.endpoint}/{store.container}"
        self._store = store
        self._uploads = Uploads(store)
        self._listing = Listing(store)
        self._copies = Copies(store)
        self._directories = Directories(self._listing, self._copies, self._uploads)
        intents = None
        if cache_directory is not None:
            intents = Intents(Places(cache_directory, self.identity).intents)
        self._renames = Renames(self._listing, self._copies, intents, self._directories.forget_tree)
        self._shortened: dict[str, str] = {}

    async def recover(self) -> None:
        """Complete or undo what earlier mounts of this container left half-way, and log it.

        What takes longer than a few seconds is left to :meth:`settle`.
        """
        await self._renames.unsettled.recover(RECOVERY)

    @property
    def round_trip(self) -> float:
        """The shortest that was seen."""
        return self._store.round_trip

    async def settle(self) -> None:
        """Complete or undo what failed half-way, and receive what was begun, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._store.express.run)
            await self._renames.unsettled.run()

    def warnings(self) -> Sequence[str]:
        """Of each operation that is half-way what it is about, and why."""
        return [
            f"incomplete, and completed or undone as soon as possible: {what} ({reason})"
            for what, reason in self._renames.unsettled.reasons()
        ]

    # -- names --------------------------------------------------------------------------------

    async def stat(self, path: str) -> Attributes:
        """A blob's properties, or a directory where only names below it exist."""
        if not path:
            return PLAIN
        name = await self._tried(path)
        found = await self._properties(name)
        if names.is_directory_alias(path.rpartition("/")[2]):
            # Only beside a file: otherwise the directory has its own name.
            if found is None or found.kind is Kind.DIRECTORY:
                fail(errno.ENOENT, path)
            found = None
        if found is None:
            if not await self._directories.exists(f"{name}/"):
                fail(errno.ENOENT, path)
            return PLAIN
        return found

    async def list(self, path: str) -> AsyncGenerator[Sequence[Entry], None]:
        """The names below ``path``, a page of the service at a time."""
        prefix = names.prefix_of(path, await self._tried(path))
        async with aclosing(self._directories.entries(path, prefix)) as pages:
            async for page in pages:
                yield page

    async def make_directory(
        self, path: str, changes: Changes, *, free: bool = False
    ) -> Attributes:
        """A marker blob, as blobfuse and azcopy make them."""
        return await self._directories.make(path, await self._new_name(path), changes, free=free)

    async def remove_directory(self, path: str) -> None:
        """Delete the marker of a directory that nothing is in."""
        await self._directories.remove(path, await self._tried(path))

    async def unlink(self, path: str) -> None:
        """Delete a blob, whatever version it is: the last name goes, as on other file systems.

        EBUSY while it is leased or has snapshots, which would go with it.
        """
        name = await self._blob_name(path)
        await self._renames.unsettled.tried(name)
        await self._directories.keep_parent(name)
        try:
            await self._store.request("DELETE", name)
        except FileNotFoundError as error:
            if not getattr(error, "uncertain", False):  # else an earlier try has done it
                raise

    async def rename(
        self, source: str, target: str, attributes: Attributes, *, replace: bool
    ) -> Attributes:
        """Copy inside the store, then delete: a flat container has no rename."""
        old, new = await self._name(source), await self._new_name(target)
        await self._renames.unsettled.settled(old, new)
        if old.rpartition("/")[0] != new.rpartition("/")[0]:
            await self._directories.keep_parent(old)
        if attributes.kind is not Kind.DIRECTORY:
            await self._blob_name(source)
            return await self._renames.blobs.move(old, new, attributes, replace=replace)
        await self._renames.trees.rename(old, new, replace=replace)
        self._directories.forget_tree(old)
        return attributes

    async def exchange(self, one: str, other: str) -> None:
        """Copy both ways inside the store, by way of a third name."""
        for path in (one, other):
            if names.is_directory_alias(path.rpartition("/")[2]):
                fail(errno.EINVAL, path, "a file has the same name")
        first, second = await self._blob_name(one), await self._blob_name(other)
        await self._renames.unsettled.settled(first, second)
        await self._renames.exchange(first, second)

    async def symlink(self, path: str, target: str, changes: Changes) -> Attributes:
        """A blob with the target as content, as blobfuse and azcopy make them."""
        body = target.encode(errors="surrogateescape")
        link = {posix.SYMLINK: "true"}.items()
        metadata = posix.changed(link, changes, kind=Kind.SYMLINK, rewritten=True)
        made = await self._uploads.put(await self._new_name(path), body, metadata, dict(IF_FREE))
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
        name = await self._name(path)
        try:
            await self._store.get_range(name, attributes.version, offset, buffer, progress)
        except FileNotFoundError:
            fail(errno.ESTALE, path, "the blob was deleted while it was open")

    def begin_read(
        self,
        path: str,
        attributes: Attributes,
        offset: int,
        buffer: memoryview,
        progress: Progress,
        done: Callable[[bool], None],
    ) -> bool:
        """The same over a connection that is free, if there is one."""
        try:
            name = names.blob_name(path)
        except names.ShortenedError:
            return False
        return self._store.express.begin(name, attributes.version, offset, buffer, progress, done)

    async def create(self, path: str, changes: Changes) -> Attributes:
        """An empty blob, made only if the name is free."""
        metadata = posix.changed((), changes, rewritten=True)
        return await self._uploads.put(await self._new_name(path), b"", metadata, dict(IF_FREE))

    def makes_at_commit(self, path: str) -> bool:
        """Yes, once this mount has made something: who may write nothing is told when it opens."""
        names.check_new(path)
        return self._uploads.allowed

    async def commit(
        self, path: str, base: Attributes | None, content: DirtyContent, changes: Changes
    ) -> Attributes:
        """One Put Blob, or the blocks that changed and a new block list; conditional either way."""
        return await self._uploads.commit(await self._blob_name(path), base, content, changes)

    async def set_attributes(
        self, path: str, attributes: Attributes, changes: Changes
    ) -> Attributes:
        """Keep mode, owner, times and extended attributes in the blob's metadata.

        ENOSPC when it holds no more; ESTALE when it is another version by now.
        """
        if attributes.kind is Kind.DIRECTORY:
            return await self._set_directory(path, changes)
        if changes.mtime_ns is None:  # the store will count this change as a modification
            kept = posix.modified(attributes)
            attributes = attributes.changed(metadata=tuple(sorted(kept.items())))
        return await self._set_metadata(
            await self._blob_name(path), attributes.version, attributes, changes
        )

    async def continues(self, path: str, old: Attributes, new: Attributes) -> bool:
        """Whether it has only grown, as far as that can be proven cheaply."""
        try:
            return await has_grown(self._store, await self._name(path), old, new)
        except OSError as error:
            if error.errno in {errno.ESTALE, errno.ENOENT}:
                return False  # replaced again
            raise

    def staging_size(self, offset: int) -> int:
        """The size of the block that begins there: blocks grow with the blob."""
        return staging_size(offset)

    async def stage(
        self, path: str, base: Attributes, start: int, body: bytes | memoryview
    ) -> Staged | None:
        """One Put Block; None where the blob takes none."""
        return await self._uploads.stage(await self._blob_name(path), base, start, body)

    async def space(self) -> Space:
        """A container has no limit that anyone would meet."""
        await trio.lowlevel.checkpoint()
        return Space()

    def statistics(self) -> dict[str, int | float]:
        """Requests, bytes, retries, errors, latencies; what renames have still to do."""
        unsettled = self._renames.unsettled
        return {
            **self._store.statistics(),
            "unsettled": len(unsettled),
            "rename_steps_left": unsettled.left,
        }

    # -- internals ----------------------------------------------------------------------------

    async def _set_directory(self, path: str, changes: Changes) -> Attributes:
        name = await self._name(path)
        if not can_be_marked(name) or names.is_directory_alias(path.rpartition("/")[2]):
            fail(errno.EPERM, path, "this directory can have no marker to keep attributes in")
        marker = await self._copies.head(name)
        if marker is None:  # with one, the directory also outlives its last file
            return await self._directories.mark(name, changes)
        if marker.attributes.kind is not Kind.DIRECTORY:
            fail(errno.ESTALE, path)
        changed = await self._set_metadata(name, marker.etag, marker.attributes, changes)
        return changed.changed(version="")

    async def _set_metadata(
        self, name: str, etag: str, attributes: Attributes, changes: Changes
    ) -> Attributes:
        metadata = posix.changed(
            attributes.metadata, changes, kind=attributes.kind, rewritten=False
        )
        headers = {f"x-ms-meta-{key}": value for key, value in metadata.items()}
        try:
            response = await self._store.request(
                "PUT", name, query="comp=metadata", headers={**headers, "If-Match": etag}
            )
            said = response.headers
        except OSError as error:
            # Tried again after a lost answer, it meets its own new version.
            found = await self._copies.head(name) if getattr(error, "uncertain", False) else None
            if found is None or not posix.same(dict(found.attributes.metadata), metadata):
                raise
            return found.attributes
        return posix.attributes(
            size=attributes.size,
            etag=said["etag"],
            last_modified=parsedate_to_datetime(said["last-modified"]),
            metadata=metadata,
            headers=attributes.headers,
        )

    async def _properties(self, name: str) -> Attributes | None:
        if names.has_dots(name):  # servers on the way may take it for another blob's
            listed = await self._listing.find(name)
            return None if listed is None else listed.attributes
        head = await self._copies.head(name)
        if head is None:
            return None
        if head.attributes.kind is Kind.DIRECTORY:
            self._directories.found(name, head.etag)
        # An empty blob whose name ends with a slash is a directory's marker, not a file in it.
        return None if name.endswith("/") and not head.attributes.size else head.attributes

    async def _blob_name(self, path: str) -> str:
        """The name of the blob at ``path``, which must not be the container itself."""
        name = await self._name(path)
        if not name:
            fail(errno.EPERM, path, "no blob can have this name")
        return name

    async def _new_name(self, path: str) -> str:
        names.check_new(path)
        name = await self._blob_name(path)
        await self._renames.unsettled.tried(name)
        return name

    async def _tried(self, path: str) -> str:
        """The name of a blob or directory, after a try to settle what is half-way about it."""
        name = await self._name(path)
        await self._renames.unsettled.tried(name)
        return name

    async def _name(self, path: str) -> str:
        try:
            return names.blob_name(path)
        except names.ShortenedError:
            pass
        parts: list[str] = []
        for component in path.split("/"):
            try:
                parts.append(names.blob_component(component))
            except names.ShortenedError:
                parts.append(await self._long_component("/".join(parts), component))
        return "/".join(parts)

    async def _long_component(self, parent: str, shown: str) -> str:
        """What a shortened component stands for: only its directory's listing can tell."""
        prefix = f"{parent}/" if parent else ""
        key = f"{prefix}{shown}"
        if key not in self._shortened:
            async with aclosing(self._listing.pages(prefix, delimiter="/")) as pages:
                async for page in pages:
                    for name in (*(blob.name for blob in page.blobs), *page.prefixes):
                        component = name[len(prefix) :].removesuffix("/")
                        if names.path_component(component) == shown:
                            self._shortened[key] = component
            if key not in self._shortened:
                fail(errno.ENOENT, key)
            if len(self._shortened) > _REMEMBERED:
                del self._shortened[next(iter(self._shortened))]
        return self._shortened[key]
