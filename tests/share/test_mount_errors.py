"""What prevents a mount is said precisely, and within a bounded time."""

import socket
import time

import pytest
import trio

from fuse.errors import MountError
from tests.share.conftest import QUICK, connect


@pytest.fixture
def silent_port():
    """A server that accepts connections (in the kernel) and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def blackhole_port():
    """A port whose connection requests get no answer: the backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        yield address[1]
        for filler in fillers:
            filler.close()


@pytest.fixture
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Nowhere:
    share, account, key = "share", "account", "a2V5"

    def __init__(self, port, host="127.0.0.1"):
        self.file_endpoint = f"{host}:{port}"


async def failure(storage, **changes):
    started = time.monotonic()
    with pytest.raises(MountError) as raised:
        async with connect(storage, **changes):
            pass
    assert time.monotonic() - started < QUICK.connect + 2
    assert storage.key not in str(raised.value.as_dict())
    return raised.value


async def test_refused(closed_port):
    error = await failure(Nowhere(closed_port))
    assert error.code == "ServerUnreachable"
    assert "Connection refused" in error.message
    assert str(closed_port) in error.hint


async def test_blackholed(blackhole_port):
    error = await failure(Nowhere(blackhole_port))
    assert error.code == "ServerUnreachable"
    assert "no TCP answer within 3 s" in error.message
    assert "firewall" in error.hint


async def test_silent(silent_port):
    error = await failure(Nowhere(silent_port))
    assert error.code == "ServerUnreachable"
    assert "no SMB answer" in error.message


async def test_no_such_host():
    error = await failure(Nowhere(445, "no-such-host.invalid"))
    assert error.code == "ServerUnreachable"
    assert "resolve" in error.message
    assert "DNS" in error.hint


async def test_not_smb():
    """Something else listens there."""

    async def greet(stream):
        await stream.send_all(b"\0\0\0\x1fHTTP/1.1 400 Bad Request\r\n\r\n0000")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, greet, 0)
        port = listeners[0].socket.getsockname()[1]
        error = await failure(Nowhere(port))
        assert error.code in {"ServerUnreachable", "MountFailed"}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("endpoint", ["host:port", "host:0", ":445", "host:70000"])
async def test_bad_endpoint(endpoint):
    error = await failure(Nowhere(1), endpoint=endpoint)
    assert error.code == "InvalidOption"


async def test_cancelled_while_connecting(silent_port):
    started = time.monotonic()
    with trio.move_on_after(0.3) as scope:
        async with connect(Nowhere(silent_port)):
            pass
    assert scope.cancelled_caught
    assert time.monotonic() - started < 2


@pytest.mark.integration
async def test_wrong_key(storage):
    error = await failure(storage, key="d3Jvbmcga2V5")
    assert error.code == "AuthenticationFailed"
    assert "STATUS_LOGON_FAILURE" in error.message
    assert storage.account in error.message
    assert "rotated" in error.hint


@pytest.mark.integration
async def test_wrong_account(storage):
    error = await failure(storage, account="somebodyelse")
    assert error.code == "AuthenticationFailed"


@pytest.mark.integration
async def test_missing_share(storage):
    error = await failure(storage, share="no-such-share")
    assert error.code == "ShareNotFound"
    assert "no-such-share" in error.message
