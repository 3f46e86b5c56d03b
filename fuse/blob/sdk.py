"""The SDK's requests: signed with the credential of the moment, sent the way that ours are."""

from __future__ import annotations

from typing import Any

from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import ContainerClient, ExponentialRetry

from fuse.blob.connection import CONNECT_TIMEOUT
from fuse.blob.credentials import Keyring
from fuse.blob.routes import Route


class SigningTransport(RequestsTransport):  # type: ignore[misc]  # azure-core loads it by name
    """Signs each request at the last moment.

    Args:
        keyring: Where the credential is.
        route: Proxy and trust.
        patience: Seconds without a byte before a try is given up.
    """

    def __init__(self, keyring: Keyring, route: Route, patience: float) -> None:
        # What the environment says of proxies is in the route already.
        super().__init__(
            use_env_settings=False,
            connection_timeout=min(CONNECT_TIMEOUT, patience),
            read_timeout=patience,
        )
        self._keyring = keyring
        self._options = route.requests_options()

    def send(self, request: Any, **options: Any) -> Any:
        """See the class."""
        self._keyring.current.sign(request)
        options["proxies"] = self._options["proxies"]
        options["connection_verify"] = self._options["verify"]
        return super().send(request, **options)


def container_client(
    endpoint: str, container: str, *, keyring: Keyring, route: Route, patience: float
) -> ContainerClient:
    """The SDK's client of a container; trying again is left to :mod:`fuse.blob.retrying`.

    Args:
        endpoint: The account's blob endpoint.
        container: The container.
        keyring: Where the credential is.
        route: Proxy and trust.
        patience: Seconds without a byte before a try is given up.
    """
    return ContainerClient(
        endpoint,
        container,
        credential=None,
        transport=SigningTransport(keyring, route, patience),
        retry_policy=ExponentialRetry(retry_total=0),
        # Copy sources and large listings are ours to check, not the SDK's to log.
        logging_enable=False,
    )
