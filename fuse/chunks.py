"""Large versions of the disk cache: the chunks of a directory, a file for each.

They are in 16 directories, under a digest of volume, path, version and number: there is no index to
load or to keep. What a chunk does not have may be kept elsewhere, in units: a scattered read is not
worth a file for each 8 MiB that it touches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fuse import blockfile
from fuse.blockfile import CHUNK, UNIT, Elsewhere, Version

#: What is at least so long (bytes) is written past the page cache: the mount has its pages already.
DIRECT = 1024 * 1024

#: A chunk that was not there is not looked for again for so long (seconds): nobody but another
#: mount makes it meanwhile, and scattered reads ask for it all the time.
_ABSENT = 1.0

#: How many such chunks are remembered.
_KNOWN = 4096

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Chunks:
    """The chunks of a directory, as one mount uses them.

    Args:
        directory: Of the disk cache.
        remove: Deletes a file that holds something else than it says.
    """

    def __init__(self, directory: Path, remove: Callable[[str], object]) -> None:
        self._root = f"{os.fspath(directory)}/"
        self._remove = remove
        self._absent: dict[tuple[bytes, int], float] = {}

    def read(
        self,
        version: Version,
        start: int,
        view: memoryview,
        flags: int,
        used: Callable[[int], None],
        elsewhere: Elsewhere,
    ) -> bool:
        """Fill ``view`` with a part of a version; False when it is not all there.

        Args:
            version: What is wanted.
            start: Offset in it; a multiple of the unit.
            view: Ends at a unit's end, or at the version's.
            flags: For preadv(2).
            used: Told the descriptors of the chunks that had it.
            elsewhere: Asked for units that the chunks do not have, by their number in the version.

        Raises:
            DamagedError: It was there, and not unharmed. The chunk is removed.
            OSError: EAGAIN with RWF_NOWAIT; what the disk says.
        """
        return all(
            self._read(version, number, first, piece, flags, used, elsewhere)
            for number, first, piece in _pieces(version, start, view)
        )

    def _read(
        self,
        version: Version,
        number: int,
        first: int,
        view: memoryview,
        flags: int,
        used: Callable[[int], None],
        elsewhere: Elsewhere,
    ) -> bool:
        base = number * (CHUNK // UNIT)

        def numbered(unit: int, piece: memoryview) -> bool:
            return elsewhere(base + unit, piece)

        key, path, descriptor = self._open(version, number)
        if descriptor is None:
            return all(numbered(unit, piece) for unit, piece in blockfile.pieces(first, view))
        try:
            size = version.chunk_size(number)
            found = blockfile.read(
                descriptor, key, first, view, size, flags=flags, elsewhere=numbered
            )
            if found:
                used(descriptor)
        except blockfile.DamagedError:
            self._remove(path)
            raise
        finally:
            os.close(descriptor)
        return found

    def _open(self, version: Version, number: int) -> tuple[bytes, str, int | None]:
        """Key, path and descriptor of a chunk; no descriptor where it is not there."""
        chunk = version.key, number
        if self._absent.get(chunk, 0.0) > time.monotonic():
            return b"", "", None
        key = version.chunk_key(number)
        path = self._path(key)
        try:
            return key, path, os.open(path, _READ)
        except FileNotFoundError:
            if len(self._absent) >= _KNOWN:
                self._absent.clear()
            self._absent[chunk] = time.monotonic() + _ABSENT
            return key, path, None

    def write(self, version: Version, start: int, view: memoryview) -> int:
        """Keep what there is of a version from an offset on, in whole units; how many bytes.

        Raises:
            OSError: What the disk says. What was kept by then is whole.
        """
        return sum(
            self._write(version, number, first, piece)
            for number, first, piece in _pieces(version, start, view)
        )

    def _write(self, version: Version, number: int, first: int, view: memoryview) -> int:
        key = version.chunk_key(number)
        path = self._path(key)
        try:
            descriptor = os.open(path, _WRITE, 0o600)
        except FileNotFoundError:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, _WRITE, 0o600)
        direct = _open_past(path) if len(view) >= DIRECT else None
        try:
            return blockfile.write(descriptor, key, first, view, version.chunk_size(number), direct)
        finally:
            self._absent.pop((version.key, number), None)
            os.close(descriptor)
            if direct is not None:
                os.close(direct)

    def _path(self, key: bytes) -> str:
        name = key.hex()
        return f"{self._root}{name[:1]}/{name[1:39]}"


def _pieces(
    version: Version, start: int, view: memoryview
) -> Iterator[tuple[int, int, memoryview]]:
    """Number of each chunk, an offset in it, and what is there of the view."""
    for number, first, last in version.chunks(start, start + len(view)):
        offset = number * CHUNK + first - start
        yield number, first, view[offset : offset + last - first]


def _open_past(path: str) -> int | None:
    """The file, to be written past the page cache; None where the file system cannot do that."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECT)
    except OSError:
        return None
