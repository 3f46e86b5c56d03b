"""Requests to a real store through a fault injector: what is tried again, and what it ends as."""

from __future__ import annotations

import contextlib
import errno
import uuid

import pytest
import trio

from fuse.blob import retrying
from fuse.blob.routes import Route
from fuse.blob.store import BlobStore
from tests.support import fault_proxy as faults
from tests.support.certificates import self_signed
from tests.support.fault_proxy import FaultProxy
from tests.support.logs import captured

pytestmark = pytest.mark.integration

DATA = bytes(range(256)) * 2000


@pytest.fixture
def proxy(storage):
    with FaultProxy(storage.blob_endpoint) as running:
        yield running


@contextlib.asynccontextmanager
async def opened(storage, proxy, container, **changes):
    store = BlobStore(
        account=storage.account,
        endpoint=proxy.endpoint,
        container=container,
        key=storage.key,
        **changes,
    )
    async with store.opened():
        yield store


async def put(store, name="blob", data=DATA, **headers):
    return (await store.put_blob(name, data, headers)).headers["etag"]


async def get(store, etag, name="blob", size=None, offset=0):
    size = size or len(DATA)
    buffer = bytearray(size)
    seen = []
    await store.get_range(name, etag, offset, memoryview(buffer), seen.append)
    assert seen[-1] == size
    return bytes(buffer)


TRANSIENT = {
    "refused": faults.refuse(),
    "answer-lost": faults.lose_answer(),
    "cut-at-once": faults.cut(0),
    "cut": faults.cut(70_000),
    "stalled": faults.stall(),
    "stalled-in-the-body": faults.stall(70_000),
    "dripping": faults.drip(10, 0.01),
    "429": faults.answer(429, "TooManyRequests", 0.1),
    "500": faults.answer(500, "InternalError"),
    "502": faults.answer(502),
    "503": faults.answer(503, "ServerBusy", 0.1),
    "504": faults.answer(504),
    "408": faults.answer(408),
    "timed-out": faults.answer(500, "OperationTimedOut"),
    "too-long": faults.declare(5),
    "too-short": faults.declare(-5),
    "other-version": faults.header("etag", '"0x0"'),
    "no-version": faults.header("etag", None),
    "other-range": faults.header("content-range", f"bytes 5-{len(DATA) + 4}/{len(DATA) + 5}"),
    "no-range": faults.header("content-range", None),
    "informational": faults.status(102),
    "no-http": faults.garbage(),
    "late": faults.delay(0.1),
}


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
async def test_a_read_survives(storage, proxy, blob_container, fault):
    async with opened(storage, proxy, blob_container, deadline=4) as store:
        etag = await put(store)
        proxy.once(fault, method="GET", match="/blob")
        assert await get(store, etag) == DATA
        assert proxy.injected() == 1
        assert store.counters["retries"] == (0 if fault.name == "delay" else 1)
        assert store.counters["errors"] == 0


async def test_a_range_in_place_of_which_the_whole_blob_comes_is_refused(
    storage, proxy, blob_container
):
    async with opened(storage, proxy, blob_container) as store:
        etag = await put(store)
        proxy.once(faults.status(200), method="GET", match="/blob")
        assert await get(store, etag, offset=1000, size=5000) == DATA[1000:6000]
        assert store.counters["retries"] == 1


async def test_a_body_that_is_cut_is_gone_on_with_and_not_begun_again(
    storage, proxy, blob_container
):
    async with opened(storage, proxy, blob_container) as store:
        etag = await put(store)
        proxy.once(faults.cut(300_000), method="GET", match="/blob")
        assert await get(store, etag) == DATA
        ranges = [
            r.headers["x-ms-range"]
            for r in proxy.requests
            if r.method == "GET" and r.target.endswith("/blob")
        ]
        assert ranges[-1] == f"bytes=300000-{len(DATA) - 1}"


async def test_a_replaced_version_is_refused_by_the_store_and_not_sent(
    storage, proxy, blob_container
):
    async with opened(storage, proxy, blob_container, deadline=4) as store:
        etag = await put(store)
        await put(store, data=DATA[::-1])
        requests = len(proxy.requests)
        with pytest.raises(OSError) as caught:
            await get(store, etag)
        assert caught.value.errno == errno.ESTALE
        assert len(proxy.requests) == requests + 1
        assert store.counters["bytes_received"] == 0


async def test_a_read_that_is_begun_again_is_of_the_same_version(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container) as store:
        etag = await put(store)
        proxy.once(faults.cut(300_000), method="GET", match="/blob")
        await get(store, etag)
        asked = [
            r.headers.get("if-match")
            for r in proxy.requests
            if r.method == "GET" and r.target.endswith("/blob")
        ]
        assert asked == [etag, etag]


