"""The contents of a mount's inodes: from the first open to the last commit."""

from __future__ import annotations

import errno
from pathlib import Path

import trio

from fuse.cache import MemoryCache
from fuse.content import FULL, Content
from fuse.diskcache import DiskCache
from fuse.errors import fail
from fuse.inodes import Inode, InodeTable, is_directory
from fuse.journal import Entry, Journal
from fuse.leftover import Leftover
from fuse.logs import log
from fuse.namespace import Namespace
from fuse.staging import Staging
from fuse.unmade import RESERVE_AFTER
from fuse.volume import Attributes, Changes, Volume

#: What a commit says when somebody else was first: it would say so for ever.
CONFLICT = {errno.ESTALE, errno.EEXIST, errno.ENOENT}

#: Bytes that are freed at least when the disk is full.
ROOM = 16 * 1024 * 1024

#: Seconds until a failed commit is tried again in the background: the first time, and at most.
FIRST_RETRY = 1.0
LAST_RETRY = 60.0


class Contents:
    """Makes, commits and closes the contents of inodes.

    Args:
        volume: The store.
        inodes: Whose contents they are.
        names: How fresh attributes are.
        cache: The mount's budget of memory.
        nursery: Owns fetches; lives as long as the mount.
        journal: Keeps what is written until the store has it.
        disk: Content that was read before; used where versions are immutable.

    Attributes:
        conflicts: Number of contents that lost to another writer and are kept aside.
    """

    def __init__(
        self,
        volume: Volume,
        inodes: InodeTable,
        names: Namespace,
        cache: MemoryCache,
        nursery: trio.Nursery,
        journal: Journal,
        disk: DiskCache,
    ) -> None:
        self._volume = volume
        self._inodes = inodes
        self._names = names
        self._cache = cache
        self._nursery = nursery
        self._journal = journal
        self._disk = disk
        self._staging = Staging(volume, nursery)
        #: Nodes that have a content: looking through all inodes takes too long to do it often.
        self._nodes: dict[Inode, None] = {}
        self._made_one = trio.Event()
        self.conflicts = 0

    def statistics(self) -> dict[str, int | float]:
        """Counters for ``stats``."""
        return {**self._staging.statistics(), "conflicts": self.conflicts}

    def current(self, node: Inode) -> Content:
        """The content that whoever opens ``node`` now is to see."""
        content = node.content
        if content is None or not (
            not content.superseded
            and (
                content.modified
                or content.orphaned
                or content.base.version == node.attributes.version
            )
        ):
            # Handles on a version that has been replaced keep their own content.
            content = self._make(node, node.attributes)
            node.content = content
        return content

    def conceive(self, node: Inode, entry: Entry) -> None:
        """Give a file that the journal has, and the store does not, its content."""
        node.content = self._make(node, node.attributes)
        node.content.conceived(entry)

    def adopt(self, node: Inode, leftover: Leftover) -> Content:
        """Give a file the content that an earlier mount left in the journal. OSError: not now."""
        entry = self._journal.go_on(leftover.log_file, leftover.replay)
        node.content = self._make(node, leftover.base)
        node.content.adopted(entry, leftover.replay, leftover.mtime_ns)
        return node.content

    def opened(self, node: Inode, content: Content) -> bool:
        """Note a new handle; whether the kernel may keep the pages that it has of the file."""
        node.opens += 1
        content.users += 1
        known = content.modified or node.cached_version == content.base.version
        node.cached_version = content.base.version
        return known

    def released_now(self, node: Inode, content: Content) -> bool:
        """Note that a handle is gone, where that needs no waiting; whether it was noted."""
        if content.modified and not content.orphaned:
            return False
        node.opens -= 1
        content.users -= 1
        self._settle(node, content)
        return True

    async def released(self, node: Inode, content: Content) -> None:
        """Note that a handle is gone."""
        node.opens -= 1
        content.users -= 1
        if content.modified and not content.orphaned:
            try:
                await self.commit(node, content)
            except OSError as error:
                # close reported it; the data is in the journal and tried again by commit_stale.
                log.warning(
                    "closed, and not in the store yet",
                    path=path_of(node),
                    reason=error.strerror or str(error),
                )
        self._settle(node, content)

    async def commit(self, node: Inode, content: Content) -> None:
        """Bring the store up to date, or raise why not; also an error of the background, once.

        ESTALE, each time, once another writer was first.
        """
        try:
            await content.commit()
        except OSError as error:
            content.error = None  # reported right here
            self._failed(node, content, error)
            raise
        self._committed(node, content)
        content.take_error()

    async def commit_below(self, node: Inode) -> None:
        """Bring the store up to date in everything at and below a node that is to be renamed."""
        for known in node.descendants():
            content = known.content
            if content is not None and not content.orphaned and not content.superseded:
                await self.commit(known, content)

    async def commit_stale(self, *, everything: bool = False) -> dict[str, str]:
        """Commit what is due, or everything; returns path → why it failed."""
        failures: dict[str, str] = {}
        now = trio.current_time()
        for node, content in self._dirty():
            if everything or self._is_due(content, now):
                bring = content.commit
            elif _is_hidden(content, now):
                bring = content.reserve
            else:
                continue
            path = path_of(node)
            try:
                async with self._names.lock.shared(node):
                    if content.superseded or content.orphaned:  # meanwhile
                        continue
                    path = path_of(node)
                    await bring()
            except OSError as error:
                content.error = error
                failures[path] = error.strerror or str(error)
                log.warning("commit failed", path=path, reason=failures[path])
                place = self._failed(node, content, error)
                if place is not None:
                    failures[path] += f"; what was written is kept in {place}"
            except Exception as error:
                # A defect is no reason to drop the data either.
                log.exception("defect while committing", path=path)
                content.error = OSError(errno.EIO, "defect in the driver")
                failures[path] = f"defect: {error}"
                self._failed(node, content, content.error)
            else:
                self._committed(node, content)
        return failures

    async def make_room(self, wanting: Content, size: int) -> bool:
        """Free some space on the cache directory's disk; whether there was anything to free.

        What can be read again goes first, then what the file itself takes up, then other files,
        the oldest first; these are committed for it, one a call. Who calls holds no lock.
        """
        if await self._disk.make_room(max(size, ROOM)):
            return True
        now = trio.current_time()
        dirty = [item for item in self._dirty() if item[1].takes_space and item[1].retry_at <= now]
        dirty.sort(key=lambda item: (item[1] is not wanting, item[1].modified_since or 0.0))
        for node, content in dirty:
            try:
                async with self._names.lock.shared(node):
                    if not content.takes_space:  # meanwhile: somebody else's call did it
                        return True
                    log.info(
                        "the cache directory's disk is full: storing early", path=path_of(node)
                    )
                    await content.commit()
            except OSError as error:
                content.error = error  # its own fsync or close reports it
                log.warning(
                    "could not store it to free space",
                    path=path_of(node),
                    reason=error.strerror or str(error),
                )
                self._failed(node, content, error)
            else:
                self._committed(node, content)
                return True
        return False

    def close(self) -> None:
        """Close all contents; what is not committed stays in the journal."""
        for node in self._nodes:
            if node.content is not None:
                node.content.close()

    async def set_size(self, node: Inode, size: int, content: Content | None) -> None:
        """Truncate or extend a file, opened as ``content`` or not at all."""
        content = content or node.content
        if content is not None:
            try:
                await content.truncate(size)
            except OSError as error:
                if error.errno not in FULL or not content.takes_space or content.orphaned:
                    raise
                await self.commit(node, content)  # frees what it takes up
                await content.truncate(size)
            if not content.users:
                await self.commit(node, content)
            return
        await self._names.refresh(node)
        if is_directory(node):
            fail(errno.EISDIR)
        node.content = content = self._make(node, node.attributes)
        try:
            await content.truncate(size)
            await content.commit()
        except BaseException:
            # The caller is told that it failed: it must not come about later by itself.
            node.expires = 0.0
            if content.users or content.changes:  # somebody has come who goes on with it
                raise
            content.drop()
            self._settle(node, content)
            raise
        self._committed(node, content)

    async def change(self, node: Inode, changes: Changes) -> None:
        """Set attributes: with the next commit of what is dirty, else at once."""
        content = node.content
        if content is not None and (content.modified or content.orphaned):
            try:
                await content.change(changes)
            except OSError as error:
                if error.errno not in FULL or content.orphaned:
                    raise
                await self.commit(node, content)  # and then at once
            else:
                return
        if node is self._inodes.root:
            fail(errno.EPERM)
        await self._names.refresh(node)
        changed = await self._volume.set_attributes(node.path(), node.attributes, changes)
        if node.content is not None:  # also one that was opened meanwhile
            await node.content.rebase(changed, same_bytes=True)
        node.attributes = changed
        node.expires = self._names.expiry()
        if node.cached_version:  # the same bytes under a new version
            node.cached_version = node.attributes.version

    async def unlinking(self, node: Inode) -> None:
        """Prepare for the loss of a name: open handles are to keep the bytes."""
        content = node.content
        if content is None or content.superseded:
            return
        if content.users:
            await self._keep(node, content)
        try:
            content.unlinking()
        except OSError as error:
            # Only needed to forget it after a crash just now; otherwise a person is asked.
            if error.errno not in FULL:
                raise

    async def _keep(self, node: Inode, content: Content) -> None:
        """Keep the bytes of an open file here: on the disk, or where that is full, in memory."""
        for _ in ("as it is", "with room"):
            try:
                await content.localise()
            except OSError as error:
                if error.errno not in FULL:
                    raise
            else:
                return
            if not await self._disk.make_room(content.size):
                break
        if not await content.pin():
            log.warning(
                "no room to keep a file that is open and loses its name: reading it is ESTALE",
                path=path_of(node),
                bytes=content.size,
            )

    def unlinked(self, node: Inode) -> None:
        """The name is gone: nothing is committed any more."""
        if node.content is not None:
            node.content.drop()
            self._settle(node, node.content)

    async def renamed(self, node: Inode) -> None:
        """A store without rename made new versions with the same bytes: go on with those."""
        for known in node.descendants():
            if is_directory(known):
                known.names.hints.clear()
            if known is not node:
                known.expires = 0.0
            if known.content is not None and not known.content.orphaned:
                known.content.renamed()
                try:
                    if known is not node:
                        known.attributes = await self._volume.stat(known.path())
                    await known.content.rebase(known.attributes, same_bytes=True)
                except OSError as error:
                    # It was renamed; who has this one open gets ESTALE, and what is dirty is kept.
                    log.warning(
                        "cannot go on with a renamed file",
                        path=path_of(known),
                        reason=error.strerror or str(error),
                    )

    async def in_use(self) -> None:
        """Wait until there is a content: without one nothing can be due."""
        while not self._nodes:
            self._made_one = trio.Event()
            await self._made_one.wait()

    def _make(self, node: Inode, base: Attributes) -> Content:
        self._nodes[node] = None
        self._made_one.set()
        return Content(
            self._volume,
            node.path,
            base,
            self._cache,
            self._nursery,
            self._journal,
            self._staging,
            self.make_room,
            self._disk if self._volume.versions_are_immutable else None,
            lambda content: self._reserve(node, content),
        )

    async def _reserve(self, node: Inode, content: Content) -> None:
        """Make the name of a file that grows long, so that its blocks can be sent ahead."""
        try:
            async with self._names.lock.shared(node):
                await content.reserve()
        except OSError as error:
            # No error of the write: the commit meets it, too, and reports it.
            log.info(
                "could not make the name", path=path_of(node), reason=error.strerror or str(error)
            )
        else:
            self._committed(node, content)
        finally:
            content.reserving = False

    def _dirty(self) -> list[tuple[Inode, Content]]:
        return [
            (node, node.content)
            for node in self._nodes
            if node.content is not None and node.content.modified and not node.content.orphaned
        ]

    def _is_due(self, content: Content, now: float) -> bool:
        interval = self._volume.commit_interval
        waited = now - (content.modified_since or now)
        due = (
            not content.users or content.retry_wait or (interval is not None and waited >= interval)
        )
        return bool(due) and now >= content.retry_at

    def _failed(self, node: Inode, content: Content, error: OSError) -> Path | None:
        """Keep what could not be committed: for another try, or, in a conflict, for a person.

        Returns:
            Where it is kept, in a conflict.
        """
        if content.superseded:
            return None
        if error.errno not in CONFLICT:
            wait = min(LAST_RETRY, max(FIRST_RETRY, content.retry_wait * 2))
            content.retry_wait, content.retry_at = wait, trio.current_time() + wait
            return None
        reason = error.strerror or str(error)
        self.conflicts += 1
        try:
            place = content.set_aside(reason)
        except OSError as failure:
            # It stays in the journal, and the next mount sets it aside.
            log.warning("cannot move it to the recovery directory", reason=failure.strerror)
            place = None
        log.error(
            "another writer was first: what was written here is kept aside",
            path=path_of(node),
            reason=reason,
            kept=None if place is None else str(place),
        )
        # Whoever opens the file next sees what the store has, in a page cache of its own.
        self._inodes.supersede(node)
        self._settle(node, content)
        return place

    def _committed(self, node: Inode, content: Content) -> None:
        if node.linked and node.parent is not None and not content.unmade:
            node.parent.names.added(node.name)
        if node.content is content and not content.modified and not content.orphaned:
            node.attributes = content.base
            node.cached_version = content.base.version
            node.expires = self._names.expiry()
        content.retry_wait = content.retry_at = 0.0
        self._settle(node, content)

    def _settle(self, node: Inode, content: Content) -> None:
        """Close a content that nobody uses and that holds nothing the store lacks."""
        if content.users or (content.modified and not content.orphaned):
            return
        content.close()
        if node.content is content:
            node.content = None
            del self._nodes[node]
        self._inodes.release(node)


def _is_hidden(content: Content, now: float) -> bool:
    """Whether other nodes should be told that there is such a file."""
    since = content.modified_since
    late = since is not None and now - since >= RESERVE_AFTER
    return content.unmade and late and now >= content.retry_at


def path_of(node: Inode) -> str:
    """The path of a node for people, also when it has none any more."""
    try:
        return node.path()
    except OSError:
        return f"{node.name} (unlinked)"
