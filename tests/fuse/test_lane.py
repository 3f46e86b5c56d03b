"""The short way of requests, with one socket as the kernel and another as pyfuse3."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import subprocess

import pyfuse3
import pytest
import trio

from fuse import messages, passage
from fuse.entries import Shown
from fuse.filesystem import FileSystem
from fuse.interrupts import INTERVAL
from fuse.lane import _LOOKS, _SMALL, Lane
from fuse.messages import HEADER, REPLY, Limits
from fuse.options import MountOptions
from fuse.passage import Passage
from fuse.untold import Untold
from fuse.volume import Attributes, Kind
from tests.fuse.memory_volume import MemoryVolume

OTHER = 9  # mkdir: something that only pyfuse3 answers
LIMITS = Limits(max_background=64, congestion_threshold=48)


class Ends:
    """A lane that serves, and what is on either side of it."""

    def __init__(self, lane, filesystem, kernel, pyfuse):
        self.lane = lane
        self.filesystem = filesystem
        self.kernel = kernel
        self.pyfuse = pyfuse

    async def ask(self, opcode, unique, body=b"", inode=1, pid=0):
        head = HEADER.pack(HEADER.size + len(body), opcode, unique, inode, 0, 0, pid)
        await self.kernel.send(head + body)
        return head + body

    async def answer(self):
        """Unique, errno, body."""
        with trio.fail_after(5):
            message = await self.kernel.recv(1 << 21)
        length, error, unique = REPLY.unpack_from(message)
        assert length == len(message)
        return unique, -error, message[REPLY.size :]

    async def passed_on(self):
        with trio.fail_after(5):
            return await self.pyfuse.recv(1 << 21)


@pytest.fixture
async def volume():
    volume = MemoryVolume()
    volume.attribute_timeout = 1000.0
    return volume


@pytest.fixture
async def ends(nursery, tmp_path, volume):
    async with made(nursery, tmp_path, volume) as found:
        yield found


@contextlib.asynccontextmanager
async def made(nursery, tmp_path, volume, **settings):
    options = MountOptions(mountpoint=tmp_path, cache_directory=tmp_path)
    filesystem = FileSystem(volume, Attributes(Kind.DIRECTORY), options, nursery)
    filesystem.inodes.root.expires = float("inf")
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (kernel, device), (pyfuse, inner) = pairs
    for one in (device, inner):
        one.setblocking(False)
    lane = Lane(filesystem, device.fileno(), Passage(inner, LIMITS, **settings))
    nursery.start_soon(lane.serve)
    yield Ends(
        lane, filesystem, trio.socket.from_stdlib_socket(kernel),
        trio.socket.from_stdlib_socket(pyfuse),
    )  # fmt: skip
    nursery.cancel_scope.cancel()
    for pair in pairs:
        for one in pair:
            one.close()


def known_file(ends, volume, data=b"content"):
    """A file whose attributes the file system knows; its inode number."""
    volume.files["f"], volume.versions["f"] = data, "1"
    attributes = Attributes(Kind.FILE, size=len(data), version="1")
    inodes = ends.filesystem.inodes
    node = inodes.remember(inodes.root, "f", attributes, float("inf"))
    node.lookups = 1
    return node.number


async def opened_file(ends, inode, unique=100):
    await ends.ask(messages.OPEN, unique, struct.pack("=II", os.O_RDONLY, 0), inode)
    _, error, body = await ends.answer()
    assert not error
    return struct.unpack_from("=QI", body)


def async_recorder(calls, result=None, error=None):
    """Stands in for a handler: notes its arguments."""

    async def handler(*arguments):
        calls.append(arguments)
        await trio.lowlevel.checkpoint()
        if error is not None:
            raise error
        return result

    return handler


def read_body(handle, offset, size):
    return struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0)


# -- what is passed on ----------------------------------------------------------------------------


async def test_what_it_does_not_know_goes_on_unchanged_and_its_answer_comes_back(ends):
    sent = await ends.ask(OTHER, 7, b"\0\1name\0")
    assert await ends.passed_on() == sent
    answer = REPLY.pack(REPLY.size + 3, -errno.EPERM, 7) + b"abc"
    await ends.pyfuse.send(answer)
    assert await ends.answer() == (7, errno.EPERM, b"abc")
    assert ends.lane.figures()["kernel_requests_answered"] == 0
    assert ends.lane.figures()["kernel_requests_passed_on"] == 1


async def test_only_the_greeting_is_told_the_limits(ends):
    await ends.ask(messages.INIT, 1, bytes(64))
    await ends.passed_on()
    body = struct.pack("=IIIIHHI", 7, 36, 1 << 20, 0xF0, 0, 0, 1 << 20) + bytes(32)
    for unique in (2, 1, 1):  # another answer comes first, and one of the same number later
        await ends.pyfuse.send(REPLY.pack(REPLY.size + len(body), 0, unique) + body)
    unchanged, changed, later = [(await ends.answer())[2] for _ in range(3)]
    assert unchanged == later == body
    assert struct.unpack_from("=IIIIHHI", changed) == (7, 36, 1 << 20, 0xF0, 64, 48, 1 << 20)
    assert changed[28:] == body[28:]


@pytest.mark.parametrize(
    "answer", [REPLY.pack(16, -errno.EPROTO, 1), REPLY.pack(20, 0, 1) + b"1234"]
)
def test_a_greeting_that_is_refused_or_short_stays_as_it_is(answer):
    changed = bytearray(answer)
    messages.set_limits(changed, LIMITS)
    assert changed == answer


async def test_a_large_backlog_waits_for_pyfuse3(ends):
    """The socket's buffer is finite, and requests are neither lost nor reordered."""
    count = 3000
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def kernel():
            for number in range(count):
                await ends.ask(OTHER, number, bytes(1000))

        await trio.sleep(0.05)
        for number in range(count):
            assert HEADER.unpack_from(await ends.passed_on())[2] == number