async def test_a_bit_that_turned_in_a_small_blob_is_noticed_before_anybody_sees_it(
    storage, proxy, blob_container
):
    async with opened(storage, proxy, blob_container) as store:
        etag = await put(store, data=DATA[:10_000])
        proxy.once(faults.flip(4321), method="GET", match="/blob")
        assert await get(store, etag, size=10_000) == DATA[:10_000]
        assert proxy.injected("flip") == 1


async def test_a_bit_that_turned_on_the_way_to_the_store_is_sent_once_more(
    storage, proxy, blob_container
):
    async with opened(storage, proxy, blob_container) as store:
        proxy.once(faults.flip_request(4321), method="PUT", match="/blob")
        etag = await put(store, data=DATA[:10_000])
        assert await get(store, etag, size=10_000) == DATA[:10_000]
        proxy.once(faults.flip_request(300_000), method="PUT", match="comp=block")
        await store.put_block("blocks", "AAAA", DATA)
        listed = b"<BlockList><Latest>AAAA</Latest></BlockList>"
        made = await store.request("PUT", "blocks", query="comp=blocklist", body=listed)
        assert await get(store, made.headers["etag"], name="blocks") == DATA
        assert proxy.injected("flip_request") == store.counters["retries"] == 2


async def test_blocks_are_hashed_where_nothing_else_guards_them(
    storage, proxy, blob_container, tmp_path
):
    server, _ = self_signed(tmp_path)
    trusted = Route(ca_bundle=tmp_path / "server.pem")
    with FaultProxy(storage.blob_endpoint, tls=server, host="localhost") as tls:
        for way, route, hashed in ((proxy, Route(), True), (tls, trusted, False)):
            async with opened(storage, way, blob_container, route=route) as store:
                await store.put_block("blocks", "AAAA", DATA)
                await put(store, name=f"whole-{hashed}")
            sent = {
                "comp=block" in request.target: "content-md5" in request.headers
                for request in way.requests
                if request.method == "PUT"
            }
            assert sent == {True: hashed, False: True}


async def test_a_checksum_that_never_was_right_keeps_nobody_from_the_bytes(
    storage, proxy, blob_container
):
    async with opened(storage, proxy, blob_container) as store:
        etag = await put(store, data=DATA[:10_000])
        wrong = faults.header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")
        proxy.always(faults.header("x-ms-blob-content-md5", wrong.value), match="/blob")
        assert await get(store, etag, size=10_000) == DATA[:10_000]
        assert store.counters["retries"] == 1


@pytest.mark.parametrize(
    "fault",
    [faults.lose_answer(), faults.answer_after(500, "InternalError"), faults.stall()],
    ids=lambda fault: fault.name,
)
async def test_a_conditional_write_whose_answer_was_lost_says_that_it_may_be_done(
    storage, proxy, blob_container, fault
):
    async with opened(storage, proxy, blob_container, deadline=4) as store:
        proxy.once(fault, method="PUT", match="/blob")
        with pytest.raises(FileExistsError) as caught:
            await put(store, **{"If-None-Match": "*"})
        assert caught.value.uncertain
        assert caught.value.code == "BlobAlreadyExists"
        assert await get(store, (await store.head("blob")).headers["etag"]) == DATA


async def test_a_write_that_never_arrived_leaves_no_doubt(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container) as store:
        await put(store)
        proxy.once(faults.answer(429, "TooManyRequests"), method="PUT", match="/blob")
        with pytest.raises(FileExistsError) as caught:
            await put(store, **{"If-None-Match": "*"})
        assert not caught.value.uncertain


async def test_what_must_not_be_done_twice_is_sent_once(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container) as store:
        await store.request("PUT", "log", headers={"x-ms-blob-type": "AppendBlob"})
        proxy.once(faults.lose_answer(), method="PUT", match="comp=appendblock")
        with pytest.raises(OSError, match="closed") as caught:
            await store.request("PUT", "log", query="comp=appendblock", body=b"line\n")
        assert caught.value.uncertain
        assert (await store.head("log")).headers["content-length"] == "5"
        proxy.once(faults.refuse(), method="PUT", match="comp=appendblock")
        await store.request(
            "PUT",
            "log",
            query="comp=appendblock",
            headers={"x-ms-blob-condition-appendpos": "5"},
            body=b"line\n",
        )
        assert (await store.head("log")).headers["content-length"] == "10"


