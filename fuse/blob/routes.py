"""How an endpoint is reached: its address, the proxy before it, and whom TLS may trust.

Endpoints of the clouds: "Azure Storage: standard endpoints" and the pages on Azure operated by
21Vianet and Azure Government.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from fuse.errors import MountError

#: Name of a cloud → suffix of its storage endpoints.
CLOUDS = {
    "public": "core.windows.net",
    "china": "core.chinacloudapi.cn",
    "usGovernment": "core.usgovcloudapi.net",
}

#: Name of a cloud → where tokens are issued.
AUTHORITIES = {
    "public": "https://login.microsoftonline.com",
    "china": "https://login.chinacloudapi.cn",
    "usGovernment": "https://login.microsoftonline.us",
}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: Its name or address.
        port: Its port.
        user: Who we are to it, or None.
        password: And the proof.
    """

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """From ``http://[user:password@]host[:port]``.

        Raises:
            MountError: InvalidOption; the text says nothing of what was given.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise MountError(
                "InvalidOption",
                "proxy: this is no address like http://[user:password@]host:port",
                "the way to the proxy itself cannot be TLS; the way through it is",
            )
        try:
            port = parts.port or 80
        except ValueError:
            raise MountError("InvalidOption", "proxy: its port is no number") from None
        user = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        return cls(parts.hostname, port, user, password)

    @property
    def authorization(self) -> str | None:
        """Value of the ``Proxy-Authorization`` header."""
        if self.user is None:
            return None
        pair = f"{self.user}:{self.password or ''}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    @property
    def url(self) -> str:
        """The address without the credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one endpoint.

    Attributes:
        proxy: Through whom, or None.
        ca_bundle: File with the authorities to trust in place of the system's, or None.
    """

    proxy: Proxy | None = None
    ca_bundle: Path | None = None

    @classmethod
    def to(cls, endpoint: str, *, proxy: str | None = None, ca_bundle: Path | None = None) -> Route:
        """The way to ``endpoint``: as given, else as the environment says.

        Of the environment, ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` count,
        in either case. This machine itself is reached without a proxy unless one is given.

        Raises:
            MountError: InvalidOption.
        """
        if ca_bundle is not None:
            _context(ca_bundle)
        if proxy is None:
            proxy = _environment_proxy(endpoint)
        return cls(Proxy.parse(proxy) if proxy else None, ca_bundle)

    def tls(self) -> ssl.SSLContext:
        """The trust that connections to the endpoint are given."""
        return _context(self.ca_bundle)

    def requests_options(self) -> dict[str, object]:
        """The same for ``requests``: what its ``proxies`` and ``verify`` are."""
        proxies: dict[str, str] = {}
        if self.proxy is not None:
            address = self.proxy.url
            if self.proxy.user is not None:
                user = quote(self.proxy.user, safe="")
                password = quote(self.proxy.password or "", safe="")
                address = address.replace("http://", f"http://{user}:{password}@", 1)
            proxies = {"http": address, "https": address}
        # requests has a list of its own, which knows nothing of what this machine's owner trusts.
        trusted = self.ca_bundle or ssl.get_default_verify_paths().cafile
        return {"proxies": proxies, "verify": str(trusted) if trusted else True}


def endpoint_of(account: str, *, cloud: str = "public", suffix: str | None = None) -> str:
    """The blob endpoint of an account in a cloud, or below another suffix."""
    return f"https://{account}.blob.{(suffix or CLOUDS[cloud]).strip('.')}"


def _context(ca_bundle: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_bundle)
    except (OSError, ssl.SSLError) as error:
        raise MountError(
            "InvalidOption", f"caBundle: {ca_bundle} holds no certificates: {error}"
        ) from error


def _environment_proxy(endpoint: str) -> str | None:
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None  # and urllib.request need not be imported
    import urllib.request

    if _is_loopback(host) or urllib.request.proxy_bypass(parts.netloc):
        return None
    known = urllib.request.getproxies_environment()
    return known.get(parts.scheme) or known.get("all")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
