"""Servers that speak enough of the Blob service for a benchmark, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went over the wire so far; differences are what counts.

    Attributes:
        requests: Requests answered.
        listings: Those of them that listed blobs.
        wire_bytes: Bytes of requests and answers, heads included.
    """

    requests: int = 0
    listings: int = 0
    wire_bytes: int = 0

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.requests - other.requests,
            self.listings - other.listings,
            self.wire_bytes - other.wire_bytes,
        )


@dataclass(frozen=True, slots=True)
class Service:
    """A storage account at an endpoint.

    Attributes:
        name: As rows have it: ``static``, ``static+20ms``, …
        endpoint: ``http[s]://host:port/account``.
        account: Its name.
        sas: A token that opens all of it, without ``?``.
        authority: File with the certificate to trust, where it is TLS.
        key: The account's key where it has one. To copy a blob whose address has a token, Azurite
            first downloads all of it; so ours takes the key, which rclone 1.60 cannot with Azurite.
        traffic: What went over the wire so far; None where nobody counts.
        pids: The server's processes.
    """

    name: str
    endpoint: str
    account: str
    sas: str = field(repr=False)
    authority: Path | None
    traffic: Callable[[], Traffic | None]
    pids: Callable[[], Sequence[int]]
    key: str | None = field(default=None, repr=False)