@pytest.mark.parametrize(
    ("fault", "number", "kind"),
    [
        (faults.answer(503, "ServerBusy"), errno.EIO, "throttled"),
        (faults.answer(500, "InternalError"), errno.EIO, "server"),
        (faults.answer(408), errno.ETIMEDOUT, "timeout"),
        (faults.stall(), errno.ETIMEDOUT, "timeout"),
        (faults.drip(1, 0.05), errno.ETIMEDOUT, "timeout"),
        (faults.refuse(), errno.EIO, "connection"),
        (faults.garbage(), errno.EIO, "protocol"),
        (faults.header("etag", '"0x0"'), errno.EIO, "protocol"),
        (faults.answer(403, "AuthenticationFailed"), errno.EACCES, "authentication"),
        (faults.answer(401, "NoAuthenticationInformation"), errno.EACCES, "authentication"),
        (faults.answer(404, "ContainerNotFound"), errno.ENOENT, "missing"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
async def test_what_does_not_pass_is_an_errno_counted_and_logged_once(
    storage, proxy, blob_container, fault, number, kind
):
    async with opened(storage, proxy, blob_container, deadline=2) as store:
        etag = await put(store)
        proxy.always(fault, method="GET", match="/blob")
        with captured() as lines, pytest.raises(OSError) as caught:
            await get(store, etag)
        assert caught.value.errno == number
        assert store.counters["errors"] == store.counters[f"errors_{kind}"] == 1
        (line,) = [line for line in lines if line["event"] == "the store failed"]
        assert line["kind"] == kind
        assert "request_id" in line or "client_request_id" in line
        assert line["tries"] == len([r for r in proxy.requests if r.fault])
        assert storage.key not in str(lines)


async def test_a_name_that_is_not_there_is_no_fault(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container) as store:
        with captured() as lines, pytest.raises(FileNotFoundError):
            await store.head("missing")
        assert store.counters["errors"] == 0
        assert not lines


async def test_the_service_is_given_the_time_that_it_asks_for(
    storage, proxy, blob_container, monkeypatch
):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)
        await trio.lowlevel.checkpoint()

    async with opened(storage, proxy, blob_container) as store:
        monkeypatch.setattr(retrying, "pause", sleep)
        proxy.once(faults.answer(503, "ServerBusy", retry_after=7), match="/blob")
        proxy.once(faults.answer(503, "ServerBusy", retry_after=9999), match="/blob")
        await put(store)
    assert pauses == [7, retrying.LONGEST_ASKED]


async def test_a_pool_of_stalled_connections_lets_others_through(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container, deadline=4, connections=2) as store:
        etag = await put(store)
        proxy.once(faults.stall(), method="GET", match="/blob", times=2)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(get, store, etag)


async def test_waiting_for_a_dead_pool_ends(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container, deadline=2, connections=1) as store:
        etag = await put(store)
        proxy.always(faults.stall(), method="GET", match="/blob")
        ends = []

        async def one():
            with pytest.raises(TimeoutError):
                await get(store, etag)
            ends.append(trio.current_time())

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(one)
        assert len(ends) == 6


async def test_a_request_that_nobody_waits_for_ends_at_once(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container) as store:
        etag = await put(store)
        proxy.always(faults.stall(), method="GET", match="/blob")
        with trio.move_on_after(0.2) as scope:
            await get(store, etag)
        assert scope.cancelled_caught
        proxy.clear()
        assert await get(store, etag) == DATA


async def test_random_faults_change_no_byte(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container, deadline=30) as store:
        proxy.randomly(
            0.3,
            [
                faults.refuse(),
                faults.lose_answer(),
                faults.cut(50_000),
                faults.cut_request(1000),
                faults.answer(503, "ServerBusy"),
                faults.answer_after(500, "InternalError"),
                faults.declare(3),
                faults.garbage(),
                faults.delay(0.05),
            ],
            seed=3,
        )

        async def one(number):
            name = f"blob-{number}"
            data = DATA[number : number + 200_000]
            etag = await put(store, name, data)
            etag = (await store.head(name)).headers["etag"]
            assert await get(store, etag, name, size=len(data)) == data

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(one, number)
        assert proxy.injected() > 20
        assert store.counters["errors"] == 0


async def test_ids_are_those_that_the_store_can_find(storage, proxy, blob_container):
    async with opened(storage, proxy, blob_container) as store:
        await put(store)
        await put(store)
    ids = {r.headers["x-ms-client-request-id"] for r in proxy.requests}
    assert len(ids) == len(proxy.requests)
    assert all(uuid.UUID(one) for one in ids)
