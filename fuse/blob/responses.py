"""Responses of the store, and what httptools tells of their heads."""

from __future__ import annotations

from dataclasses import dataclass

#: Metadata: the only headers whose names say more than their lower-case form does.
_METADATA = b"x-ms-meta-"


@dataclass(slots=True)
class Response:
    """The head of a response, and its body where that is not in the caller's buffer.

    Attributes:
        status: HTTP status.
        headers: Names in lower case; those of metadata as the server wrote them behind
            ``x-ms-meta-``.
        body: Of responses that were not read into a buffer, errors above all.
        received: Bytes of the body that went into the caller's buffer.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    received: int = 0


class Head:
    """Collects what httptools calls back with: headers, and a body that has no buffer."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self.done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header came."""
        known = name.lower()
        if known.startswith(_METADATA):
            known = _METADATA + name[len(_METADATA) :]
        self.headers[known.decode("latin-1")] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """All of them came."""
        self.complete = True

    def on_body(self, data: bytes) -> None:
        """A part of the body came, out of its chunks."""
        self.body += data

    def on_message_complete(self) -> None:
        """The response has ended."""
        self.done = True
