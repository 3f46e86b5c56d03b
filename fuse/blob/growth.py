"""Whether a blob has only grown, so that who reads it may read on: proven, never guessed.

An append blob only ever grows, for as long as it is the same blob. A block blob is replaced as a
whole, and whether the new content begins with the old one can only be seen by looking: where the
old version's MD5 is known and it was small, its length is read from the new one and compared.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import trio

from fuse.blob import headers as properties
from fuse.blob.store import BlobStore
from fuse.volume import Attributes, Kind

#: Longest old version (bytes) that is compared with what replaced it.
COMPARED: Final = 8 * 1024 * 1024

_CREATED: Final = "x-ms-creation-time"
_MD5: Final = "content-md5"


async def has_grown(store: BlobStore, name: str, old: Attributes, new: Attributes) -> bool:
    """Whether ``new`` is ``old`` with something behind it.

    OSError when the store cannot be asked: the caller then knows no more than before.
    """
    if new.kind is not Kind.FILE or old.kind is not Kind.FILE or new.size < old.size:
        return False
    if not old.size:
        return True
    before, after = dict(old.headers), dict(new.headers)
    if properties.blob_type(old) == properties.APPEND == properties.blob_type(new):
        return _CREATED in before and before[_CREATED] == after.get(_CREATED)
    if _MD5 not in before or old.size > COMPARED:
        return False
    prefix = bytearray(old.size)
    await store.get_range(name, new.version, 0, memoryview(prefix), lambda _filled: None)
    digest = await trio.to_thread.run_sync(
        lambda: hashlib.md5(prefix, usedforsecurity=False).digest()
    )
    return base64.b64encode(digest).decode() == before[_MD5]
