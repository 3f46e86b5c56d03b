"""The driver's control socket: one JSON object a line, one answer a line, version 1."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import trio

from fuse.fields import Fault, Fields, record
from fuse.logs import log

VERSION = 1

#: Longest request in bytes, and seconds that a client may take for one.
_REQUEST_LIMIT = 64 * 1024
_REQUEST_TIMEOUT = 30.0

Operation = Callable[[], Awaitable[dict[str, Any]]]

Arguments = TypeVar("Arguments")


@dataclass(frozen=True, slots=True)
class Accepting(Generic[Arguments]):
    """An operation with arguments: the object ``args`` of the request.

    Attributes:
        read: Makes them of their JSON, or raises Fault.
        perform: Does it.
    """

    read: Callable[[Fields], Arguments]
    perform: Callable[[Arguments], Awaitable[dict[str, Any]]]

    async def __call__(self, given: object) -> dict[str, Any]:
        """Check the arguments, and do it. Faults are named by place, never with a value."""
        try:
            arguments = record(self.read)(given)
        except Fault as fault:
            place = ".".join(("args", *fault.place))
            raise ControlError("InvalidArgument", f"{place}: {fault.said}") from None
        return await self.perform(arguments)


Handler = Operation | Accepting[Any]


class ControlError(Exception):
    """An operation that was refused or failed, with a code for programs."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def listen(path: Path) -> socket.socket:
    """Bind the socket, for the owner only; a stale one is replaced."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(os.fspath(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    sock.listen(16)
    sock.setblocking(False)
    return sock


async def serve(sock: socket.socket, operations: Mapping[str, Handler]) -> None:
    """Answer requests until cancelled."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def handler(stream: trio.SocketStream) -> None:
        await _answer(stream, operations)

    await trio.serve_listeners(handler, [listener])


async def _answer(stream: trio.SocketStream, operations: Mapping[str, Handler]) -> None:
    async with stream:
        try:
            pending = b""
            while True:
                with trio.fail_after(_REQUEST_TIMEOUT):
                    while b"\n" not in pending:
                        data = await stream.receive_some(_REQUEST_LIMIT)
                        if not data:
                            return
                        pending += data
                        if len(pending) > _REQUEST_LIMIT:
                            return
                line, _, pending = pending.partition(b"\n")
                answer = await _perform(line, operations)
                await stream.send_all(json.dumps(answer).encode() + b"\n")
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # the client went away or sat there: its loss


async def _perform(line: bytes, operations: Mapping[str, Handler]) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except ValueError:
        return _error("BadRequest", "the request is no JSON")
    if not isinstance(request, dict):
        return _error("BadRequest", "the request is no JSON object")
    if request.get("version") != VERSION:
        answer = _error("UnsupportedVersion", f"version {request.get('version')!r} is not spoken")
        answer["error"]["supported"] = [VERSION]
        return answer
    operation = operations.get(str(request.get("op")))
    if operation is None:
        known = ", ".join(sorted(operations))
        return _error("UnknownOperation", f"no operation {request.get('op')!r}", f"known: {known}")
    given = request.get("args", {})
    try:
        if isinstance(operation, Accepting):
            result = await operation(given)
        elif given:
            return _error("InvalidArgument", f"{request['op']} takes no arguments")
        else:
            result = await operation()
        return {"version": VERSION, "ok": True, "result": result}
    except ControlError as error:
        return _error(error.code, error.message, error.hint)
    except Exception as error:
        log.exception("defect in a control operation")
        return _error("InternalError", f"{type(error).__name__}: {error}", "see the driver's log")


def _error(code: str, message: str, hint: str | None = None) -> dict[str, Any]:
    return {
        "version": VERSION,
        "ok": False,
        "error": {"code": code, "message": message, "hint": hint},
    }