async def test_listings_never_overflow_the_socket(nursery, tmp_path, volume):
    """It would be full of answers whose reader waits for the one who fills it."""
    async with made(nursery, tmp_path, volume, room=100_000) as ends:
        for number in range(1, 6):
            await ends.ask(messages.READDIRPLUS, number, read_body(7, 0, 40_000))
        first, second = [await ends.passed_on() for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.05):
            await ends.pyfuse.recv(100)
        await ends.pyfuse.send(REPLY.pack(16, 0, HEADER.unpack_from(second)[2]))
        assert HEADER.unpack_from(await ends.passed_on())[2] == 3
        await ends.pyfuse.send(REPLY.pack(16, 0, HEADER.unpack_from(first)[2]))
        assert HEADER.unpack_from(await ends.passed_on())[2] == 4
        # Whoever needs no room is not kept waiting; there is none for the fifth yet.
        sent = await ends.ask(OTHER, 77, b"name\0")
        assert await ends.passed_on() == sent
        # One that is larger than all there is gets what there is.
        for number in (3, 4):
            await ends.pyfuse.send(REPLY.pack(16, 0, number))
        assert HEADER.unpack_from(await ends.passed_on())[2] == 5
        await ends.pyfuse.send(REPLY.pack(16, 0, 5))
        await ends.ask(messages.READDIRPLUS, 6, read_body(7, 3, 1 << 20))
        assert (await ends.passed_on())[HEADER.size :] == read_body(7, 3, 100_000)


async def test_what_takes_a_while_is_pyfuse3s(ends, volume):
    inode = known_file(ends, volume)
    ends.filesystem.inodes.get(inode).expires = 0.0
    for opcode, body in (
        (messages.GETATTR, bytes(16)),
        (messages.OPEN, struct.pack("=II", os.O_RDONLY, 0)),
        (messages.OPEN, struct.pack("=II", os.O_WRONLY | os.O_TRUNC, 0)),
    ):
        sent = await ends.ask(opcode, 5, body, inode)
        assert await ends.passed_on() == sent
    sent = await ends.ask(messages.LOOKUP, 5, b"unheard-of\0")
    assert await ends.passed_on() == sent


# -- answers at once ------------------------------------------------------------------------------


async def test_a_name_that_is_known_is_answered_and_counted(ends, volume):
    inode = known_file(ends, volume)
    await ends.ask(messages.LOOKUP, 3, b"f\0")
    unique, error, body = await ends.answer()
    assert (unique, error, len(body)) == (3, 0, 128)
    nodeid, generation, *_ = struct.unpack_from("=QQ", body)
    number, size = struct.unpack_from("=QQ", body, 40)
    assert (nodeid, generation, number, size) == (inode, 0, inode, 7)
    assert ends.filesystem.inodes.get(inode).lookups == 2
    await ends.ask(messages.FORGET, 0, struct.pack("=Q", 2), inode)
    await ends.ask(messages.GETATTR, 4, bytes(16), inode)
    assert (await ends.answer())[:2] == (4, errno.ESTALE)


