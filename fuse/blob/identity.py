"""Identities of Microsoft Entra ID, by azure-identity: which client for which kind.

azure-identity is imported when the first token is asked for: it takes half a second, and most
mounts have a key.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fuse.blob.routes import AUTHORITIES, Route
from fuse.spec import Identity

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

#: Kind → what it is called in messages.
DESCRIPTIONS = {
    "managed": "managed identity",
    "servicePrincipal": "service principal",
    "workload": "workload identity",
    "cli": "az login",
    "default": "the default Azure credential",
}

#: For requests: no proxy, whatever the environment says.
_DIRECT: dict[str, str | None] = {"http": None, "https": None}


def token_source(identity: Identity, *, cloud: str, route: Route) -> TokenCredential:
    """The client that issues tokens for ``identity``.

    Args:
        identity: Who.
        cloud: Whose authority is asked, unless the identity names one.
        route: Proxy and trust on the way to the authority. A managed identity's endpoint is on
            this machine or next to it, and never asked through a proxy.

    Raises:
        azure.core.exceptions.ClientAuthenticationError: It cannot be made here.
    """
    import azure.identity
    from azure.core.exceptions import ClientAuthenticationError

    authority = (identity.authority or AUTHORITIES[cloud]).rstrip("/")
    options = route.requests_options()
    through: dict[str, Any] = {
        "authority": authority,
        "connection_verify": options["verify"],
        # An authority that nobody has heard of cannot be looked up at the public cloud's.
        "disable_instance_discovery": authority not in AUTHORITIES.values(),
    }
    if options["proxies"]:
        through["proxies"] = options["proxies"]
    named: dict[str, Any] = {
        name: value
        for name, value in {
            "tenant_id": identity.tenant_id,
            "client_id": identity.client_id,
        }.items()
        if value is not None
    }
    try:
        if identity.kind == "managed":
            return azure.identity.ManagedIdentityCredential(
                client_id=identity.client_id, proxies=_DIRECT
            )
        if identity.kind == "cli":
            return azure.identity.AzureCliCredential(tenant_id=identity.tenant_id or "")
        if identity.kind == "workload":
            if identity.token_file is not None:
                named["token_file_path"] = str(identity.token_file)
            return azure.identity.WorkloadIdentityCredential(**named, **through)
        if identity.kind == "default":
            if identity.client_id is not None:
                named = {
                    "managed_identity_client_id": identity.client_id,
                    "workload_identity_client_id": identity.client_id,
                }
            # Endpoints of managed identities speak plain HTTP, authorities TLS.
            through["proxies"] = {**through.get("proxies", {}), "http": None}
            return azure.identity.DefaultAzureCredential(
                **named, **through, exclude_interactive_browser_credential=True
            )
        return _service_principal(identity, named, through)
    except (ValueError, OSError) as error:
        # Of the client's own checks: a missing variable, an unreadable certificate.
        raise ClientAuthenticationError(message=str(error)) from error


def _service_principal(
    identity: Identity, named: dict[str, Any], through: dict[str, Any]
) -> TokenCredential:
    import azure.identity

    if identity.client_secret is not None:
        secret = identity.client_secret.get_secret_value()
        return azure.identity.ClientSecretCredential(client_secret=secret, **named, **through)
    password = identity.certificate_password
    return azure.identity.CertificateCredential(
        certificate_path=str(identity.certificate_path),
        password=password.get_secret_value() if password else None,
        **named,
        **through,
    )


def source_of(
    identity: Identity, *, cloud: str, route: Route
) -> functools.partial[TokenCredential]:
    """Makes the client when it is called."""
    return functools.partial(token_source, identity, cloud=cloud, route=route)
