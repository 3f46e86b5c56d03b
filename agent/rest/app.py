"""The ASGI application: who may ask, what is routed where, and what an error looks like."""

import hmac
import time
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from agent.errors import BatchError
from agent.rest import arm, node
from agent.rest.context import Context
from agent.rest.errors import (
    error_body,
    forbidden,
    from_http,
    internal_error,
    trace,
    unauthorized,
)
from agent.rest.peers import Peer, PeerPolicy

# A client that is still sending a refused body reads the refusal only after it has sent it.
_DRAIN_BYTES = 16 * 1024 * 1024
_DRAIN_S = 5.0
log = structlog.get_logger(__name__)


class Connection(Protocol):
    """What the server tells the application of a connection (``scope["state"]["connection"]``)."""

    @property
    def peer(self) -> Peer | None:
        """Who connected to the unix socket; None over TCP."""
        ...

    def abort(self) -> None:
        """Cut the connection, so that the client sees an error and not an end."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Decides who may use the API."""

    policy: PeerPolicy
    token: bytes | None
    context: Context

    def check(self, request: Request, connection: Connection) -> None:
        """Refuse whoever may not.

        Raises:
            BatchError: 403 for a local user who is not allowed, 401 for TCP without the token.
        """
        if connection.peer is not None:
            if not self.policy.permits(connection.peer):
                raise forbidden(
                    f"{connection.peer} may not use this agent",
                    "add the user to api.allowed_users, or to the group in api.socket_group",
                )
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # compare_digest: the time taken must not tell how much of a guess was right.
        if (
            self.token is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(given.strip().encode(), self.token)
        ):
            return
        query = request.query_params
        if request.method in {"GET", "HEAD"} and self.context.signer.permits(
            request.scope["path"], query.get("se"), query.get("sig")
        ):
            return
        raise unauthorized("the request carries no valid bearer token")


class Api:
    """The application. Every exception ends here: a client never sees a traceback."""

    def __init__(self, context: Context, gate: Gate) -> None:
        self._context = context
        self._gate = gate
        self._router = Router(
            [*arm.routes(), *node.routes()], redirect_slashes=False, default=_no_such_path
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        exchange = _Exchange(scope, receive, send)
        scope["state"]["context"] = self._context
        scope["app"] = self  # makes the router raise HTTPException where it would answer in text
        scope["path"] = arm.canonical_path(scope["path"])
        request = Request(scope, exchange.receive)
        try:
            self._gate.check(request, scope["state"]["connection"])
            await self._router(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 (the outermost net; logged by _answer)
            await self._answer(error, exchange)
        exchange.log_access()

    @staticmethod
    async def _answer(error: Exception, exchange: "_Exchange") -> None:
        known = _known(error)
        error_id = None
        if known is None:
            error_id = uuid4().hex[:12]
            log.error(
                "internal error", error_id=error_id, **exchange.names(), exception=trace(error)
            )
            known = internal_error(
                f"the agent failed to answer; its log has the details under the id {error_id}"
            )
        if exchange.started:
            # The head is out: all that can still be said is that this is not the end.
            exchange.abort()
            return
        await exchange.drain()
        headers = {"www-authenticate": "Bearer"} if known.status == 401 else None
        response = JSONResponse(error_body(known, error_id=error_id), known.status, headers)
        await response(exchange.scope, exchange.receive, exchange.send)


def _known(error: BaseException) -> BatchError | None:
    """The error as one of ours, also out of a group that holds nothing else."""
    if isinstance(error, BatchError):
        return error
    if isinstance(error, HTTPException):
        return from_http(error.status_code, dict(error.headers or {}))
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return _known(error.exceptions[0])
    return None


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive, send
    raise HTTPException(404)


class _Exchange:
    """One request and its response: what was received, what was sent, and the ids in headers."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.started = False
        self._receive, self._send = receive, send
        self._body_complete = False
        self._status = 0
        self._request_id = str(uuid4())
        self._begin = time.monotonic()
        self._original_path = scope["path"]

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_complete = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self._status = message["status"]
            message["headers"] = [*message.get("headers", []), *self._ids()]
        await self._send(message)

    def _ids(self) -> list[tuple[bytes, bytes]]:
        ids = [(b"x-ms-request-id", self._request_id.encode())]
        for name, value in self.scope["headers"]:
            if name.lower() == b"x-ms-client-request-id" and len(value) <= 128:
                ids.append((b"x-ms-client-request-id", value))
        return ids

    async def drain(self) -> None:
        left = _DRAIN_BYTES
        with trio.move_on_after(_DRAIN_S):
            while not self._body_complete and left > 0:
                left -= len((await self.receive()).get("body", b""))

    def abort(self) -> None:
        self.scope["state"]["connection"].abort()

    def names(self) -> dict[str, Any]:
        """What the log says of the request: never its query (signatures) nor its body (keys)."""
        return {
            "method": self.scope["method"],
            "path": self._original_path,
            "request_id": self._request_id,
        }

    def log_access(self) -> None:
        elapsed_ms = round((time.monotonic() - self._begin) * 1000, 1)
        peer = self.scope["state"]["connection"].peer
        who = peer.uid if peer else self.scope.get("client")
        log.debug("request", **self.names(), status=self._status, ms=elapsed_ms, client=who)
