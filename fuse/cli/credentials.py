"""Where the command line takes a credential from: never from its arguments.

In this order: ``--credential-file`` or ``--key-stdin``, an identity that ``--auth`` names, the
environment, a prompt on the terminal. What is found is the ``credential`` of the driver's document.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from fuse.cli import credential_file
from fuse.cli.errors import usage

#: Values of ``--auth`` that name an identity.
IDENTITIES = {
    "managed": "managed",
    "service-principal": "servicePrincipal",
    "workload": "workload",
    "cli": "cli",
    "default": "default",
}
METHODS = ("key", "sas", "anonymous", *IDENTITIES)

#: Variables that hold secrets: the driver's environment is without them.
SECRET_VARIABLES = frozenset(
    {
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_SPN_CLIENT_SECRET",
        "AZURE_CLIENT_SECRET",
        "AZURE_CLIENT_CERTIFICATE_PASSWORD",
        "AZURE_PASSWORD",
        "AZURE_BATCHAI_STORAGE_KEY",
    }
)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about who mounts; the credential is never shown.

    Attributes:
        credential: As the driver's document wants it.
        account: The account that it belongs to, where the source says so.
        name: The container that the source names.
        endpoint: The blob endpoint that the source names.
    """

    credential: dict[str, Any] = field(repr=False)
    account: str | None = None
    name: str | None = None
    endpoint: str | None = None


def find(
    account: str,
    *,
    auth: str | None,
    file: Path | None,
    from_stdin: bool,
    identity: Mapping[str, str | None],
    environment: Mapping[str, str] = os.environ,
) -> Found:
    """Find the credential for an account.

    Args:
        account: Whose credential is wanted: one of another account is not taken.
        auth: A method of METHODS, or None for whatever is found.
        file: ``--credential-file``.
        from_stdin: ``--key-stdin``: the first line is a key, SAS or connection string.
        identity: ``clientId``, ``tenantId``, ``certificatePath``, where given.
        environment: The caller's.

    Raises:
        MountError: InvalidOption; no part of a secret is in its text.
    """
    if file is not None and from_stdin:
        raise usage("give --credential-file or --key-stdin, not both")
    if auth == "anonymous":
        return Found({"anonymous": True})
    if file is not None:
        found = _of_settings(credential_file.read(file), f"the credential file {file}")
    elif from_stdin:
        found = _of_settings(credential_file.parse(sys.stdin.readline()), "standard input")
    elif auth in IDENTITIES:
        return Found(_identity(IDENTITIES[auth], identity, environment))
    else:
        found = _of_environment(account, auth, identity, environment)
    if found.account is not None and found.account != account:
        raise usage(
            f"the credential belongs to the account {found.account}, not to {account}",
            "a key is never sent to an account that it was not given for",
        )
    return found


def _of_settings(settings: credential_file.Settings, source: str) -> Found:
    if settings.credential is None:
        raise usage(
            f"there is no credential in {source}",
            "write a key, a SAS, a connection string, or blobfuse's accountKey into it",
        )
    return Found(settings.credential, settings.account, settings.name, settings.endpoint)


def _of_environment(
    account: str,
    auth: str | None,
    identity: Mapping[str, str | None],
    environment: Mapping[str, str],
) -> Found:
    get = environment.get
    owner = get("AZURE_STORAGE_ACCOUNT") or None
    foreign = owner is not None and owner != account
    if text := get("AZURE_STORAGE_CONNECTION_STRING"):
        settings = credential_file.parse(text)
        if settings.credential and settings.account in {account, None}:
            return Found(settings.credential, settings.account, None, settings.endpoint)
    if not foreign:
        key = get("AZURE_STORAGE_KEY") or get("AZURE_STORAGE_ACCESS_KEY")
        token = get("AZURE_STORAGE_SAS_TOKEN")
        if key and auth in {None, "key"}:
            return Found({"accountKey": key})
        if token and auth in {None, "sas"}:
            return Found({"sasToken": token})
    if kind := _method_of(get("AZURE_STORAGE_AUTH_TYPE")) if auth is None else None:
        return Found(_identity(kind, identity, environment))
    if sys.stdin.isatty() and sys.stderr.isatty():
        what = "SAS" if auth == "sas" else "key"
        secret = click.prompt(f"{what} of {account}", hide_input=True, err=True)
        return _of_settings(credential_file.parse(secret), "what was typed")
    raise usage(
        f"there is no credential for {account}"
        + (f": AZURE_STORAGE_ACCOUNT names {owner}" if foreign else ""),
        "--credential-file FILE, --key-stdin, --auth managed|cli|…, or the variables "
        "AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_CONNECTION_STRING",
    )


def _method_of(written: str | None) -> str | None:
    """A kind of identity of blobfuse's AZURE_STORAGE_AUTH_TYPE; None for key and SAS."""
    return credential_file.IDENTITY_OF_AUTH_TYPE.get((written or "").lower())


def _identity(
    kind: str, given: Mapping[str, str | None], environment: Mapping[str, str]
) -> dict[str, Any]:
    """An identity's document: options first, then the variables of azure-identity and blobfuse."""

    def first(option: str, *variables: str) -> str | None:
        values = (given.get(option), *(environment.get(variable) for variable in variables))
        return next((value for value in values if value), None)

    document: dict[str, Any] = {
        "kind": kind,
        "clientId": first(
            "clientId",
            *(("AZURE_STORAGE_SPN_CLIENT_ID",) if kind == "servicePrincipal" else ()),
            *(("AZURE_STORAGE_IDENTITY_CLIENT_ID",) if kind == "managed" else ()),
            "AZURE_CLIENT_ID",
        ),
    }
    if kind not in {"managed", "cli"}:
        document["authority"] = first(
            "authority", "AZURE_AUTHORITY_HOST", "AZURE_STORAGE_AAD_ENDPOINT"
        )
    if kind == "workload":
        document["tokenFile"] = first("tokenFile", "AZURE_FEDERATED_TOKEN_FILE")
    if kind != "managed":
        document["tenantId"] = first("tenantId", "AZURE_STORAGE_SPN_TENANT_ID", "AZURE_TENANT_ID")
    secret = first("clientSecret", "AZURE_STORAGE_SPN_CLIENT_SECRET", "AZURE_CLIENT_SECRET")
    if kind == "default" and secret and document["clientId"] and document["tenantId"]:
        # The first that the default looks for; the driver's environment has no secrets.
        document["kind"] = kind = "servicePrincipal"
    if kind == "servicePrincipal":
        certificate = first("certificatePath", "AZURE_CLIENT_CERTIFICATE_PATH")
        if not secret and not certificate:
            raise usage(
                "a service principal needs its secret or its certificate",
                "AZURE_CLIENT_SECRET, --certificate FILE, or a --credential-file",
            )
        # What was asked for goes before what happens to be in the environment.
        if certificate and (given.get("certificatePath") or not secret):
            document["certificatePath"] = os.path.abspath(certificate)  # noqa: PTH100
            document["certificatePassword"] = first("", "AZURE_CLIENT_CERTIFICATE_PASSWORD")
        else:
            document["clientSecret"] = secret
    return {"identity": {name: value for name, value in document.items() if value is not None}}
