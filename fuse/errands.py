"""Requests that have to wait for the store, without the way through pyfuse3.

That way costs each of them 70 µs, in two more sockets and three more tasks: a twentieth of what
making a small file takes, more of what deleting one does. So those that programs send by the
thousand are taken apart here, and answered by the handlers that pyfuse3 would have called.
"""

from __future__ import annotations

from typing import Final, Protocol

from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT

from fuse import messages
from fuse.filesystem import FileSystem
from fuse.immediate import Caller, Immediate


class Errand(Protocol):
    """Answers one kind of request."""

    __name__: str

    async def __call__(self, unique: int, inode: int, body: bytes, caller: Caller, /) -> bytes:
        """The answer to the request of that number. FUSEError says which errno it is."""


class Errands:
    """Answers of a mounted volume that may take a while.

    Args:
        filesystem: Whose handlers answer.
        immediate: Says what the kernel is told of an inode.

    Attributes:
        known: By opcode.
    """

    def __init__(self, filesystem: FileSystem, immediate: Immediate) -> None:
        self._filesystem = filesystem
        self._immediate = immediate
        self.known: Final[dict[int, Errand]] = {
            messages.UNLINK: self._unlink,
            messages.RMDIR: self._rmdir,
            messages.RENAME: self._rename,
            messages.RENAME2: self._rename_as,
            messages.FSYNC: self._fsync,
            messages.FLUSH: self._flush,
            messages.CREATE: self._create,
        }

    async def _unlink(self, unique: int, inode: int, body: bytes, caller: Caller) -> bytes:
        await self._filesystem.unlink(InodeT(inode), FileNameT(body[:-1]), caller)
        return messages.done(unique)

    async def _rmdir(self, unique: int, inode: int, body: bytes, caller: Caller) -> bytes:
        await self._filesystem.rmdir(InodeT(inode), FileNameT(body[:-1]), caller)
        return messages.done(unique)

    async def _rename(self, unique: int, inode: int, body: bytes, caller: Caller) -> bytes:
        (directory,) = messages.RENAME_IN.unpack_from(body)
        names = body[messages.RENAME_IN.size :]
        return await self._renamed(unique, inode, directory, names, 0, caller)

    async def _rename_as(self, unique: int, inode: int, body: bytes, caller: Caller) -> bytes:
        directory, flags = messages.RENAME2_IN.unpack_from(body)
        names = body[messages.RENAME2_IN.size :]
        return await self._renamed(unique, inode, directory, names, flags, caller)

    async def _renamed(
        self, unique: int, inode: int, directory: int, names: bytes, flags: int, caller: Caller
    ) -> bytes:
        old, new, _ = names.split(b"\0")
        await self._filesystem.rename(
            InodeT(inode), FileNameT(old), InodeT(directory), FileNameT(new), FlagT(flags), caller
        )
        return messages.done(unique)

    async def _fsync(self, unique: int, _inode: int, body: bytes, _caller: Caller) -> bytes:
        (handle,) = messages.HANDLE_IN.unpack_from(body)
        await self._filesystem.fsync(FileHandleT(handle), False)
        return messages.done(unique)

    async def _flush(self, unique: int, _inode: int, body: bytes, _caller: Caller) -> bytes:
        (handle,) = messages.HANDLE_IN.unpack_from(body)
        await self._filesystem.flush(FileHandleT(handle))
        return messages.done(unique)

    async def _create(self, unique: int, inode: int, body: bytes, caller: Caller) -> bytes:
        flags, mode = messages.CREATE_IN.unpack_from(body)
        name = body[messages.CREATE_IN.size : -1]
        info, made = await self._filesystem.create(
            InodeT(inode), FileNameT(name), ModeT(mode), FlagT(flags), caller
        )
        shown = self._immediate.shown(self._filesystem.inodes.get(made.st_ino))
        kept = messages.KEEP_CACHE if info.keep_cache else 0
        return messages.created(unique, shown, int(info.fh), kept)
