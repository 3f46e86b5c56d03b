"""Answers to List Blobs, prepared: what a server of static files can say. Pure.

The XML is that of "List Blobs" in the REST reference. Clients name where to go on by the marker
that they were given. Two kinds of pages are prepared: for those who ask for as much as there is
(5,000 entries), and for those who only look whether there is anything (one entry; the service may
always answer with less than it was asked for).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from urllib.parse import quote
from xml.sax.saxutils import escape

#: Entries of a page: the service's limit.
PAGE = 5000

#: Marker behind the first entry, where somebody goes on who asked for one.
_SECOND = "1"


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as nginx serves it.

    Attributes:
        name: In the container.
        size: In bytes.
        mtime: Seconds since the epoch.
    """

    name: str
    size: int
    mtime: int

    @property
    def etag(self) -> str:
        """As nginx makes it (ngx_http_set_etag), without the quotes."""
        return f"{self.mtime:x}-{self.size:x}"


def key(delimiter: str, prefix: str, marker: str, *, full: bool) -> str:
    """Name of the file with an answer.

    It is made of the query as it stands in the request, percent-encoded.
    """
    return "~".join(
        ("full" if full else "one", quote(delimiter, safe=""), quote(prefix, safe=""), marker)
    )


def answers(blobs: Sequence[Blob]) -> Iterator[tuple[str, bytes]]:
    """Every answer that a container has: the name of its file, and the document.

    Flat and by directories, for the container and for each directory in it.
    """
    ordered = sorted(blobs, key=lambda blob: blob.name.encode())
    flat: dict[str, list[Blob | str]] = {"": []}
    trees: dict[str, dict[str, Blob | str]] = {"": {}}
    for blob in ordered:
        end = -1
        prefix = ""
        while True:
            flat.setdefault(prefix, []).append(blob)
            end = blob.name.find("/", end + 1)
            if end < 0:
                trees.setdefault(prefix, {})[blob.name] = blob
                break
            deeper = blob.name[: end + 1]
            trees.setdefault(prefix, {})[deeper] = deeper
            prefix = deeper
    for prefix, found in flat.items():
        yield from _answers("", prefix, found)
    for prefix, entries in trees.items():
        yield from _answers("/", prefix, list(entries.values()))


def _answers(
    delimiter: str, prefix: str, entries: Sequence[Blob | str]
) -> Iterator[tuple[str, bytes]]:
    more = str(PAGE)
    first = document(entries[:PAGE], more if len(entries) > PAGE else "")
    yield key(delimiter, prefix, "", full=True), first
    if len(entries) <= 1:
        yield key(delimiter, prefix, "", full=False), first
    else:
        yield key(delimiter, prefix, "", full=False), document(entries[:1], _SECOND)
        rest = document(entries[1:PAGE], more if len(entries) > PAGE else "")
        for full in (True, False):
            yield key(delimiter, prefix, _SECOND, full=full), rest
    for start in range(PAGE, len(entries), PAGE):
        end = start + PAGE
        page = document(entries[start:end], str(end) if end < len(entries) else "")
        for full in (True, False):
            yield key(delimiter, prefix, str(start), full=full), page


def document(entries: Iterable[Blob | str], marker: str = "") -> bytes:
    """One answer: blobs, and the prefixes that stand for what is further down."""
    parts = ['<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>']
    for entry in entries:
        if isinstance(entry, str):
            parts.append(f"<BlobPrefix><Name>{escape(entry)}</Name></BlobPrefix>")
            continue
        date = formatdate(entry.mtime, usegmt=True)
        parts.append(
            f"<Blob><Name>{escape(entry.name)}</Name><Properties>"
            f"<Creation-Time>{date}</Creation-Time><Last-Modified>{date}</Last-Modified>"
            f"<Etag>{entry.etag}</Etag><Content-Length>{entry.size}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType>"
            "<AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred>"
            "<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>"
            "</Properties></Blob>"
        )
    parts.append(f"</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>")
    return "".join(parts).encode()
