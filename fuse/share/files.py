"""Operations on names: each is one packet of related requests, so one round trip.

Methods take a live :class:`Channel` and a path of the volume, and raise OSError; they know
nothing of reconnecting.
"""

from __future__ import annotations

import errno
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import TypeVar

import trio

from fuse.errors import fail
from fuse.share import errors, symlinks, wire
from fuse.share.channel import Channel
from fuse.share.errors import StatusError, status_error
from fuse.share.names import from_server, server_path
from fuse.share.state import FileState
from fuse.share.wire import Access, Command, Disposition, Message, Option, Reply
from fuse.volume import Attributes, Kind

Result = TypeVar("Result")

#: Larger answers to QUERY_DIRECTORY take longer to make, and cost more than one credit.
_LIST_BUFFER = 65536
#: Another client's passing use of a file (a removal, a scan) is waited out this long.
_PATIENCE = 1.0
_PAUSE = 0.05
_SYMLINKS_REMEMBERED = 4096

_DELETE = Access.DELETE | Access.READ_ATTRIBUTES | Access.SYNCHRONIZE
_READ = Access.READ_DATA | Access.READ_ATTRIBUTES | Access.SYNCHRONIZE
_WRITE = Access.WRITE_DATA | Access.READ_ATTRIBUTES | Access.WRITE_ATTRIBUTES | Access.SYNCHRONIZE


async def chain(channel: Channel, path: str, *messages: Message) -> list[Reply]:
    """Send a CREATE with what is to be done to the file; all must succeed.

    Whatever happens, the file does not stay open, unless the chain ends without a CLOSE.
    """
    replies = await channel.call(*messages)
    for reply in replies:
        if reply.status != errors.SUCCESS:
            opened = messages[0].command == Command.CREATE and not replies[0].status
            if opened and not (messages[-1].command == Command.CLOSE and not replies[-1].status):
                channel.abandon(wire.created(replies[0])[0])
            raise status_error(reply.status, path)
    return replies


async def patiently(attempt: Callable[[], Awaitable[Result]], statuses: Collection[int]) -> Result:
    """Repeat what fails because of others for a short while."""
    deadline = trio.current_time() + _PATIENCE
    while True:
        try:
            return await attempt()
        except StatusError as error:
            if error.status not in statuses or trio.current_time() >= deadline:
                raise
        await trio.sleep(_PAUSE)


