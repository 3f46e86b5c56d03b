"""A store in memory as the service is at its worst, and a disk that can lose its power."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from fuse.errors import fail
from tests.fuse.memory_volume import MemoryVolume


class CrashError(BaseException):
    """The process ends here."""


class StoreModel(MemoryVolume):
    """Immutable versions, conditional commits; answers are refused, throttled, or lost.

    Attributes:
        history: Every content that a file ever had, by name and then by version.
        faults: What happens to the next requests, first to last: None, ``refused`` (EIO, nothing
            was done), ``throttled`` (ETIMEDOUT, nothing was done), ``lost`` (EIO, it was done).
        steps: Called before and after a commit takes effect.
    """

    def __init__(self):
        super().__init__()
        self.history: dict[str, dict[str, bytes]] = {}
        self.faults: list[str | None] = []
        self.steps = lambda: None
        self._attempts: dict[tuple[str, str], str] = {}
        self._bases: dict[str, str] = {}
        self._reserved: dict[str, str] = {}

    def put(self, path, data):
        made = super().put(path, data)
        self.history.setdefault(path, {})[made.version] = bytes(data)
        return made

    def forget_attempts(self):
        """What was in the memory of a process that ended."""
        self._attempts.clear()

    def origin(self, base):
        """What an attempt over this version says that it rests on: a new file is one all along."""
        return self.origin_of(base.version) if base.version else _birth(base.mtime_ns)

    def origin_of(self, version):
        """As :meth:`origin`, of a version that the store has."""
        return self._reserved.get(version, version)

    def contents_of(self, path):
        return self.history.get(path, {}).values()

    async def read_into(self, path, attributes, offset, buffer, progress):
        self._fail()
        await super().read_into(path, attributes, offset, buffer, progress)

    def makes_at_commit(self, path):
        return True

    async def create(self, path, changes):
        self.steps()
        fault = self._fail()
        if path in self.files:
            fail(errno.EEXIST, path)
        made = self.put(path, b"")
        self._reserved[made.version] = _birth(changes.mtime_ns)
        self.steps()
        if fault == "lost":
            fail(errno.EIO, path, "the answer was lost")
        return made

    async def commit(self, path, base, content, changes):
        """As blobs are committed: what an earlier try of ours made is known again."""
        self.steps()
        fault = self._fail()
        made = self._attempts.pop((path, base.version), None)
        if made is not None and self.versions.get(path) == made:
            base = self.attributes(path)
        elif base.version != self.versions.get(path, ""):
            # Its modification time says that it is ours, and over what.
            known = self.versions[path]
            if base.unmade and self._reserved.get(known) == self.origin(base):
                base = self.attributes(path)
            else:
                ours = self._bases.get(known) == self.origin(base)
                found = self.attributes(path)
                if not ours or self.files[path] != await self._merged(base, content):
                    fail(errno.EEXIST if base.unmade else errno.ESTALE, path)
                return found
        found = await super().commit(path, base, content, changes)
        self._bases[found.version] = self.origin(base)
        self.steps()
        if fault == "lost":
            self._attempts[path, base.version] = found.version
            fail(errno.EIO, path, "the answer was lost")
        return found

    async def _merged(self, base, content):
        known = [one[base.version] for one in self.history.values() if base.version in one]
        (old,) = known or [b""]
        data = bytearray(old[: content.base_size].ljust(content.size, b"\0"))
        for start, end in content.dirty_ranges:
            data[start:end] = await content.read(start, end - start)
        return bytes(data)

    def _fail(self):
        fault = self.faults.pop(0) if self.faults else None
        if fault == "refused":
            fail(errno.EIO, reason="refused")
        if fault == "throttled":
            fail(errno.ETIMEDOUT, reason="throttled")
        return fault


def _birth(mtime_ns):
    """Names a new file before it has a version."""
    return f"made at {mtime_ns}"


class Archive(StoreModel):
    """The same store, asked for versions that nobody else can have any more: for the checks."""

    def __init__(self, store):
        super().__init__()
        self.history = store.history

    async def read_into(self, path, attributes, offset, buffer, progress):
        buffer[:] = self.history[path][attributes.version][offset : offset + len(buffer)]
        progress(len(buffer))


class CrashingOs:
    """The ``os`` module, but the process ends at the n-th call that changes the disk."""

    def __init__(self, steps):
        self._steps = steps

    def __getattr__(self, name):
        return getattr(os, name)

    def pwrite(self, fd, data, offset):
        if self._steps():
            os.pwrite(fd, memoryview(data)[: len(data) // 2], offset)
            raise CrashError
        return os.pwrite(fd, data, offset)

    def write(self, fd, data):
        if self._steps():
            os.write(fd, data[: len(data) // 2])
            raise CrashError
        return os.write(fd, data)

    def ftruncate(self, fd, size):
        if self._steps():
            raise CrashError
        os.ftruncate(fd, size)


class Platter:
    """What fdatasync(2) and fsync(2) brought to the disk below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._synced: dict[int, bytes] = {}
        self._named: dict[Path, int] = {}

    async def to_disk(self, descriptor):
        """In place of fdatasync."""
        size = os.fstat(descriptor).st_size
        self._synced[os.fstat(descriptor).st_ino] = os.pread(descriptor, size, 0)

    def names_to_disk(self):
        """In place of fsync of the directories."""
        self._named = {path: path.stat().st_ino for path in self._files()}

    def lose_power(self, written):
        """Put the disk as it may be found again.

        Args:
            written: Says of each file whether the page cache had been written back by itself.
        """
        for path in self._files():
            if written():
                continue
            inode = path.stat().st_ino
            if inode in self._synced and path in self._named:
                path.write_bytes(self._synced[inode])
            elif path.suffix == ".data":
                path.write_bytes(bytes(path.stat().st_size))  # of its blocks none was written
            else:
                path.unlink()
        for path, inode in self._named.items():
            if not path.exists() and inode in self._synced and not written():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._synced[inode])  # its removal had not reached the disk
        self._synced, self._named = {}, {}

    def _files(self):
        return sorted(path for path in self.root.rglob("*") if path.suffix in {".log", ".data"})
