"""HTTP for bulk bytes: non-blocking sockets on trio's loop, bodies straight into a buffer.

The SDK's pipeline costs seconds of CPU per GiB, and handing each request to a thread costs more
than a small blob itself (docs/architecture.md has the figures). So ranges are fetched and blocks
are sent here. What is here is deliberately little: HTTP/1.1 with keep-alive, a pool, and limits for
everything that a server could draw out. Response heads are parsed by httptools.
"""

from __future__ import annotations

import errno
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

import httptools
import trio

from fuse.blob.connection import (
    STALL_TIMEOUT,
    CertificateError,
    Connection,
    ProtocolError,
    SilentError,
    TransportError,
)
from fuse.blob.responses import Head, Response
from fuse.blob.routes import Route
from fuse.latency import Latencies
from fuse.volume import Progress

__all__ = [
    "CertificateError",
    "Pool",
    "ProtocolError",
    "Response",
    "SilentError",
    "TransportError",
    "Watch",
]

#: Largest response head in bytes.
_HEAD_LIMIT = 64 * 1024

#: Largest body of an answer that is not read into a caller's buffer, unless it says more (bytes).
_BODY_LIMIT = 1024 * 1024


#: Bodies up to this size (bytes) go with the head: one call, and one record of TLS.
_TOGETHER = 15 * 1024


class Watch(Protocol):
    """Who is told how a request goes."""

    def started(self) -> None:
        """There is a place in the pool for it."""

    def moved(self) -> None:
        """Bytes of a body came or went."""


