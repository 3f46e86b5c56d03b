"""The traps of SMB from Python, one by one (most of them took a mount down when left open)."""

import errno
import os
import socket
import threading

import pytest
import trio
import trio.testing

from fuse.share import wire
from fuse.share.channel import CREDIT_RESERVE
from fuse.share.handshake import Timeouts, establish
from fuse.volume import Changes
from tests.share.conftest import QUICK, OverlayContent, connect, read, write

pytestmark = pytest.mark.integration
MIB = 1024 * 1024


def channel_of(volume):
    return volume._link.current


async def test_more_requests_than_credits_wait_their_turn(volume, share_folder):
    path, data = f"{share_folder}/f", os.urandom(4 * MIB)
    known = await write(volume, path, data)
    buffers = [bytearray(MIB) for _ in range(100)]  # 1,600 credits' worth, of 512
    statted = []

    async def stat_meanwhile():
        while len(statted) < 20:
            statted.append(await volume.stat(path))

    async with trio.open_nursery() as nursery:
        for index, buffer in enumerate(buffers):
            offset = index % 4 * MIB
            nursery.start_soon(
                volume.read_into, path, known, offset, memoryview(buffer), lambda _: None
            )
        nursery.start_soon(stat_meanwhile)
    for index, buffer in enumerate(buffers):
        assert buffer == data[index % 4 * MIB :][:MIB]
    assert volume.statistics()["share_connections"] == 1


async def test_credits_are_asked_for_up_front(volume):
    limiter = channel_of(volume).limiter
    assert limiter.available > 64 + CREDIT_RESERVE  # what a fresh session has


async def test_data_is_encrypted(storage, share_folder):
    """Not through the library's pool, where encryption silently stays off."""
    from smbprotocol.connection import Connection

    sent = []

    class Recorder:
        def __init__(self, inner):
            self._inner = inner

        async def send(self, data):
            sent.append(bytes(data))
            return await self._inner.send(data)

        def __getattr__(self, name):
            return getattr(self._inner, name)

    async with connect(storage) as volume:
        channel = channel_of(volume)
        channel._sock = Recorder(channel._sock)
        secret = b"the secret that nobody on the wire may see"
        await write(volume, f"{share_folder}/f", secret)
    assert sent
    assert all(data[4:8] == b"\xfdSMB" for data in sent)
    assert not any(secret in data for data in sent)
    assert Connection is not None


async def test_no_oplock_is_ever_asked_for(volume, share_folder):
    assert wire.create("x", wire.Access.READ_DATA).body[3] == 0
    path = f"{share_folder}/f"
    await write(volume, path, b"x")
    (reply,) = await channel_of(volume).call(wire.create(path.replace("/", "\\"), wire.Access(1)))
    assert reply.body[2] == 0
    channel_of(volume).abandon(wire.created(reply)[0])


async def test_a_notice_that_nobody_asked_for_does_no_harm(volume):
    channel = channel_of(volume)
    notice = wire.pack(
        wire.Message(18, bytes(36)),  # OPLOCK_BREAK
        message_id=wire.UNSOLICITED,
        session_id=0,
        tree_id=0,
        credits_wanted=0,
    )
    channel._dispatch(memoryview(notice))
    assert channel.unsolicited == 1
    await volume.stat("")
    assert volume.statistics()["share_connections"] == 1


async def test_no_thread_is_left_over(storage):
    before = threading.active_count()
    async with connect(storage) as volume:
        await volume.stat("")
        # trio keeps idle worker threads for a while: those are not the library's
        assert not [t for t in threading.enumerate() if t.name.startswith("msg_worker")]
    assert threading.active_count() <= before + 1


async def test_socket_options(volume):
    sock = channel_of(volume)._wire.sock
    tcp = socket.IPPROTO_TCP
    assert sock.getsockopt(tcp, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == QUICK.silence * 1000
    assert sock.get_inheritable() is False


async def test_descriptors_beyond_1023(storage):
    """The library's transport selects with select(2)."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1500:
        pytest.fail("the hard limit of open files is too low for this test")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1500), hard))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        async with connect(storage) as volume:
            assert channel_of(volume)._wire.sock.fileno() > 1023
            await volume.stat("")
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_idle_connection_is_probed_and_stays(storage):
    async with connect(storage, timeouts=Timeouts(idle=0.1)) as volume:
        before = volume.statistics()["requests"]
        with trio.fail_after(5):
            while volume.statistics()["requests"] < before + 3:
                await trio.sleep(0.05)
        assert volume.statistics()["share_connections"] == 1


async def test_given_up_requests_leave_no_open_file(volume, storage, share_folder):
    path = f"{share_folder}/f"
    await write(volume, path, b"x")
    channel = channel_of(volume)

    async def open_and_close():
        handle, _ = await volume._files.open_for_reading(channel, path)
        channel.abandon(handle)

    for _ in range(10):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(open_and_close)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    await volume.stat(path)
    # Whoever still had it open would be in the way of an exclusive open.
    with trio.fail_after(5):
        while True:
            (reply,) = await channel.call(
                wire.create(path.replace("/", "\\"), wire.Access.READ_DATA, share=0)
            )
            if reply.status == 0:
                break
            await trio.sleep(0.05)
    channel.abandon(wire.created(reply)[0])
    assert channel.limiter.in_flight <= 1


async def test_an_append_handle_would_not_append(volume, share_folder):
    """Servers disagree on FILE_APPEND_DATA, so offsets are always explicit."""
    path = f"{share_folder}/log"
    base = await write(volume, path, b"first ")
    tail = OverlayContent(12, bytes(6) + b"second", ranges=[(6, 12)], base_size=6)
    await volume.commit(path, base, tail, Changes())
    assert await read(volume, path) == b"first second"


async def test_a_broken_packet_ends_the_connection_and_another_is_made(volume):
    channel = channel_of(volume)
    async with trio.open_nursery() as nursery:
        results = []

        async def stat():
            results.append(await volume.stat(""))

        nursery.start_soon(stat)
        await trio.testing.wait_all_tasks_blocked()
        channel._wire.sock.shutdown(socket.SHUT_RD)
    assert results
    await volume.stat("")
    assert volume.statistics()["share_connections"] == 2


async def test_answers_must_be_encrypted(volume):
    with pytest.raises(ValueError, match="unencrypted"):
        channel_of(volume)._open(bytearray(b"\xfeSMB" + bytes(200)))
    with pytest.raises(Exception, match=r"^$"):  # InvalidTag has no text
        channel_of(volume)._open(bytearray(b"\xfdSMB" + bytes(200)))


async def test_key_of_another_account_does_not_disturb(storage):
    from fuse.share.handshake import Target

    host, _, port = storage.file_endpoint.rpartition(":")
    target = Target(host, int(port), storage.share, storage.account, storage.key)
    assert storage.key not in repr(target)
    established = await establish(target, QUICK)
    established.sock.close()


async def test_sharing_violation_is_waited_out(volume, storage, share_folder):
    path = f"{share_folder}/f"
    await write(volume, path, b"x")
    channel = channel_of(volume)
    create = wire.create(path.replace("/", "\\"), wire.Access.READ_DATA, share=0)
    (reply,) = await channel.call(create)

    async def let_go():
        await trio.sleep(0.2)
        await channel.call(wire.close(wire.created(reply)[0]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        assert await read(volume, path) == b"x"
    (reply,) = await channel.call(create)
    with pytest.raises(OSError) as raised:
        await read(volume, path)
    assert raised.value.errno == errno.EBUSY
    await channel.call(wire.close(wire.created(reply)[0]))
