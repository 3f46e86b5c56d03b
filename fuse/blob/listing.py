"""List Blobs: pages of names with properties, over our own transport.

The SDK takes several times as long to make objects of a page as the page takes to arrive, and each
of its requests costs a thread. The XML is that of "List Blobs" in the REST reference, service
version 2021-02-12 and later: names that XML cannot carry come percent-encoded.
"""

from __future__ import annotations

import errno
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET

import trio

from fuse.blob import headers as properties
from fuse.blob import metadata as posix
from fuse.blob.store import BlobStore
from fuse.errors import fail
from fuse.volume import Attributes

#: Entries of one page: the service's limit.
PAGE: Final = 5000

#: Bytes of a page beyond which it is parsed in a thread, so that readers need not wait.
_LARGE: Final = 256 * 1024

#: Most bytes of a page: 5,000 names of 1,024 characters with 8 KiB of metadata each.
_LIMIT: Final = 64 * 1024 * 1024

#: What a blob begins with whose name needs no decoding: its name, creation time, modification
#: time, ETag, length, and other properties up to its checksum, if it has one; and what follows.
_USUAL: Final = re.compile(
    "<Name>([^<&]+)</Name><Properties>"
    "(?:<Creation-Time>([^<&]*)</Creation-Time>)?"
    "<Last-Modified>([^<&]+)</Last-Modified>"
    "<Etag>([^<&]+)</Etag>"
    "<Content-Length>([0-9]+)</Content-Length>"
    "(.*)",
    re.DOTALL,
)

#: What follows the properties of a blob that has no metadata.
_NO_METADATA: Final = frozenset(
    {"", "<Metadata />", "<Metadata/>", "<Metadata></Metadata>"}
    | {f"{metadata}<OrMetadata />" for metadata in ("", "<Metadata />", "<Metadata/>")}
)

_DIGEST: Final = re.compile("<Content-MD5>([^<]*)</Content-MD5>")

#: A name further down, and nothing else known of it.
_PREFIX: Final = re.compile("<BlobPrefix><Name>([^<&]+)</Name></BlobPrefix>")

_AROUND_PREFIX: Final = len("<BlobPrefix><Name></Name></BlobPrefix>")

#: Elements of a listed blob's properties → the headers of Get Blob Properties that say the same.
_HEADERS: Final = {
    "AccessTier": "x-ms-access-tier",
    "AccessTierInferred": "x-ms-access-tier-inferred",
    "BlobType": "x-ms-blob-type",
    "Cache-Control": "cache-control",
    "Content-Disposition": "content-disposition",
    "Content-Encoding": "content-encoding",
    "Content-Language": "content-language",
    "Content-MD5": "content-md5",
    "Content-Type": "content-type",
    "Creation-Time": "x-ms-creation-time",
}


@dataclass(frozen=True, slots=True)
class Blob:
    """A listed blob.

    Attributes:
        name: Its full name.
        etag: Its version, of directories' markers too.
        attributes: What it is.
    """

    name: str
    etag: str
    attributes: Attributes


@dataclass(slots=True)
class Page:
    """One page of a listing.

    Attributes:
        blobs: Blobs, in the store's order.
        prefixes: What blobs further down begin with, up to and with the delimiter.
        marker: Where the next page begins; empty on the last one.
    """

    blobs: list[Blob] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    marker: str = ""


