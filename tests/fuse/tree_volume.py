"""A whole volume in memory, with directories, versions and attributes, that counts its requests.

As flat containers do, it gives a new version to whatever is written, renamed or set.
"""

from __future__ import annotations

import errno
import itertools
import time
from collections import Counter

import trio

from fuse.errors import fail
from fuse.volume import Attributes, Entry, Kind, Space


class TreeVolume:
    source = "memory"
    identity = "memory:tree"
    versions_are_immutable = True
    keeps_xattrs = True
    preferred_read = 1 << 20
    commit_interval = None
    name_max = 255
    attribute_timeout = 10.0
    round_trip = float("inf")

    def __init__(self):
        self.entries: dict[str, Attributes] = {}
        self.data: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.numbers = itertools.count(1)
        #: Versions of these paths count as grown, not as replaced.
        self.growing: set[str] = set()
        #: Requests of these kinds wait until this is changed.
        self.held: dict[str, trio.Event] = {}

    # -- what tests do behind the mount's back --------------------------------------------------

    def put(self, path, data, **attributes):
        self.data[path] = bytes(data)
        known = self.entries.get(path, Attributes(Kind.FILE))
        now = time.time_ns()
        self.entries[path] = known.changed(
            **{
                "size": len(data),
                "mtime_ns": now,
                "ctime_ns": now,
                "version": f"v{next(self.numbers)}",
                **attributes,
            }
        )
        return self.entries[path]

    def drop(self, path):
        del self.entries[path]
        self.data.pop(path, None)

    def below(self, path):
        return [name for name in self.entries if name.startswith(f"{path}/")]

    # -- the protocol -----------------------------------------------------------------------------

    async def _asked(self, what, path):
        self.requests[what] += 1
        await trio.lowlevel.checkpoint()
        if what in self.held:
            await self.held[what].wait()

    def _known(self, path):
        if not path:
            return Attributes(Kind.DIRECTORY)
        if path not in self.entries:
            fail(errno.ENOENT, path)
        return self.entries[path]

    async def stat(self, path):
        await self._asked("stat", path)
        return self._known(path)

    async def list(self, path):
        await self._asked("list", path)
        prefix = f"{path}/" if path else ""
        found = [
            Entry(name[len(prefix) :], known)
            for name, known in self.entries.items()
            if name.startswith(prefix) and "/" not in name[len(prefix) :]
        ]
        for start in range(0, len(found), 5000):
            yield found[start : start + 5000]
            await trio.lowlevel.checkpoint()

    def begin_read(self, path, attributes, offset, buffer, progress, done):
        return False

    async def read_into(self, path, attributes, offset, buffer, progress):
        await self._asked("read", path)
        known = self.entries.get(path)
        if known is None or known.version != attributes.version:
            fail(errno.ESTALE, path)
        buffer[:] = self.data[path][offset : offset + len(buffer)]
        progress(len(buffer))

    async def commit(self, path, base, content, changes):
        await self._asked("commit", path)
        known = self.entries.get(path)
        if known is None or known.version != base.version:
            fail(errno.ESTALE, path)
        data = bytearray(self.data[path][: content.base_size].ljust(content.size, b"\0"))
        for start, end in content.dirty_ranges:
            data[start:end] = await content.read(start, end - start)
        made = self.put(path, data)
        self.entries[path] = _changed(made.changed(mtime_ns=content.mtime_ns), changes)
        return self.entries[path]

    def makes_at_commit(self, path):
        return False

    def staging_size(self, offset):
        return 0

    async def create(self, path, changes):
        await self._asked("create", path)
        if path in self.entries:
            fail(errno.EEXIST, path)
        self.entries[path] = _changed(self.put(path, b""), changes)
        return self.entries[path]

    async def set_attributes(self, path, attributes, changes):
        await self._asked("set", path)
        known = self._known(path)
        if known.version != attributes.version:
            fail(errno.ESTALE, path)
        changed = _changed(known, changes)
        if known.kind is not Kind.DIRECTORY:
            changed = changed.changed(version=f"v{next(self.numbers)}")
        self.entries[path] = changed
        return changed

    async def make_directory(self, path, changes, *, free=False):
        await self._asked("mkdir", path)
        if path in self.entries:
            fail(errno.EEXIST, path)
        now = time.time_ns()
        made = Attributes(Kind.DIRECTORY, mtime_ns=now, ctime_ns=now)
        self.entries[path] = _changed(made, changes)
        return self.entries[path]

    async def remove_directory(self, path):
        await self._asked("rmdir", path)
        self._known(path)
        if self.below(path):
            fail(errno.ENOTEMPTY, path)
        self.drop(path)

    async def unlink(self, path):
        await self._asked("unlink", path)
        self._known(path)
        self.drop(path)

    async def rename(self, source, target, attributes, *, replace):
        await self._asked("rename", source)
        self._known(source)
        if target in self.entries and not replace:
            fail(errno.EEXIST, target)
        if self.below(target):
            fail(errno.ENOTEMPTY, target)
        for name in self.below(source):
            self._move(name, target + name[len(source) :])
            await self._asked("move", name)
        self._move(source, target)
        await self._asked("renamed", source)
        return self.entries[target]

    def _move(self, source, target):
        known = self.entries.pop(source)
        if known.kind is not Kind.DIRECTORY:
            known = known.changed(version=f"v{next(self.numbers)}")
            self.data[target] = self.data.pop(source)
        self.entries[target] = known

    async def exchange(self, one, other):
        await self._asked("exchange", one)
        first, second = [one, *self.below(one)], [other, *self.below(other)]
        for name in first:
            self._move(name, f"\0{name}")
        for name in second:
            self._move(name, one + name[len(other) :])
        for name in first:
            self._move(f"\0{name}", other + name[len(one) :])

    async def symlink(self, path, target, changes):
        await self._asked("symlink", path)
        if path in self.entries:
            fail(errno.EEXIST, path)
        made = self.put(path, target.encode(), kind=Kind.SYMLINK)
        self.entries[path] = _changed(made, changes)
        return self.entries[path]

    async def readlink(self, path, attributes):
        await self._asked("readlink", path)
        return self.data[path].decode()

    async def space(self):
        await trio.lowlevel.checkpoint()
        return Space()

    async def continues(self, path, old, new):
        await trio.lowlevel.checkpoint()
        return path in self.growing and new.size >= old.size

    def statistics(self):
        return dict(self.requests)


def _changed(known, changes):
    numbers = {
        name: value
        for name in ("mode", "uid", "gid", "mtime_ns")
        if (value := getattr(changes, name)) is not None
    }
    xattrs = {**dict(known.xattrs), **dict(changes.xattrs)}
    if sum(len(value) for value in xattrs.values() if value is not None) > 8192:
        fail(errno.ENOSPC)
    kept = tuple(sorted((name, value) for name, value in xattrs.items() if value is not None))
    return known.changed(xattrs=kept, ctime_ns=time.time_ns(), **numbers)
