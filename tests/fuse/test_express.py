"""The short way of range requests: right bytes, or the long way, and never anything else."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections import Counter

import pytest
import trio

from fuse.blob import express as module
from fuse.blob.credentials import Anonymous, Keyring
from fuse.blob.express import Express
from fuse.blob.transport import Pool
from tests.fuse.test_transport import faulty_server

ETAG = '"0x1"'
HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def answer(body, start=0, total=1000, *, etag=ETAG, status=b"206 Partial Content", extra=b""):
    """As the service answers a range request."""
    head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nETag: %s\r\n" % (status, len(body), etag.encode())
    if status.startswith(b"206"):
        head += b"Content-Range: bytes %d-%d/%d\r\n" % (start, start + len(body) - 1, total)
    return head + extra + b"\r\n" + body


class Asked:
    """One attempt and what became of it."""

    def __init__(self, size):
        self.buffer = bytearray(size)
        self.seen = []
        self.ended = trio.Event()
        self.there = None

    def done(self, there):
        assert self.there is None, "it ends once"
        self.there = there
        self.ended.set()


class Bench:
    def __init__(self, express, pool, counters, requests):
        self.express, self.pool, self.counters, self.requests = express, pool, counters, requests

    async def connect(self, count=1):
        """The long way opens connections; the short one uses those that are free."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self.pool.request, "GET", "/hello", {})
        self.requests.clear()

    def begin(self, size, offset=0, etag=ETAG):
        asked = Asked(size)
        view = memoryview(asked.buffer)
        if not self.express.begin("a b", etag, offset, view, asked.seen.append, asked.done):
            return None
        return asked

    async def get(self, size, offset=0):
        asked = self.begin(size, offset)
        assert asked is not None
        assert asked.there is None
        with trio.fail_after(10):
            await asked.ended.wait()
        return asked


@contextlib.asynccontextmanager
async def benched(*answers, limit=4):
    async with faulty_server(HELLO, *answers) as (url, requests), trio.open_nursery() as nursery:
        pool, counters = Pool(url, limit=limit), Counter()
        express = Express(pool, Keyring(Anonymous()), "/account/container", counters)
        nursery.start_soon(express.run)
        bench = Bench(express, pool, counters, requests)
        await bench.connect()
        yield bench
        nursery.cancel_scope.cancel()
        pool.close()


async def test_the_bytes_arrive_and_the_connection_is_used_again():
    async with benched(answer(b"0123456789"), [answer(b"", 5)[:-2]], answer(b"x")) as bench:
        asked = await bench.get(10)
        assert (asked.there, asked.buffer) == (True, b"0123456789")
        (head,) = bench.requests
        lines = head.decode().split("\r\n")
        assert lines[0] == "GET /account/container/a%20b HTTP/1.1"
        assert "x-ms-range: bytes=0-9" in lines
        assert f"If-Match: {ETAG}" in lines
        assert bench.pool.opened == 1
        assert bench.counters == {"requests": 1, "bytes_received": 10}
        assert bench.pool.answering.count == 2


async def test_a_head_and_a_body_in_pieces():
    whole = answer(b"0123456789" * 100_000, total=10**6)
    pieces = [whole[:1], whole[1:30], whole[30:100], whole[100:60_000], whole[60_000:]]
    async with benched(pieces) as bench:
        asked = await bench.get(10**6)
        assert asked.there
        assert asked.buffer == b"0123456789" * 100_000
        assert asked.seen == sorted(asked.seen)
        assert asked.seen[-1] == 10**6


async def test_a_small_blob_is_nobodys_before_it_is_checked():
    body = b"abc" * 100
    right = base64.b64encode(hashlib.md5(body).digest())
    stated = [
        b"x-ms-blob-content-md5: %s\r\n" % digest for digest in (right, b"AAAAAAAAAAAAAAAAAAAAAA==")
    ]
    replies = [answer(body, total=300, extra=extra) for extra in stated]
    async with benched(*replies) as bench:
        asked = await bench.get(300)
        assert (asked.there, asked.seen) == (True, [])
        asked = await bench.get(300)
        assert (asked.there, asked.seen) == (False, [])
        assert bench.express.given_up == 1


