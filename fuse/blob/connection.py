"""One keep-alive connection: non-blocking sockets on trio's loop, plain or TLS, straight or not.

A route says how an endpoint is reached: through which proxy, and which authorities may vouch for
it. To an ``https`` endpoint a proxy opens a tunnel (CONNECT, RFC 9110 section 9.3.6); a request to
an ``http`` one names the whole URL (absolute form, RFC 9112 section 3.2.2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator

import trio

from fuse.blob.routes import Proxy

#: Seconds for a TCP connection and the TLS handshake.
CONNECT_TIMEOUT = 10.0

#: Seconds without a byte from the server before a request is given up.
STALL_TIMEOUT = 30.0

#: Bytes that have to move within each STALL_TIMEOUT of a body: less is a drip, not a transfer.
LEAST_PROGRESS = 64 * 1024

#: An idle connection older than this (seconds) is not trusted: Azure closes them after minutes.
IDLE_LIMIT = 60.0

#: Bytes of a response that are received before its head is known.
SCRATCH = 16 * 1024

#: How much later than a stall, as a multiple, silence may be noticed.
_SLACK = 1.125

#: Bytes of TLS records that are received at once.
_BURST = 256 * 1024

#: Let others run after this many bytes without having waited.
_FAIRNESS = 1024 * 1024

#: Largest answer of a proxy to CONNECT (bytes).
_TUNNEL_LIMIT = 16 * 1024


_Wait = Callable[[socket.socket], Awaitable[None]]


class TransportError(OSError):
    """The connection failed, stalled or spoke no HTTP; another try may do better.

    Attributes:
        kind: ``timeout``, ``connection``, ``protocol`` or ``certificate``.
        sent: The request, or a part of it, may have reached the server.
    """

    kind = "connection"
    sent = False


class SilentError(TransportError):
    """Nothing, or next to nothing, came or went for too long. ETIMEDOUT."""

    kind = "timeout"


class ProtocolError(TransportError):
    """What came is not the answer that HTTP, or the request, calls for."""

    kind = "protocol"


class CertificateError(TransportError):
    """Nobody whom we trust vouches for the server. Another try will not mend that."""

    kind = "certificate"


class Connection:
    """See the module. Only :meth:`open` makes them."""

    def __init__(self, sock: socket.socket | ssl.SSLSocket, stall: float = STALL_TIMEOUT) -> None:
        self._socket = sock
        self._stall = stall
        self.idle_since = 0.0
        self.reusable = True
        self._since_checkpoint = 0
        self._pace_moved = 0
        self._pace_end = float("inf")
        self._scope = trio.CancelScope()
        #: Where heads of responses go.
        self.scratch = bytearray(SCRATCH)

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        tls: ssl.SSLContext | None,
        *,
        proxy: Proxy | None = None,
        stall: float = STALL_TIMEOUT,
    ) -> Connection:
        """Connect, trying every address of the host (or of the proxy) in turn.

        Raises:
            CertificateError: The certificate is not trusted.
            TransportError: None of the addresses answered in time.
        """
        peer, peer_port = (proxy.host, proxy.port) if proxy else (host, port)
        said = f"{peer}:{peer_port}" + (" (proxy)" if proxy else "")
        failure: Exception | None = None
        try:
            with trio.fail_after(min(CONNECT_TIMEOUT, stall)):
                addresses = await trio.socket.getaddrinfo(peer, peer_port, type=socket.SOCK_STREAM)
        except trio.TooSlowError as error:
            raise SilentError(errno.ETIMEDOUT, f"cannot resolve {peer}: timed out") from error
        except OSError as error:
            raise TransportError(errno.EHOSTUNREACH, f"cannot resolve {peer}: {error}") from error
        for family, kind, protocol, _name, address in addresses:
            sock = socket.socket(family, kind, protocol)
            try:
                with trio.fail_after(min(CONNECT_TIMEOUT, stall)):
                    connection = await cls._connect(sock, address, stall)
                    if tls is not None:
                        if proxy is not None:
                            await connection.tunnel(host, port, proxy)
                        await connection.encrypt(tls, host)
                    return connection
            except ssl.SSLCertVerificationError as error:
                sock.close()
                raise CertificateError(
                    errno.EIO,
                    f"the certificate of {host}:{port} is not trusted: {error.verify_message}",
                ) from error
            except (OSError, trio.TooSlowError) as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        if isinstance(failure, trio.TooSlowError | SilentError):
            raise SilentError(errno.ETIMEDOUT, f"cannot connect to {said}: timed out") from failure
        raise TransportError(
            errno.ECONNREFUSED, f"cannot connect to {said}: {failure}"
        ) from failure

    @classmethod
    async def _connect(
        cls, sock: socket.socket, address: tuple[object, ...], stall: float
    ) -> Connection:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = sock.connect_ex(address)
        if number == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        return cls(sock, stall)

    async def tunnel(self, host: str, port: int, proxy: Proxy) -> None:
        """Have the proxy connect us to ``host``. OSError when it refuses."""
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        # Byte by byte: what follows the head belongs to TLS.
        head = bytearray()
        byte = bytearray(1)
        while not head.endswith(b"\r\n\r\n"):
            if not await self.receive(memoryview(byte)) or len(head) > _TUNNEL_LIMIT:
                raise OSError(errno.ECONNRESET, "the proxy gave no answer to CONNECT")
            head += byte
        first = head.split(b"\r\n", 1)[0].decode("latin-1")
        status = first.split(" ")[1:2]
        if not status or not status[0].startswith("2"):
            raise OSError(errno.ECONNREFUSED, f"the proxy refused the tunnel: {first}")

    async def encrypt(self, tls: ssl.SSLContext, host: str) -> None:
        """Speak TLS from now on, if the server can prove to be ``host``."""
        plain = self._socket
        wrapped = tls.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False)
        self._socket = wrapped
        try:
            await self._shake_hands(wrapped)
        except BaseException:
            self.close()  # the plain socket no longer owns the descriptor
            raise

    async def _shake_hands(self, wrapped: ssl.SSLSocket) -> None:
        while True:
            try:
                return wrapped.do_handshake()
            except ssl.SSLError as error:
                wait = _wanted(error)
            await self._wait(wait)

    def close(self) -> None:
        """Close at once; whatever was under way on the connection is lost."""
        self._socket.close()

    @property
    def stale(self) -> bool:
        """Whether the server closed the idle connection, or it has been idle for too long."""
        if trio.current_time() - self.idle_since > IDLE_LIMIT:
            return True
        try:
            self._socket.recv(1)  # nothing is owed to us: bytes and an end are both the end
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True

    def expect_progress(self) -> None:
        """From now on bytes have to move at a pace, until :meth:`expect_silence`."""
        self._pace_moved = 0
        self._pace_end = trio.current_time() + self._stall

    def expect_silence(self) -> float:
        """The server may think for as long as a stall lasts, from the time returned on."""
        now = trio.current_time()
        self._pace_end = float("inf")
        self._scope.deadline = now + self._stall
        return now

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Exchange a request and its response in here: what stalls is given up.

        One cancel scope for all waits: one for each would cost more than a small body.

        Raises:
            SilentError: The server was silent for as long as a stall lasts.
        """
        with trio.CancelScope() as self._scope:
            yield
        if self._scope.cancelled_caught:
            what = "gave no answer within" if self._pace_end == float("inf") else "was silent for"
            raise SilentError(errno.ETIMEDOUT, f"the server {what} {self._stall:g} s")

    async def send(self, *parts: bytes | memoryview) -> None:
        """Send all parts in order."""
        for part in parts:
            view = memoryview(part)
            while view:
                count = await self._send_some(view[:_FAIRNESS])
                view = view[count:]

    async def receive(self, buffer: memoryview) -> int:
        """Receive some bytes; 0 when the server closed the connection."""
        while True:
            try:
                count = self.receive_now(buffer)
                break
            except BlockingIOError:
                wait: _Wait = trio.lowlevel.wait_readable
            except ssl.SSLError as error:
                wait = _wanted(error)
            await self._wait(wait)
        self._pace_moved += count
        self._since_checkpoint += count
        if self._since_checkpoint >= _FAIRNESS:
            self._since_checkpoint = 0
            await trio.lowlevel.checkpoint()
        return count

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send_now(self, data: bytes) -> int:
        """Send what there is room for. OSError, and SSLError, as the socket raises them."""
        return self._socket.send(data)

    def receive_now(self, buffer: memoryview) -> int:
        """Receive what is there; of TLS not just the next record, whose 16 KiB are soon had.

        Raises:
            BlockingIOError: There is nothing; or SSLWantReadError.
        """
        if not isinstance(self._socket, ssl.SSLSocket):
            return self._socket.recv_into(buffer)
        buffer = buffer[:_BURST]
        filled = self._socket.recv_into(buffer)
        if not filled:
            return 0
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while filled < len(buffer):
                count = self._socket.recv_into(buffer[filled:])
                if not count:  # the end comes again when it is asked for
                    break
                filled += count
        return filled

    async def send_some(self, view: memoryview) -> int:
        """Send a part of ``view``; how many bytes went."""
        count = await self._send_some(view[:_FAIRNESS])
        self._pace_moved += count
        return count

    async def _send_some(self, view: memoryview) -> int:
        while True:
            try:
                return self._socket.send(view)
            except BlockingIOError:
                wait: _Wait = trio.lowlevel.wait_writable
            except ssl.SSLError as error:
                wait = _wanted(error)
            await self._wait(wait)

    async def _wait(self, wait: _Wait) -> None:
        # Only who waits can be too slow.
        now = trio.current_time()
        if self._pace_end <= now:
            self._check_pace()
        if self._pace_end != float("inf") and self._scope.deadline < now + self._stall:
            # Later than it need be, so that it is not set each time.
            self._scope.deadline = now + self._stall * _SLACK
        await wait(self._socket)

    def _check_pace(self) -> None:
        if self._pace_moved < LEAST_PROGRESS:
            raise SilentError(
                errno.ETIMEDOUT,
                f"only {self._pace_moved} bytes moved within {self._stall:g} s",
            )
        self.expect_progress()


def _wanted(error: ssl.SSLError) -> _Wait:
    """What TLS waits for; another error is raised."""
    if isinstance(error, ssl.SSLWantReadError):
        return trio.lowlevel.wait_readable
    if isinstance(error, ssl.SSLWantWriteError):
        return trio.lowlevel.wait_writable
    raise error
