"""The blocks of blobs: sending new ones, and knowing which are there.

Sending a file in blocks takes several requests over minutes: blocks go out ahead of the commit, the
commit sends the rest and puts the list. What has been learnt of a version's blocks is remembered
from one to the next, and from one commit of a file to its next.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Sequence

import trio

from fuse.blob import metadata as posix
from fuse.blob.blocklist import BlockList, Naming, naming
from fuse.blob.blocks import Block
from fuse.blob.errors import StoreError
from fuse.blob.store import BlobStore
from fuse.errors import fail
from fuse.volume import Attributes

#: Longest answer to Get Block List: 150,000 blocks with ids of 64 bytes and their lengths.
_LONGEST_LIST = 32 * 1024 * 1024

#: Versions whose blocks are remembered.
_REMEMBERED = 16


class Blocks:
    """What is known of the blocks of one version of a blob.

    Attributes:
        naming: Ids for new ones.
        kept: Those that a commit can go on using.
        learnt: The store has been asked, or has just been told.
        lock: Held while asking.
    """

    def __init__(self) -> None:
        self.naming = Naming()
        self.kept: Sequence[Block] = ()
        self.learnt = False
        self.lock = trio.Lock()


class BlockStore:
    """Blocks in the blobs of a :class:`BlobStore`."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._known: OrderedDict[tuple[str, str], Blocks] = OrderedDict()

    def of(self, path: str, base: Attributes | None) -> Blocks:
        """What is known so far; nothing of a blob that is still to be made."""
        if base is None:
            return Blocks()
        blocks = self._known.setdefault((path, base.version), Blocks())
        self._known.move_to_end((path, base.version))
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return blocks

    async def learn(
        self, path: str, base: Attributes, blocks: Blocks, *, anew: bool = False
    ) -> None:
        """Ask which blocks ``base`` has, once however many are sent of it.

        Raises:
            OSError: ESTALE when the store holds another version by now.
        """
        async with blocks.lock:
            if blocks.learnt and not anew:
                return
            try:
                found = await self.listed(path)
            except StoreError as error:
                if error.code != "BlobNotFound":
                    raise
                fail(errno.ESTALE, path, "the blob is not in the store any more")
            if found.version != base.version:
                fail(errno.ESTALE, path, "another version is in the store by now")
            blocks.naming, blocks.kept = naming(found)
            blocks.learnt = True

    def committed(
        self, path: str, base: Attributes | None, made: Attributes, kept: Sequence[Block]
    ) -> None:
        """Note the blocks of a new version, so that the next commit need not ask for them."""
        old = self.of(path, base)
        if base is not None:
            del self._known[path, base.version]
        new = self.of(path, made)
        new.naming, new.kept, new.learnt = old.naming, kept, True

    async def put(self, path: str, blocks: Blocks, body: bytes | memoryview) -> str:
        """Send a block; returns its id."""
        identifier = blocks.naming.new()
        try:
            await self._store.put_block(path, identifier, body)
        except StoreError as error:
            if error.code != "InvalidBlobOrBlock":
                raise
            # Somebody left blocks with ids of another length, which ours must have then.
            blocks.naming, _ = naming(await self.listed(path))
            identifier = blocks.naming.new()
            await self._store.put_block(path, identifier, body)
        return identifier

    async def listed(self, path: str) -> BlockList:
        """The blocks that are in the store (Get Block List)."""
        response = await self._store.request(
            "GET", path, query="comp=blocklist&blocklisttype=all", limit=_LONGEST_LIST
        )
        try:
            return BlockList.parse(posix.quoted(response.headers["etag"]), response.body)
        except (KeyError, ValueError) as error:
            raise OSError(errno.EIO, f"the block list cannot be read: {error}", path) from error
