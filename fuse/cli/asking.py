"""Asks a driver through its control socket."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuse.errors import MountError

VERSION = 1

#: Seconds between two looks at how far the driver is.
_TICK = 0.5

#: Longest answer (bytes): a list of what waits for recovery may have many entries.
_ANSWER_LIMIT = 64 * 1024 * 1024


def ask(
    directory: Path,
    operation: str,
    arguments: dict[str, Any] | None = None,
    *,
    timeout: float = 30.0,
    meanwhile: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Perform an operation of a driver.

    Args:
        directory: The mount's own, which holds its ``control.sock``.
        operation: ``status``, ``stats``, ``flush``, ``unmount``, ...
        arguments: What the operation takes.
        timeout: Seconds for the answer.
        meanwhile: Called about twice a second while waiting.

    Raises:
        MountError: The driver refused, or does not answer (``DriverNotResponding``).
    """
    request: dict[str, Any] = {"version": VERSION, "op": operation}
    if arguments is not None:
        request["args"] = arguments
    try:
        with _connected(directory) as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = _line(connection, time.monotonic() + timeout, meanwhile)
        answer = json.loads(line)
    except PermissionError as error:
        raise MountError(
            "PermissionDenied", f"{directory}/control.sock: {error.strerror}"
        ) from None
    except (OSError, ValueError) as error:
        raise MountError(
            "DriverNotResponding",
            f"the driver does not answer: {error}",
            "batchai-mount unmount --force ends it; what is not stored is kept",
        ) from error
    if answer.get("ok"):
        result: dict[str, Any] = answer["result"]
        return result
    said = answer.get("error", {})
    raise MountError(
        str(said.get("code", "Failed")), str(said.get("message", "no reason")), said.get("hint")
    )


def _connected(directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    # Through the directory's descriptor: a socket's address holds 107 bytes only.
    descriptor = None
    try:
        connection.settimeout(5)
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection.connect(f"/proc/self/fd/{descriptor}/control.sock")
    except OSError:
        connection.close()
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return connection


def _line(
    connection: socket.socket, deadline: float, meanwhile: Callable[[], None] | None
) -> bytes:
    received = bytearray()
    while b"\n" not in received:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        ready, _, _ = select.select([connection], [], [], min(left, _TICK))
        if ready:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError("it closed the connection")
            received += data
            if len(received) > _ANSWER_LIMIT:
                raise ConnectionError("its answer has no end")
        elif meanwhile is not None:
            meanwhile()
    return bytes(received.partition(b"\n")[0])
