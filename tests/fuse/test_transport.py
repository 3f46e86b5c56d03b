"""The HTTP transport against a server that misbehaves (a fault-injecting stand-in on loopback)."""

from __future__ import annotations

import contextlib
import errno

import pytest
import trio

from fuse.blob import transport
from fuse.blob.connection import Connection
from fuse.blob.transport import CertificateError, Pool, TransportError
from tests.support.certificates import self_signed


@contextlib.asynccontextmanager
async def faulty_server(*answers):
    """Answer one request after another with the given raw bytes; None cuts the connection."""
    remaining = list(answers)
    requests = []

    async def handle(stream):
        buffer = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = await stream.receive_some()
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                requests.append(head)
                answer = remaining.pop(0)
                if answer is None:
                    return
                for part in answer if isinstance(answer, list) else [answer]:
                    if part == "stall":
                        await trio.sleep_forever()
                    if part == "cut":
                        return
                    await stream.send_all(part)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(handle, 0, host="127.0.0.1", task_status=task_status)
        )
        port = listeners[0].socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}", requests
        nursery.cancel_scope.cancel()


def ok(body, *, length=None, status=b"206 Partial Content", extra=b""):
    size = len(body) if length is None else length
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, size, extra, body)


async def get(pool, size=10, **kwargs):
    buffer = bytearray(size)
    seen = []
    response = await pool.request(
        "GET", "/x", {}, into=memoryview(buffer), progress=seen.append, **kwargs
    )
    return response, bytes(buffer), seen


async def test_a_body_lands_in_the_buffer_and_the_connection_is_used_again():
    async with faulty_server(ok(b"0123456789"), [ok(b"", length=10), b"abcde", b"fghij"]) as (
        url,
        _,
    ):
        pool = Pool(url)
        response, data, _ = await get(pool)
        assert (response.status, data, response.received) == (206, b"0123456789", 10)
        _, data, seen = await get(pool)
        assert data == b"abcdefghij"
        assert seen[-1] == 10
        assert pool.opened == 1
        pool.close()


@pytest.mark.parametrize(
    ("version", "extra", "opened"),
    [
        (b"1.1", b"", 1),
        (b"1.1", b"Connection: keep-alive\r\n", 1),
        (b"1.1", b"Connection: Close\r\n", 2),
        (b"1.0", b"", 2),
    ],
)
async def test_an_answer_without_a_body_ends_no_connection(version, extra, opened):
    """As every answer to a request that writes is."""
    created = b"HTTP/%s 201 Created\r\n%sContent-Length: 0\r\n\r\n" % (version, extra)
    async with faulty_server(created, created) as (url, requests):
        pool = Pool(url)
        for _ in range(2):
            assert (await pool.request("PUT", "/x", {})).status == 201
        assert (pool.opened, len(requests)) == (opened, 2)
        pool.close()


@pytest.mark.parametrize(("size", "calls"), [(0, 1), (1000, 1), (100_000, 2)])
async def test_a_small_body_is_sent_with_its_head(monkeypatch, size, calls):
    sent = []
    some = Connection._send_some

    async def counted(connection, view):
        sent.append(len(view))
        return await some(connection, view)

    monkeypatch.setattr(Connection, "_send_some", counted)
    async with faulty_server(ok(b"", status=b"201 Created")) as (url, requests):
        pool = Pool(url)
        response = await pool.request("PUT", "/x", {}, memoryview(bytes(size)))
        assert response.status == 201
        assert b"Content-Length: %d" % size in requests[0]
        assert len(sent) == calls
        pool.close()


async def test_a_head_may_come_in_pieces():
    pieces = [bytes([byte]) for byte in ok(b"0123456789")]
    async with faulty_server(pieces) as (url, _):
        pool = Pool(url)
        assert (await get(pool))[1] == b"0123456789"
        pool.close()


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [ok(b"01234", length=10), "cut"],
        b"HTTP/1.1 206 Partial Content\r\nContent-Le",
        ok(b"0123456789ABC"),
        b"SMTP nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n",
        b"X" * 100_000,
    ],
    ids=["cut", "truncated", "half-head", "too-long", "no-http", "bad-length", "endless-head"],
)
async def test_what_is_no_complete_answer_is_an_error_and_never_data(answer):
    answers = [[answer, "cut"] if isinstance(answer, bytes) else answer]
    async with faulty_server(*answers) as (url, _):
        pool = Pool(url)
        with pytest.raises(TransportError):
            await get(pool)
        assert not pool._idle, "a connection in doubt is never used again"


async def test_a_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr(transport, "STALL_TIMEOUT", 0.05)
    async with faulty_server([ok(b"012", length=10), "stall"]) as (url, _):
        with pytest.raises(TransportError) as caught:
            await get(Pool(url))
        assert caught.value.errno == errno.ETIMEDOUT


async def test_nobody_listens():
    async with faulty_server() as (url, _):
        pass
    with pytest.raises(TransportError, match="cannot connect"):
        await get(Pool(url))


async def test_an_error_body_is_kept_apart_from_the_buffer():
    chunked = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n"
    async with faulty_server(ok(b"gone", status=b"404 Not Found"), chunked) as (url, _):
        pool = Pool(url)
        response, data, _ = await get(pool)
        assert (response.status, response.body, data) == (404, b"gone", bytes(10))
        response, data, _ = await get(pool)
        assert (response.status, response.body, data) == (503, b"busy", bytes(10))
        pool.close()


async def test_a_connection_that_the_server_closed_is_replaced():
    async with faulty_server([ok(b"0123456789"), "cut"], ok(b"abcdefghij")) as (url, _):
        pool = Pool(url)
        await get(pool)
        with trio.fail_after(5):
            while not pool._idle[0].stale:  # the end of the connection is on its way
                await trio.sleep(0)
        assert (await get(pool))[1] == b"abcdefghij"
        assert pool.opened == 2
        pool.close()


async def test_connection_close_is_honoured():
    answer = ok(b"0123456789", extra=b"Connection: close\r\n")
    async with faulty_server(answer, ok(b"abcdefghij")) as (url, _):
        pool = Pool(url)
        await get(pool)
        assert (await get(pool))[1] == b"abcdefghij"
        assert pool.opened == 2
        pool.close()


@contextlib.asynccontextmanager
async def tls_server(context, body):
    """Answers every request with the same body, over TLS."""

    async def handle(stream):
        with contextlib.suppress(trio.BrokenResourceError):
            buffer = b""
            while True:
                data = await stream.receive_some()
                if not data:
                    return
                buffer += data
                while b"\r\n\r\n" in buffer:
                    _, _, buffer = buffer.partition(b"\r\n\r\n")
                    await stream.send_all(ok(body))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_ssl_over_tcp(
                handle, 0, context, host="127.0.0.1", task_status=task_status
            )
        )
        yield f"https://localhost:{listeners[0].transport_listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_tls(tmp_path):
    server, client = self_signed(tmp_path)
    body = bytes(range(256)) * 40_000  # many TLS records, more than any socket buffer
    async with tls_server(server, body) as url:
        pool = Pool(url, tls=client)
        for _ in range(2):
            response, data, seen = await get(pool, size=len(body))
            assert response.received == len(body)
            assert data == body
            assert seen == sorted(seen)
        assert pool.opened == 1
        pool.close()


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    server, _ = self_signed(tmp_path)
    async with tls_server(server, b"0123456789") as url:
        with pytest.raises(CertificateError, match="not trusted"):
            await get(Pool(url))
