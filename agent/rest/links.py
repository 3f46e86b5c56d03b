"""Download links that carry their own permission, as the service's SAS links did.

A client that lists output files gets links it can fetch without any header of its own. Over the
unix socket the peer's credentials decide and nothing is signed; over TCP the link is signed with
a key derived from the bearer token, so that it survives a restart of the agent, dies with the
token, opens one file only, and expires.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from urllib.parse import quote


class LinkSigner:
    """Signs and checks the path of one file.

    Args:
        token: the API's bearer token; None where no TCP address is configured.
        clock: seconds since the epoch.
    """

    def __init__(self, token: bytes | None, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._key = token and hmac.digest(token, b"batchai download link v1", hashlib.sha256)

    def _signature(self, key: bytes, path: str, expiry: str) -> str:
        return hmac.new(key, f"GET\n{path}\n{expiry}".encode(), hashlib.sha256).hexdigest()

    def sign(self, path: str, *, minutes: int) -> str:
        """The quoted path with its query string (no query where nothing needs a signature)."""
        if not self._key:
            return quote(path)
        expiry = str(int(self._clock()) + 60 * minutes)
        return f"{quote(path)}?se={expiry}&sig={self._signature(self._key, path, expiry)}"

    def permits(self, path: str, expiry: str | None, signature: str | None) -> bool:
        """Whether this unexpired signature was made for this (unquoted) path."""
        if not self._key or not expiry or not signature:
            return False
        expected = self._signature(self._key, path, expiry)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            return False
        return int(expiry) > self._clock()  # genuine, hence a number
