"""Work below a directory whose content is a job's: no link is followed, no pipe waited on."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from agent.jobs.service import FileEntry

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK the open of a pipe that a job has left there would wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def split(path: str) -> list[str]:
    """The components of a relative path.

    Raises:
        ValueError: It is absolute, or could lead upwards.
    """
    if path.startswith("/") or "\0" in path:
        raise ValueError("the path must be relative")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ValueError('the path must not contain ".."')
    return parts


@contextmanager
def opened(root: str, path: str, *, directory: bool) -> Iterator[int]:
    """A descriptor of what is at a path below a root.

    Raises:
        OSError: ENOENT, ENOTDIR, EISDIR; ELOOP or ENOTDIR where there is a link on the way.
        ValueError: The path is not relative.
    """
    parts = split(path)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1 and not directory
            following = os.open(part, _FILE if last else _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
        if not directory:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "it is a directory", path)
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "it is no regular file", path)
        yield descriptor
    finally:
        os.close(descriptor)


def create(root: str, path: str, *, uid: int, gid: int) -> None:
    """Make a directory and those above it, below a root; what is made gets this owner.

    Raises:
        OSError: ELOOP or ENOTDIR where there is a link or a file on the way.
        ValueError: The path is not relative.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in split(path):
            made = True
            try:
                os.mkdir(part, 0o777, dir_fd=descriptor)
            except FileExistsError:
                made = False
            following = os.open(part, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = following
            if made:
                _give(descriptor, uid, gid)
    finally:
        os.close(descriptor)


def write(root: str, path: str, text: str, *, uid: int, gid: int) -> None:
    """Write a small file below a root, whole or not at all; it gets this owner.

    Raises:
        OSError: ELOOP or ENOTDIR where there is a link or a file on the way.
        ValueError: The path is not relative.
    """
    directory, _, name = path.rpartition("/")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with opened(root, directory, directory=True) as above:
        descriptor = os.open(name, flags, 0o666, dir_fd=above)
        with open(descriptor, "w", encoding="utf-8") as file:
            _give(descriptor, uid, gid)
            file.write(text)


def _give(descriptor: int, uid: int, gid: int) -> None:
    if os.geteuid() != 0:
        return
    try:
        os.fchown(descriptor, uid, gid)
    except OSError as error:
        # Volumes without owners of their own show the job's user anyhow.
        if error.errno not in {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP}:
            raise


def listing(root: str, path: str) -> list[FileEntry]:
    """The files and directories in a directory, sorted by name; links and the like are left out."""
    found = []
    with opened(root, path, directory=True) as descriptor, os.scandir(descriptor) as names:
        for name in names:
            try:
                status = name.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # removed meanwhile
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                found.append(entry(name.name, status))
    return sorted(found, key=lambda item: item.name)


def entry(name: str, status: os.stat_result) -> FileEntry:
    """A name as the API shows it."""
    is_directory = stat.S_ISDIR(status.st_mode)
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return FileEntry(name, is_directory, 0 if is_directory else status.st_size, modified)


def read(root: str, path: str, offset: int, length: int) -> bytes:
    """Bytes of a file; fewer at its end."""
    with opened(root, path, directory=False) as descriptor:
        pieces = []
        while length > 0:
            piece = os.pread(descriptor, min(length, 1 << 20), offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)
