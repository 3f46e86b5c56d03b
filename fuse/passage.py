"""The way of a request to pyfuse3, and of its answer back.

A pair of sockets takes the place of the kernel's device: pyfuse3 mounts as always, and its
descriptor then becomes one end of the pair (dup2(2)). The sockets keep the boundaries of messages,
as the device does.

libfuse writes an answer as soon as it has it, and waits where the socket is full, in the thread
whose other task would empty it. So large answers are kept from filling it: a listing is asked for
with a limit, and no more requests are handed over than have room for their answers.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from fuse import messages
from fuse.messages import Limits

#: Bytes of a message at most: a write of 1 MiB with its header, in whole pages. The kernel refuses
#: to be read with less than what was agreed on with it (libfuse's 256 pages).
LARGEST: Final = (1 << 20) + 4096

#: Bytes of a listing at most, whatever a program has room for, and of all large answers together.
#: An unprivileged process gets less, as net.core.wmem_max says.
_LISTING: Final = 128 * 1024
_ROOM: Final = 64 * _LISTING

_DEVICE: Final = "/dev/fuse"

# <asm-generic/socket.h>
_SO_SNDBUFFORCE: Final = 32

#: A request's number, the room that its answer may take, and its message.
_Held = tuple[int, int, bytes]


@contextmanager
def between(limits: Limits) -> Iterator[tuple[int, Passage]]:
    """Take the device from pyfuse3, which has mounted.

    Args:
        limits: What the kernel is told besides what pyfuse3 says.

    Yields:
        The device, non-blocking, which is closed in the end; and the way to pyfuse3.
    """
    theirs = _device()
    device = os.dup(theirs)
    os.set_blocking(device, False)
    ours, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, end:
        room = _enlarged(end)
        os.dup2(end.fileno(), theirs, inheritable=False)
        ours.setblocking(False)
        try:
            yield device, Passage(ours, limits, room)
        finally:
            os.close(device)


class Passage:
    """The end of the pair that is not pyfuse3's.

    Args:
        pyfuse: It, non-blocking.
        limits: What the answer to the kernel's greeting is to say.
        room: Bytes of large answers that fit into the socket.

    Attributes:
        taken: Requests that went this way.
    """

    def __init__(self, pyfuse: socket.socket, limits: Limits, room: int = _ROOM) -> None:
        self.taken = 0
        self._pyfuse = pyfuse
        self._limits = limits
        self._room = room
        self._greeting: int | None = None
        self._large: dict[int, int] = {}  # what pyfuse3 has to answer at length, and its bytes
        self._answered_one = trio.Event()
        self._held: deque[_Held] = deque()  # what there is no room for yet
        self._held_one = trio.Event()

    def take(self, unique: int, opcode: int, message: memoryview) -> None:
        """Hand a request to pyfuse3, at once or as soon as there is room for it."""
        self.taken += 1
        body = message[messages.HEADER.size :]
        size = 0
        if opcode in {messages.READDIRPLUS, messages.READDIR}:
            size = messages.limit_size(body, min(_LISTING, self._room))
        elif opcode in {messages.GETXATTR, messages.LISTXATTR}:
            (size,) = messages.GETXATTR_IN.unpack_from(body)
        elif opcode == messages.INIT:
            self._greeting = unique
        socket_is_full = bool(self._held) and self._fits(self._held[0][1])
        if socket_is_full or not (self._fits(size) and self._hand_over(unique, size, message)):
            self._held.append((unique, size, bytes(message)))
            self._held_one.set()

    def _fits(self, size: int) -> bool:
        """Whether there will be room for an answer of that size."""
        return not (size and self._large) or sum(self._large.values()) + size <= self._room

    def _hand_over(self, unique: int, size: int, message: bytes | memoryview) -> bool:
        """Send a request on, if there is room for it."""
        try:
            self._pyfuse.send(message)
        except BlockingIOError:
            return False
        if size:
            self._large[unique] = size
        return True

    async def hand_over(self) -> None:
        """Send on what had to wait; others overtake what waits for room for its answer."""
        while True:
            while not self._held:
                self._held_one = trio.Event()
                await self._held_one.wait()
            unique, size, message = self._held[0]
            while not self._fits(size):
                self._answered_one = trio.Event()
                await self._answered_one.wait()
            while not self._hand_over(unique, size, message):
                await trio.lowlevel.wait_writable(self._pyfuse)
            self._held.popleft()

    async def bring_back(self, send: Callable[[memoryview], None]) -> None:
        """Hand pyfuse3's answers to ``send``."""
        buffer = bytearray(LARGEST)
        view = memoryview(buffer)
        while True:
            try:
                length = self._pyfuse.recv_into(buffer)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._pyfuse)
                continue
            if not length:  # pyfuse3 has closed its end
                return
            answer = view[:length]
            _, _, unique = messages.REPLY.unpack_from(answer)
            if self._large.pop(unique, None) is not None:
                self._answered_one.set()
            elif unique == self._greeting:
                messages.set_limits(answer, self._limits)
                self._greeting = None
            send(answer)


def _enlarged(end: socket.socket) -> int:
    """Make the socket's buffer as large as it may be; how many bytes of large answers fit."""
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * _ROOM)
    except PermissionError:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _ROOM)
    # The kernel counts what it holds a message in, too, and small answers want a place (socket(7)).
    return min(_ROOM, end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 4)


def _device() -> int:
    """The descriptor of the one FUSE device that this process has open."""
    found = [
        int(entry.name) for entry in Path("/proc/self/fd").iterdir() if _target(entry) == _DEVICE
    ]
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} descriptors of {_DEVICE} are open in place of one")
    return found[0]


def _target(link: Path) -> str:
    try:
        return os.fspath(link.readlink())
    except FileNotFoundError:  # the descriptor that reads the directory
        return ""
