"""HTTP for bulk bytes: non-blocking sockets on trio's loop, bodies straight into a buffer.

The SDK's pipeline costs seconds of CPU per GiB, and handing each request to a thread costs more
than a small blob itself (docs/architecture.md has the figures). So ranges are fetched and blocks
are sent here. What is here is deliberately little: HTTP/1.1 with keep-alive and Content-Length
bodies, plain
or TLS, a pool, deadlines. Response heads are parsed by httptools.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import httptools
import trio

from fuse.volume import Progress

Result = TypeVar("Result")

#: Seconds for a TCP connection and the TLS handshake.
CONNECT_TIMEOUT = 10.0

#: Seconds without a byte from the server before a request is given up.
STALL_TIMEOUT = 30.0

#: An idle connection older than this (seconds) is not trusted: Azure closes them after minutes.
IDLE_LIMIT = 60.0

#: Largest response head, and largest error body, that is read (bytes).
_HEAD_LIMIT = 64 * 1024
_ERROR_LIMIT = 1024 * 1024

#: Let others run after this many bytes without having waited.
_FAIRNESS = 1024 * 1024


class TransportError(OSError):
    """The connection failed, stalled or spoke no HTTP; another try may do better."""


@dataclass(slots=True)
class Response:
    """The head of a response, and its body where that is not in the caller's buffer.

    Attributes:
        status: HTTP status.
        headers: Names in lower case.
        body: Of responses that were not read into a buffer, errors above all.
        received: Bytes of the body that went into the caller's buffer.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    received: int = 0


