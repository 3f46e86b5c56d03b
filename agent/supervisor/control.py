"""The control socket: protocol v1, one JSON line each way. Clients may be slow, or mad."""

# ruff: noqa: PTH108 - pathlib would cost start-up time

import contextlib
import json
import math
import os
import selectors
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

VERSION = 1
_LINE_LIMIT = 64 << 10
_CLIENT_LIMIT = 32
_IDLE_SECONDS = 60.0
_GRACE_LIMIT = 7 * 86400.0

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class ControlError(Exception):
    """A request that is refused; sent to the client."""

    def __init__(self, code: str, message: str, hint: str, **more: object) -> None:
        super().__init__(message)
        self.record = {"code": code, "message": message, "hint": hint, **more}


def grace_of(request: dict[str, Any], default: float) -> float:
    """`graceSeconds` of a terminate request.

    Raises:
        ControlError: it is no sensible number.
    """
    value = request.get("graceSeconds")
    if value is None:
        return default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= _GRACE_LIMIT:
        raise ControlError(
            "InvalidArgument",
            "graceSeconds must be a number of seconds",
            f"give a number from 0 to {_GRACE_LIMIT:g}, or leave it out",
        )
    return float(value)


def answer(line: bytes, handlers: dict[str, Handler]) -> dict[str, Any]:
    """The answer to one line. Pure but for what the handlers do."""
    try:
        return {"version": VERSION, "ok": True, "result": _dispatch(line, handlers)}
    except ControlError as error:
        return {"version": VERSION, "ok": False, "error": error.record}


def _dispatch(line: bytes, handlers: dict[str, Handler]) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError(
            "InvalidRequest", "the line is not JSON", "send one JSON object a line"
        ) from None
    if not isinstance(request, dict):
        raise ControlError(
            "InvalidRequest", "the line is not a JSON object", "send one JSON object a line"
        )
    version = request.get("version")
    if version != VERSION or isinstance(version, bool):
        raise ControlError(
            "UnsupportedVersion",
            f"this supervisor speaks version {VERSION} of the control protocol",
            f'send "version": {VERSION}',
            supported=[VERSION],
        )
    operation = request.get("op")
    handler = handlers.get(operation) if isinstance(operation, str) else None
    if handler is None:
        raise ControlError(
            "UnknownOperation",
            "there is no such operation",
            f"one of: {', '.join(sorted(handlers))}",
        )
    return handler(request)


@dataclass(slots=True)
class _Client:
    connection: socket.socket
    heard_at: float
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: bytes = b""


class Control:
    """Serves the socket within the supervisor's selector."""

    def __init__(
        self, path: str, selector: selectors.BaseSelector, handlers: dict[str, Handler], now: float
    ) -> None:
        self._path = path
        self._selector = selector
        self._handlers = handlers
        self._now = now
        self._clients: dict[int, _Client] = {}
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        mask = os.umask(0o177)  # not chmod: there must be no moment when others may connect
        try:
            self._listener.bind(path)
        finally:
            os.umask(mask)
        self._listener.listen(128)
        selector.register(self._listener, selectors.EVENT_READ, self._on_connect)

    def _on_connect(self, _events: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        if len(self._clients) >= _CLIENT_LIMIT:
            self._drop(min(self._clients.values(), key=lambda client: client.heard_at))
        client = _Client(connection, self._now)
        self._clients[connection.fileno()] = client
        self._selector.register(
            connection, selectors.EVENT_READ, lambda events: self._on_client(client, events)
        )

    def _on_client(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                client.outgoing = client.outgoing[client.connection.send(client.outgoing) :]
                client.heard_at = self._now
            elif not self._receive(client):
                self._drop(client)
                return
            self._work(client)
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client) -> bool:
        data = client.connection.recv(65536)
        client.heard_at = self._now
        client.incoming += data
        return bool(data)

    def _work(self, client: _Client) -> None:
        """Answer line by line; who does not read his answers gets no more of them."""
        while not client.outgoing:
            end = client.incoming.find(b"\n")
            if end > _LINE_LIMIT or (end < 0 and len(client.incoming) > _LINE_LIMIT):
                self._drop(client)
                return
            if end < 0:
                break
            line = bytes(client.incoming[:end])
            del client.incoming[: end + 1]
            if line.strip():
                reply = answer(line, self._handlers)
                client.outgoing = json.dumps(reply).encode() + b"\n"
                self._flush(client)
        # Reading stops while an answer waits, so that neither buffer can grow.
        wanted = selectors.EVENT_WRITE if client.outgoing else selectors.EVENT_READ
        key = self._selector.get_key(client.connection)
        if key.events != wanted:
            self._selector.modify(client.connection, wanted, key.data)

    def _flush(self, client: _Client) -> None:
        with contextlib.suppress(BlockingIOError):
            while client.outgoing:
                client.outgoing = client.outgoing[client.connection.send(client.outgoing) :]

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.connection.fileno(), None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()

    def tick(self, now: float) -> float | None:
        """Drop who has been silent too long; returns when to call again."""
        self._now = now
        for client in [c for c in self._clients.values() if now >= c.heard_at + _IDLE_SECONDS]:
            self._drop(client)
        if not self._clients:
            return None
        return min(client.heard_at for client in self._clients.values()) + _IDLE_SECONDS

    def close(self) -> None:
        """Stop serving, and take the socket away."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.unregister(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)
