from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from agent.config import Config
from agent.jobs.service import JobKey
from agent.rest.server import Addresses, serve
from tests.rest.fake_service import FakeService

TOKEN = "0123456789abcdef0123456789abcdef"
BASE = (
    "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.BatchAI"
    "/workspaces/ws/experiments/exp/jobs"
)
VERSION = {"api-version": "2018-05-01"}
KEY = JobKey("ws", "exp", "job1")
DOCUMENT = {"properties": {"nodeCount": 1, "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/s"}}


@dataclass
class Server:
    service: FakeService
    addresses: Addresses
    scope: trio.CancelScope
    stopped: trio.Event = field(default_factory=trio.Event)
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def stop(self) -> None:
        self.scope.cancel()

    def client(self, **kwargs: Any) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.addresses.socket))
        client = httpx.AsyncClient(
            transport=transport, base_url="http://agent", timeout=20, **kwargs
        )
        self.clients.append(client)
        return client

    def tcp_client(self, **kwargs: Any) -> httpx.AsyncClient:
        host, port = self.addresses.tcp
        client = httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=20, **kwargs)
        self.clients.append(client)
        return client


def make_config(directory: Path, *, tcp: bool = False, **api: Any) -> Config:
    settings: dict[str, Any] = {"socket": directory / "agent.sock"} | api
    if tcp:
        token = directory / "token"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        settings |= {"tcp": "127.0.0.1:0", "token_file": token}
    node = {
        "subscription": "sub",
        "resource_group": "rg",
        "workspace": "ws",
        "experiment": "exp",
        "cluster": "node1",
    }
    return Config(node=node, api=settings)


@asynccontextmanager
async def serving(
    directory: Path, *, service: FakeService | None = None, **kwargs: Any
) -> AsyncIterator[Server]:
    service = service or FakeService()
    config = make_config(directory, **kwargs)
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[Server]) -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    addresses = await inner.start(serve, service, config)
                    server = Server(service, addresses, scope)
                    task_status.started(server)
            server.stopped.set()

        server = await nursery.start(run)
        yield server
        for client in server.clients:
            await client.aclose()
        server.stop()


@pytest.fixture
async def server(tmp_path):
    async with serving(tmp_path) as running:
        yield running


@pytest.fixture
async def tcp_server(tmp_path):
    async with serving(tmp_path, tcp=True) as running:
        yield running