class Pool:
    """Connections to one endpoint, and requests over them.

    Attributes:
        opened: How many connections were made.
        answering: How long requests waited for the head of the response.

    Args:
        endpoint: ``http[s]://host[:port]``; a path in it is ignored.
        limit: Most connections at a time; further requests wait.
        tls: For ``https``; as the route says when None.
        route: How the endpoint is reached; straight when None.
        stall: Seconds without a byte, or with next to none, before a request is given up.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        limit: int = 64,
        tls: ssl.SSLContext | None = None,
        route: Route | None = None,
        stall: float | None = None,
    ) -> None:
        parts = urlsplit(endpoint)
        route = route or Route()
        self.host = parts.hostname or ""
        self._secure = parts.scheme == "https"
        self.port = parts.port or (443 if self._secure else 80)
        self._host_header = parts.netloc.rpartition("@")[2]
        self._tls = (tls or route.tls()) if self._secure else None
        self._proxy = route.proxy
        self._stall = stall
        self._idle: deque[Connection] = deque()
        self._limiter = trio.CapacityLimiter(limit)
        self._last_moved = 0.0
        self.opened = 0
        self.answering = Latencies()

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
        check: Callable[[Response], None] | None = None,
        watch: Watch | None = None,
        limit: int = _BODY_LIMIT,
        patience: float = float("inf"),
    ) -> Response:
        """One request and its response.

        Args:
            method: ``GET``, ``PUT``, ...
            target: Path and query, already quoted.
            headers: Without ``Host`` and ``Content-Length``.
            body: What to send.
            into: Where the body of a 200 or 206 goes; it must fit.
            progress: Told of the bytes in ``into`` as they arrive.
            check: Sees the head before any of the body is taken; it may raise.
            watch: Told how the request goes.
            limit: Most bytes of a body that has no buffer.
            patience: Seconds to wait for a place while no other request gets anything either.

        Raises:
            TransportError: No complete response came; the request may or may not have been done.
        """
        head = self.head(method, target, headers, body)
        try:
            self._limiter.acquire_nowait()
        except trio.WouldBlock:
            await self._wait_for_place(patience)
        try:
            if watch is not None:
                watch.started()
            sent = False
            try:
                connection = self._idle_connection() or await self._new_connection()
                sent = True
                try:
                    with connection.watched():
                        await self._send(connection, head, body, watch)
                        response = await self._response(
                            connection, method, into, progress, check, watch, limit
                        )
                except BaseException:
                    connection.close()
                    raise
                self._release(connection)
                return response
            except TransportError as error:
                error.sent = sent
                raise
            except (OSError, httptools.HttpParserError) as error:
                wrapped = (
                    ProtocolError(errno.EPROTO, f"{self.host} does not speak HTTP: {error}")
                    if isinstance(error, httptools.HttpParserError)
                    else TransportError(errno.EIO, f"{self.host}: {error}")
                )
                wrapped.sent = sent
                raise wrapped from error
        finally:
            self._limiter.release()

    def take(self) -> Connection | None:
        """An idle connection, if there is one, and a place for it; :meth:`give_back` is owed."""
        connection = self._idle_connection()
        if connection is None:
            return None
        try:
            self._limiter.acquire_on_behalf_of_nowait(connection)
        except trio.WouldBlock:
            self._idle.append(connection)
            return None
        return connection

    def give_back(self, connection: Connection, *, reusable: bool) -> None:
        """End the use of a connection that was taken."""
        self._limiter.release_on_behalf_of(connection)
        connection.reusable = reusable
        self._release(connection)

    def note_answer(self, seconds: float) -> None:
        """Count how long a request waited for the head of its response."""
        self._last_moved = trio.current_time()
        self.answering.add(seconds)

    def head(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | memoryview = b"",
    ) -> bytes:
        """The head of a request, as it is sent."""
        if self._proxy is not None and not self._secure:
            target = f"http://{self._host_header}{target}"
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host_header}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if "Content-Length" not in headers and (body or method in {"PUT", "POST"}):
            lines.append(f"Content-Length: {len(body)}")
        if self._proxy is not None and not self._secure and self._proxy.authorization:
            lines.append(f"Proxy-Authorization: {self._proxy.authorization}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _wait_for_place(self, patience: float) -> None:
        """Waiting ends where nobody in the pool gets anywhere."""
        began = trio.current_time()
        while (end := max(began, self._last_moved) + patience) > trio.current_time():
            with trio.move_on_at(end):
                await self._limiter.acquire()
                return
        raise SilentError(
            errno.ETIMEDOUT, f"no request to {self.host} got on within {patience:g} s"
        )

    def _idle_connection(self) -> Connection | None:
        while self._idle:
            candidate = self._idle.pop()
            if not candidate.stale:
                return candidate
            candidate.close()
        return None

    async def _new_connection(self) -> Connection:
        connection = await Connection.open(
            self.host, self.port, self._tls, proxy=self._proxy, stall=self._stall_timeout()
        )
        self.opened += 1
        return connection

    def _release(self, connection: Connection) -> None:
        if connection.reusable:
            connection.idle_since = trio.current_time()
            self._idle.append(connection)
        else:
            connection.close()

    def _stall_timeout(self) -> float:
        return STALL_TIMEOUT if self._stall is None else self._stall

    def _note_moved(self, watch: Watch | None) -> None:
        self._last_moved = trio.current_time()
        if watch is not None:
            watch.moved()

    async def _send(
        self,
        connection: Connection,
        head: bytes,
        body: bytes | memoryview,
        watch: Watch | None,
    ) -> None:
        connection.expect_progress()
        if 0 < len(body) <= _TOGETHER:
            await connection.send(head + body)
            self._note_moved(watch)
            return
        await connection.send(head)
        view = memoryview(body)
        while view:
            view = view[await connection.send_some(view) :]
            self._note_moved(watch)

    async def _response(
        self,
        connection: Connection,
        method: str,
        into: memoryview | None,
        progress: Progress | None,
        check: Callable[[Response], None] | None,
        watch: Watch | None,
        limit: int,
    ) -> Response:
        asked = connection.expect_silence()
        scratch, end = await self._receive_head(connection)
        self._last_moved = trio.current_time()
        self.answering.add(self._last_moved - asked)
        collected = Head()
        parser = httptools.HttpResponseParser(collected)
        parser.feed_data(bytes(scratch[:end]))
        response = Response(parser.get_status_code(), collected.headers)
        if response.status < 200:
            raise ProtocolError(errno.EPROTO, f"{self.host} answered {response.status}")
        connection.reusable = _persists(parser, collected)
        rest = scratch[end:]
        length = collected.headers.get("content-length")
        if check is not None:
            check(response)
        connection.expect_progress()
        if method == "HEAD" or response.status in {204, 304}:
            connection.reusable = connection.reusable and not rest
        elif into is not None and response.status in {200, 206} and length is not None:
            await self._fill(connection, response, int(length), rest, into, progress, watch)
        else:
            limit = max(len(into), _BODY_LIMIT) if into is not None else limit
            await self._collect(connection, parser, collected, rest, limit, watch)
            response.body = bytes(collected.body)
            if into is not None and response.status in {200, 206}:
                self._hand_over(response, into, progress)
        return response

    async def _receive_head(self, connection: Connection) -> tuple[memoryview, int]:
        """What came up to and behind the head's end, and where that is."""
        received = connection.scratch
        scratch = memoryview(received)
        filled = 0
        while True:
            if filled == len(scratch):
                if filled == _HEAD_LIMIT:
                    raise ProtocolError(errno.EPROTO, f"{self.host} sent an endless response head")
                received = received + bytes(_HEAD_LIMIT - filled)
                scratch = memoryview(received)
            count = await connection.receive(scratch[filled:])
            if not count:
                raise TransportError(errno.ECONNRESET, f"{self.host} closed the connection")
            start = max(0, filled - 3)
            filled += count
            end = received.find(b"\r\n\r\n", start, filled)
            if end >= 0:
                return scratch[:filled], end + 4

    async def _fill(
        self,
        connection: Connection,
        response: Response,
        length: int,
        rest: memoryview,
        into: memoryview,
        progress: Progress | None,
        watch: Watch | None,
    ) -> None:
        if length > len(into) or len(rest) > length:
            raise ProtocolError(
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
            self._note_moved(watch)
            filled += count
        response.received = filled
        if progress is not None:
            progress(filled)

    def _hand_over(self, response: Response, into: memoryview, progress: Progress | None) -> None:
        """A body that came without its length, in chunks."""
        size = len(response.body)
        if size > len(into):
            raise ProtocolError(
                errno.EPROTO, f"{self.host} sent {size} bytes where {len(into)} were asked for"
            )
        into[:size] = response.body
        response.body = b""
        response.received = size
        if progress is not None:
            progress(size)

    async def _collect(
        self,
        connection: Connection,
        parser: httptools.HttpResponseParser,
        collected: Head,
        rest: memoryview,
        limit: int,
        watch: Watch | None,
    ) -> None:
        """A body that has no buffer, chunked or not."""
        if rest:
            parser.feed_data(bytes(rest))
        scratch = memoryview(bytearray(64 * 1024))
        while not collected.done:
            count = await connection.receive(scratch)
            if not count:
                connection.reusable = False
                if "content-length" in collected.headers or parser.should_keep_alive():
                    raise TransportError(errno.ECONNRESET, f"{self.host} cut the response")
                return
            self._note_moved(watch)
            parser.feed_data(bytes(scratch[:count]))
            if len(collected.body) > limit:
                raise ProtocolError(
                    errno.EPROTO, f"{self.host} sent more than {limit} bytes of an answer"
                )


def _persists(parser: httptools.HttpResponseParser, head: Head) -> bool:
    """Whether the connection stays open behind this response (RFC 9112 section 9.3)."""
    if not head.done:
        return bool(parser.should_keep_alive())
    # Of a response without a body the parser has forgotten the head already, and says no.
    options = head.headers.get("connection", "").lower()
    return parser.get_http_version() == "1.1" and "close" not in options