WRONG = {
    "another version": answer(b"0123456789", etag='"0x2"'),
    "another range": answer(b"0123456789", 10),
    "no range": answer(b"0123456789", status=b"200 OK", etag='"0x2"'),
    "fewer bytes": answer(b"012345678"),
    "more bytes": answer(b"0123456789ab"),
    "more behind": answer(b"0123456789") + b"rest",
    "gone": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "replaced": b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n",
    "busy": b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 10\r\n\r\n0123456789",
    "in chunks": b'HTTP/1.1 206 OK\r\nETag: "0x1"\r\nTransfer-Encoding: chunked\r\n\r\n',
    "no HTTP": b"220 smtp.example.com ESMTP\r\n\r\n",
    "an endless head": b"HTTP/1.1 206 OK\r\n" + b"X: y\r\n" * 5000,
    "nothing": "cut",
    "half": [answer(b"0123456789")[:-5], "cut"],
}


@pytest.mark.parametrize("name", WRONG)
async def test_whatever_is_not_the_answer_goes_the_long_way(name):
    wrong = WRONG[name]
    async with benched(wrong if isinstance(wrong, list) else [wrong], HELLO) as bench:
        asked = await bench.get(10)
        assert asked.there is False
        assert bench.express.given_up == 1
        # The connection is not used again, and its place is free.
        assert bench.begin(10) is None
        await bench.pool.request("GET", "/hello", {})
        assert bench.pool.opened == 2


async def test_a_whole_blob_without_a_range_is_as_good():
    async with benched(answer(b"0123456789", status=b"200 OK")) as bench:
        assert (await bench.get(10)).there


async def test_where_no_connection_is_free_it_does_not_begin():
    slow = [answer(b"0123456789")[:-5], "stall"]
    async with benched(slow, limit=1) as bench:
        first = bench.begin(10)
        assert bench.begin(10) is None
        assert first.there is None
    assert first.there is False, "the end of the mount ends it"


async def test_a_token_that_has_to_be_renewed_goes_the_long_way(monkeypatch):
    async with benched(answer(b"0123456789")) as bench:
        monkeypatch.setattr(Anonymous, "is_ready", False)
        assert bench.begin(10) is None
        monkeypatch.setattr(Anonymous, "is_ready", True)
        assert (await bench.get(10)).there


async def test_a_connection_that_the_server_has_closed_is_not_used():
    async with benched() as bench:
        # An idle connection that says something, or ends, is over.
        bench.pool._idle[-1]._socket.close()
        assert bench.begin(10) is None


@pytest.mark.parametrize("silent", [["stall"], [answer(b"0123456789")[:-5], "stall"]])
async def test_silence_is_not_waited_for(silent, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "_LOOK", 0.02)
    async with benched(silent) as bench:
        assert (await bench.get(10)).there is False


async def test_a_drip_is_no_transfer(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    monkeypatch.setattr(module, "_LOOK", 0.02)
    size = 1_000_000
    head = answer(bytes(size), total=size)[:-size]

    async with benched() as bench:
        asked = None

        async def drip(stream):
            await stream.receive_some()
            await stream.send_all(head)
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(b"x" * 100)
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                lambda task_status: trio.serve_tcp(
                    drip, 0, host="127.0.0.1", task_status=task_status
                )
            )
            port = listeners[0].socket.getsockname()[1]
            bench.pool.port = port
            bench.pool.close()
            connection = await bench.pool._new_connection()
            bench.pool._release(connection)
            asked = await bench.get(size)
            assert asked.there is False
            assert asked.seen, "bytes did come"
            nursery.cancel_scope.cancel()


async def test_many_at_once_get_their_own_bytes():
    bodies = [bytes([number]) * 1000 for number in range(40)]
    replies = [[answer(body)] for body in bodies]
    async with benched(*replies, limit=1) as bench:
        for body in bodies:
            asked = await bench.get(1000)
            assert asked.buffer == body
        assert bench.pool.opened == 1
