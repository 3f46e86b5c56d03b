"""What to mount, as people name it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from fuse.cli.errors import usage

Kind = Literal["blob", "share"]

#: Endpoint suffixes of the public clouds.
CLOUDS = {
    "public": "core.windows.net",
    "china": "core.chinacloudapi.cn",
    "usgov": "core.usgovcloudapi.net",
}

#: The same clouds, as the driver's document has them.
DRIVERS_CLOUDS = {"public": "public", "china": "china", "usgov": "usGovernment"}

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
# Naming and referencing containers (and shares), REST reference; $root and $web are the service's.
_NAME = re.compile(r"\$root|\$web|\$logs|[a-z0-9](?:-?[a-z0-9]){2,62}")


@dataclass(frozen=True, slots=True)
class Target:
    """A container or a share.

    Attributes:
        kind: Which of both.
        account: The storage account.
        name: The container or share.
        subdirectory: The directory in it that is mounted, "" for all of it.
        endpoint: Where it was named by its URL: its endpoint, as the driver takes it.
    """

    kind: Kind
    account: str
    name: str
    subdirectory: str = ""
    endpoint: str | None = None

    def endpoint_in(self, suffix: str) -> str:
        """Where the service is, in a cloud with that suffix."""
        if self.endpoint is not None:
            return self.endpoint
        if self.kind == "blob":
            return f"https://{self.account}.blob.{suffix}"
        return f"{self.account}.file.{suffix}:445"


def parse(kind: Kind, text: str, account: str | None = None) -> Target:
    """Read ``ACCOUNT/NAME[/DIR]``, ``NAME`` (of ``account``), a URL, or ``//SERVER/SHARE``.

    Raises:
        MountError: InvalidOption, with what would be right.
    """
    noun = "CONTAINER" if kind == "blob" else "SHARE"
    hint = f"write ACCOUNT/{noun}"
    endpoint = None
    if "://" in text or text.startswith("//"):
        account, endpoint, path = _located(kind, text, account, hint)
        parts = path.split("/", 1)
    else:
        parts = text.split("/", 2)
        if len(parts) == 1 and account is not None:
            parts = [account, *parts]
        account, parts = parts[0], parts[1:]
    name = parts[0] if parts else ""
    if not _ACCOUNT.fullmatch(account):
        raise usage(f"'{account}' in '{text}' is no name of a storage account", hint)
    if not _NAME.fullmatch(name):
        raise usage(f"'{name}' in '{text}' is no name of a {noun.lower()}", hint)
    subdirectory = parts[1].strip("/") if len(parts) > 1 else ""
    return Target(kind, account, name, subdirectory, endpoint)


def cloud_of(endpoint: str) -> str:
    """The cloud that an address is in: there, tokens are issued by an authority of its own."""
    host = urlsplit(endpoint).hostname or ""
    return next((name for name, suffix in CLOUDS.items() if host.endswith(f".{suffix}")), "public")


def _located(kind: Kind, text: str, account: str | None, hint: str) -> tuple[str, str, str]:
    """Account, endpoint and path of a URL."""
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise usage(f"'{text}' is no URL", hint) from None
    if not host or url.username is not None or url.query or url.fragment:
        raise usage(
            "a URL with a user or a query may hold a secret" if host else f"'{text}' is no URL",
            "give the address alone, and the token by --credential-file",
        )
    path = unquote(url.path).lstrip("/")
    if kind == "share":
        if url.scheme not in {"", "https", "smb"}:
            raise usage(f"'{text}' is no address of a share", hint)
        return account or host.partition(".")[0], f"{host}:{port or 445}", path
    if url.scheme not in {"http", "https"}:
        raise usage(f"'{text}' is no address of a container", hint)
    place = host if port is None else f"{host}:{port}"
    if re.fullmatch(r"[a-z0-9]{3,24}\.blob\..+", host):
        return host.partition(".")[0], f"{url.scheme}://{place}", path
    # An address like Azurite's has the account as the first part of its path.
    first, _, rest = path.partition("/")
    return first, f"{url.scheme}://{place}/{first}", rest
