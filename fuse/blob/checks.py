"""Whether an answer is the one that was asked for: pure checks of heads and of bytes.

Between the store and us there may be proxies, and the store may have a bad day. What is not
exactly what was asked for is an error, and never data.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import re
from collections.abc import Collection

from fuse.blob.connection import ProtocolError
from fuse.blob.transport import Response
from fuse.logs import log

#: Whole blobs up to this size (bytes) are checked against their MD5: a fraction of a millisecond.
LARGEST_CHECKED = 256 * 1024

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def check_range(response: Response, *, etag: str, start: int, end: int) -> None:
    """Check the head of an answer to a range request of one version.

    Args:
        response: Its head. Errors are none of this function's business.
        etag: The version that was asked for.
        start: First byte.
        end: Last byte.

    Raises:
        ProtocolError: It is of other bytes, or of another version.
    """
    if response.status >= 300:
        return
    headers = response.headers
    if headers.get("etag") != etag:
        raise ProtocolError(errno.EPROTO, "the answer is of another version of the blob")
    length = headers.get("content-length")
    if length is not None and length != str(end - start + 1):
        raise ProtocolError(errno.EPROTO, f"{length} bytes in place of {end - start + 1}")
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if found is None or (int(found[1]), int(found[2])) != (start, end):
            raise ProtocolError(errno.EPROTO, "the answer is of another range of the blob")
    elif response.status != 200 or start or length is None:
        # A whole blob of exactly the length that was asked for is as good.
        raise ProtocolError(errno.EPROTO, f"HTTP {response.status} in place of a range")


def check_headers(response: Response, needed: Collection[str]) -> None:
    """Check that a success has the headers without which it is none.

    Raises:
        ProtocolError: Somebody else than the store answered.
    """
    missing = [name for name in needed if name not in response.headers]
    if missing:
        error = ProtocolError(errno.EPROTO, f"the answer has no {missing[0]}")
        error.sent = True
        raise error


def md5(body: bytes | memoryview) -> str:
    """As Content-MD5 has it."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


class Digests:
    """Compares small whole blobs with the checksum that the store has of them.

    The store keeps the checksum that a client gave, which need not be right. So bytes that come
    twice are believed against it.
    """

    def __init__(self) -> None:
        self._seen: str | None = None

    def agree(self, response: Response, body: memoryview) -> bool:
        """Whether ``body`` can be believed, the last part of which came with ``response``."""
        headers = response.headers
        stated = headers.get("x-ms-blob-content-md5")
        if response.status == 206:
            if headers.get("content-range", "").rpartition("/")[2] != str(len(body)):
                return True  # a part of a blob
        else:
            stated = stated or headers.get("content-md5")
        if stated is None:
            return True
        found = md5(body)
        if found == stated:
            return True
        if found == self._seen:
            log.warning(
                "a blob's Content-MD5 is not that of its bytes",
                request_id=headers.get("x-ms-request-id"),
            )
            return True
        self._seen = found
        return False
