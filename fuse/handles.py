"""Open file and directory handles: what the kernel's ``fh`` numbers stand for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from fuse.content import Content
from fuse.inodes import Inode
from fuse.readahead import ReadAhead
from fuse.volume import Entry


@dataclass(slots=True)
class FileHandle:
    """An open file description.

    Attributes:
        inode: The file.
        content: The content that it was opened on.
        flags: ``open`` flags.
        window: Its read-ahead.
    """

    inode: Inode
    content: Content
    flags: int
    window: ReadAhead

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return bool(self.flags & (os.O_WRONLY | os.O_RDWR))


@dataclass(slots=True)
class DirectoryHandle:
    """An open directory and the listing that is being read from it."""

    inode: Inode
    entries: list[Entry] = field(default_factory=list)


Handle = TypeVar("Handle")


class HandleTable(Generic[Handle]):
    """Numbers for handles."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._handles: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: Handle) -> int:
        """Number a new handle."""
        number = next(self._numbers)
        self._handles[number] = handle
        return number

    def __getitem__(self, number: int) -> Handle:
        return self._handles[number]

    def remove(self, number: int) -> Handle:
        """Forget a handle and return it."""
        return self._handles.pop(number)
