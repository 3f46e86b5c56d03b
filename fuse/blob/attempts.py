"""Commits whose outcome is not known: what the store holds if they went through."""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from fuse.volume import Attributes

#: Files that are remembered. One that is forgotten ends in a conflict, and is kept aside.
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a commit would have made of a blob.

    Attributes:
        size: Its length in bytes.
        digest: Of its content (MD5, base64), or of the ids of its blocks.
        blocks: Whether the digest is that of ids.
    """

    size: int
    digest: str
    blocks: bool

    @classmethod
    def of_content(cls, body: bytes | memoryview) -> Attempt:
        """For a Put Blob."""
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        return cls(len(body), base64.b64encode(digest).decode(), blocks=False)

    @classmethod
    def of_blocks(cls, size: int, identifiers: Iterable[str]) -> Attempt:
        """For a Put Block List: ids are random, so the same list is the same commit."""
        return cls(size, hashlib.sha256("\n".join(identifiers).encode()).hexdigest(), blocks=True)


class Attempts:
    """Remembers the last attempt on each version of a blob until its outcome is known."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, str], Attempt] = OrderedDict()

    def remember(self, path: str, base: Attributes | None, attempt: Attempt) -> None:
        """Note that ``attempt`` may have been carried out on ``base``."""
        self._last[path, base.version if base else ""] = attempt
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)

    def forget(self, path: str, base: Attributes | None) -> Attempt | None:
        """The last attempt on ``base``, which is forgotten with this."""
        return self._last.pop((path, base.version if base else ""), None)
