"""Directories in a flat container: markers, and prefixes that only exist through what is below.

A directory is there if a marker says so (an empty blob of its name with ``hdi_isfolder``, as
blobfuse and azcopy make them, or one whose name ends with a slash), or if any blob's name begins
with its own and a slash. What is made here has a marker; others' directories get one when their
last entry goes, since an emptied directory stays on every other file system.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from fuse.blob import metadata as posix
from fuse.blob import names
from fuse.blob.copies import IF_FREE, Copies
from fuse.blob.listing import Blob, Listing
from fuse.blob.upload import Uploads
from fuse.errors import fail
from fuse.logs import log
from fuse.volume import Attributes, Changes, Entry, Kind

#: Directories whose marker or number of entries is remembered.
REMEMBERED = 50_000

#: What is known of a directory without a marker.
PLAIN = Attributes(Kind.DIRECTORY)

#: Entries that are counted before one is removed from a directory without a marker: at first, and
#: each time when all that were counted have gone.
_FIRST_COUNT, _LARGEST_COUNT, _GROWTH = 2, 1024, 8


class Remembered:
    """A bounded table of what is known of directories; the least recently used are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[str, int, int]] = OrderedDict()

    def marker(self, name: str) -> str:
        """The version of a directory's marker, empty when none is known."""
        return self._known.get(name, ("", 0, 0))[0]

    def marked(self, name: str, etag: str) -> None:
        """There is a marker."""
        self._put(name, (etag, 0, 0))

    def forget(self, name: str) -> None:
        """Nothing is known any more."""
        self._known.pop(name, None)

    def forget_tree(self, name: str) -> None:
        """Nothing is known any more of a directory and those below it."""
        for known in [n for n in self._known if n == name or n.startswith(f"{name}/")]:
            del self._known[known]

    def spend(self, name: str) -> bool:
        """Whether an entry may go, because others are known to be there; counts it as gone."""
        etag, others, count = self._known.get(name, ("", 0, 0))
        if etag:
            return True
        if others:
            self._put(name, ("", others - 1, count))
        return others > 0

    def next_count(self, name: str) -> int:
        """How many entries to ask for."""
        count = self._known.get(name, ("", 0, 0))[2]
        return min(_LARGEST_COUNT, count * _GROWTH) if count else _FIRST_COUNT

    def counted(self, name: str, others: int, asked: int) -> None:
        """So many entries are there beside the one that goes."""
        self._put(name, ("", others - 1, asked))

    def _put(self, name: str, known: tuple[str, int, int]) -> None:
        self._known[name] = known
        self._known.move_to_end(name)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


