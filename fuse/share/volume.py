"""A file share as a :class:`fuse.volume.Volume`."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from fuse.errors import MountError, fail
from fuse.share import names, symlinks
from fuse.share.channel import Channel
from fuse.share.files import Files
from fuse.share.handles import ReadHandles
from fuse.share.handshake import Target, Timeouts
from fuse.share.link import Link
from fuse.share.state import FileState
from fuse.share.transfer import finish, read_range, write_content
from fuse.volume import Attributes, Changes, DirtyContent, Entry, Kind, Progress, Space, Staged

#: Whole files up to this size are opened, read and closed in one request.
_SMALL = 256 * 1024


class ShareVolume:
    """An SMB 3.1.1 share, always encrypted. Made by :meth:`connect`.

    Modes and owners are accepted and forgotten, as kernel cifs does. Names are not
    case-sensitive on the server, but keep their case. A file is one living thing: a reader sees
    what others write into it, and gets ESTALE only where another file took its place, or where
    it became shorter.
    """

    def __init__(
        self, source: str, identity: str, link: Link, files: Files, handles: ReadHandles
    ) -> None:
        self.source = source
        self.identity = identity
        self.keeps_xattrs = False
        self.versions_are_immutable = False
        self.preferred_read = 1024 * 1024
        #: Followers of a log see it grow.
        self.commit_interval: float | None = 1.0
        self.name_max = names.COMPONENT_LIMIT
        self.attribute_timeout = 1.0
        self._link = link
        self._files = files
        self._handles = handles
        self._bytes_read = 0
        self._bytes_written = 0

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        *,
        endpoint: str,
        share: str,
        account: str,
        key: str,
        source: str,
        timeouts: Timeouts | None = None,
    ) -> AsyncIterator[ShareVolume]:
        """Connect to a share; leaving the context closes everything.

        Args:
            endpoint: ``host:port``.
            share: Name of the share.
            account: Storage account, which is the user.
            key: Account key as text, which is the password.
            source: What mountinfo shows.
            timeouts: Other bounds than the usual ones.

        Raises:
            MountError: AuthenticationFailed, ShareNotFound, ServerUnreachable, InvalidOption.
        """
        limits = timeouts or Timeouts()
        host, port = _split(endpoint)
        # Exceptions leave as themselves, not wrapped in the group of the nursery in here.
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            link = Link(Target(host, port, share, account, key), limits, nursery)
            files = Files()
            handles = ReadHandles(files.open_for_reading, limits.handle)
            try:
                await link.open()
                nursery.start_soon(handles.reap)
                identity = f"share:{endpoint}/{share}"
                yield cls(source, identity, link, files, handles)
            except Exception as error:  # noqa: BLE001 -- raised again below
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def change_key(self, key: str) -> None:
        """Use a new account key from the next connection on, without unmounting."""
        self._link.change_key(key)

    async def stat(self, path: str) -> Attributes:
        """Attributes of ``path``. ENOENT."""
        return await self._link.run(lambda channel, _: self._files.stat(channel, path))

    async def list(self, path: str) -> AsyncGenerator[Sequence[Entry], None]:
        """The entries of a directory. ENOENT, ENOTDIR.

        A page is given out when all are there, so that a lost connection can begin it again.
        """

        async def collect(channel: Channel, _: bool) -> list[list[tuple[str, Attributes]]]:  # noqa: FBT001 -- Link's
            return [page async for page in self._files.list(channel, path)]

        for page in await self._link.run(collect):
            yield [Entry(name, known) for name, known in page]

    @property
    def round_trip(self) -> float:
        """Nobody has measured it."""
        return float("inf")

    def begin_read(
        self,
        path: str,  # noqa: ARG002 -- the protocol's
        attributes: Attributes,  # noqa: ARG002
        offset: int,  # noqa: ARG002
        buffer: memoryview,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
        done: Callable[[bool], None],  # noqa: ARG002
    ) -> bool:
        """Never: a read takes credits and handles, which may have to be waited for."""
        return False

    async def read_into(
        self, path: str, attributes: Attributes, offset: int, buffer: memoryview, progress: Progress
    ) -> None:
        """Fill ``buffer`` from ``offset``; ESTALE when another file is there, or a shorter one."""
        done = 0

        def advance(filled: int) -> None:
            nonlocal done
            done = filled
            progress(filled)

        async def read(channel: Channel, _: bool) -> None:  # noqa: FBT001
            whole = offset == 0 and len(buffer) >= attributes.size
            if whole and attributes.size <= min(_SMALL, channel.io_size):
                data, state = await self._files.read_whole(channel, path, len(buffer))
                _check_same(path, attributes.file_id, state)
                if len(data) < len(buffer):
                    fail(errno.ESTALE, path, "the file has been cut short by somebody else")
                buffer[:] = data
                advance(len(buffer))
                return
            async with self._handles.using(channel, path, attributes.file_id) as handle:
                _check_same(path, attributes.file_id, handle.state)
                # After a reconnection only what is missing is read.
                await read_range(channel, handle.handle, path, offset, buffer, done, advance)

        if not buffer:
            return
        try:
            await self._link.run(read)
        except FileNotFoundError:
            fail(errno.ESTALE, path, "the file is not there any more")
        self._bytes_read += len(buffer)

    async def commit(
        self, path: str, base: Attributes | None, content: DirtyContent, changes: Changes
    ) -> Attributes:
        """Write what is dirty into the file, flushed to stable storage.

        ESTALE when somebody else wrote to it since ``base``; EEXIST for a new file that is there.
        """
        if base is None:
            base = await self.create(path, Changes())
        begun: FileState | None = None

        async def write(channel: Channel, _: bool) -> Attributes:  # noqa: FBT001
            nonlocal begun
            handle, state = await self._files.open_for_writing(channel, path)
            try:
                if begun is None:
                    if state.version != base.version:
                        fail(errno.ESTALE, path, "somebody else has written to the file")
                    begun = state
                elif (begun.file_id, begun.created_ns) != (state.file_id, state.created_ns):
                    # After a reconnection the version is of our own making; the file must be ours.
                    fail(errno.ESTALE, path, "another file has taken the file's place")
                sent = await write_content(channel, handle, path, state.size, content)
                final = await finish(channel, handle, path, changes.mtime_ns)
            except BaseException:
                channel.abandon(handle)
                raise
            self._bytes_written += sent
            return _file_attributes(final, state.file_id)

        try:
            return await self._link.run(write)
        except FileNotFoundError:
            fail(errno.ESTALE, path, "the file is not there any more")

    async def create(self, path: str, changes: Changes) -> Attributes:
        """Create an empty file. EEXIST."""
        del changes  # a share does not keep modes and owners, and its own clock is exact
        return await self._make(path, b"")

    async def set_attributes(
        self, path: str, attributes: Attributes, changes: Changes
    ) -> Attributes:
        """Set the modification time; modes and owners are accepted and forgotten."""
        nanoseconds = changes.mtime_ns
        if nanoseconds is None:
            return attributes

        async def change(channel: Channel, _: bool) -> Attributes:  # noqa: FBT001
            state = await self._files.set_written_time(channel, path, nanoseconds)
            return await self._files.attributes(channel, path, state)

        return await self._link.run(change)

    async def make_directory(
        self, path: str, changes: Changes, *, free: bool = False
    ) -> Attributes:
        """Create a directory. EEXIST, ENOENT."""
        del changes, free

        async def make(channel: Channel, uncertain: bool) -> Attributes:  # noqa: FBT001
            try:
                state = await self._files.create(channel, path, directory=True)
            except FileExistsError:
                if not uncertain:
                    raise
                # An attempt whose answer was lost made it.
                return await self._files.stat(channel, path)
            return await self._files.attributes(channel, path, state)

        return await self._link.run(make)

    async def remove_directory(self, path: str) -> None:
        """Remove an empty directory. ENOTEMPTY, ENOENT, ENOTDIR."""
        await self._handles.release(path)

        async def remove(channel: Channel, uncertain: bool) -> None:  # noqa: FBT001
            try:
                await self._files.remove_directory(channel, path)
            except FileNotFoundError:
                if not uncertain:
                    raise

        await self._link.run(remove)

    async def unlink(self, path: str) -> None:
        """Remove a file or a symbolic link. ENOENT, EISDIR."""
        await self._handles.release(path)

        async def remove(channel: Channel, uncertain: bool) -> None:  # noqa: FBT001
            try:
                await self._files.unlink(channel, path)
            except FileNotFoundError:
                if not uncertain:
                    raise

        await self._link.run(remove)

    async def rename(
        self, source: str, target: str, attributes: Attributes, *, replace: bool
    ) -> Attributes:
        """Rename. EEXIST, ENOENT, EBUSY when another client keeps the target."""
        if target.startswith(f"{source}/"):
            fail(errno.EINVAL, target)
        directory = attributes.kind is Kind.DIRECTORY
        await self._handles.release(source)
        await self._handles.release(target)

        async def move(channel: Channel, uncertain: bool) -> Attributes:  # noqa: FBT001
            try:
                state = await self._files.rename(
                    channel, source, target, replace=replace, directory=directory
                )
            except FileNotFoundError:
                if uncertain:
                    there = await self._files.stat(channel, target)
                    if there.file_id == attributes.file_id:
                        return there
                raise
            return await self._files.attributes(channel, target, state)

        return await self._link.run(move)

    async def exchange(self, one: str, other: str) -> None:
        """SMB has no such operation. EINVAL."""
        await trio.lowlevel.checkpoint()
        fail(errno.EINVAL, one, f"two names of a share cannot change places ({other})")

    def makes_at_commit(self, path: str) -> bool:  # noqa: ARG002 -- the protocol's
        """No: its server locks a file that is open."""
        return False

    def staging_size(self, offset: int) -> int:
        """Nothing is sent ahead: an SMB write is visible at once."""
        del offset
        return 0

    async def stage(
        self, path: str, base: Attributes, start: int, body: bytes | memoryview
    ) -> Staged | None:
        """Nothing is sent ahead."""
        del path, base, start, body
        await trio.lowlevel.checkpoint()
        return None

    async def symlink(self, path: str, target: str, changes: Changes) -> Attributes:
        """Create a symbolic link, as a small file (``mfsymlinks``). EEXIST."""
        del changes
        return await self._make(path, symlinks.encode(target))

    async def readlink(self, path: str, attributes: Attributes) -> str:
        """The target of a symbolic link. EINVAL."""
        del attributes
        return await self._link.run(lambda channel, _: self._files.read_link(channel, path))

    async def space(self) -> Space:
        """Capacity of the share."""
        total, free = await self._link.run(lambda channel, _: self._files.space(channel))
        return Space(total, free)

    async def continues(self, path: str, old: Attributes, new: Attributes) -> bool:
        """A file on a share is one living thing; another file in its place is not."""
        del path
        await trio.lowlevel.checkpoint()
        return None in {old.file_id, new.file_id} or old.file_id == new.file_id

    async def settle(self) -> None:
        """Nothing: a share renames in one step."""
        await trio.lowlevel.checkpoint()

    def warnings(self) -> Sequence[str]:
        """None."""
        return []

    def statistics(self) -> dict[str, int | float]:
        """Counters of requests, bytes, retries and errors."""
        channel = self._link.current
        return {
            "bytes_received": self._bytes_read,
            "bytes_sent": self._bytes_written,
            "share_connections": self._link.generation,
            "share_connection_losses": self._link.losses,
            "retries": self._link.retries,
            "share_open_handles": len(self._handles),
            "requests": channel.requests if channel else 0,
            "share_credits": channel.limiter.available if channel else 0,
            "share_unsolicited": channel.unsolicited if channel else 0,
        }

    async def _make(self, path: str, content: bytes) -> Attributes:
        async def make(channel: Channel, uncertain: bool) -> Attributes:  # noqa: FBT001
            try:
                state = await self._files.create(channel, path, content)
            except FileExistsError:
                known = await self._files.stat(channel, path) if uncertain else None
                # An attempt whose answer was lost made it, unless there is something in it.
                if known is None or known.kind is Kind.DIRECTORY or (known.size and not content):
                    raise
                return known
            return await self._files.attributes(channel, path, state)

        return await self._link.run(make)


def _check_same(path: str, file_id: int | None, state: FileState) -> None:
    if None not in {file_id, state.file_id} and file_id != state.file_id:
        fail(errno.ESTALE, path, "another file has taken the file's place")


def _file_attributes(state: FileState, file_id: int | None) -> Attributes:
    return Attributes(
        Kind.FILE,
        size=state.size,
        mtime_ns=state.written_ns,
        ctime_ns=state.changed_ns,
        version=state.version,
        file_id=file_id,
    )


def _split(endpoint: str) -> tuple[str, int]:
    host, separator, port = endpoint.rpartition(":")
    if not separator:
        host, port = endpoint, "445"
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise MountError(
            "InvalidOption", f"{endpoint!r} is no address of a file server", "Give host:port."
        )
    return host.strip("[]"), int(port)
