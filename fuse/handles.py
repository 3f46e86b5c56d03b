"""Open file and directory handles: what the kernel's ``fh`` numbers stand for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from fuse.content import Content
from fuse.errors import fail
from fuse.inodes import Inode
from fuse.namespace import Listed
from fuse.readahead import ReadAhead


@dataclass(slots=True)
class FileHandle:
    """An open file description.

    Attributes:
        inode: The file.
        content: The content that it was opened on.
        flags: ``open`` flags.
        window: Its read-ahead.
        pid: Thread that opened it; 0 when it is not known.
        told: Whether fsync or close has said already that another writer was first.
        pending: Reads through it that wait.
    """

    inode: Inode
    content: Content
    flags: int
    window: ReadAhead
    pid: int = 0
    told: bool = False
    pending: int = 0

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing, or cut when it was opened."""
        return bool(self.flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC))


@dataclass(slots=True)
class DirectoryHandle:
    """An open directory and the listing that is being read from it.

    Attributes:
        inode: The directory.
        pid: Thread that opened it; 0 when it is not known.
        listed: What the listing had.
    """

    inode: Inode
    pid: int = 0
    listed: Listed = field(default_factory=Listed)


Handle = TypeVar("Handle")


class HandleTable(Generic[Handle]):
    """Numbers for handles."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._handles: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[Handle]:
        return iter(self._handles.values())

    def add(self, handle: Handle) -> int:
        """Number a new handle."""
        number = next(self._numbers)
        self._handles[number] = handle
        return number

    def __getitem__(self, number: int) -> Handle:
        """The handle of a number. EBADF when there is none."""
        handle = self._handles.get(number)
        if handle is None:
            fail(errno.EBADF)
        return handle

    def remove(self, number: int) -> Handle:
        """Forget a handle and return it."""
        return self._handles.pop(number)
