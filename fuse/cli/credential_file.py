"""Reads the files that people keep storage credentials in.

Known are: a bare key, SAS token or connection string; ``AZURE_STORAGE_…=value`` lines; blobfuse
v1's ``connection.cfg`` (``accountName NAME``, a setting a line); the ``username=``/``password=`` of
mount.cifs(8); the driver's own JSON.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuse.cli.errors import refusing, usage

#: Largest file that is read (bytes).
_LIMIT = 64 * 1024

#: blobfuse's authType (v1) and mode (v2), in lower case, and the kind of identity that it means.
IDENTITY_OF_AUTH_TYPE = {
    "msi": "managed",
    "spn": "servicePrincipal",
    "azcli": "cli",
    "workloadidentity": "workload",
}

#: A key is base64.
_KEY = re.compile(r"[A-Za-z0-9+/]+={0,2}")

#: Settings by the names that they have in the files, in lower case.
_NAMES = {
    "accountname": "account",
    "azure_storage_account": "account",
    "username": "account",
    "accountkey": "key",
    "azure_storage_key": "key",
    "azure_storage_access_key": "key",
    "azure_storage_account_key": "key",
    "password": "key",
    "sastoken": "sas",
    "sharedaccesssignature": "sas",
    "azure_storage_sas_token": "sas",
    "azure_storage_connection_string": "connection",
    "containername": "name",
    "blobendpoint": "endpoint",
    "azure_storage_blob_endpoint": "endpoint",
    "endpointsuffix": "suffix",
    "defaultendpointsprotocol": "protocol",
    "authtype": "auth",
    "azure_storage_auth_type": "auth",
    "identityclientid": "clientId",
    "azure_storage_identity_client_id": "clientId",
    "serviceprincipalclientid": "clientId",
    "azure_storage_spn_client_id": "clientId",
    "azure_client_id": "clientId",
    "serviceprincipaltenantid": "tenantId",
    "azure_storage_spn_tenant_id": "tenantId",
    "azure_tenant_id": "tenantId",
    "serviceprincipalclientsecret": "clientSecret",
    "azure_storage_spn_client_secret": "clientSecret",
    "azure_client_secret": "clientSecret",
    "azure_client_certificate_path": "certificatePath",
}

#: Settings of the same files that are no business of a credential.
_OTHERS = {
    "accounttype",
    "aadendpoint",
    "loglevel",
    "httpproxy",
    "httpsproxy",
    "cacertfile",
    "dnstype",
    "msiendpoint",
    "identityobjectid",
    "identityresourceid",
    "domain",
    "fileendpoint",
    "queueendpoint",
    "tableendpoint",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What a file says.

    Attributes:
        credential: As the driver's document wants it; None when there is none.
        account: The storage account.
        name: The container.
        endpoint: The blob endpoint.
    """

    credential: dict[str, Any] | None = field(repr=False)
    account: str | None = None
    name: str | None = None
    endpoint: str | None = None


def read(path: Path) -> Settings:
    """Read a file that only its owner may read.

    Raises:
        MountError: InvalidOption: it is open to others, or nothing that is known; no part of its
            text is in the error.
    """
    with refusing(f"cannot read the credential file {path}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            data = file.read(_LIMIT + 1) if stat.S_ISREG(found.st_mode) else b""
    if not stat.S_ISREG(found.st_mode) or len(data) > _LIMIT:
        raise usage(f"the credential file {path} is no file of at most {_LIMIT} bytes")
    if found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}:
        raise usage(
            f"the credential file {path} is open to others than its owner",
            f"chmod 600 {path}, and have it owned by who mounts, or root",
        )
    try:
        return parse(data.decode())
    except UnicodeDecodeError:
        raise usage(f"the credential file {path} is no text") from None


def parse(text: str) -> Settings:
    """Read the text of such a file, a line from standard input, or a variable's value.

    Raises:
        MountError: InvalidOption, without any part of the text.
    """
    text = text.strip()
    if not text:
        return Settings(None)
    if text.startswith("{"):
        return _of_json(text)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) == 1 and (bare := _bare(lines[0])) is not None:
        return bare
    return _of_pairs(dict(_pair(line, number) for number, line in enumerate(lines, 1)))


def _bare(line: str) -> Settings | None:
    """A line that is a connection string, a SAS or a key by itself."""
    head = line.partition("=")[0].partition(" ")[0].lower()
    if ";" in line and head in _NAMES | dict.fromkeys(_OTHERS, ""):
        parts = [part for part in line.split(";") if part]
        return _of_pairs(dict(_pair(part, 1) for part in parts))
    if head in _NAMES:
        return None
    if "sig=" in line:
        return Settings({"sasToken": line})
    if _KEY.fullmatch(line):
        return Settings({"accountKey": line})
    return None


def _pair(line: str, number: int) -> tuple[str, str]:
    line = line.removeprefix("export ")
    positions = [at for at in (line.find("="), line.find(" ")) if at > 0]
    if not positions:
        raise usage(f"line {number} of the credential is no 'name value'")
    name, value = line[: min(positions)], line[min(positions) + 1 :].strip()
    known = name.strip().lower()
    if known not in _NAMES and known not in _OTHERS:
        raise usage(
            f"line {number} of the credential begins with no name that is known",
            "known are: accountName, accountKey, sasToken, containerName, authType, …",
        )
    # Quotes as in a file that a shell reads; a key is base64 and holds none.
    return known, value.strip("\"'").removeprefix("=").strip()


def _of_pairs(pairs: Mapping[str, str]) -> Settings:
    values = {_NAMES[name]: value for name, value in pairs.items() if name in _NAMES and value}
    if connection := values.pop("connection", None):
        return parse(connection)
    account, endpoint = values.get("account"), values.get("endpoint")
    if endpoint is None and account and (suffix := values.get("suffix")):
        endpoint = f"{values.get('protocol', 'https')}://{account}.blob.{suffix}"
    if endpoint is not None and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    return Settings(_credential(values), account, values.get("name"), endpoint)


def _credential(values: Mapping[str, str]) -> dict[str, Any] | None:
    auth = values.get("auth", "").lower()
    kind = IDENTITY_OF_AUTH_TYPE.get(auth)
    if kind is None and not auth and "clientSecret" in values:
        kind = "servicePrincipal"
    if kind is not None:
        wanted = ("clientId", "tenantId", "clientSecret", "certificatePath")
        return {"identity": {"kind": kind} | {k: values[k] for k in wanted if k in values}}
    if auth not in {"", "key", "sas"}:
        raise usage("the credential's authType is none that is known", "Key, SAS, MSI or SPN")
    if "key" in values and auth != "sas":
        return {"accountKey": values["key"]}
    if "sas" in values and auth != "key":
        return {"sasToken": values["sas"]}
    return None


def _of_json(text: str) -> Settings:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise usage("the credential begins like JSON and is none")
    return Settings(document)
