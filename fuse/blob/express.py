"""The short way of a range request: over a connection that is there, without a task of its own.

A task, its cancel scopes and its waits in the event loop take longer than receiving a small blob.
So requests that go as requests nearly always go are answered by one task for all, which is told by
epoll(7) whose bytes have come. Whatever is not as expected (no connection is free, a token has to
be renewed, another status, other bytes than were asked for, a connection that breaks, silence) ends
the attempt, and the way of :meth:`fuse.blob.store.BlobStore.get_range` is gone from its beginning:
that one knows how to wait, to resume, to try again, and what to say in the end.
"""

from __future__ import annotations

import errno
import select
import ssl
from collections import Counter
from collections.abc import Callable

import httptools
import trio

from fuse.blob import checks
from fuse.blob.connection import LEAST_PROGRESS, Connection, TransportError
from fuse.blob.credentials import Keyring
from fuse.blob.requests import Request, new_id, signed
from fuse.blob.responses import Head, Response
from fuse.blob.transport import Pool
from fuse.logs import log
from fuse.volume import Progress

#: Seconds in which a part of an answer has to come (LEAST_PROGRESS bytes, or what is left of it).
PATIENCE = 5.0

#: How often to look for answers that do not come (seconds).
_LOOK = 0.5

#: Bytes that are received for one request before others have their turn.
_FAIRNESS = 1024 * 1024

#: Called once when an attempt has ended: whether all bytes are there, and are the right ones.
Done = Callable[[bool], None]


class _Exchange:
    """One request under way."""

    __slots__ = (
        "buffer", "connection", "done", "end", "etag", "filled", "head", "marked", "marked_at",
        "progress", "response", "start",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        etag: str,
        start: int,
        buffer: memoryview,
        progress: Progress,
        done: Done,
    ) -> None:
        self.connection = connection
        self.etag = etag
        self.start = start
        self.end = start + len(buffer) - 1
        self.buffer = buffer
        self.progress = progress
        self.done = done
        self.head = 0  # bytes of the head so far, in the connection's scratch buffer
        self.response: Response | None = None
        self.filled = 0
        self.marked = 0
        self.marked_at = trio.current_time()


