"""Azurite, as the project's development storage brings it up."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from pathlib import Path

from azure.storage.blob import (
    AccountSasPermissions,
    BlobServiceClient,
    ContainerClient,
    ResourceTypes,
    generate_account_sas,
)

from agent.dev import storage
from agent.dev.errors import DevStorageError
from agent.dev.servers import AZURITE
from bench.errors import BenchError
from bench.servers import Service


class AzuriteServer:
    """A running Azurite. Only :func:`running` makes them."""

    def __init__(self, account: storage.DevStorage) -> None:
        self._account = account
        self._sas = generate_account_sas(
            account.account,
            account.key,
            resource_types=ResourceTypes(service=True, container=True, object=True),
            permission=AccountSasPermissions(
                read=True, write=True, delete=True, list=True, add=True, create=True
            ),
            expiry=dt.datetime.now(dt.UTC) + dt.timedelta(days=1),
            protocol="https,http",
        )

    def service(self) -> Service:
        """The account. Azurite does not count; behind a proxy, the proxy does."""
        found = [server.pid for server in self._account.servers if server.pid is not None]
        return Service(
            name="azurite",
            endpoint=self._account.blob_endpoint,
            account=self._account.account,
            sas=self._sas,
            authority=None,
            traffic=lambda: None,
            pids=lambda: found,
            key=self._account.key,
        )

    def container(self, name: str) -> ContainerClient:
        """A new, empty container; the caller closes the client and may delete the container."""
        credential = {"account_name": self._account.account, "account_key": self._account.key}
        with BlobServiceClient(self._account.blob_endpoint, credential=credential) as client:
            client.create_container(name)
        return ContainerClient(self._account.blob_endpoint, name, credential=credential)


@contextlib.contextmanager
def running(directory: Path) -> Iterator[AzuriteServer]:
    """Start Azurite; stop it at the end.

    Raises:
        BenchError: It does not start.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        account = storage.up(directory, services=[AZURITE])
    except DevStorageError as error:
        raise BenchError(f"{error}") from error
    try:
        yield AzuriteServer(account)
    finally:
        storage.down(directory)
