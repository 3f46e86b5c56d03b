"""A container's volume without a mount, and the SDK beside it as any other program."""

from __future__ import annotations

import contextlib

from azure.storage.blob import ContainerClient

from fuse.blob.store import BlobStore
from fuse.blob.volume import BlobVolume


@contextlib.asynccontextmanager
async def opened(storage, container, cache=None, endpoint=None):
    """The volume of a container."""
    store = BlobStore(
        account=storage.account,
        endpoint=endpoint or storage.blob_endpoint,
        container=container,
        key=storage.key,
    )
    async with store.opened():
        yield BlobVolume(store, cache)


def sdk(storage, container):
    """The container as the SDK sees it; a context manager."""
    return ContainerClient(
        storage.blob_endpoint,
        container,
        credential={"account_name": storage.account, "account_key": storage.key},
        retry_total=0,
    )


async def listing(volume, path=""):
    """Name → attributes of a directory; a name that comes twice is a defect."""
    found = {}
    async for page in volume.list(path):
        for entry in page:
            assert entry.name not in found, f"{entry.name} comes twice"
            found[entry.name] = entry.attributes
    return found


async def content(volume, path):
    """The bytes of a file."""
    attributes = await volume.stat(path)
    buffer = bytearray(attributes.size)
    if buffer:
        await volume.read_into(path, attributes, 0, memoryview(buffer), lambda filled: None)
    return bytes(buffer)
