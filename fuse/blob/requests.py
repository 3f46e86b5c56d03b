"""What a request to the store is made of, before and after it is signed."""

from __future__ import annotations

import functools
import itertools
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import quote

from fuse.blob.credentials import Credential

#: Service version of our own requests: any since 2019-12-12 has what they use.
SERVICE_VERSION = "2021-12-02"

#: Methods that change nothing.
SAFE = {"GET", "HEAD"}

_PROCESS = str(uuid.uuid4())[:24]
_numbers = itertools.count(uuid.uuid4().int % (1 << 40))


def new_id() -> str:
    """A client request id: a UUID's form, a part of it of this process, and a number."""
    return f"{_PROCESS}{next(_numbers):012x}"


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    """As HTTP writes it (RFC 9110 section 5.6.7); ``second`` since the epoch."""
    return formatdate(second, usegmt=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, not signed yet.

    Attributes:
        method: GET, HEAD, PUT, DELETE.
        path: The blob's name; "" for the container itself.
        query: Of the URL, quoted, without ``?``.
        headers: Without those that every request has.
        body: What to send.
        limit: Most bytes of an answer that has no buffer.
        needs: Headers without which a success is none.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | memoryview = b""
    limit: int = 1024 * 1024
    needs: Collection[str] = ()

    @property
    def repeatable(self) -> bool:
        """Whether doing it twice is as good as once; conditions make it so."""
        names = {name.lower() for name in self.headers}
        if "comp=appendblock" in self.query:
            return "x-ms-blob-condition-appendpos" in names
        if "comp=lease" in self.query:
            return "x-ms-proposed-lease-id" in names or "x-ms-lease-id" in names
        return self.method != "POST"


def signed(
    request: Request, credential: Credential, base: str, client_request_id: str
) -> tuple[str, dict[str, str]]:
    """Target and headers as they are sent.

    Args:
        request: What to ask.
        credential: Who asks.
        base: Path of the container at the endpoint.
        client_request_id: By which the service's logs can be searched.
    """
    path = f"/{quote(request.path)}" if request.path else ""
    query = f"?{request.query}" if request.query else ""
    headers = {
        **request.headers,
        "x-ms-version": SERVICE_VERSION,
        "x-ms-date": _date(int(time.time())),
        "x-ms-client-request-id": client_request_id,
    }
    if request.method == "PUT":
        headers["Content-Length"] = str(len(request.body))
    return credential.sign(request.method, f"{base}{path}{query}", headers), headers
