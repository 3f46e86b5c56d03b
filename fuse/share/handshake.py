"""From an address to an encrypted session: DNS, TCP, and smbprotocol's negotiation and logon.

smbprotocol is built on blocking calls and a thread per connection that reads for ever; both are
kept to the few hundred milliseconds of the handshake. Then the thread is sent home, and socket,
keys and message numbers are handed to :class:`fuse.share.channel.Channel`. What this relies on
of the library beyond its documentation is listed, and tested, in ``tests/share/test_seams.py``.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio
from cryptography.hazmat.primitives.ciphers import aead
from smbprotocol import Dialects
from smbprotocol.connection import Ciphers, Connection
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from fuse.errors import MountError
from fuse.share.errors import handshake_error, unreachable

#: Largest packet that the 24-bit length of the direct TCP transport can announce.
PACKET_LIMIT = 0xFF_FFFF
# The library logs what it then raises as well, with a traceback that helps nobody.
logging.getLogger("smbprotocol").setLevel(logging.CRITICAL)

#: Handshakes run one at a time: a volume has one connection.
_threads = trio.CapacityLimiter(4)


@dataclass(frozen=True, slots=True)
class Target:
    """Which share, and as whom."""

    host: str
    port: int
    share: str
    account: str
    key: str

    def __repr__(self) -> str:
        return f"//{self.host}:{self.port}/{self.share}"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that things may take.

    Attributes:
        connect: DNS, TCP, negotiation, logon and tree connect together.
        silence: Without a byte from the server while a request waits, the connection is dead.
        pending: The same for requests that the server has said it put aside.
        request: The longest that one request may take whatever else moves.
        idle: An idle connection is probed this often.
        handle: An open file that nobody reads is closed after this.
        retry: How long an operation is tried again over new connections.
    """

    connect: float = 10.0
    silence: float = 20.0
    pending: float = 60.0
    request: float = 120.0
    idle: float = 30.0
    handle: float = 5.0
    retry: float = 60.0


@dataclass(frozen=True, slots=True)
class Established:
    """An authenticated, encrypted session with its tree, ready for the data path."""

    sock: socket.socket
    session_id: int
    tree_id: int
    encryptor: Any
    decryptor: Any
    nonce_size: int
    max_read: int
    max_write: int
    max_transact: int
    next_message_id: int
    credits: int


class HandshakeTransport:
    """smbprotocol's transport over a socket that is connected already and outlives it.

    The library's own has no deadline, deadlocks in ``close`` while a sender is stuck, and selects
    with ``select``, which fails for descriptors beyond 1023.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.connected = True
        self._sock = sock
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def connect(self) -> None:
        """Nothing to do: the socket is connected."""

    def send(self, message: Any) -> None:
        """Send one packet; the library passes bytes, or a Structure where it is encrypted."""
        data = message if isinstance(message, bytes) else message.pack()
        self._sock.sendall(struct.pack(">I", len(data)) + data)

    def recv(self, _timeout: float) -> bytes | None:
        """One packet; None when the connection ended or is to be handed over."""
        self._poll.poll()
        try:
            if self._woken():
                return None
            head = self._receive(4)
            return self._receive(int.from_bytes(head[1:])) if head else None
        except OSError:
            self.connected = False
            return None

    def close(self) -> None:
        """End the connection without waiting for anybody."""
        self.connected = False
        shut_down(self._sock)

    def hand_over(self) -> None:
        """Let the receiving thread end, with the connection left as it is."""
        os.eventfd_write(self._wake, 1)

    def dispose(self) -> None:
        """Free what belongs to the transport, which is not the socket."""
        os.close(self._wake)

    def _woken(self) -> bool:
        return any(descriptor == self._wake for descriptor, _ in self._poll.poll(0))

    def _receive(self, length: int) -> bytes | None:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            count = self._sock.recv_into(view)
            if not count:
                self.connected = False
                return None
            view = view[count:]
        return bytes(data)


class HandshakeConnection(Connection):  # type: ignore[misc]  # smbprotocol is untyped
    """smbprotocol's connection over a transport of ours. Never pooled, never shared."""

    def __init__(self, host: str, port: int, transport: HandshakeTransport) -> None:
        self._ours = transport
        super().__init__(uuid.uuid4(), host, port, require_signing=True)

    @property
    def transport(self) -> HandshakeTransport:
        """The transport; ``connect`` would put its own in place."""
        return self._ours

    @transport.setter
    def transport(self, _theirs: object) -> None:
        pass

    def hand_over(self) -> None:
        """Stop reading in the library's thread."""
        if self._t_worker is not None:
            self._ours.hand_over()
            self._t_worker.join()
        self._ours.dispose()


