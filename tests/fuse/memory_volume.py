"""A volume in memory, for tests of the core above it; it can be told to fail."""

from __future__ import annotations

import errno
import itertools

import trio

from fuse.errors import fail
from fuse.volume import Attributes, Kind


class MemoryVolume:
    """Files by path; each commit makes a new version."""

    source = "memory"
    identity = "memory:test"
    keeps_xattrs = False
    versions_are_immutable = True
    preferred_read = 64
    round_trip = float("inf")
    commit_interval = None
    name_max = 255
    attribute_timeout = 1.0

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, str] = {}
        self.numbers = itertools.count(1)
        self.failing: OSError | None = None
        self.reads = 0
        #: Called before and after a commit takes effect: a place to crash.
        self.around_commit = lambda: None

    def put(self, path, data):
        self.files[path] = bytes(data)
        self.versions[path] = f"v{next(self.numbers)}"
        return self.attributes(path)

    def attributes(self, path):
        return Attributes(Kind.FILE, size=len(self.files[path]), version=self.versions[path])

    def begin_read(self, path, attributes, offset, buffer, progress, done):
        return False

    async def read_into(self, path, attributes, offset, buffer, progress):
        await trio.lowlevel.checkpoint()
        self.reads += 1
        if self.failing:
            raise self.failing
        if path not in self.files or self.versions[path] != attributes.version:
            fail(errno.ESTALE, path)
        data = self.files[path][offset : offset + len(buffer)]
        assert len(data) == len(buffer)
        half = len(data) // 2
        buffer[:half] = data[:half]
        progress(half)
        await trio.lowlevel.checkpoint()
        buffer[half:] = data[half:]

    def makes_at_commit(self, path):
        return False

    def staging_size(self, offset):
        return 0

    async def stage(self, path, base, start, body):
        raise AssertionError("nothing is worth staging here")

    async def stat(self, path):
        await trio.lowlevel.checkpoint()
        if path not in self.files:
            fail(errno.ENOENT, path)
        return self.attributes(path)

    async def commit(self, path, base, content, changes):
        if self.failing:
            raise self.failing
        self.around_commit()
        if base.unmade and path in self.files:
            fail(errno.EEXIST, path)
        if base.version != self.versions.get(path, ""):
            # An earlier try of the same commit, whose answer was lost? Its base is gone by now.
            found = self.files.get(path)
            if found is not None and len(found) == content.size:
                written = [
                    found[start:end] == await content.read(start, end - start)
                    for start, end in content.dirty_ranges
                ]
                if all(written):
                    return self.attributes(path)
            fail(errno.ESTALE, path)
        # Only what the protocol promises is used: ranges over what is left of the base.
        old = self.files.get(path, b"")
        data = bytearray(old[: content.base_size].ljust(content.size, b"\0"))
        for start, end in content.dirty_ranges:
            data[start:end] = await content.read(start, end - start)
        assert bytes(await content.read(0, content.size)) == bytes(data)
        made = self.put(path, data)
        self.around_commit()
        return made
