"""One live SMB connection in trio: requests out, answers in, every wait with a deadline.

There is no thread here: the socket is non-blocking, packets are encrypted and decrypted on the
loop (0.3-0.5 ms per MiB with AES-NI), and a request costs no hand-over. A connection on which
anything goes wrong (silence, a broken packet, a half-sent request) is dead, and stays dead;
:class:`fuse.share.link.Link` makes a new one.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Sequence

import trio

from fuse.share import errors, wire
from fuse.share.credits import CreditLimiter, Ticket
from fuse.share.errors import ConnectionLost
from fuse.share.handshake import PACKET_LIMIT, Established, Timeouts, shut_down
from fuse.share.wire import Command, Message, Reply

#: Credits asked for up front; servers give what they are willing to (Samba as configured).
CREDIT_TARGET = 8192
#: Credits that bulk transfers leave for metadata.
CREDIT_RESERVE = 16
#: Bytes that one READ or WRITE moves at most, as Azure Files allows.
IO_LIMIT = 1024 * 1024
_TRANSFORM = struct.Struct("<4s16s16sIHHQ")
_TRANSFORM_SIZE = 52
_TAG = 16
_INBOX = 128 * 1024


class _Call:
    """A packet that waits for its answers."""

    __slots__ = ("arrived", "first_id", "lost", "orphaned", "pending", "replies", "sent_at")

    def __init__(self, first_id: int, count: int) -> None:
        self.first_id = first_id
        self.replies: list[Reply | None] = [None] * count
        self.arrived = trio.Event()
        self.pending = False
        self.orphaned = False
        self.lost: str | None = None
        self.sent_at = trio.current_time()


class Channel:
    """A connection, session and tree.

    Attributes:
        generation: Counts the connections of a volume; handles are valid within theirs.
        alive: Whether requests can be made.
        requests: Packets sent.
        bytes_sent: Bytes sent, with all framing.
        bytes_received: Bytes received.
        unsolicited: Notices of the server that nobody had asked for.
    """

    def __init__(self, established: Established, timeouts: Timeouts, generation: int) -> None:
        self.generation = generation
        self.alive = True
        self.requests = 0
        self.bytes_sent = 0
        self.bytes_received = 0
        self.unsolicited = 0
        self.limiter = CreditLimiter(established.credits, CREDIT_RESERVE)
        self.max_read = min(established.max_read, IO_LIMIT)
        self.max_write = min(established.max_write, IO_LIMIT)
        self._wire = established
        self._timeouts = timeouts
        self._sock = trio.socket.from_stdlib_socket(established.sock)
        self._nonces = itertools.count(1)
        self._next_id = established.next_message_id
        self._calls: dict[int, tuple[_Call, int, int]] = {}
        self._turns: dict[Ticket, trio.Event] = {}
        self._send_lock = trio.Lock()
        self._last_progress = trio.current_time()
        self._reason = ""
        self._abandoned: list[bytes] = []
        self._garbage = trio.Event()

    @property
    def io_size(self) -> int:
        """Bytes that one READ or WRITE may move: what was negotiated and the credits allow."""
        window = self.limiter.available + self.limiter.in_flight - CREDIT_RESERVE
        return max(65536, min(self.max_read, self.max_write, window * 65536))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the connection until it dies or is cancelled. Raises nothing."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive_packets, nursery.cancel_scope)
                nursery.start_soon(self._probe)
                nursery.start_soon(self._close_abandoned)
                task_status.started()
        finally:
            self.kill("closed")
            self._sock.close()

    def kill(self, reason: str) -> None:
        """End the connection now: whoever waits gets ConnectionLost, whoever is stuck wakes."""
        if not self.alive:
            return
        self.alive = False
        self._reason = reason
        # The socket itself is closed by `run`, when nobody is in it any more.
        shut_down(self._wire.sock)
        for call, _, _ in self._calls.values():
            call.lost = reason
            call.arrived.set()
        self._calls.clear()
        for turn in self._turns.values():
            turn.set()
        self._garbage.set()

    async def ask_for_credits(self) -> None:
        """Get a large window at once, instead of one request at a time."""
        await self.call(wire.echo(), wanted=CREDIT_TARGET)

    async def call(self, *messages: Message, urgent: bool = True, wanted: int = 0) -> list[Reply]:
        """Send messages as one packet and return their answers, whatever their status.

        Several messages are related: those after CREATE refer to the file it opened.

        Raises:
            ConnectionLost: No answer; the connection is dead.
        """
        charge = sum(message.charge for message in messages)
        await self._turn(charge, urgent=urgent)
        call = await self._send(messages, wanted)
        try:
            await self._wait(call)
        except BaseException:
            call.orphaned = True
            self._collect(call)
            raise
        if call.lost is not None:
            raise ConnectionLost(call.lost)
        return [reply for reply in call.replies if reply is not None]

    def abandon(self, handle: bytes) -> None:
        """Close a file some time soon, without waiting for it."""
        if self.alive:
            self._abandoned.append(handle)
            self._garbage.set()

    async def _turn(self, charge: int, *, urgent: bool) -> None:
        """Wait for credits."""
        if not self.alive:
            raise ConnectionLost(self._reason, sent=False)
        ticket = self.limiter.request(charge, urgent=urgent)
        if ticket.admitted:
            return
        self._turns[ticket] = turn = trio.Event()
        try:
            with trio.move_on_after(self._timeouts.request) as scope:
                await turn.wait()
        except trio.Cancelled:
            self._wake(self.limiter.withdraw(ticket))
            raise
        finally:
            del self._turns[ticket]
        if scope.cancelled_caught and not ticket.admitted:
            self.limiter.withdraw(ticket)
            self.kill("the server grants no credits")
        if not self.alive:
            raise ConnectionLost(self._reason, sent=False)

    def _wake(self, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            if ticket in self._turns:
                self._turns[ticket].set()

    async def _send(self, messages: Sequence[Message], wanted: int) -> _Call:
        # Half a packet would leave the stream unusable, so sending is not interrupted; a peer
        # that takes no bytes ends it by the deadline.
        with trio.CancelScope(shield=True):
            async with self._send_lock:
                if not self.alive:
                    raise ConnectionLost(self._reason, sent=False)
                call, packet = self._pack(messages, wanted)
                with trio.move_on_after(self._timeouts.silence) as scope:
                    try:
                        rest = packet
                        while rest:
                            count = await self._sock.send(rest)
                            rest = rest[count:]
                            self._last_progress = trio.current_time()
                    except (OSError, trio.ClosedResourceError) as error:
                        self.kill(errors.describe(error))
                if scope.cancelled_caught:
                    self.kill(f"it took no data for {self._timeouts.silence:g} s")
        self.requests += 1
        self.bytes_sent += len(packet)
        call.sent_at = trio.current_time()
        return call

    def _pack(self, messages: Sequence[Message], wanted: int) -> tuple[_Call, memoryview]:
        call = _Call(self._next_id, len(messages))
        # A window that the server let shrink is asked back.
        deficit = CREDIT_TARGET - self.limiter.available - self.limiter.in_flight
        extra = wanted or max(0, min(deficit, 64))
        parts: list[bytes] = []
        for index, message in enumerate(messages):
            last = index == len(messages) - 1
            self._calls[self._next_id] = (call, index, message.charge)
            parts.append(
                wire.pack(
                    message,
                    message_id=self._next_id,
                    session_id=self._wire.session_id,
                    tree_id=self._wire.tree_id,
                    credits_wanted=message.charge + (extra if last else 0),
                    related=index > 0,
                    last=last,
                )
            )
            self._next_id += message.charge
        return call, self._seal(parts[0] if len(parts) == 1 else b"".join(parts))

    def _seal(self, plain: bytes) -> memoryview:
        """Encrypt a packet (MS-SMB2 3.1.4.3) and put the transport's length in front."""
        nonce = next(self._nonces).to_bytes(self._wire.nonce_size, "little")
        header = _TRANSFORM.pack(
            b"\xfdSMB", bytes(16), nonce, len(plain), 0, 1, self._wire.session_id
        )
        start = 4 + _TRANSFORM_SIZE
        packet = bytearray(start + len(plain) + _TAG)
        view = memoryview(packet)
        self._wire.encryptor.encrypt_into(nonce, plain, header[20:], view[start:])
        packet[:4] = struct.pack(">I", _TRANSFORM_SIZE + len(plain))
        packet[4:start] = header
        packet[8:24] = view[-_TAG:]  # the tag belongs into the header
        return view[:-_TAG]

    def _open(self, packet: bytearray) -> memoryview:
        """Decrypt a packet that has room for the tag behind its end."""
        end = len(packet) - _TAG
        if end < _TRANSFORM_SIZE or packet[:4] != b"\xfdSMB":
            raise ValueError("the server sent an unencrypted packet")
        packet[end:] = packet[4:20]
        view = memoryview(packet)
        nonce = bytes(view[20 : 20 + self._wire.nonce_size])
        plain = self._wire.decryptor.decrypt(nonce, view[_TRANSFORM_SIZE:], view[20:52])
        return memoryview(plain)

    async def _wait(self, call: _Call) -> None:
        while not call.arrived.is_set():
            limit = self._timeouts.pending if call.pending else self._timeouts.silence
            quiet_since = max(call.sent_at, self._last_progress)
            deadline = min(quiet_since + limit, call.sent_at + self._timeouts.request)
            with trio.move_on_at(deadline):
                await call.arrived.wait()
            if call.arrived.is_set():
                return
            now = trio.current_time()
            quiet = now - max(call.sent_at, self._last_progress)
            limit = self._timeouts.pending if call.pending else self._timeouts.silence
            if quiet >= limit or now - call.sent_at >= self._timeouts.request:
                self.kill(f"no answer for {max(quiet, 0):.0f} s")

    async def _receive_packets(self, scope: trio.CancelScope) -> None:
        inbox = memoryview(bytearray(_INBOX))
        filled = 0
        try:
            while True:
                count = await self._sock.recv_into(inbox[filled:])
                if not count:
                    raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
                self._note(count)
                filled += count
                position = 0
                while filled - position >= 4:
                    length = int.from_bytes(inbox[position : position + 4])
                    if length > PACKET_LIMIT:
                        raise ValueError("not a direct TCP packet")
                    have = min(length, filled - position - 4)
                    if have < length and 4 + length <= _INBOX:
                        break  # small: wait for the rest in the inbox
                    packet = bytearray(length + _TAG)
                    packet[:have] = inbox[position + 4 : position + 4 + have]
                    position += 4 + have
                    await self._receive_rest(memoryview(packet)[have:length])
                    self._dispatch(self._open(packet))
                inbox[: filled - position] = bytes(inbox[position:filled])
                filled -= position
        except (OSError, ValueError, struct.error) as error:
            self.kill(errors.describe(error))
        except Exception as error:  # noqa: BLE001 -- InvalidTag and its like: whatever a peer sends
            self.kill(f"the server sent a broken packet ({type(error).__name__})")
        finally:
            scope.cancel()

    async def _receive_rest(self, view: memoryview) -> None:
        while view:
            count = await self._sock.recv_into(view)
            if not count:
                raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
            self._note(count)
            view = view[count:]

    def _note(self, count: int) -> None:
        self.bytes_received += count
        self._last_progress = trio.current_time()

    def _dispatch(self, plain: memoryview) -> None:
        for reply in wire.replies(plain):
            entry = self._calls.get(reply.message_id)
            if entry is None:  # an oplock break, say: nothing here depends on it
                self.unsolicited += 1
                continue
            call, index, charge = entry
            if reply.status == errors.PENDING and reply.asynchronous:
                # Its credits come now, its answer later.
                call.pending = True
                self._wake(self.limiter.settle(0, reply.credits))
                continue
            del self._calls[reply.message_id]
            call.replies[index] = reply
            self._wake(self.limiter.settle(charge, reply.credits))
            if None not in call.replies:
                call.arrived.set()
                if call.orphaned:
                    self._collect(call)

    def _collect(self, call: _Call) -> None:
        """Nobody waits for these answers: a file that they opened must not stay open."""
        first = call.replies[0]
        if not call.arrived.is_set() or first is None or call.lost is not None:
            return
        if _command(first) != Command.CREATE or first.status != errors.SUCCESS:
            return
        last = call.replies[-1]
        if last is None or _command(last) != Command.CLOSE or last.status != errors.SUCCESS:
            self.abandon(wire.created(first)[0])

    async def _close_abandoned(self) -> None:
        while self.alive:
            await self._garbage.wait()
            self._garbage = trio.Event()
            while self._abandoned and self.alive:
                try:
                    await self.call(wire.close(self._abandoned.pop()))
                except ConnectionLost:
                    return

    async def _probe(self) -> None:
        """Notice while idle that the peer is gone, and keep middleboxes from forgetting us."""
        while self.alive:
            await trio.sleep_until(self._last_progress + self._timeouts.idle)
            if trio.current_time() - self._last_progress >= self._timeouts.idle:
                try:
                    await self.call(wire.echo())
                except ConnectionLost:
                    return


def _command(reply: Reply) -> int:
    return int.from_bytes(reply.frame[12:14], "little")
