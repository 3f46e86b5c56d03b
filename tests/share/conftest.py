"""A share for the tests: connections to it, and a Samba of one's own to freeze and kill."""

import contextlib
import shutil
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from fuse.share import ShareVolume
from fuse.share.handshake import Timeouts
from fuse.volume import Changes

#: Short enough to wait for, long enough for a busy machine.
QUICK = Timeouts(connect=3, silence=1.5, pending=3, request=10, idle=1, handle=0.5, retry=6)


class OverlayContent:
    """Dirty content in memory, as the write-back core would hand it over."""

    def __init__(self, size, data, *, ranges=None, base_size=0):
        self.size = size
        self.base_size = base_size
        self.dirty_ranges = ranges if ranges is not None else [(0, len(data))] * bool(data)
        self._data = data

    async def read(self, offset, size):
        return memoryview(self._data)[offset : offset + size]


def connect(storage, *, timeouts=QUICK, **changes):
    """A volume on `storage`."""
    settings = {
        "endpoint": storage.file_endpoint,
        "share": storage.share,
        "account": storage.account,
        "key": storage.key,
        "source": "//test/share",
    }
    return ShareVolume.connect(**(settings | changes), timeouts=timeouts)


async def read(volume, path, offset=0, size=None):
    """The bytes of a file as it is now."""
    attributes = await volume.stat(path)
    buffer = bytearray(attributes.size - offset if size is None else size)
    await volume.read_into(path, attributes, offset, memoryview(buffer), lambda _: None)
    return bytes(buffer)


async def write(volume, path, data):
    """Create or replace a file's content."""
    try:
        base = await volume.create(path, Changes())
    except FileExistsError:
        base = await volume.stat(path)
    return await volume.commit(path, base, OverlayContent(len(data), data), Changes())


class Samba:
    """A Samba of a test's own."""

    def __init__(self, storage):
        self.storage = storage
        self._pid = next(server.pid for server in storage.servers if server.name == "samba")

    def _sessions(self):
        return psutil.Process(self._pid).children(recursive=True)

    def _all(self):
        return [psutil.Process(self._pid), *self._sessions()]

    def freeze(self):
        """The host is there, but nobody answers."""
        for process in self._all():
            process.send_signal(signal.SIGSTOP)

    def thaw(self):
        for process in self._all():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def kill_sessions(self):
        """End all connections, as a failover does; the server goes on."""
        for process in self._sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.net_connections("tcp"):
                    process.kill()

    def stop(self):
        from agent.dev import storage

        storage.down(self.storage.directory)

    def start(self):
        from agent.dev import storage

        self.storage = storage.up(self.storage.directory, services=["samba"])
        self._pid = next(s.pid for s in self.storage.servers if s.name == "samba")


@pytest.fixture
def samba():
    from agent.dev import storage

    directory = Path(tempfile.mkdtemp(prefix="bs-", dir="/tmp"))
    try:
        mine = Samba(storage.up(directory, services=["samba"]))
        yield mine
        if psutil.pid_exists(mine._pid):
            mine.thaw()
    finally:
        storage.down(directory)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def volume(storage):
    async with connect(storage) as connected:
        yield connected


@contextlib.asynccontextmanager
async def held_open(volume, path, *, share):
    """A file held open by somebody who shares it so far. Samba only minds its own process's."""
    from fuse.share import wire

    channel = volume._link.current
    access = wire.Access.READ_DATA | wire.Access.READ_ATTRIBUTES
    (reply,) = await channel.call(wire.create(path.replace("/", "\\"), access, share=share))
    assert reply.status == 0
    yield
    await channel.call(wire.close(wire.created(reply)[0]))