class _Head:
    """Collects what httptools calls back with."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self.done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.complete = True

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.done = True


class Connection:
    """One keep-alive connection."""

    def __init__(self, sock: socket.socket | ssl.SSLSocket) -> None:
        self._socket = sock
        self.idle_since = 0.0
        self.reusable = True
        self._since_checkpoint = 0

    @classmethod
    async def open(cls, host: str, port: int, tls: ssl.SSLContext | None) -> Connection:
        """Connect, trying every address of the host in turn.

        Raises:
            TransportError: None of them answered in time, or the certificate is not trusted.
        """
        failure: Exception | None = None
        try:
            addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise TransportError(errno.EHOSTUNREACH, f"cannot resolve {host}: {error}") from error
        for family, kind, protocol, _name, address in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                with trio.fail_after(CONNECT_TIMEOUT):
                    return await cls._connect(sock, address, host, tls)
            except (OSError, trio.TooSlowError) as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        reason = "timed out" if isinstance(failure, trio.TooSlowError) else str(failure)
        raise TransportError(
            errno.ETIMEDOUT if isinstance(failure, trio.TooSlowError) else errno.ECONNREFUSED,
            f"cannot connect to {host}:{port}: {reason}",
        ) from failure

    @classmethod
    async def _connect(
        cls, sock: socket.socket, address: tuple[object, ...], host: str, tls: ssl.SSLContext | None
    ) -> Connection:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = sock.connect_ex(address)
        if number == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        if tls is None:
            return cls(sock)
        wrapped = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        connection = cls(wrapped)
        try:
            await connection._retry(wrapped.do_handshake, trio.lowlevel.wait_readable)
        except BaseException:
            connection.close()  # the plain socket no longer owns the descriptor
            raise
        return connection

    def close(self) -> None:
        """Close at once; whatever was under way on the connection is lost."""
        self._socket.close()

    @property
    def stale(self) -> bool:
        """Whether the server closed the idle connection, or it has been idle for too long."""
        if trio.current_time() - self.idle_since > IDLE_LIMIT:
            return True
        try:
            self._socket.recv(1)  # nothing is owed to us: bytes and an end are both the end
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    async def send(self, *parts: bytes | memoryview) -> None:
        """Send all parts in order."""
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[await self._send_some(view[:_FAIRNESS]) :]

    async def receive(self, buffer: memoryview) -> int:
        """Receive some bytes; 0 when the server closed the connection."""
        count = await self._receive_some(buffer)
        self._since_checkpoint += count
        if self._since_checkpoint >= _FAIRNESS:
            self._since_checkpoint = 0
            await trio.lowlevel.checkpoint()
        return count

    async def _send_some(self, view: memoryview) -> int:
        return await self._retry(lambda: self._socket.send(view), trio.lowlevel.wait_writable)

    async def _receive_some(self, buffer: memoryview) -> int:
        return await self._retry(
            lambda: self._socket.recv_into(buffer), trio.lowlevel.wait_readable
        )

    async def _retry(
        self,
        operation: Callable[[], Result],
        blocked: Callable[[socket.socket], Awaitable[None]],
    ) -> Result:
        """Call ``operation`` until it does not block; TLS says itself what it waits for."""
        while True:
            try:
                return operation()
            except BlockingIOError:
                wait = blocked
            except ssl.SSLWantReadError:
                wait = trio.lowlevel.wait_readable
            except ssl.SSLWantWriteError:
                wait = trio.lowlevel.wait_writable
            with trio.move_on_after(STALL_TIMEOUT) as deadline:
                await wait(self._socket)
            if deadline.cancelled_caught:
                raise TransportError(
                    errno.ETIMEDOUT, f"the server was silent for {STALL_TIMEOUT:.0f} s"
                )


class Pool:
    """Connections to one endpoint, and requests over them.

    Args:
        endpoint: ``http[s]://host[:port]``; a path in it is ignored.
        limit: Most connections at a time; further requests wait.
        tls: For ``https``; the system's trust store when None.
    """

    def __init__(
        self, endpoint: str, *, limit: int = 64, tls: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(endpoint)
        self.host = parts.hostname or ""
        self._secure = parts.scheme == "https"
        self.port = parts.port or (443 if self._secure else 80)
        self._host_header = parts.netloc.rpartition("@")[2]
        self._tls = (tls or ssl.create_default_context()) if self._secure else None
        self._idle: deque[Connection] = deque()
        self._limiter = trio.CapacityLimiter(limit)
        self.opened = 0

    def close(self) -> None:
        """Close the idle connections; those in use are closed by their requests."""
        while self._idle:
            self._idle.pop().close()

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | memoryview = b"",
        *,
        into: memoryview | None = None,
        progress: Progress | None = None,
    ) -> Response:
        """One request and its response.

        Args:
            method: ``GET``, ``PUT``, ...
            target: Path and query, already quoted.
            headers: Without ``Host`` and ``Content-Length``.
            body: What to send.
            into: Where the body of a 200 or 206 goes; it must fit.
            progress: Told of the bytes in ``into`` as they arrive.

        Raises:
            TransportError: No complete response came; the request may or may not have been done.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host_header}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if "Content-Length" not in headers and (body or method in {"PUT", "POST"}):
            lines.append(f"Content-Length: {len(body)}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        async with self._limiter, self._connection() as connection:
            try:
                await connection.send(head, body) if body else await connection.send(head)
                return await self._response(connection, method, into, progress)
            except TransportError:
                raise
            except (OSError, httptools.HttpParserError) as error:
                raise TransportError(errno.EIO, f"{self.host}: {error}") from error

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        connection = None
        while self._idle and connection is None:
            candidate = self._idle.pop()
            if candidate.stale:
                candidate.close()
            else:
                connection = candidate
        if connection is None:
            connection = await Connection.open(self.host, self.port, self._tls)
            self.opened += 1
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            connection.close()

    async def _response(
        self,
        connection: Connection,
        method: str,
        into: memoryview | None,
        progress: Progress | None,
    ) -> Response:
        scratch = memoryview(bytearray(_HEAD_LIMIT))
        filled = 0
        while True:
            count = await connection.receive(scratch[filled:])
            if not count:
                raise TransportError(errno.ECONNRESET, f"{self.host} closed the connection")
            filled += count
            end = bytes(scratch[max(0, filled - count - 3) : filled]).find(b"\r\n\r\n")
            if end >= 0:
                end += max(0, filled - count - 3) + 4
                break
            if filled == _HEAD_LIMIT:
                raise TransportError(errno.EPROTO, f"{self.host} sent an endless response head")
        collected = _Head()
        parser = httptools.HttpResponseParser(collected)
        parser.feed_data(bytes(scratch[:end]))
        response = Response(parser.get_status_code(), collected.headers)
        connection.reusable = parser.should_keep_alive()
        rest = scratch[end:filled]
        length = collected.headers.get("content-length")
        if method == "HEAD" or response.status in {204, 304}:
            connection.reusable = connection.reusable and not rest
        elif into is not None and response.status in {200, 206} and length is not None:
            await self._fill(connection, response, int(length), rest, into, progress)
        else:
            await self._collect(connection, parser, collected, rest)
            response.body = bytes(collected.body)
        return response

    async def _fill(
        self,
        connection: Connection,
        response: Response,
        length: int,
        rest: memoryview,
        into: memoryview,
        progress: Progress | None,
    ) -> None:
        if length > len(into) or len(rest) > length:
            raise TransportError(
                errno.EPROTO, f"{self.host} sent {length} bytes where {len(into)} were asked for"
            )
        filled = len(rest)
        into[:filled] = rest
        while filled < length:
            if progress is not None and filled:
                progress(filled)
            count = await connection.receive(into[filled:length])
            if not count:
                response.received = filled
                raise TransportError(
                    errno.ECONNRESET, f"{self.host} cut the body after {filled} of {length} bytes"
                )
            filled += count
        response.received = filled
        if progress is not None:
            progress(filled)

    async def _collect(
        self,
        connection: Connection,
        parser: httptools.HttpResponseParser,
        collected: _Head,
        rest: memoryview,
    ) -> None:
        """The body of an error or of a short answer, chunked or not."""
        if rest:
            parser.feed_data(bytes(rest))
        scratch = memoryview(bytearray(16 * 1024))
        while not collected.done:
            count = await connection.receive(scratch)
            if not count:
                connection.reusable = False
                if "content-length" in collected.headers or parser.should_keep_alive():
                    raise TransportError(errno.ECONNRESET, f"{self.host} cut the response")
                return
            parser.feed_data(bytes(scratch[:count]))
            if len(collected.body) > _ERROR_LIMIT:
                raise TransportError(errno.EPROTO, f"{self.host} sent an endless error")
