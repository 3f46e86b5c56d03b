"""A proxy that holds back each request for some milliseconds: latency, as a wide area has it.

A program of its own, a thread a connection. Bodies are moved by splice(2) and never seen; so one
core carries more than a client takes. Of TLS nothing is seen at all: whatever a client sends is
held back, and so are the two messages that open a connection.

Run as ``python -m bench.servers.delay``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from agent.dev import ports
from bench import programs
from bench.servers import Service, Traffic
from bench.waiting import wait_until

_PIPE = 1024 * 1024
_HEAD_LIMIT = 64 * 1024
_BACKLOG = 1024

# <fcntl.h>; Python has no names for them
_SPLICE_F_MOVE, _SPLICE_F_MORE = 1, 4

_COUNTERS = struct.Struct("=QQQ")

#: Its end to read from, and its end to write to.
_Pipe = tuple[int, int]


@contextlib.contextmanager
def delayed(service: Service, milliseconds: float, directory: Path) -> Iterator[Service]:
    """``service`` through a proxy of its own.

    Args:
        service: Behind the proxy.
        milliseconds: How long each request is held back.
        directory: For the counters.
    """
    port = ports.free_port()
    counters = directory / f"traffic-{port}"
    counters.write_bytes(bytes(_COUNTERS.size))
    scheme, _, rest = service.endpoint.partition("://")
    opaque = scheme == "https"
    host, _, account = rest.partition("/")
    instructions = {
        "listen": port,
        "target": int(host.rpartition(":")[2]),
        "delay": milliseconds / 1000,
        "counters": os.fspath(counters),
        "opaque": opaque,
    }
    process = subprocess.Popen(
        [*programs.command("servers.delay"), json.dumps(instructions)],
        env=programs.environment(),
        stdin=subprocess.DEVNULL,
    )
    with process:
        try:
            wait_until(lambda: ports.listens(port), 10, "the delaying proxy's start")
            yield replace(
                service,
                name=f"{service.name}+{milliseconds:g}ms",
                endpoint=f"{scheme}://127.0.0.1:{port}/{account}",
                traffic=service.traffic
                if opaque
                else lambda: Traffic(*_COUNTERS.unpack(counters.read_bytes())),
                pids=lambda: [*service.pids(), process.pid],
            )
        finally:
            process.kill()


class _Counters:
    """Shared with whoever reads the file."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _COUNTERS.size)
        self._lock = threading.Lock()
        self._values = [0, 0, 0]

    def add(self, *, listing: bool, wire_bytes: int) -> None:
        with self._lock:
            self._values[0] += 1
            self._values[1] += listing
            self._values[2] += wire_bytes
            self._map[:] = _COUNTERS.pack(*self._values)


class _End:
    """One side of a connection: heads by recv, bodies by splice."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.rest = b""

    def head(self) -> bytes:
        """The next head, its empty line included; b"" where there is none."""
        data = self.rest
        while (end := data.find(b"\r\n\r\n")) < 0:
            received = self.socket.recv(_HEAD_LIMIT)
            if not received or len(data) > _HEAD_LIMIT:
                return b""
            data += received
        self.rest = data[end + 4 :]
        return data[: end + 4]

    def line(self) -> bytes:
        """The next line, its end included."""
        while (end := self.rest.find(b"\n")) < 0:
            received = self.socket.recv(_HEAD_LIMIT)
            if not received:
                raise ConnectionError("cut in a chunk")
            self.rest += received
        line, self.rest = self.rest[: end + 1], self.rest[end + 1 :]
        return line

    def move(self, count: int, to: _End, pipe: _Pipe, before: bytes = b"") -> None:
        """Send ``before``, then ``count`` bytes of what comes here, to the other side."""
        first, self.rest = self.rest[:count], self.rest[count:]
        count -= len(first)
        flags = socket.MSG_MORE if count else 0
        if before or first:
            to.socket.sendall(before + first, flags)
        source, target = self.socket.fileno(), to.socket.fileno()
        while count:
            moved = os.splice(source, pipe[1], min(count, _PIPE), flags=_SPLICE_F_MOVE)
            if not moved:
                raise ConnectionError("cut in a body")
            count -= moved
            more = _SPLICE_F_MORE if count else 0
            while moved:
                moved -= os.splice(pipe[0], target, moved, flags=_SPLICE_F_MOVE | more)


def _header(head: bytes, name: bytes) -> bytes | None:
    lower = head.lower()
    start = lower.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()


def _converse(client: _End, server: _End, delay: float, counters: _Counters, pipe: _Pipe) -> None:
    while request := client.head():
        time.sleep(delay)
        sent = int(_header(request, b"content-length") or 0)
        client.move(sent, server, pipe, before=request)
        answer = server.head()
        if not answer:
            return
        status = int(answer.split(b" ", 2)[1])
        received = 0
        if request.startswith(b"HEAD ") or status in {204, 304}:
            client.socket.sendall(answer)
        elif _header(answer, b"transfer-encoding") is not None:
            client.socket.sendall(answer)
            received = _chunks(server, client, pipe)
        else:
            received = int(_header(answer, b"content-length") or 0)
            server.move(received, client, pipe, before=answer)
        first = request[: request.index(b"\r\n")]
        counters.add(
            listing=b"comp=list" in first and b"blocklist" not in first,
            wire_bytes=len(request) + sent + len(answer) + received,
        )


def _chunks(source: _End, to: _End, pipe: _Pipe) -> int:
    """A chunked body (RFC 9112 section 7.1); its length with all that holds it together."""
    total = 0
    while True:
        line = source.line()
        size = int(line.split(b";")[0], 16)
        source.move(size + 2, to, pipe, before=line)  # the last chunk ends with an empty line, too
        total += len(line) + size + 2
        if not size:
            return total


def _tunnel(client: socket.socket, server: socket.socket, delay: float, pipe: _Pipe) -> None:
    """Hold back what the client sends; what it gets is moved as it comes."""

    def send() -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_HEAD_LIMIT):
                time.sleep(delay)
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    try:
        while moved := os.splice(server.fileno(), pipe[1], _PIPE, flags=_SPLICE_F_MOVE):
            while moved:
                moved -= os.splice(pipe[0], client.fileno(), moved, flags=_SPLICE_F_MOVE)
    finally:
        for end in (client, server):  # which ends the other direction, too
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        sending.join()


def _serve(accepted: socket.socket, target: int, delay: float, counters: _Counters | None) -> None:
    """Serve a connection; without ``counters`` nothing of it is understood."""
    pipe = os.pipe()
    try:
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE)
        with accepted, socket.create_connection(("127.0.0.1", target)) as upstream:
            if counters is None:
                for end in (accepted, upstream):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _tunnel(accepted, upstream, delay, pipe)
            else:
                _converse(_End(accepted), _End(upstream), delay, counters, pipe)
    except OSError:
        return  # one of both has gone: closing the other one tells it
    finally:
        os.close(pipe[0])
        os.close(pipe[1])


def main() -> None:
    """Serve until killed."""
    instructions = json.loads(sys.argv[1])
    counters = None if instructions["opaque"] else _Counters(instructions["counters"])
    threading.stack_size(256 * 1024)
    with socket.create_server(("127.0.0.1", instructions["listen"]), backlog=_BACKLOG) as listener:
        while True:
            accepted, _ = listener.accept()
            arguments = (accepted, instructions["target"], instructions["delay"], counters)
            threading.Thread(target=_serve, args=arguments, daemon=True).start()


if __name__ == "__main__":
    main()