class Directories:
    """Directories of one container. All names are blobs' names, all paths the volume's."""

    def __init__(self, listing: Listing, copies: Copies, uploads: Uploads) -> None:
        self._listing = listing
        self._copies = copies
        self._uploads = uploads
        self._remembered = Remembered()
        self._may_mark = True

    async def entries(self, path: str, prefix: str) -> AsyncGenerator[Sequence[Entry], None]:
        """What is in a directory, each name once. ENOENT when there is no such directory."""
        seen: dict[str, Kind] = {}
        prefixes: dict[str, None] = {}
        exists = not path
        async with aclosing(self._listing.pages(prefix, delimiter="/")) as pages:
            async for page in pages:
                exists = exists or bool(page.blobs or page.prefixes)
                entries = []
                for blob in page.blobs:
                    entry = self._entry(blob, prefix)
                    if entry is not None:
                        seen[entry.name] = entry.attributes.kind
                        entries.append(entry)
                prefixes.update(dict.fromkeys(page.prefixes))
                yield entries
        if not exists and not await self._marker_exists(prefix[:-1]):
            fail(errno.ENOENT, path)
        # Only now it is known which of them have a marker, or a file of the same name beside them.
        directories = []
        for name in prefixes:
            component = names.path_component(name[len(prefix) : -1])
            kind = seen.get(component)
            if kind is not Kind.DIRECTORY:
                shown = component if kind is None else names.directory_alias(component)
                directories.append(Entry(shown, PLAIN))
        yield directories

    async def exists(self, prefix: str) -> bool:
        """Whether anything is below ``prefix``, a marker of that name included. One request."""
        return bool(await self._listing.some(prefix, 1))

    def found(self, name: str, etag: str) -> None:
        """A marker was seen: its directory stays without entries."""
        self._remembered.marked(name, etag)

    async def make(
        self, path: str, name: str, changes: Changes, *, free: bool = False
    ) -> Attributes:
        """Make a directory. EEXIST, ENOENT when the one it is in is not there.

        With ``free`` a marker takes the name, and nothing is asked: neither whether somebody has
        put something below it that has none, nor whether the directory it is in is still there.
        """
        if not free:
            if await self.exists(f"{name}/"):
                fail(errno.EEXIST, path)
            await self._check_parent(path, name)
        return await self.mark(name, changes)

    async def mark(self, name: str, changes: Changes) -> Attributes:
        """Make the marker of a directory. EEXIST when its name is taken by a blob."""
        metadata = posix.changed(
            {posix.FOLDER: "true"}.items(), changes, kind=Kind.DIRECTORY, rewritten=False
        )
        made = await self._uploads.put(name, b"", metadata, dict(IF_FREE))
        self._remembered.marked(name, "*")
        return made.changed(kind=Kind.DIRECTORY, size=0, version="")

    async def remove(self, path: str, name: str) -> None:
        """Remove an empty directory. ENOTEMPTY, ENOENT."""
        prefix = f"{name}/"
        below = await self._listing.some(prefix, 2)
        if any(not _is_marker(blob, prefix) for blob in below):
            fail(errno.ENOTEMPTY, path)
        marker = await self._copies.head(name)
        if marker is not None and marker.attributes.kind is not Kind.DIRECTORY:
            marker = None  # a file beside the directory stays
        if marker is None and not below:
            fail(errno.ENOENT, path)
        await self.keep_parent(name)
        # Not whatever has that name by now: another node may have put a file in its place.
        if marker is not None:
            await self._copies.remove(name, marker.etag)
        for blob in below:
            await self._copies.remove(blob.name, blob.etag)
        self._remembered.forget(name)

    async def keep_parent(self, name: str) -> None:
        """Before ``name`` goes: make sure that the directory it is in stays."""
        parent = name.rpartition("/")[0]
        while parent.endswith("/"):  # the nearest one that can have a marker
            parent = parent.rpartition("/")[0]
        if not parent or not self._may_mark or self._remembered.spend(parent):
            return
        prefix = f"{parent}/"
        count = self._remembered.next_count(parent)
        found = await self._listing.some(prefix, count, without=name)
        others = sum(not _is_marker(blob, prefix) for blob in found)
        if others:
            self._remembered.counted(parent, others, count)
        elif len(found) == others:  # else a marker with a slash keeps it
            await self._mark_emptied(parent)

    def forget_tree(self, name: str) -> None:
        """A directory has changed its name, with all that is below."""
        self._remembered.forget_tree(name)

    async def _mark_emptied(self, parent: str) -> None:
        try:
            await self.mark(parent, Changes())
        except FileExistsError:
            self._remembered.marked(parent, "*")  # it had one, or a file of its name is beside it
        except PermissionError as error:
            # Deleting is allowed and writing is not: the directory ends with its last entry.
            self._may_mark = False
            log.warning("emptied directories will not stay", reason=error.strerror)

    async def _check_parent(self, path: str, name: str) -> None:
        parent, slash, _ = name.rpartition("/")
        if not slash or not parent:
            return
        known = bool(self._remembered.marker(parent))
        if known and await self._marker_exists(parent):
            return
        if not await self.exists(f"{parent}/") and (known or not await self._marker_exists(parent)):
            self._remembered.forget(parent)
            fail(errno.ENOENT, path)

    async def _marker_exists(self, name: str) -> bool:
        found = await self._copies.head(name)
        if found is None or found.attributes.kind is not Kind.DIRECTORY:
            return False
        self._remembered.marked(name, found.etag)
        return True

    def _entry(self, blob: Blob, prefix: str) -> Entry | None:
        if prefix and _is_marker(blob, prefix):
            return None
        if blob.attributes.kind is Kind.DIRECTORY:
            self._remembered.marked(blob.name, blob.etag)
        return Entry(names.path_component(blob.name[len(prefix) :]), blob.attributes)


def can_be_marked(name: str) -> bool:
    """Whether a directory can have a marker: not those that are empty components of names."""
    return bool(name) and not name.endswith("/")


def _is_marker(blob: Blob, prefix: str) -> bool:
    """Whether it is the marker of ``prefix`` itself: ``a/`` of the directory ``a``."""
    return blob.name == prefix and not blob.attributes.size
