"""A client of the control protocol that drivers and supervisors speak, version 1.

One JSON line there, one JSON line back, over a unix stream socket.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import trio

VERSION = 1
_LINE_MOST = 1024 * 1024


class ControlError(Exception):
    """The program answered that it cannot do it.

    Attributes:
        code: The program's word for what is wrong.
        message: In the words of the cause.
        hint: What to do, or None.
    """

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class ControlUnavailable(Exception):  # noqa: N818 (it says what is so, as trio's names do)
    """Nobody answered: no such socket, a connection refused or cut, a deadline passed."""


async def request(
    path: Path, operation: str, *, timeout_s: float = 5, **arguments: Any
) -> dict[str, Any]:
    """Ask a program to do something; what it answered.

    Raises:
        ControlError: It answered with an error.
        ControlUnavailable: It did not answer, or nothing that is an answer.
    """
    document = {"version": VERSION, "op": operation, **arguments}
    try:
        with trio.fail_after(timeout_s):
            async with await trio.open_unix_socket(os.fspath(path)) as stream:
                await stream.send_all(json.dumps(document).encode() + b"\n")
                line = await read_line(stream)
    except trio.TooSlowError:
        raise ControlUnavailable(f"no answer on {path} within {timeout_s:g} s") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise ControlUnavailable(f"cannot reach {path}: {error}") from error
    return _result(line, path)


async def read_line(stream: trio.abc.ReceiveStream) -> bytes:
    """The bytes up to the first newline, or to the end; no more than 1 MiB."""
    received = bytearray()
    while b"\n" not in received and len(received) < _LINE_MOST:
        chunk = await stream.receive_some()
        if not chunk:
            break
        received += chunk
    return bytes(received.partition(b"\n")[0])


def _result(line: bytes, path: Path) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    match answer:
        case {"ok": True, "result": dict(result)}:
            return result
        case {"ok": True}:
            return {}
        case {"ok": False, "error": {"code": str(code), "message": str(message), **rest}}:
            hint = rest.get("hint")
            raise ControlError(code, message, hint if isinstance(hint, str) else None)
    raise ControlUnavailable(f"what answered on {path} does not speak the control protocol")
