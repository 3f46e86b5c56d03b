"""From the driver's instructions to a store: which credential, which endpoint, which way."""

from __future__ import annotations

from fuse import spec as instructions
from fuse.blob import identity
from fuse.blob.credentials import (
    Anonymous,
    Connected,
    Credential,
    SharedAccessSignature,
    SharedKey,
    Token,
    from_connection_string,
)
from fuse.blob.routes import Route, endpoint_of
from fuse.blob.store import BlobStore
from fuse.errors import MountError


def open_store(spec: instructions.BlobSpec) -> BlobStore:
    """The store that ``spec`` names; nothing is sent yet.

    Raises:
        MountError: InvalidOption.
    """
    connected = _connected(spec.credential, spec.account)
    endpoint = (
        spec.endpoint
        or (connected.endpoint if connected else None)
        or endpoint_of(spec.account, cloud=spec.cloud, suffix=spec.endpoint_suffix)
    )
    route = _route(spec, endpoint)
    return BlobStore(
        account=spec.account,
        endpoint=endpoint,
        container=spec.container,
        credential=_credential(spec.credential, spec, route),
        deadline=spec.retry_deadline,
        route=route,
    )


def another_credential(
    given: instructions.Credential, spec: instructions.BlobSpec, store: BlobStore
) -> Credential:
    """A credential in place of the one that ``store`` was opened with.

    Raises:
        MountError: InvalidOption.
    """
    return _credential(given, spec, _route(spec, store.endpoint))


def _route(spec: instructions.BlobSpec, endpoint: str) -> Route:
    proxy = spec.proxy.get_secret_value() if spec.proxy is not None else None
    return Route.to(endpoint, proxy=proxy, ca_bundle=spec.ca_bundle)


def _credential(
    given: instructions.Credential, spec: instructions.BlobSpec, route: Route
) -> Credential:
    if given.account_key is not None:
        return SharedKey(spec.account, given.account_key.get_secret_value())
    if given.sas_token is not None:
        return SharedAccessSignature(given.sas_token.get_secret_value())
    connected = _connected(given, spec.account)
    if connected is not None:
        return connected.credential
    if given.identity is not None:
        return Token(
            identity.DESCRIPTIONS[given.identity.kind],
            identity.source_of(given.identity, cloud=spec.cloud, route=route),
        )
    return Anonymous()


def _connected(given: instructions.Credential, account: str) -> Connected | None:
    if given.connection_string is None:
        return None
    connected = from_connection_string(given.connection_string.get_secret_value())
    if connected.account not in {None, account}:
        raise MountError(
            "InvalidOption",
            f"credential.connectionString is of account '{connected.account}', not '{account}'",
        )
    return connected
