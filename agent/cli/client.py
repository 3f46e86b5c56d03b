"""Speaks the agent's API over its unix socket.

`http.client` and not httpx: every command pays for its imports before it prints a line, and this
costs about 15 ms against more than 100 ms (``python -X importtime``).
"""

import contextlib
import grp
import http.client
import json
import os
import select
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from agent.errors import BatchError, Fault

API_VERSION = "2018-05-01"
TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 10.0
_CHUNK = 65536


class AgentError(BatchError):
    """The agent refused a request, or something said in its words."""


class AgentUnreachable(BatchError):  # noqa: N818 (named as its code is)
    """No agent answers, or it stopped answering in the middle."""


class OutputClosed(Exception):  # noqa: N818 (no error: the reader of our output has enough)
    """Nobody reads this command's output any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful response."""

    status: int
    headers: Mapping[str, str]
    body: Any
    """The parsed JSON; None for an empty body."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_TIMEOUT_S)
        try:
            self.sock.connect(os.fspath(self._path))
        except OSError as error:
            self.sock.close()
            raise _not_connected(self._path, error) from error
        self.sock.settimeout(self.timeout)


def _not_connected(path: Path, error: OSError) -> AgentUnreachable:
    if isinstance(error, PermissionError):
        return AgentUnreachable(
            "PermissionDenied",
            f"you may not use the agent's socket {path}",
            hint=_permission_hint(path),
            status=403,
            exit_code=5,
        )
    if isinstance(error, FileNotFoundError):
        message = f"the agent is not running: there is no socket {path}"
    elif isinstance(error, ConnectionRefusedError):
        message = f"the agent is not running: nobody listens on {path}"
    else:
        message = f"the agent does not answer on {path}: {error.strerror or error}"
    return AgentUnreachable(
        "AgentUnreachable",
        message,
        hint="start it with `systemctl start batchai-agent` (or `batchai agent --config FILE`), "
        "or name its socket with --socket or BATCHAI_SOCKET",
        status=503,
        exit_code=5,
    )


def _permission_hint(path: Path) -> str:
    try:
        status = path.stat()
        if status.st_mode & stat.S_IWGRP and status.st_gid:
            name = grp.getgrgid(status.st_gid).gr_name
            return f"join its group and log in again: sudo usermod -aG {name} $USER; or use sudo"
    except (OSError, KeyError):
        pass
    return "use sudo, or ask the operator to add you to api.allowed_users or api.socket_group"


def _lost(error: Exception) -> AgentUnreachable:
    return AgentUnreachable(
        "ConnectionLost",
        f"the connection to the agent was lost: {str(error) or type(error).__name__}",
        hint="look at its log: journalctl -u batchai-agent",
        status=503,
        exit_code=5,
    )


_EXIT_CODES = {400: 2, 401: 5, 403: 5, 404: 3, 409: 4, 413: 2, 503: 5}


def _refusal(status: int, payload: bytes) -> AgentError:
    try:
        error = json.loads(payload)["error"]
        extra = {item["type"]: item["info"] for item in error.get("additionalInfo", ())}
        faults = tuple(
            Fault(item["code"], item["message"], item.get("target"))
            for item in error.get("details") or ()
        )
        code, message = error["code"], error["message"]
        hint = extra.get("Hint", {}).get("hint")
    except (ValueError, KeyError, TypeError):
        code, message, hint, faults = "UnexpectedAnswer", f"HTTP status {status}", None, ()
    return AgentError(
        code,
        message,
        hint=hint,
        status=status,
        exit_code=_EXIT_CODES.get(status, 1),
        details=faults,
    )


class AgentClient:
    """Requests to one agent; each on a connection of its own, so that a restart costs nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _open(
        self, method: str, target: str, body: bytes | None, timeout: float | None
    ) -> Iterator[tuple[http.client.HTTPResponse, socket.socket]]:
        connection = _Connection(self.path, timeout or TIMEOUT_S)
        headers = {"Connection": "close", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        response: http.client.HTTPResponse | None = None
        try:
            try:
                connection.request(method, target, body=body, headers=headers)
                link = connection.sock
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise _lost(error) from error
            yield response, link
        finally:
            if response is not None:
                response.close()
            connection.close()

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        timeout: float | None = None,
    ) -> Answer:
        """One request and its JSON answer.

        Args:
            method: of HTTP.
            path: unquoted, from the root.
            query: parameters.
            body: sent as JSON unless None.
            timeout: seconds without a byte from the agent.

        Raises:
            AgentError: the agent refused, with its code, message, hint and faults.
            AgentUnreachable: there is no agent, or it went away.
        """
        data = None if body is None else json.dumps(body).encode()
        with self._open(method, _target(path, query), data, timeout) as (response, _):
            try:
                payload = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise _lost(error) from error
            if response.status >= 400:
                raise _refusal(response.status, payload)
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, json.loads(payload) if payload else None)

    @contextlib.contextmanager
    def stream(
        self, path: str, query: Mapping[str, str], *, output: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        """The body of a GET, in pieces as they arrive, for as long as the agent sends.

        Args:
            path: unquoted, from the root.
            query: parameters.
            output: a descriptor; when nobody reads it any more the wait for the next piece ends.

        Raises:
            AgentError: the agent refused.
            AgentUnreachable: there is no agent; or, from the iterator, the body was cut short.
            OutputClosed: from the iterator, see `output`.
        """
        with self._open("GET", _target(path, query), None, None) as (response, link):
            if response.status >= 400:
                raise _refusal(response.status, response.read())
            yield _pieces(response, link, output)


def _target(path: str, query: Mapping[str, str] | None) -> str:
    return quote(path) + (f"?{urlencode(query)}" if query else "")


def _pieces(
    response: http.client.HTTPResponse, link: socket.socket, output: int | None
) -> Iterator[bytes]:
    # A job may be silent for days: only the death of either end ends the wait.
    link.setblocking(True)
    while True:
        try:
            _wait_readable(response, link, output)
            piece = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _lost(error) from error
        if not piece:
            return
        yield piece


def _wait_readable(
    response: http.client.HTTPResponse, link: socket.socket, output: int | None
) -> None:
    if output is None or response.fp is None:
        return
    link.setblocking(False)
    try:
        # Does not block, and does not consume: tells whether bytes are buffered already.
        buffered = response.fp.peek(1)
    finally:
        link.setblocking(True)
    # Between two chunks only the line end of the first may be there: nothing to read yet.
    between = response.chunk_left == 0 and b"\r\n".startswith(buffered)
    if buffered and not between:
        return
    poller = select.poll()
    poller.register(link, select.POLLIN)
    poller.register(output, 0)  # POLLERR comes unasked, when a pipe's reader has gone
    for descriptor, events in poller.poll():
        if descriptor == output and events & select.POLLERR:
            raise OutputClosed