def shut_down(sock: socket.socket) -> None:
    """Wake whoever is stuck in this socket. Not an error where it is closed already."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


async def establish(target: Target, timeouts: Timeouts) -> Established:
    """Connect, negotiate SMB 3.1.1 with encryption, log on and connect to the share.

    Raises:
        MountError: AuthenticationFailed, ShareNotFound, ServerUnreachable or MountFailed.
    """
    deadline = trio.current_time() + timeouts.connect
    sock = await _connect_tcp(target, timeouts)
    try:
        return await _in_thread_until(
            deadline, sock, lambda: _handshake(target, sock, timeouts.connect)
        )
    except TimeoutError:
        sock.close()
        reason = f"TCP connects, but no SMB answer came within {timeouts.connect:g} s"
        raise unreachable(target.host, target.port, reason) from None
    except BaseException:
        sock.close()
        raise


async def _in_thread_until(
    deadline: float, sock: socket.socket, work: Callable[[], Established]
) -> Established:
    """Run blocking ``work`` on ``sock``; deadline and cancellation end it through the socket."""
    expired = False

    async def watch() -> None:
        nonlocal expired
        try:
            await trio.sleep_until(deadline)
            expired = True
        finally:
            if not done:
                shut_down(sock)

    done = False
    result: Established | None = None
    failure: MountError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            # Not abandoned: the watcher's shutdown is what makes it return in time.
            result = await trio.to_thread.run_sync(work, limiter=_threads)
        except MountError as error:
            failure = error
        done = True
        nursery.cancel_scope.cancel()
    if expired and result is None:
        raise TimeoutError
    if failure is not None:
        raise failure
    if result is None:
        raise AssertionError("the handshake neither succeeded nor failed")
    return result


async def _connect_tcp(target: Target, timeouts: Timeouts) -> socket.socket:
    """A connected socket with the options that find dead peers. DNS is asked anew each time."""
    failure: BaseException | str = f"no TCP answer within {timeouts.connect:g} s"
    deadline = trio.current_time() + timeouts.connect
    with trio.move_on_at(deadline):
        try:
            addresses = await trio.socket.getaddrinfo(
                target.host, target.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            reason = f"cannot resolve the name: {error.strerror or error}"
            raise unreachable(target.host, target.port, reason) from error
        for left, (family, kind, protocol, _, address) in zip(
            range(len(addresses), 0, -1), addresses, strict=True
        ):
            sock = trio.socket.socket(family, kind, protocol)
            try:
                # One address that swallows packets must not use up the time of all.
                with trio.move_on_at(_share_of(deadline, left)) as scope:
                    await sock.connect(address)
                if scope.cancelled_caught:
                    sock.close()
                    continue
                _tune(sock, timeouts)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                plain = socket.socket(family, kind, protocol, fileno=sock.detach())
                plain.setblocking(True)
                return plain
    refusal = unreachable(target.host, target.port, failure)
    raise refusal from (failure if isinstance(failure, BaseException) else None)


def _share_of(deadline: float, parts: int) -> float:
    now = trio.current_time()
    return now + (deadline - now) / parts


def _tune(sock: Any, timeouts: Timeouts) -> None:
    tcp = socket.IPPROTO_TCP
    sock.setsockopt(tcp, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(tcp, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(tcp, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(tcp, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, int(timeouts.silence * 1000))


def _handshake(target: Target, sock: socket.socket, seconds: float) -> Established:
    """The library's part, in a worker thread; whoever shuts the socket down ends it."""
    connection = HandshakeConnection(target.host, target.port, HandshakeTransport(sock))
    stage = "negotiate"
    started = time.monotonic()

    def failed(status: int | None, reason: str) -> MountError:
        return handshake_error(
            status,
            f"{reason} (after {time.monotonic() - started:.1f} s)",
            account=target.account,
            share=target.share,
            host=target.host,
            port=target.port,
            stage=stage,
        )

    try:
        connection.connect(
            Dialects.SMB_3_1_1,
            timeout=seconds * 2,  # whoever watches the deadline ends it through the socket
            # GCM first: it is what processors and Azure Files are fast at.
            preferred_encryption_algos=[
                Ciphers.AES_128_GCM,
                Ciphers.AES_256_GCM,
                Ciphers.AES_128_CCM,
                Ciphers.AES_256_CCM,
            ],
        )
        stage = "logon"
        # Not through the library's pool, where encryption asked for later stays off silently.
        session = Session(
            connection,
            target.account,
            target.key,
            require_encryption=True,
            auth_protocol="ntlm",
        )
        session.connect()
        stage = "tree"
        tree = TreeConnect(session, rf"\\{target.host}\{target.share}")
        tree.connect()
    except SMBResponseException as error:
        raise failed(error.status, str(error)) from error
    except SMBAuthenticationError as error:
        stage = "key"
        raise failed(None, str(error)) from error
    except (SMBException, OSError, ValueError) as error:
        raise failed(None, str(error) or type(error).__name__) from error
    finally:
        connection.hand_over()
    return _established(sock, connection, session, tree)


def _established(sock: socket.socket, connection: Any, session: Any, tree: Any) -> Established:
    ccm = connection.cipher_id in {Ciphers.AES_128_CCM, Ciphers.AES_256_CCM}
    cipher = aead.AESCCM if ccm else aead.AESGCM
    window = connection.sequence_window
    return Established(
        sock=sock,
        session_id=session.session_id,
        tree_id=tree.tree_connect_id,
        encryptor=cipher(session.encryption_key),
        decryptor=cipher(session.decryption_key),
        nonce_size=11 if ccm else 12,
        max_read=connection.max_read_size,
        max_write=connection.max_write_size,
        max_transact=connection.max_transact_size,
        next_message_id=window["low"],
        credits=window["high"] - window["low"],
    )
