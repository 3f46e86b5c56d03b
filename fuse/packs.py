"""Small pieces of the disk cache, many to a file: the packs of a directory and their table.

A file of its own for each costs more than the bytes in it: to find its directory, make it, give it
blocks, and delete it again. A mount appends to a pack of its own until that is full, then begins
another; all mounts read all packs. What is evicted is a whole pack.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from fuse import packfile, packindex
from fuse.blockfile import DamagedError

#: Where packs are, below the directory of the disk cache.
DIRECTORY = "packs"

#: The name of the table of places.
INDEX = "index"

#: Bytes of a pack, more or less: the last batch of a pack goes there as a whole.
LARGEST = 64 * 1024 * 1024
SMALLEST = 1024 * 1024

#: Packs that a budget is divided into, at least: what is evicted is a small part of it.
_PARTS = 32

#: A place is a pack's number and an offset in units of packfile.ALIGNMENT; of these bits.
_OFFSET_BITS = 26
_NUMBER_BITS = 64 - _OFFSET_BITS

#: A key and what is kept under it.
Body = tuple[bytes, memoryview]

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def largest(budget: int | None) -> int:
    """Bytes that a pack may have under a budget of bytes; None: it is not known yet."""
    return max(SMALLEST, min(LARGEST, (budget or 0) // _PARTS))


class _Table:
    """The table of places, opened for reading; closed when the last thread is through with it."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, _READ)
        status = os.fstat(self.descriptor)
        self._identity = status.st_dev, status.st_ino

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def is_same(self, descriptor: int) -> bool:
        """Whether this is the file that is open there."""
        status = os.fstat(descriptor)
        return self._identity == (status.st_dev, status.st_ino)


class Packs:
    """The packs of a directory, as one mount uses them: one thread writes, any number reads.

    Args:
        directory: Of the disk cache.
        number: Gives new packs their numbers.
    """

    def __init__(self, directory: Path, number: Callable[[int], int] = secrets.randbits) -> None:
        self._root = f"{os.fspath(directory)}/{DIRECTORY}/"
        self._number = number
        self._current = 0
        self._end = 0
        self._table: _Table | None = None

    def read(self, key: bytes, view: memoryview, flags: int, used: Callable[[int], None]) -> bool:
        """Fill ``view`` with what was kept under a key; False when it is not there.

        Args:
            key: 32 bytes, a digest of what is wanted.
            view: As long as that.
            flags: For preadv(2).
            used: Told the descriptor of the pack that had it.

        Raises:
            DamagedError: It was there, and not unharmed. It is forgotten.
            OSError: EAGAIN with RWF_NOWAIT; what the disk says.
        """
        place = self._find(key, flags)
        if place is None:
            return False
        number, offset = _parts(place)
        try:
            pack = os.open(self._path(number), _READ)
        except FileNotFoundError:  # evicted
            return False
        try:
            found = packfile.read(pack, offset, key, view, flags=flags)
            if found:
                used(pack)
        except DamagedError:
            self._forget(key)
            raise
        finally:
            os.close(pack)
        return found

    def append(self, bodies: Sequence[Body], limit: int) -> None:
        """Keep bytes under keys.

        Args:
            bodies: Keys and bytes.
            limit: Bytes of a pack from which on another one is begun.

        Raises:
            OSError: What the disk says. What was kept by then is whole.
        """
        index = self._open_table()
        try:
            if self._table is not None and not self._table.is_same(index):
                self._table = None
            while bodies:
                count = _fitting(bodies, limit)
                self._append(index, bodies[:count], limit)
                bodies = bodies[count:]
        except BaseException:
            self._current = 0  # what it ends with may be torn
            raise
        finally:
            os.close(index)

    def _append(self, index: int, bodies: Sequence[Body], limit: int) -> None:
        pack = self._open(limit)
        try:
            places = packfile.append(pack, self._end, bodies)
        finally:
            os.close(pack)
        found = {
            key: _place(self._current, offset)
            for (key, _), offset in zip(bodies, places[:-1], strict=True)
        }
        packindex.put(index, found)
        self._end = places[-1]

    def _open(self, limit: int) -> int:
        """The pack that is being written; another one where it is full, or was evicted."""
        if self._current and self._end < limit:
            try:
                return os.open(self._path(self._current), _WRITE & ~os.O_CREAT)
            except FileNotFoundError:
                pass
        self._current = self._number(_NUMBER_BITS) or 1
        self._end = 0
        return os.open(self._path(self._current), _WRITE | os.O_EXCL, 0o600)

    def _open_table(self) -> int:
        """The table of places, to be written; where it is new, with what the packs have."""
        path = self._root + INDEX
        try:
            return os.open(path, _WRITE & ~os.O_CREAT)
        except FileNotFoundError:
            Path(self._root).mkdir(mode=0o700, exist_ok=True)
        index = os.open(path, _WRITE, 0o600)
        try:
            os.ftruncate(index, packindex.SIZE)
            for entry in os.scandir(self._root):
                if entry.name != INDEX:
                    self._enter(index, entry)
        except BaseException:
            os.close(index)
            raise
        return index

    def _enter(self, index: int, entry: os.DirEntry[str]) -> None:
        number = _number(entry.name)
        if number is None:
            return
        try:
            pack = os.open(entry.path, _READ)
        except FileNotFoundError:
            return
        try:
            records = packfile.records(pack)
            packindex.put(index, {key: _place(number, offset) for key, offset in records})
        finally:
            os.close(pack)

    def _find(self, key: bytes, flags: int) -> int | None:
        table = self._table
        if table is None:
            try:
                table = self._table = _Table(self._root + INDEX)
            except FileNotFoundError:
                return None
        return packindex.find(table.descriptor, key, flags=flags)

    def _forget(self, key: bytes) -> None:
        try:
            index = os.open(self._root + INDEX, _WRITE & ~os.O_CREAT)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.EROFS}:
                raise
            return
        try:
            packindex.put(index, {key: 0})
        finally:
            os.close(index)

    def _path(self, number: int) -> str:
        return f"{self._root}{number:010x}"


def _fitting(bodies: Sequence[Body], limit: int) -> int:
    """How many of these, one at least, are not more than one pack."""
    size = 0
    for count, (_, view) in enumerate(bodies):
        size += packfile.size_of(len(view))
        if size > limit:
            return max(1, count)
    return len(bodies)


def _place(number: int, offset: int) -> int:
    return number << _OFFSET_BITS | offset // packfile.ALIGNMENT


def _parts(place: int) -> tuple[int, int]:
    number, units = divmod(place, 1 << _OFFSET_BITS)
    return number, units * packfile.ALIGNMENT


def _number(name: str) -> int | None:
    try:
        return int(name, 16)
    except ValueError:
        return None