class Listing:
    """Lists the blobs of a :class:`BlobStore`: what is committed and not deleted, no snapshots."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    async def pages(
        self, prefix: str, *, delimiter: str = "", limit: int = PAGE
    ) -> AsyncGenerator[Page, None]:
        """All blobs whose names begin with ``prefix``, ``limit`` a page."""
        marker = ""
        while True:
            page = await self.page(prefix, delimiter=delimiter, limit=limit, marker=marker)
            yield page
            marker = page.marker
            if not marker:
                return

    async def page(
        self,
        prefix: str,
        *,
        delimiter: str = "",
        limit: int = PAGE,
        marker: str = "",
        metadata: bool = True,
    ) -> Page:
        """One page; it may be empty and yet not the last one."""
        query = f"restype=container&comp=list&maxresults={limit}&prefix={quote(prefix, safe='')}"
        query += "&include=metadata" if metadata else ""
        query += f"&delimiter={quote(delimiter, safe='')}" if delimiter else ""
        query += f"&marker={quote(marker, safe='')}" if marker else ""
        response = await self._store.request("GET", "", query=query, limit=_LIMIT)
        if len(response.body) > _LARGE:
            return await trio.to_thread.run_sync(parse, response.body)
        return parse(response.body)

    async def find(self, name: str) -> Blob | None:
        """A blob by listing it: for names that requests should not be sent to unless they exist."""
        async with aclosing(self.pages(name, limit=2)) as pages:
            async for page in pages:
                for blob in page.blobs:
                    return blob if blob.name == name else None
        return None

    async def some(self, prefix: str, count: int, *, without: str | None = None) -> list[Blob]:
        """Up to ``count`` blobs below ``prefix``, not counting those below ``without``.

        A blob whose name is ``prefix`` itself is among them.
        """
        found: list[Blob] = []
        marker = ""
        while True:
            page = await self.page(prefix, limit=count, marker=marker, metadata=False)
            found += [
                blob for blob in page.blobs if without is None or not _below(blob.name, without)
            ]
            marker = page.marker
            if len(found) >= count or not marker:
                return found[:count]


def parse(document: bytes) -> Page:
    """A List Blobs answer. EIO when it is none."""
    try:
        return _parse_usual(document) or _parse_any(document)
    except (ET.ParseError, ValueError) as error:
        fail(errno.EIO, reason=f"a listing that is none: {error}")


def _parse_usual(document: bytes) -> Page | None:
    """An answer as the service writes it, several times as fast; None where it is not."""
    text = document.decode("utf-8-sig")
    head, opened, rest = text.partition("<Blobs>")
    body, closed, tail = rest.rpartition("</Blobs>")
    if not (opened and closed) or "<!" in text or "<?" in text[1:]:
        return None
    page = Page()
    # What is around the entries is small: whether it is well-formed, and the marker in it.
    root = ET.fromstring(f"{head}{opened}{closed}{tail}".encode())  # noqa: S314
    page.marker = root.findtext("NextMarker") or ""
    *blobs, last = body.split("</Blob>")
    for piece in blobs:
        before, opened, inside = piece.partition("<Blob>")
        if not opened or not _take_prefixes(before, page):
            return None
        said, closed, more = inside.partition("</Properties>")
        usual = _USUAL.fullmatch(said) if closed and more in _NO_METADATA else None
        if usual is not None:
            page.blobs.append(_usual_blob(*usual.groups()))
        else:
            element = ET.fromstring(f"<Blob>{inside}</Blob>".encode())  # noqa: S314
            page.blobs.append(_blob(_name(element.find("Name")), element))
    return page if _take_prefixes(last, page) else None


def _take_prefixes(text: str, page: Page) -> bool:
    """Note the prefixes that stand between two blobs; whether nothing else does."""
    if not text:
        return True
    found = _PREFIX.findall(text)
    page.prefixes += found
    return sum(map(len, found)) + len(found) * _AROUND_PREFIX == len(text)


def _usual_blob(
    name: str, created: str | None, modified: str, etag: str, size: str, others: str
) -> Blob:
    digest = _DIGEST.search(others)
    if digest is not None:  # the rest is that of most other blobs, too
        others = others[: digest.start()] + others[digest.end() :]
    said = _others(others)
    if created:
        said += (("x-ms-creation-time", created),)
    if digest is not None and digest[1]:
        said = tuple(sorted((("content-md5", digest[1]), *said)))
    length = int(size)
    version = posix.quoted(etag)
    return Blob(name, version, posix.plain(length, version, _time_ns(modified), said))


def _parse_any(document: bytes) -> Page:
    page = Page()
    # The store's own answer: expat refuses the expansions that make XML of others a risk.
    root = ET.fromstring(document)  # noqa: S314
    page.marker = root.findtext("NextMarker") or ""
    for element in _children(root, "Blobs"):
        name = _name(element.find("Name"))
        if element.tag == "BlobPrefix":
            page.prefixes.append(name)
        elif element.tag == "Blob":
            page.blobs.append(_blob(name, element))
    return page


def _below(name: str, directory: str) -> bool:
    return name == directory or name.startswith(f"{directory}/")


def _children(element: ET.Element, tag: str) -> Iterable[ET.Element]:
    found = element.find(tag)
    return () if found is None else found


def _name(element: ET.Element | None) -> str:
    if element is None:
        raise ValueError("an entry without a name")
    text = element.text or ""
    return unquote(text) if element.get("Encoded") == "true" else text


def _blob(name: str, element: ET.Element) -> Blob:
    known = {child.tag: child.text or "" for child in _children(element, "Properties")}
    attributes = posix.attributes(
        size=int(known.get("Content-Length") or 0),
        etag=known.get("Etag", ""),
        last_modified=_time(known.get("Last-Modified", "")),
        metadata={child.tag: child.text or "" for child in _children(element, "Metadata")},
        headers=_said(known),
    )
    return Blob(name, posix.quoted(known.get("Etag", "")), attributes)


def _said(known: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    said = {_HEADERS[tag]: text for tag, text in known.items() if tag in _HEADERS and text}
    return properties.from_response(said)


@lru_cache(maxsize=1024)  # most blobs of a container differ in nothing of this
def _others(elements: str) -> tuple[tuple[str, str], ...]:
    parent = ET.fromstring(f"<Properties>{elements}</Properties>".encode())  # noqa: S314
    return _said({child.tag: child.text or "" for child in parent})


@lru_cache(maxsize=1024)
def _time_ns(text: str) -> int:
    return int(parsedate_to_datetime(text).timestamp()) * posix.SECOND


@lru_cache(maxsize=1024)  # many blobs of a page were made in the same second
def _time(text: str) -> datetime | None:
    return parsedate_to_datetime(text) if text else None