async def test_many_are_forgotten_at_once(ends, volume):
    first = known_file(ends, volume)
    inodes = ends.filesystem.inodes
    second = inodes.remember(inodes.root, "g", Attributes(Kind.FILE), float("inf")).number
    for number in (first, second):
        inodes.get(number).lookups = 3
    body = struct.pack("=IIQQQQ", 2, 0, first, 3, second, 2)
    await ends.ask(messages.BATCH_FORGET, 0, body)
    await ends.ask(messages.GETATTR, 1, bytes(16), first)
    assert (await ends.answer())[:2] == (1, errno.ESTALE)
    assert inodes.get(second).lookups == 1


async def test_a_reader_has_nothing_to_flush_and_a_writer_has(ends, volume):
    inode = known_file(ends, volume)
    _, flags = await opened_file(ends, inode)
    assert flags & messages.NO_FLUSH
    await ends.ask(messages.OPEN, 8, struct.pack("=II", os.O_RDWR, 0), inode)
    handle, flags = struct.unpack_from("=QI", (await ends.answer())[2])
    assert not flags & messages.NO_FLUSH
    committed = []
    ends.filesystem.contents.commit = async_recorder(committed)
    await ends.ask(messages.FLUSH, 9, struct.pack("=QIIQ", handle, 0, 0, 0), inode)
    assert await ends.answer() == (9, 0, b"")
    assert [node.number for node, _ in committed] == [inode]


async def test_names_of_attributes_that_no_file_has_are_answered(ends, volume):
    inode = known_file(ends, volume)
    volume.keeps_xattrs = True
    size = struct.pack("=II", 24, 0)
    await ends.ask(messages.GETXATTR, 1, size + b"security.capability\0", inode)
    assert await ends.answer() == (1, errno.EOPNOTSUPP, b"")
    sent = await ends.ask(messages.GETXATTR, 2, size + b"user.a\0", inode)
    assert await ends.passed_on() == sent
    # The kernel asks no more once it has heard from pyfuse3 that there are none at all.
    volume.keeps_xattrs = False
    sent = await ends.ask(messages.GETXATTR, 3, size + b"security.a\0", inode)
    assert await ends.passed_on() == sent


async def test_a_handle_is_released_once(ends, volume):
    inode = known_file(ends, volume)
    handle, _ = await opened_file(ends, inode)
    body = struct.pack("=QIIQ", handle, 0, 0, 0)
    await ends.ask(messages.RELEASE, 1, body, inode)
    assert await ends.answer() == (1, 0, b"")
    assert not ends.filesystem.inodes.get(inode).opens
    await ends.ask(messages.RELEASE, 2, body, inode)
    assert (await ends.answer())[:2] == (2, errno.EBADF)


