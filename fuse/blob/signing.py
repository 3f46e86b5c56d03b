"""Shared Key for the one request that there are millions of: a range of a blob.

The SDK's policy signs everything else, and takes ten times as long. What it would write is what is
written here ("Authorize with Shared Key", Azure Storage REST reference); a test compares the two.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

#: Before and behind the value of If-Match: ten other standard headers, none of which is sent.
_BEFORE = "GET" + "\n" * 8
_BEHIND = "\n" * 4


class RangeSigner:
    """Signs range requests with an account's key.

    Args:
        account: The account's name.
        key: Base64.
    """

    def __init__(self, account: str, key: str) -> None:
        self._account = account
        self._keyed = hmac.new(base64.b64decode(key), digestmod=hashlib.sha256)

    def authorization(self, target: str, headers: Mapping[str, str]) -> str:
        """Value of the Authorization header.

        Args:
            target: Path of the URL, quoted; there is no query.
            headers: All that will be sent: If-Match, and names in lower case that begin with x-ms-.
        """
        canonical = "".join(
            f"{name}:{value}\n" for name, value in sorted(headers.items()) if name != "If-Match"
        )
        text = f"{_BEFORE}{headers['If-Match']}{_BEHIND}{canonical}/{self._account}{target}"
        keyed = self._keyed.copy()
        keyed.update(text.encode())
        return f"SharedKey {self._account}:{base64.b64encode(keyed.digest()).decode()}"
