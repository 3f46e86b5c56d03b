"""Properties of blobs as :attr:`fuse.volume.Attributes.headers`: what an overwrite carries over.

Put Blob and Put Block List replace a blob's properties together with its content: what such a
request does not say is lost (content type, tier). So they are kept with the attributes, under the
names of the Get Blob Properties response, and said again with every overwrite.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from fuse.blob import metadata as posix
from fuse.errors import fail
from fuse.volume import Attributes

BLOCK = "BlockBlob"
APPEND = "AppendBlob"
PAGE = "PageBlob"

_TYPE = "x-ms-blob-type"
_TIER = "x-ms-access-tier"

#: What tells whether a blob that changed has only grown.
_DIGEST = "content-md5"
_CREATED = "x-ms-creation-time"

#: Response header → the request header of Put Blob and Put Block List that sets it.
_CONTENT = {
    "cache-control": "x-ms-blob-cache-control",
    "content-disposition": "x-ms-blob-content-disposition",
    "content-encoding": "x-ms-blob-content-encoding",
    "content-language": "x-ms-blob-content-language",
    "content-type": "x-ms-blob-content-type",
}

#: Tiers that a block blob can be written to and read from.
_ONLINE_TIERS = {"Hot", "Cool", "Cold"}


def attributes(headers: Mapping[str, str]) -> Attributes:
    """Attributes of a blob from the head of a Get Blob (Properties) response."""
    prefix = "x-ms-meta-"
    return posix.attributes(
        size=int(headers["content-length"]),
        etag=headers["etag"],
        last_modified=parsedate_to_datetime(headers["last-modified"]),
        metadata={
            name.removeprefix(prefix): value
            for name, value in headers.items()
            if name.startswith(prefix)
        },
        headers=from_response(headers),
    )


def from_response(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """From the head of a Get Blob (Properties) response; names in lower case."""
    names = (*_CONTENT, _TYPE, _DIGEST, _CREATED)
    kept = {name: headers[name] for name in names if headers.get(name)}
    # A tier that follows the account's default must go on following it.
    if headers.get(_TIER) and headers.get("x-ms-access-tier-inferred", "").lower() != "true":
        kept[_TIER] = headers[_TIER]
    return tuple(sorted(kept.items()))


def blob_type(attributes: Attributes | None) -> str:
    """What kind of blob it is; a new one is a block blob."""
    return dict(attributes.headers).get(_TYPE, BLOCK) if attributes else BLOCK


def digest(attributes: Attributes) -> str | None:
    """The checksum of the whole content that the store keeps (MD5, base64), if it does."""
    return dict(attributes.headers).get(_DIGEST)


def carried(attributes: Attributes | None) -> dict[str, str]:
    """Request headers of an overwrite that keep the properties of what it replaces."""
    known = dict(attributes.headers) if attributes else {}
    result = {_CONTENT[name]: value for name, value in known.items() if name in _CONTENT}
    if known.get(_TIER) in _ONLINE_TIERS:
        result[_TIER] = known[_TIER]
    return result


def named(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata as request headers."""
    return {f"x-ms-meta-{name}": value for name, value in metadata.items()}


def made(
    base: Attributes | None, size: int, headers: Mapping[str, str], metadata: Mapping[str, str]
) -> Attributes:
    """Attributes of the version that a request on ``base`` made and answered with ``headers``.

    Raises:
        OSError: EIO when the answer does not say which version that is.
    """
    if "etag" not in headers or "last-modified" not in headers:
        fail(errno.EIO, reason="the store's answer does not tell the new version")
    known = dict(base.headers) if base else {"content-type": "application/octet-stream"}
    known.setdefault(_TYPE, BLOCK)
    known.pop(_DIGEST, None)
    return posix.attributes(
        size=size,
        etag=headers["etag"],
        last_modified=_moment(headers["last-modified"]),
        metadata=metadata,
        headers=tuple(sorted(known.items())),
    )


@functools.lru_cache(maxsize=4)
def _moment(text: str) -> datetime:
    """A date of HTTP; those who make many files get the same one many times."""
    return parsedate_to_datetime(text)


def with_digest(attributes: Attributes, headers: Mapping[str, str]) -> Attributes:
    """Add the checksum of the whole content, which Put Blob answers with."""
    known = dict(attributes.headers)
    if headers.get(_DIGEST):
        known[_DIGEST] = headers[_DIGEST]
    return attributes.changed(headers=tuple(sorted(known.items())))