class Express:
    """Range requests of one store that go the short way.

    Args:
        pool: Whose connections are used.
        keyring: What signs.
        base: Path of the container at the endpoint.
        counters: Where requests and bytes are counted.

    Attributes:
        given_up: Attempts that ended without the bytes.
    """

    def __init__(self, pool: Pool, keyring: Keyring, base: str, counters: Counter[str]) -> None:
        self.given_up = 0
        self._pool = pool
        self._keyring = keyring
        self._base = base
        self._counters = counters
        self._epoll: select.epoll | None = None
        self._under_way: dict[int, _Exchange] = {}
        self._unfinished: set[int] = set()  # have more, as far as is known
        self._busy = trio.Event()

    def begin(
        self, name: str, etag: str, offset: int, buffer: memoryview, progress: Progress, done: Done
    ) -> bool:
        """Ask for the bytes of a version; False where that cannot be done at once.

        Args:
            name: The blob.
            etag: The version.
            offset: Of the first byte.
            buffer: Filled with what is there from then on; nobody else may write to it meanwhile.
            progress: Told how many bytes are there, where they are good without the rest.
            done: Called when it has ended, never before this returns.
        """
        credential = self._keyring.current
        if self._epoll is None or not credential.is_ready:
            return False
        connection = self._pool.take()
        if connection is None:
            return False
        exchange = _Exchange(connection, etag, offset, buffer, progress, done)
        headers = {"x-ms-range": f"bytes={offset}-{exchange.end}", "If-Match": etag}
        request = Request(method="GET", path=name, headers=headers)
        head = self._pool.head("GET", *signed(request, credential, self._base, new_id()))
        self._counters["requests"] += 1
        try:
            whole = connection.send_now(head) == len(head)
        except (OSError, ssl.SSLError):
            whole = False
        if not whole:
            self._pool.give_back(connection, reusable=False)
            return False
        number = connection.fileno()
        self._under_way[number] = exchange
        self._epoll.register(number, select.EPOLLIN)
        if len(self._under_way) == 1:
            self._busy.set()
        return True

    async def run(self) -> None:
        """Receive answers until cancelled."""
        with select.epoll() as epoll:
            self._epoll = epoll
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._look_after)
                    await self._receive(epoll)
            finally:
                self._epoll = None
                for number in list(self._under_way):
                    self._give_up(number, "the mount ends")

    async def _receive(self, epoll: select.epoll) -> None:
        while True:
            if self._unfinished:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(epoll.fileno())
            ready = {number for number, _ in epoll.poll(0)} | self._unfinished
            self._unfinished.clear()
            for number in ready:
                exchange = self._under_way.get(number)
                if exchange is not None:
                    self._advance(number, exchange)

    async def _look_after(self) -> None:
        while True:
            if not self._under_way:
                self._busy = trio.Event()
                await self._busy.wait()
            await trio.sleep(_LOOK)
            now = trio.current_time()
            for number, exchange in list(self._under_way.items()):
                if exchange.filled - exchange.marked >= LEAST_PROGRESS:
                    exchange.marked, exchange.marked_at = exchange.filled, now
                elif now - exchange.marked_at > PATIENCE:
                    self._give_up(number, f"next to nothing came within {PATIENCE:g} s")

    def _advance(self, number: int, exchange: _Exchange) -> None:
        """Take what has come."""
        try:
            if exchange.response is None and not self._receive_head(exchange):
                return
            if not self._receive_body(number, exchange):
                return
            if not _is_right(exchange):
                self._give_up(number, "the bytes are not those of the checksum")
                return
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except (OSError, httptools.HttpParserError) as error:
            self._give_up(number, str(error))
            return
        except Exception:
            log.exception("defect while receiving a range")
            self._give_up(number, "a defect")
            return
        self._counters["bytes_received"] += exchange.filled
        self._end(number, exchange, reusable=exchange.connection.reusable)
        exchange.done(True)

    def _receive_head(self, exchange: _Exchange) -> bool:
        """Whether it is there; the beginning of the body is in the buffer then."""
        scratch = exchange.connection.scratch
        view = memoryview(scratch)
        count = exchange.connection.receive_now(view[exchange.head :])
        if not count:
            raise TransportError(errno.ECONNRESET, "the connection was closed")
        before, exchange.head = exchange.head, exchange.head + count
        end = scratch.find(b"\r\n\r\n", max(0, before - 3), exchange.head)
        if end < 0:
            if exchange.head == len(scratch):
                raise TransportError(errno.EPROTO, "the response's head is long")
            return False
        end += 4
        now = trio.current_time()
        self._pool.note_answer(now - exchange.marked_at)
        exchange.marked_at = now
        collected = Head()
        parser = httptools.HttpResponseParser(collected)
        parser.feed_data(bytes(view[:end]))
        response = Response(parser.get_status_code(), collected.headers)
        size = len(exchange.buffer)
        if response.status not in {200, 206} or collected.headers.get("content-length") != str(
            size
        ):
            raise TransportError(errno.EPROTO, f"HTTP {response.status} in place of a range")
        checks.check_range(response, etag=exchange.etag, start=exchange.start, end=exchange.end)
        exchange.connection.reusable = parser.should_keep_alive()
        rest = exchange.head - end
        if rest > size:
            raise TransportError(errno.EPROTO, "more bytes came than were asked for")
        exchange.buffer[:rest] = view[end : exchange.head]
        exchange.filled = rest
        exchange.response = response
        return True

    def _receive_body(self, number: int, exchange: _Exchange) -> bool:
        """Whether all of it is there."""
        buffer, size = exchange.buffer, len(exchange.buffer)
        fair = exchange.filled + _FAIRNESS
        try:
            while exchange.filled < size:
                if exchange.filled >= fair:
                    self._unfinished.add(number)
                    return False
                count = exchange.connection.receive_now(buffer[exchange.filled :])
                if not count:
                    raise TransportError(errno.ECONNRESET, "the body was cut")
                exchange.filled += count
        finally:
            if size > checks.LARGEST_CHECKED:  # what is checked as a whole is nobody's before that
                exchange.progress(exchange.filled)
        return True

    def _give_up(self, number: int, reason: str) -> None:
        exchange = self._under_way[number]
        log.debug("a range goes the long way", reason=reason)
        self.given_up += 1
        self._counters["bytes_received"] += exchange.filled
        self._end(number, exchange, reusable=False)
        exchange.done(False)

    def _end(self, number: int, exchange: _Exchange, *, reusable: bool) -> None:
        del self._under_way[number]
        self._unfinished.discard(number)
        if self._epoll is not None:
            self._epoll.unregister(number)
        self._pool.give_back(exchange.connection, reusable=reusable)


def _is_right(exchange: _Exchange) -> bool:
    """Whether what came agrees with the checksum that came with it, if it is small."""
    assert exchange.response is not None
    small = len(exchange.buffer) <= checks.LARGEST_CHECKED
    return not small or checks.Digests().agree(exchange.response, exchange.buffer)
