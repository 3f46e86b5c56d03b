import re
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from agent.rest.files import parse_range
from tests.rest.conftest import BASE, DOCUMENT, KEY, VERSION, serving

JOB = "/node/workspaces/ws/experiments/exp/jobs/job1"
FILE = f"{JOB}/files/stdouterr/stdout.txt"


@pytest.fixture
async def client(server):
    client = server.client()
    await client.put(f"{BASE}/job1", params=VERSION, json=DOCUMENT)
    return client


async def test_health_and_mounts(server):
    client = server.client()
    health = (await client.get("/node/health")).json()
    assert health["status"] == "ok"
    assert health["defaults"] == {
        "subscription": "sub",
        "resourceGroup": "rg",
        "workspace": "ws",
        "experiment": "exp",
        "cluster": "node1",
    }
    (mount,) = (await client.get("/node/mounts")).json()["value"]
    assert (mount["state"], mount["hint"]) == ("failed", "check the key")


async def test_long_poll(server, client):
    with trio.fail_after(5):
        now = await client.get(f"{JOB}/wait", params={"revision": 0})
    assert now.headers["x-batchai-revision"] == "1"
    unchanged = await client.get(f"{JOB}/wait", params={"revision": 1, "timeout": 0})
    assert unchanged.headers["x-batchai-revision"] == "1"
    answers = []

    async def poll():
        answers.append(await client.get(f"{JOB}/wait", params={"revision": 1}))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        server.service.end(KEY)
    assert answers[0].json()["properties"]["executionState"] == "succeeded"


async def test_ranges(server, client):
    server.service.write(KEY, "stdout.txt", b"0123456789")
    for header, status, body, content_range in (
        (None, 200, b"0123456789", None),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=1-2,4-5", 200, b"0123456789", None),
        ("bytes=4-2", 200, b"0123456789", None),
    ):
        answer = await client.get(FILE, headers={"range": header} if header else {})
        assert (answer.status_code, answer.content) == (status, body), header
        assert answer.headers.get("content-range") == content_range
    head = await client.head(FILE)
    assert (head.status_code, head.headers["content-length"]) == (200, "10")
    assert (await client.get(f"{JOB}/files/stdouterr/none")).status_code == 404
    assert (await client.get(f"{JOB}/files/stdouterr/a/%2e%2e/b")).status_code == 400


@given(
    st.integers(0, 50),
    st.one_of(
        st.from_regex(re.compile(r"bytes=\d{0,3}-\d{0,3}", re.ASCII), fullmatch=True), st.text()
    ),
)
def test_a_range_lies_in_the_file(size, header):
    wanted = parse_range(header, size)
    if wanted.satisfiable:
        assert 0 <= wanted.start <= wanted.end <= size
    if not wanted.partial:
        assert (wanted.start, wanted.end) == (0, size)


async def test_follow_to_the_last_byte(server, client):
    server.service.write(KEY, "stdout.txt", b"one\n")
    pieces = []
    with trio.fail_after(10):
        async with client.stream("GET", FILE, params={"follow": "true"}) as answer:
            assert answer.status_code == 200
            stream = answer.aiter_raw()
            pieces.append(await anext(stream))
            server.service.write(KEY, "stdout.txt", b"two\n")
            pieces.append(await anext(stream))
            server.service.end(KEY)
            pieces += [piece async for piece in stream]
    assert b"".join(pieces) == b"one\ntwo\n"


async def test_follow_from_an_offset(server, client):
    server.service.write(KEY, "stdout.txt", b"0123456789")
    server.service.end(KEY)
    answer = await client.get(FILE, params={"follow": "true", "offset": 7})
    assert answer.content == b"789"


async def test_follow_of_a_file_to_come_says_so(server, client):
    with trio.fail_after(5):
        answer = await client.get(FILE, params={"follow": "true", "patience": 0})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "FileNotFound")
    assert (await client.get(FILE, params={"follow": "1", "offset": "x"})).status_code == 400


@asynccontextmanager
async def following(server):
    """A bare connection that follows stdout.txt: httpx cannot be left in the middle quietly."""
    async with await trio.open_unix_socket(str(server.addresses.socket)) as stream:
        await stream.send_all(
            f"GET {FILE}?follow=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
        )
        received = b""
        while b"first" not in received:
            received += await stream.receive_some()
        yield stream


async def test_follow_of_an_empty_file_begins_at_once(server, client):
    server.service.write(KEY, "stdout.txt", b"")
    with trio.fail_after(5):
        async with client.stream("GET", FILE, params={"follow": "1", "patience": 60}) as answer:
            assert answer.status_code == 200
            server.service.end(KEY)
            assert await answer.aread() == b""


async def test_follow_waits_for_a_file_to_come(server, client):
    answers = []

    async def follow():
        answers.append(await client.get(FILE, params={"follow": "1", "patience": 60}))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            while not server.service.followers:
                await trio.testing.wait_all_tasks_blocked(0.01)
            server.service.write(KEY, "stdout.txt", b"at last")
            server.service.end(KEY)
    assert answers[0].content == b"at last"


async def rest_of(stream):
    received = b""
    with trio.fail_after(5):
        try:
            while piece := await stream.receive_some():
                received += piece
        except trio.BrokenResourceError:
            pass
    return received


LAST_CHUNK = b"0\r\n\r\n"


async def test_the_end_of_a_stream_is_said(server, client):
    server.service.write(KEY, "stdout.txt", b"first")
    async with following(server) as stream:
        server.service.end(KEY)
        assert LAST_CHUNK in await rest_of(stream)


async def test_a_stream_that_breaks_off_does_not_look_like_an_end(server, client):
    server.service.write(KEY, "stdout.txt", b"first")
    async with following(server) as stream:
        server.service.write(KEY, "stdout.txt", b"BOOM")
        assert LAST_CHUNK not in await rest_of(stream)
    assert (await client.get("/node/health")).status_code == 200  # the server lives on


async def test_a_stopping_server_does_not_pretend_the_end_of_a_stream(server, client):
    server.service.write(KEY, "stdout.txt", b"first")
    async with following(server) as stream:
        server.stop()
        assert LAST_CHUNK not in await rest_of(stream)
    with trio.fail_after(5):
        await server.stopped.wait()
    assert not server.addresses.socket.exists()


async def test_a_follower_that_leaves_is_forgotten(server, client):
    server.service.write(KEY, "stdout.txt", b"first")
    async with following(server):
        assert server.service.followers == 1
    with trio.fail_after(5):
        while server.service.followers:
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_reader_that_does_not_read_does_not_hold_up_the_end(tmp_path):
    with trio.fail_after(10):
        async with serving(tmp_path) as server:
            await server.client().put(f"{BASE}/job1", params=VERSION, json=DOCUMENT)
            server.service.write(KEY, "stdout.txt", bytes(8 * 1024 * 1024))
            stream = await trio.open_unix_socket(str(server.addresses.socket))
            async with stream:
                request = f"GET {FILE} HTTP/1.1\r\nHost: a\r\n\r\n"
                await stream.send_all(request.encode())
                await stream.receive_some(10)
                server.stop()
                await server.stopped.wait()