async def test_a_defect_is_an_error_of_its_request_alone(ends, volume, monkeypatch, capsys):
    inode = known_file(ends, volume)
    monkeypatch.setattr(ends.filesystem.names, "settled", lambda node: 1 // 0)
    await ends.ask(messages.GETATTR, 1, bytes(16), inode)
    assert (await ends.answer())[:2] == (1, errno.EIO)
    assert "ZeroDivisionError" in capsys.readouterr().err
    await ends.ask(messages.LOOKUP, 2, b"f\0")
    assert (await ends.answer())[:2] == (2, 0)


# -- answers of handlers --------------------------------------------------------------------------

CALLER = (10, 20, 30)


async def call(ends, opcode, unique, body, inode=1):
    head = HEADER.pack(HEADER.size + len(body), opcode, unique, inode, *CALLER)
    await ends.kernel.send(head + body)
    return await ends.answer()


@pytest.mark.parametrize(
    ("opcode", "name", "body", "arguments"),
    [
        (messages.UNLINK, "unlink", b"name\0", (1, b"name", CALLER)),
        (messages.RMDIR, "rmdir", b"name\0", (1, b"name", CALLER)),
        (
            messages.RENAME,
            "rename",
            struct.pack("=Q", 5) + b"old\0new \xff\0",
            (1, b"old", 5, b"new \xff", 0, CALLER),
        ),
        (
            messages.RENAME2,
            "rename",
            struct.pack("=QII", 5, 2, 0) + b"old\0new\0",
            (1, b"old", 5, b"new", 2, CALLER),
        ),
        (messages.FSYNC, "fsync", struct.pack("=QII", 77, 1, 0), (77, False)),
    ],
)
async def test_what_waits_for_the_store_is_answered_by_its_handler(
    ends, opcode, name, body, arguments
):
    calls = []
    setattr(ends.filesystem, name, async_recorder(calls))
    assert await call(ends, opcode, 4, body) == (4, 0, b"")
    error = pyfuse3.FUSEError(errno.ENOTEMPTY)
    setattr(ends.filesystem, name, async_recorder(calls, error=error))
    assert await call(ends, opcode, 5, body) == (5, errno.ENOTEMPTY, b"")
    assert calls == [arguments] * 2
    assert ends.lane.figures()["kernel_requests_passed_on"] == 0


def create_body(name, flags, mode=0o100640):
    return struct.pack("=IIII", flags, mode, 0o22, 0) + name + b"\0"


async def test_a_file_that_its_first_commit_makes_is_created_at_once(ends, volume):
    volume.makes_at_commit = lambda _path: True
    ends.filesystem.names.empty(ends.filesystem.inodes.root)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    unique, error, body = await call(ends, messages.CREATE, 6, create_body(b"new", flags))
    assert (unique, error, len(body)) == (6, 0, 128 + 16)
    inode, number, size = struct.unpack_from("=Q32xQQ", body)
    mode, links, uid, gid = struct.unpack_from("=IIII", body, 40 + 60)
    assert (number, size, mode, links, uid, gid) == (inode, 0, 0o100640, 1, *CALLER[:2])
    handle, kept = struct.unpack_from("=QI", body, 128)
    assert kept == messages.KEEP_CACHE
    node = ends.filesystem.inodes.get(inode)
    assert (node.path(), node.lookups, node.opens) == ("new", 1, 1)
    assert ends.filesystem.files[handle].inode is node
    assert ends.filesystem.files[handle].pid == CALLER[2]
    assert not volume.files
    body = struct.pack("=QIIQ", handle, 0, 0, 0)
    assert await call(ends, messages.FLUSH, 7, body, inode) == (7, 0, b"")
    assert volume.files == {"new": b""}


async def test_a_file_that_must_be_new_is_made_by_the_store(ends, volume):
    volume.makes_at_commit = lambda _path: True
    ends.filesystem.names.empty(ends.filesystem.inodes.root)

    async def create(path, _changes):
        if path in volume.files:
            raise FileExistsError(errno.EEXIST, "there")
        return volume.put(path, b"")

    volume.create = create
    asked = create_body(b"lock", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    unique, error, body = await call(ends, messages.CREATE, 6, asked)
    assert (unique, error, len(body)) == (6, 0, 128 + 16)
    (inode,) = struct.unpack_from("=Q", body)
    handle, _ = struct.unpack_from("=QI", body, 128)
    assert volume.files == {"lock": b""}
    assert ends.filesystem.files[handle].inode is ends.filesystem.inodes.get(inode)
    assert await call(ends, messages.CREATE, 7, asked) == (7, errno.EEXIST, b"")
    assert ends.filesystem.inodes.get(inode).lookups == 1


async def test_a_name_that_cannot_be_is_refused_at_once(ends, volume):
    asked = create_body(b"x" * 256, os.O_WRONLY | os.O_CREAT)
    assert await call(ends, messages.CREATE, 8, asked) == (8, errno.ENAMETOOLONG, b"")
    assert not volume.files


async def test_a_defect_in_a_handler_is_an_error_of_its_request_alone(ends, capsys):
    ends.filesystem.unlink = async_recorder([], error=ZeroDivisionError())
    assert await call(ends, messages.UNLINK, 4, b"name\0") == (4, errno.EIO, b"")
    assert "ZeroDivisionError" in capsys.readouterr().err
    ends.filesystem.unlink = async_recorder([])
    assert await call(ends, messages.UNLINK, 5, b"name\0") == (5, 0, b"")


async def test_who_waits_for_a_handler_is_not_pyfuse3s_to_interrupt(ends):
    go_on = trio.Event()

    async def unlink(*_arguments):
        await go_on.wait()

    ends.filesystem.unlink = unlink
    await ends.ask(messages.UNLINK, 8, b"name\0")
    await ends.ask(messages.INTERRUPT, 9, struct.pack("=Q", 8))
    sent = await ends.ask(messages.INTERRUPT, 11, struct.pack("=Q", 10))
    assert await ends.passed_on() == sent, "only that of another one"
    go_on.set()
    assert await ends.answer() == (8, 0, b"")


# -- the next request -----------------------------------------------------------------------------


@pytest.fixture
def yields(monkeypatch):
    """What the lane does each time it finds nothing and is to look again."""
    calls = []
    monkeypatch.setattr(os, "sched_yield", lambda: calls.append(None))
    return calls


def lookup(unique):
    return HEADER.pack(HEADER.size + 2, messages.LOOKUP, unique, 1, 0, 0, 0) + b"f\0"


async def test_who_asks_on_at_once_is_answered_without_a_wait(ends, volume, monkeypatch):
    known_file(ends, volume)
    waits, yields = [], []
    wait_readable = trio.lowlevel.wait_readable

    async def wait(sock):
        if sock == ends.lane._device:
            waits.append(None)
        await wait_readable(sock)

    def ask_on():
        yields.append(None)
        if len(yields) <= 5:
            os.write(ends.kernel.fileno(), lookup(len(yields)))

    await trio.testing.wait_all_tasks_blocked()
    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait)
    monkeypatch.setattr(os, "sched_yield", ask_on)
    await ends.kernel.send(lookup(0))
    assert [(await ends.answer())[0] for _ in range(6)] == list(range(6))
    await trio.testing.wait_all_tasks_blocked()
    # One wait after the last one, who does not ask on: it is not looked for much longer.
    assert len(waits) == 1
    assert len(yields) == 5 + _LOOKS


async def test_nobody_is_looked_for_while_the_store_is_waited_for(ends, volume, yields):
    inode = known_file(ends, volume)
    calls = []
    volume.begin_read = lambda *arguments: calls.append(arguments[-1]) or True
    handle, _ = await opened_file(ends, inode)
    await trio.testing.wait_all_tasks_blocked()
    yields.clear()
    await ends.ask(messages.READ, 2, read_body(handle, 0, 10))
    await trio.testing.wait_all_tasks_blocked()
    await ends.kernel.send(lookup(3))
    assert (await ends.answer())[0] == 3
    await trio.testing.wait_all_tasks_blocked()
    assert yields == []
    calls.pop()(False)
    assert (await ends.answer())[0] == 2


async def test_nobody_is_looked_for_after_what_pyfuse3_has_to_answer(ends, yields):
    await trio.testing.wait_all_tasks_blocked()
    yields.clear()
    await ends.ask(OTHER, 7, b"name\0")
    await ends.passed_on()
    await trio.testing.wait_all_tasks_blocked()
    assert yields == []


@pytest.mark.parametrize(("size", "looked"), [(_SMALL, _LOOKS), (_SMALL + 1, 0)])
async def test_who_got_much_has_something_to_do_first(ends, volume, yields, size, looked):
    volume.preferred_read = 2 * _SMALL
    inode = known_file(ends, volume, bytes(_SMALL + 1))
    handle, _ = await opened_file(ends, inode)
    await ends.ask(messages.READ, 1, read_body(handle, 0, size))
    await ends.answer()
    await trio.testing.wait_all_tasks_blocked()
    yields.clear()
    await ends.ask(messages.READ, 2, read_body(handle, 0, size))  # from memory
    assert len((await ends.answer())[2]) == size
    await trio.testing.wait_all_tasks_blocked()
    assert len(yields) == looked


# -- answers that wait ----------------------------------------------------------------------------


async def test_reads_are_answered_each_in_its_time(ends, volume):
    volume.preferred_read = 10_000
    inode = known_file(ends, volume, b"0123456789" * 1000)
    handle, _ = await opened_file(ends, inode)
    await ends.ask(messages.READ, 1, read_body(handle, 5, 10))
    assert await ends.answer() == (1, 0, b"5678901234")
    await ends.ask(messages.READ, 2, read_body(handle, 9_995, 10))
    assert await ends.answer() == (2, 0, b"56789")
    await ends.ask(messages.READ, 3, read_body(handle, 10_000, 10))
    assert await ends.answer() == (3, 0, b"")
    assert volume.reads == 1
    await ends.ask(messages.READ, 4, read_body(handle + 1, 0, 10))
    assert (await ends.answer())[:2] == (4, errno.EBADF)


async def test_a_read_that_fails_says_why(ends, volume):
    inode = known_file(ends, volume)
    handle, _ = await opened_file(ends, inode)
    volume.failing = OSError(errno.ETIMEDOUT, "down")
    await ends.ask(messages.READ, 1, read_body(handle, 0, 10))
    assert (await ends.answer())[:2] == (1, errno.ETIMEDOUT)
    volume.failing = None
    await ends.ask(messages.READ, 2, read_body(handle, 0, 10))
    assert await ends.answer() == (2, 0, b"content")


def write_body(handle, offset, data):
    return struct.pack("=QQIIQII", handle, offset, len(data), 0, 0, 0, 0) + data


async def written_file(ends, volume):
    inode = known_file(ends, volume, b"")
    await ends.ask(messages.OPEN, 8, struct.pack("=II", os.O_RDWR, 0), inode)
    (handle,) = struct.unpack_from("=Q", (await ends.answer())[2])
    return inode, handle


@pytest.mark.parametrize("size", [1000, _SMALL + 1])
async def test_a_write_keeps_its_bytes_while_others_arrive(ends, volume, size):
    _, handle = await written_file(ends, volume)
    pieces = [bytes([65 + number]) * size for number in range(20)]
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def kernel():
            for number, piece in enumerate(pieces):
                await ends.ask(messages.WRITE, number, write_body(handle, size * number, piece))

        answers = sorted([await ends.answer() for _ in pieces])
    assert answers == [(number, 0, struct.pack("=II", size, 0)) for number in range(20)]
    for number, piece in enumerate(pieces):
        await ends.ask(messages.READ, 99, read_body(handle, size * number, size))
        assert await ends.answer() == (99, 0, piece)


async def test_a_write_waits_while_the_file_is_committed(ends, volume):
    inode, handle = await written_file(ends, volume)
    content = ends.filesystem.inodes.get(inode).content
    async with content._lock:
        await ends.ask(messages.WRITE, 1, write_body(handle, 0, b"later"))
        await ends.ask(messages.GETATTR, 2, bytes(16), inode)
        assert (await ends.answer())[0] == 2
        assert not content.modified
    assert await ends.answer() == (1, 0, struct.pack("=II", 5, 0))
    await ends.ask(messages.READ, 3, read_body(handle, 0, 10))
    assert await ends.answer() == (3, 0, b"later")


async def test_a_write_waits_for_room_on_a_full_disk(ends, volume):
    inode, handle = await written_file(ends, volume)
    content = ends.filesystem.inodes.get(inode).content
    write, calls = content._write, []

    def full_at_first(offset, data):
        calls.append(bytes(data))
        if len(calls) <= 2:  # at once, and where it may wait
            raise OSError(errno.ENOSPC, "full")
        return write(offset, data)

    content._write = full_at_first
    content._make_room = async_recorder([], result=True)
    await ends.ask(messages.WRITE, 1, write_body(handle, 0, b"all of it"))
    assert await ends.answer() == (1, 0, struct.pack("=II", 9, 0))
    assert calls == [b"all of it"] * 3
    content._write = lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken"))
    await ends.ask(messages.WRITE, 2, write_body(handle, 0, b"more"))
    assert await ends.answer() == (2, errno.EIO, b"")


async def test_as_many_loaders_as_a_node_has_keep_their_windows(nursery, tmp_path, volume):
    options = MountOptions(mountpoint=tmp_path, cache_directory=tmp_path, read_only=True)
    filesystem = FileSystem(volume, Attributes(Kind.DIRECTORY), options, nursery)
    attributes = Attributes(Kind.FILE, size=1 << 30, version="1")
    node = filesystem.inodes.remember(filesystem.inodes.root, "f", attributes, float("inf"))
    untold = Untold(filesystem)
    first, second = ([untold.handle(node.number, pid) for pid in range(64)] for _ in range(2))
    assert all(one is other for one, other in zip(first, second, strict=True))
    nursery.cancel_scope.cancel()


async def test_what_cannot_be_written_is_refused_at_once(ends, volume):
    inode, handle = await written_file(ends, volume)
    await ends.ask(messages.WRITE, 1, write_body(handle, 1 << 62, b"far"))
    assert await ends.answer() == (1, errno.EFBIG, b"")
    await ends.ask(messages.WRITE, 2, write_body(handle + 1, 0, b"nowhere"))
    assert await ends.answer() == (2, errno.EBADF, b"")
    ends.filesystem.inodes.get(inode).superseded = True
    await ends.ask(messages.WRITE, 3, write_body(handle, 0, b"late"))
    assert await ends.answer() == (3, errno.ESTALE, b"")


async def test_what_is_appended_goes_to_the_end(ends, volume):
    inode = known_file(ends, volume)
    await ends.ask(messages.OPEN, 8, struct.pack("=II", os.O_RDWR | os.O_APPEND, 0), inode)
    (handle,) = struct.unpack_from("=Q", (await ends.answer())[2])
    await ends.ask(messages.WRITE, 1, write_body(handle, 3, b" and more"))
    assert await ends.answer() == (1, 0, struct.pack("=II", 9, 0))
    await ends.ask(messages.READ, 2, read_body(handle, 0, 100))
    assert await ends.answer() == (2, 0, b"content and more")


async def test_whoever_is_to_end_gets_its_answer_before_the_bytes(
    ends, volume, monkeypatch, autojump_clock
):
    monkeypatch.setattr("fuse.interrupts.is_ending", lambda pid, proc: pid == 77)
    inode = known_file(ends, volume)
    arrive = trio.Event()
    calls = []

    def begin_read(path, attributes, offset, buffer, progress, done):
        calls.append((buffer, done))
        return True

    volume.begin_read = begin_read
    await ends.ask(messages.OPEN, 8, struct.pack("=II", os.O_RDONLY, 0), inode, pid=77)
    (handle,) = struct.unpack_from("=Q", (await ends.answer())[2])
    await ends.ask(messages.READ, 1, read_body(handle, 0, 10))
    await trio.sleep(2 * INTERVAL)
    assert (await ends.answer())[:2] == (1, errno.EINTR)
    assert ends.filesystem.interrupts.interrupted == 1
    buffer, done = calls.pop()
    buffer[:] = b"content"
    done(True)
    await ends.ask(messages.READ, 2, read_body(handle, 0, 10))
    assert await ends.answer() == (2, 0, b"content"), "they arrived for others"
    arrive.set()


async def test_libfuse_hears_only_of_interrupts_of_its_own_requests(ends, volume):
    inode = known_file(ends, volume)
    calls = []
    volume.begin_read = lambda *arguments: calls.append(arguments[-1]) or True
    handle, _ = await opened_file(ends, inode)
    await ends.ask(messages.READ, 2, read_body(handle, 0, 10))
    await ends.ask(messages.INTERRUPT, 3, struct.pack("=Q", 2))
    sent = await ends.ask(messages.INTERRUPT, 5, struct.pack("=Q", 4))
    assert await ends.passed_on() == sent
    calls.pop()(False)
    assert await ends.answer() == (2, 0, b"content"), "it was asked for again, the long way"


# -- the protocol ---------------------------------------------------------------------------------

_STRUCTURES = {
    "fuse_in_header": HEADER,
    "fuse_out_header": REPLY,
    "fuse_forget_in": messages.FORGET_IN,
    "fuse_batch_forget_in": messages.BATCH_FORGET_IN,
    "fuse_forget_one": messages.FORGET_ONE,
    "fuse_open_in": messages.OPEN_IN,
    "fuse_read_in": messages.READ_IN,
    "fuse_write_in": messages.WRITE_IN,
    "fuse_interrupt_in": messages.INTERRUPT_IN,
    "fuse_getxattr_in": messages.GETXATTR_IN,
    "fuse_create_in": messages.CREATE_IN,
    "fuse_rename_in": messages.RENAME_IN,
    "fuse_rename2_in": messages.RENAME2_IN,
}


def test_structures_and_numbers_are_the_kernels(tmp_path):
    """As the C compiler lays out <linux/fuse.h>."""
    names = "LOOKUP FORGET GETATTR OPEN READ WRITE RELEASE FLUSH INIT INTERRUPT BATCH_FORGET"
    names = f"{names} FSYNC IOCTL READDIR READDIRPLUS GETXATTR LISTXATTR CREATE UNLINK RMDIR"
    names = f"{names} RENAME RENAME2".split(" ")
    changes = "SETATTR SYMLINK MKNOD MKDIR UNLINK RMDIR RENAME LINK WRITE SETXATTR REMOVEXATTR"
    changes = f"{changes} CREATE FALLOCATE RENAME2 COPY_FILE_RANGE TMPFILE".split(" ")
    source = tmp_path / "sizes.c"
    fields = {
        "fuse_entry_out": ["attr", "attr_valid_nsec"],
        "fuse_attr": ["mtimensec", "mode", "nlink", "blksize"],
        "fuse_init_out": ["max_background", "congestion_threshold", "max_write"],
        "fuse_read_in": ["size"],
        "fuse_in_header": ["uid", "gid", "pid"],
        "fuse_create_in": ["flags", "mode"],
        "fuse_rename2_in": ["newdir", "flags"],
    }
    lines = [f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in _STRUCTURES]
    lines += [f'printf("FUSE_{name} %d\\n", FUSE_{name});' for name in [*names, *changes]]
    lines += [
        f'printf("{kind}.{field} %zu\\n", offsetof(struct {kind}, {field}));'
        for kind, members in fields.items()
        for field in members
    ]
    lines += ['printf("keep %d noflush %d\\n", FOPEN_KEEP_CACHE, FOPEN_NOFLUSH);']
    body = "".join(lines)
    includes = "#include <stdio.h>\n#include <stddef.h>\n#include <linux/fuse.h>\n"
    source.write_text(f"{includes}int main(void) {{ {body} return 0; }}\n")
    subprocess.run(["cc", "-o", tmp_path / "sizes", source], check=True, capture_output=True)
    told = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    values = dict(line.split(" ", 1) for line in told.splitlines())
    for name, layout in _STRUCTURES.items():
        assert int(values[name]) == layout.size, name
    for name in names:
        assert int(values[f"FUSE_{name}"]) == getattr(messages, name), name
    assert {int(values[f"FUSE_{name}"]) for name in changes} == messages.CHANGES
    assert values["keep"] == f"{messages.KEEP_CACHE} noflush {messages.NO_FLUSH}"
    assert [int(values[f"fuse_init_out.{name}"]) for name in fields["fuse_init_out"]] == [
        16,
        18,
        20,
    ]
    assert int(values["fuse_read_in.size"]) == 16
    assert [int(values[f"fuse_in_header.{name}"]) for name in ("uid", "gid", "pid")] == [24, 28, 32]
    assert [int(values[f"fuse_create_in.{name}"]) for name in ("flags", "mode")] == [0, 4]
    assert [int(values[f"fuse_rename2_in.{name}"]) for name in ("newdir", "flags")] == [0, 8]
    shown = Shown(3, 1.5, 2.25, 0o100644, 1, 5, 6, 1000, 7_000_000_008, 9, -1)
    entry = messages.entry(11, shown)
    attributes = REPLY.size + int(values["fuse_entry_out.attr"])
    nanoseconds = struct.unpack_from("=I", entry, attributes - 4)[0]
    assert nanoseconds == 250_000_000

    def field(name, kind="=I"):
        return struct.unpack_from(kind, entry, attributes + int(values[f"fuse_attr.{name}"]))[0]

    assert field("mode") == 0o100644
    assert field("nlink") == 1
    assert field("mtimensec") == 8
    assert field("blksize") == 4096
    assert struct.unpack_from("=q", entry, attributes + 24)[0] == -1, "before the epoch"
    assert ctypes.sizeof(ctypes.c_void_p) == 8


# -- the socket between, and the end ---------------------------------------------------------------


class Unprivileged:
    """A socket of a process that may not go beyond net.core.wmem_max."""

    def __init__(self, inner):
        self.inner = inner

    def setsockopt(self, level, option, value):
        if option == passage._SO_SNDBUFFORCE:
            raise PermissionError(errno.EPERM, "not you")
        self.inner.setsockopt(level, option, value)

    def getsockopt(self, level, option):
        return self.inner.getsockopt(level, option)


def test_an_unprivileged_mount_has_room_for_what_its_socket_takes():
    ours, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, end:
        room = passage._enlarged(Unprivileged(end))
        assert 32 * 1024 <= room <= passage._ROOM
        end.setblocking(False)
        end.send(bytes(room))  # one of the largest, and many small ones beside it
        for _ in range(99):
            end.send(bytes(200))


async def test_bytes_that_arrive_after_the_end_go_nowhere(nursery, tmp_path, volume, monkeypatch):
    calls = []
    volume.begin_read = lambda *arguments: calls.append(arguments[3:]) or True
    options = MountOptions(mountpoint=tmp_path, cache_directory=tmp_path)
    filesystem = FileSystem(volume, Attributes(Kind.DIRECTORY), options, nursery)
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    (kernel, device), (_, inner) = pairs
    for one in (device, inner):
        one.setblocking(False)
    lane = Lane(filesystem, device.fileno(), Passage(inner, LIMITS))
    ends = Ends(lane, filesystem, trio.socket.from_stdlib_socket(kernel), None)
    with trio.CancelScope() as serving:
        async with trio.open_nursery() as inside:
            inside.start_soon(lane.serve)
            handle, _ = await opened_file(ends, known_file(ends, volume))
            await ends.ask(messages.READ, 2, read_body(handle, 0, 10))
            await trio.testing.wait_all_tasks_blocked()
            serving.cancel()
    # By now the device's number may be another file's.
    monkeypatch.setattr(os, "write", lambda *_: pytest.fail("written"))
    monkeypatch.setattr(os, "writev", lambda *_: pytest.fail("written"))
    buffer, _, done = calls.pop()
    buffer[:] = b"content"
    done(True)
    for pair in pairs:
        for one in pair:
            one.close()
