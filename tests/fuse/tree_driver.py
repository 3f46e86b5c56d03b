"""A mount of :class:`TreeVolume`: the whole core under the real kernel, and a store at hand.

Run as a program it mounts and serves requests of the test on a socket, a JSON document a line;
:func:`tree_mount` is the test's side.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyfuse3
import trio

from fuse import untold
from fuse.filesystem import FileSystem
from fuse.options import MountOptions
from fuse.serving import serve
from fuse.volume import Attributes, Kind
from tests.fuse.tree_volume import TreeVolume

ROOT = Path(__file__).parents[2]


class Mounted:
    """A mount, and what happens to its store behind its back."""

    def __init__(self, process, path, stream, log):
        self.process = process
        self.path = path
        self.log = log
        self._stream = stream

    def ask(self, *request):
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        answer = json.loads(self._stream.readline())
        assert "error" not in answer, answer
        return answer["result"]

    def put(self, path, data, **attributes):
        """Somebody else writes a file."""
        self.ask("put", path, data.hex(), attributes)

    def drop(self, path):
        """Somebody else removes a file."""
        self.ask("drop", path)

    def stored(self, path):
        """What the store has."""
        return bytes.fromhex(self.ask("get", path))

    def kernel_requests(self):
        """Requests of the kernel so far."""
        stats = self.ask("stats")
        return stats["kernel_requests_answered"] + stats["kernel_requests_passed_on"]

    def requests(self):
        """Requests so far, by kind."""
        return self.ask("requests")


@contextlib.contextmanager
def tree_mount(directory, **settings):
    """Mount; unmount at the end. ``settings``: timeout (seconds), keeps_xattrs, ..."""
    mountpoint = directory / "m"
    mountpoint.mkdir()
    ours, theirs = socket.socketpair()
    spec = {"mountpoint": os.fspath(mountpoint), "cache": os.fspath(directory), **settings}
    log = directory / "tree.log"
    with log.open("wb") as errors, theirs:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.fuse.tree_driver",
                json.dumps(spec),
                str(theirs.fileno()),
            ],
            cwd=ROOT,
            stderr=errors,
            pass_fds=[theirs.fileno()],
        )
    with process, ours, ours.makefile("rw") as stream:
        try:
            assert stream.readline() == "ready\n", log.read_text()
            yield Mounted(process, mountpoint, stream, log)
            subprocess.run(["fusermount3", "-u", mountpoint], check=True, capture_output=True)
            assert process.wait(20) == 0, log.read_text()
            assert "defect" not in log.read_text(), log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
            subprocess.run(["umount", "-l", mountpoint], check=False, capture_output=True)


def _perform(volume, filesystem, request):
    name, *rest = request
    if name == "put":
        volume.put(rest[0], bytes.fromhex(rest[1]), **rest[2])
    elif name == "drop":
        volume.drop(rest[0])
    elif name == "fill":
        for number in range(rest[1]):
            volume.put(f"{rest[0]}/{number}", b"")
    elif name == "get":
        return volume.data[rest[0]].hex()
    elif name == "requests":
        return dict(volume.requests)
    elif name == "grow":
        volume.growing.add(rest[0])
    elif name == "hold":
        volume.held[rest[0]] = trio.Event()
    elif name == "let":
        volume.held.pop(rest[0]).set()
    elif name == "stats":
        return filesystem.statistics()
    elif name == "inodes":
        return len(filesystem.inodes)
    else:
        raise ValueError(name)
    return None


async def _control(stream, volume, filesystem):
    buffer = b""
    while data := await stream.receive_some(1 << 20):
        buffer += data
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            try:
                answer = {"result": _perform(volume, filesystem, json.loads(line))}
            except Exception as error:  # noqa: BLE001 -- it is the test that must see it
                answer = {"error": repr(error)}
            await stream.send_all(json.dumps(answer).encode() + b"\n")


async def _serve(spec, descriptor):
    volume = TreeVolume()
    volume.keeps_xattrs = spec.get("keeps_xattrs", True)
    options = MountOptions(
        mountpoint=Path(spec["mountpoint"]),
        cache_directory=Path(spec["cache"]),
        attribute_timeout=spec.get("timeout"),
        file_mode=0o644,
        directory_mode=0o755,
        read_only=spec.get("read_only", False),
    )
    untold.FILES = spec.get("files_kept_ready", untold.FILES)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
    async with trio.open_nursery() as nursery:
        root = Attributes(Kind.DIRECTORY)
        filesystem = FileSystem(volume, root, options, nursery)
        wanted = {*pyfuse3.default_options, "default_permissions", "allow_other", "fsname=tree"}
        if options.read_only:
            wanted.add("ro")
        pyfuse3.init(filesystem, spec["mountpoint"], wanted)
        nursery.start_soon(_control, stream, volume, filesystem)
        await stream.send_all(b"ready\n")
        await serve(filesystem)
        pyfuse3.close(unmount=False)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_serve, json.loads(sys.argv[1]), int(sys.argv[2]))
