"""Serves the API: hypercorn's HTTP protocol over our own listeners, under trio.

hypercorn's own ``serve`` cannot tell an application who is at the other end of a unix socket, and
waits at shutdown for clients that do not read; so its connection handler is used alone, one
per accepted connection.
"""

import logging
import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from agent.config import Config
from agent.jobs.service import JobService
from agent.rest.app import Api, Gate
from agent.rest.context import Context, Identity
from agent.rest.errors import startup_error
from agent.rest.links import LinkSigner
from agent.rest.listeners import read_token, tcp_listener, unix_listener
from agent.rest.operations import Operations
from agent.rest.peers import Peer, PeerPolicy, peer_of

# A reader that took nothing for so long is gone; one that follows can resume by its offset.
SEND_DEADLINE_S = 600.0
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the API listens."""

    socket: Path
    tcp: tuple[str, int] | None


class _Stream:
    """A connection's stream whose sends end: by a deadline, and when it is aborted."""

    def __init__(self, stream: trio.SocketStream, peer: Peer | None) -> None:
        self.peer = peer
        self.socket = stream.socket
        self._stream = stream
        self._aborted = False
        self._sending: trio.CancelScope | None = None
        self.scope = trio.CancelScope()

    def abort(self) -> None:
        """Cut the connection."""
        self._aborted = True
        self.scope.cancel()
        if self._sending is not None:
            # hypercorn shields its sends from the scope above.
            self._sending.cancel()

    async def send_all(self, data: bytes) -> None:
        if self._aborted:
            raise trio.ClosedResourceError
        with trio.move_on_after(SEND_DEADLINE_S) as self._sending:
            await self._stream.send_all(data)
        if self._sending.cancelled_caught:
            raise trio.BrokenResourceError
        self._sending = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        if not self._aborted:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Connections:
    """Handles accepted connections; knows all that are open."""

    def __init__(self, api: Api) -> None:
        self._app = ASGIWrapper(cast("Any", api))
        self._config = HypercornConfig()
        self._config.include_server_header = False
        self._config.errorlog = logging.getLogger("agent.rest.http")
        self._context = WorkerContext(None)
        self._open: set[_Stream] = set()

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        try:
            local = stream.socket.family == socket.AF_UNIX
            peer = peer_of(cast("socket.socket", stream.socket)) if local else None
        except OSError:
            await stream.aclose()  # gone already
            return
        ours = _Stream(stream, peer)
        state = ConnectionState({"connection": ours})
        self._open.add(ours)
        try:
            with ours.scope:
                server = TCPServer(self._app, self._config, self._context, state, cast("Any", ours))
                await server.run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            pass  # the client left
        finally:
            self._open.discard(ours)
            await trio.aclose_forcefully(stream)

    def abort(self) -> None:
        """Cut all connections."""
        for stream in list(self._open):
            stream.abort()


def _identity(config: Config) -> Identity:
    node = config.node
    return Identity(
        subscription=node.subscription,
        resource_group=node.resource_group,
        workspace=node.workspace,
        experiment=node.experiment,
        cluster=node.cluster,
    )


def _policy(config: Config) -> PeerPolicy:
    try:
        return PeerPolicy.create(config.api.allowed_users, config.api.socket_group)
    except KeyError as error:
        message = f"api.allowed_users or api.socket_group: {error.args[0]}"
        raise startup_error(
            "UnknownUser", message, "name users and groups that exist on this node"
        ) from None


async def serve(
    service: JobService,
    config: Config,
    *,
    task_status: trio.TaskStatus[Addresses] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the API until cancelled.

    `task_status.started` is called with the addresses once connections are accepted.

    Raises:
        BatchError: a socket or the token cannot be had, with the reason.
    """
    api = config.api
    if api.tcp and api.token_file is None:
        raise startup_error(
            "TokenRequired",
            "api.tcp is set, but no api.token_file: TCP is served only with a token",
            "set api.token_file to a file with mode 0600 that holds a random token",
        )
    token = read_token(Path(api.token_file)) if api.tcp and api.token_file else None
    policy = _policy(config)
    path = Path(api.socket)
    with ExitStack() as stack:
        unix = unix_listener(path, mode=api.socket_mode, group=api.socket_group)
        sockets = [stack.enter_context(unix)]
        tcp: tuple[str, int] | None = None
        if api.tcp:
            sockets.append(stack.enter_context(tcp_listener(api.tcp)))
            tcp = sockets[-1].getsockname()[:2]
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(s)) for s in sockets]
        async with trio.open_nursery() as nursery:
            signer, operations = LinkSigner(token), Operations(nursery)
            started = datetime.now(UTC)
            context = Context(service, _identity(config), signer, operations, started)
            connections = _Connections(Api(context, Gate(policy, token, context)))
            await nursery.start(
                partial(
                    trio.serve_listeners, connections.handle, listeners, handler_nursery=nursery
                )
            )
            log.info("API is up", socket=str(path), tcp=tcp, pid=os.getpid())
            task_status.started(Addresses(path, tcp))
            try:
                await trio.sleep_forever()
            finally:
                connections.abort()