class Files:
    """Names, attributes and directories of a share."""

    def __init__(self) -> None:
        self._symlinks: OrderedDict[tuple[str, str], str | None] = OrderedDict()

    async def stat(self, channel: Channel, path: str) -> Attributes:
        """Attributes, from the answer to CREATE."""

        async def attempt() -> FileState:
            replies = await chain(
                channel,
                path,
                wire.create(server_path(path), Access.READ_ATTRIBUTES),
                wire.close(),
            )
            return wire.created(replies[0])[1]

        try:
            state = await patiently(attempt, {errors.SHARING_VIOLATION})
        except StatusError as error:
            if error.status == errors.DELETE_PENDING:  # others still have it open
                fail(errno.ENOENT, path)
            raise
        return await self.attributes(channel, path, state)

    async def attributes(self, channel: Channel, path: str, state: FileState) -> Attributes:
        """Attributes of a state; a file that may be a symbolic link is looked into."""
        if state.is_directory or state.size != symlinks.FILE_SIZE:
            return _attributes(state, None)
        return _attributes(state, await self._target(channel, path, state))

    async def read_link(self, channel: Channel, path: str) -> str:
        """Target of a symbolic link. EINVAL for anything else."""
        content, state = await self.read_whole(channel, path, symlinks.FILE_SIZE)
        target = symlinks.decode(content) if state.size == symlinks.FILE_SIZE else None
        if target is None:
            fail(errno.EINVAL, path)
        return target

    async def read_whole(
        self, channel: Channel, path: str, size: int
    ) -> tuple[memoryview, FileState]:
        """Up to ``size`` bytes from a file's start: open, read and close in one round trip."""

        async def attempt() -> tuple[memoryview, FileState]:
            messages = (
                wire.create(server_path(path), _READ, options=Option.NOT_DIRECTORY),
                wire.read(0, size),
                wire.close(),
            )
            replies = await channel.call(*messages)
            if replies[1].status == errors.END_OF_FILE and not replies[0].status:
                return memoryview(b""), wire.created(replies[0])[1]
            for reply in replies:
                if reply.status != errors.SUCCESS:
                    raise status_error(reply.status, path)
            return wire.read_data(replies[1]), wire.created(replies[0])[1]

        return await patiently(attempt, {errors.SHARING_VIOLATION})

    async def open_for_reading(self, channel: Channel, path: str) -> tuple[bytes, FileState]:
        """A handle to read through."""
        return await self._open(channel, path, _READ, Disposition.OPEN)

    async def open_for_writing(self, channel: Channel, path: str) -> tuple[bytes, FileState]:
        """A handle on an existing file to write through."""
        return await self._open(channel, path, _WRITE, Disposition.OPEN)

    async def create(
        self, channel: Channel, path: str, content: bytes = b"", *, directory: bool = False
    ) -> FileState:
        """Create a file (with some content) or a directory. EEXIST."""
        kind = Option.DIRECTORY if directory else Option.NOT_DIRECTORY
        access = Access.READ_ATTRIBUTES if directory else _WRITE
        messages = [wire.create(server_path(path), access, Disposition.CREATE, kind)]
        if content:
            messages.append(wire.write(0, content, wire.RELATED_FILE))
        messages.append(wire.close(want_state=True))

        async def attempt() -> FileState:
            replies = await chain(channel, path, *messages)
            return _final_state(replies)

        return await patiently(attempt, {errors.DELETE_PENDING, errors.SHARING_VIOLATION})

    async def set_written_time(self, channel: Channel, path: str, nanoseconds: int) -> FileState:
        """Set the last write time."""
        access = Access.WRITE_ATTRIBUTES | Access.READ_ATTRIBUTES
        replies = await chain(
            channel,
            path,
            wire.create(server_path(path), access),
            wire.set_written_time(nanoseconds),
            wire.close(want_state=True),
        )
        return _final_state(replies)

    async def remove_directory(self, channel: Channel, path: str) -> None:
        """Remove an empty directory. ENOTEMPTY, ENOTDIR."""
        await chain(
            channel,
            path,
            wire.create(server_path(path), _DELETE, options=Option.DIRECTORY),
            wire.delete(),
            wire.close(),
        )

    async def unlink(self, channel: Channel, path: str) -> None:
        """Remove a file. One that others have open loses its name at once, as on Linux."""
        name = server_path(path)

        async def attempt(share: int, *first: Message) -> None:
            create = wire.create(name, _DELETE, options=Option.NOT_DIRECTORY, share=share)
            await chain(channel, path, create, *first, wire.delete(), wire.close())

        try:
            # Shared with nobody: fails exactly where the file is open elsewhere, in which case
            # deleting it would leave a name that nobody can use until the last one closes.
            await attempt(wire.SHARE_NONE)
        except StatusError as error:
            if error.status != errors.SHARING_VIOLATION:
                raise
            try:
                await attempt(wire.SHARE_ALL, wire.rename(_aside(name), replace=False))
            except StatusError as refused:
                if refused.status not in {errors.SHARING_VIOLATION, errors.ACCESS_DENIED}:
                    raise
                await patiently(lambda: attempt(wire.SHARE_ALL), {errors.SHARING_VIOLATION})

    async def rename(
        self, channel: Channel, source: str, target: str, *, replace: bool, directory: bool
    ) -> FileState:
        """Rename; with ``replace``, what is at ``target`` gives way.

        Raises:
            OSError: EEXIST without ``replace``, EBUSY when another client has the target open in
                a way that does not let it be moved aside.
        """
        server, new = server_path(source), server_path(target)

        async def attempt() -> FileState:
            replies = await chain(
                channel,
                source,
                wire.create(server, _DELETE),
                # No server replaces a directory.
                wire.rename(new, replace=replace and not directory),
                wire.close(want_state=True),
            )
            return _final_state(replies)

        try:
            return await attempt()
        except StatusError as error:
            if not replace:
                raise
            if directory and error.status in {errors.NAME_COLLISION, errors.ACCESS_DENIED}:
                await self.remove_directory(channel, target)
                return await attempt()
            if directory or error.status not in {errors.SHARING_VIOLATION, errors.ACCESS_DENIED}:
                raise
            refusal = error
        return await self._rename_aside(channel, target, attempt, refusal)

    async def _rename_aside(
        self,
        channel: Channel,
        target: str,
        attempt: Callable[[], Awaitable[FileState]],
        refusal: StatusError,
    ) -> FileState:
        """Replace a target that others have open: it moves aside and goes when they close it."""
        name = server_path(target)
        try:
            replies = await chain(
                channel,
                target,
                wire.create(name, _DELETE, options=Option.NOT_DIRECTORY),
                wire.rename(_aside(name), replace=False),
            )
        except FileNotFoundError:
            raise refusal from None  # the refusal was about the source
        except StatusError as error:
            if error.status not in {errors.SHARING_VIOLATION, errors.ACCESS_DENIED}:
                raise
            if refusal.status == errors.ACCESS_DENIED == error.status:
                # Windows and Samba say the same of a lack of rights and of an open target.
                fail(errno.EBUSY, target, "another client has the target open")
            fail(errno.EBUSY, target, "another client has the file open")
        handle = wire.created(replies[0])[0]
        try:
            state = await attempt()
        except StatusError:
            await channel.call(wire.rename(name, handle, replace=False))
            channel.abandon(handle)
            raise
        await channel.call(wire.delete(handle))
        await channel.call(wire.close(handle))
        return state

    async def list(
        self, channel: Channel, path: str
    ) -> AsyncIterator[list[tuple[str, Attributes]]]:
        """Names and attributes in pages: a small directory takes two round trips."""
        access = Access.READ_DATA | Access.READ_ATTRIBUTES | Access.SYNCHRONIZE
        first, *answers = await channel.call(
            wire.create(server_path(path), access, options=Option.DIRECTORY),
            wire.query_directory(_LIST_BUFFER),
            wire.query_directory(_LIST_BUFFER),
        )
        if first.status != errors.SUCCESS:
            raise status_error(first.status, path)
        handle = wire.created(first)[0]
        try:
            while True:
                for reply in answers:
                    if reply.status == errors.NO_MORE_FILES:
                        return
                    if reply.status != errors.SUCCESS:
                        raise status_error(reply.status, path)
                    page: list[tuple[str, Attributes]] = []
                    for name, state in wire.entries(reply):
                        if name in {".", ".."}:
                            continue
                        plain = from_server(name)
                        child = f"{path}/{plain}" if path else plain
                        try:
                            page.append((plain, await self.attributes(channel, child, state)))
                        except FileNotFoundError:  # gone since
                            continue
                    yield page
                answers = await channel.call(wire.query_directory(_LIST_BUFFER, handle))
        finally:
            channel.abandon(handle)

    async def space(self, channel: Channel) -> tuple[int, int]:
        """Total and available bytes."""
        replies = await chain(
            channel, "", wire.create("", Access.READ_ATTRIBUTES), wire.query_space(), wire.close()
        )
        return wire.space(replies[1])

    async def _open(
        self, channel: Channel, path: str, access: Access, disposition: Disposition
    ) -> tuple[bytes, FileState]:
        async def attempt() -> tuple[bytes, FileState]:
            create = wire.create(server_path(path), access, disposition, Option.NOT_DIRECTORY)
            replies = await chain(channel, path, create)
            return wire.created(replies[0])

        return await patiently(attempt, {errors.SHARING_VIOLATION})

    async def _target(self, channel: Channel, path: str, state: FileState) -> str | None:
        key = (path, state.version)
        if key in self._symlinks:
            self._symlinks.move_to_end(key)
            return self._symlinks[key]
        content, found = await self.read_whole(channel, path, symlinks.FILE_SIZE)
        target = symlinks.decode(content)
        if found.version == state.version:
            self._symlinks[key] = target
            if len(self._symlinks) > _SYMLINKS_REMEMBERED:
                self._symlinks.popitem(last=False)
        return target


def _attributes(state: FileState, target: str | None) -> Attributes:
    if state.is_directory:
        kind, size = Kind.DIRECTORY, 0
    elif target is not None:
        kind, size = Kind.SYMLINK, len(target.encode("utf-8", "surrogateescape"))
    else:
        kind, size = Kind.FILE, state.size
    return Attributes(
        kind,
        size=size,
        mtime_ns=state.written_ns,
        ctime_ns=state.changed_ns,
        version=state.version,
        file_id=state.file_id,
    )


def _final_state(replies: list[Reply]) -> FileState:
    return wire.closed(replies[-1], file_id=wire.created(replies[0])[1].file_id)


def _aside(name: str) -> str:
    """A name in the same directory for a file that is only waiting for its last close."""
    head, separator, _ = name.rpartition("\\")
    return f"{head}{separator}.smb-removed-{secrets.token_hex(8)}"
