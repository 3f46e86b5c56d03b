"""From instructions to a volume that can be used."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fuse import subtree
from fuse.blob.mount_options import Mapped
from fuse.fields import Secret
from fuse.spec import BlobSpec, VolumeSpec
from fuse.volume import Volume

if TYPE_CHECKING:
    from fuse.blob.store import BlobStore


def open_volume(
    spec: VolumeSpec,
    *,
    lend: Callable[[BlobStore], None] | None = None,
    cache_directory: Path | None = None,
) -> AbstractAsyncContextManager[Volume]:
    """Connect to what ``spec`` names. Entering raises MountError when it cannot be used.

    Args:
        spec: What to connect to.
        lend: Shown the store below a blob volume before the volume itself is there.
        cache_directory: Where operations of several requests are written down; what earlier mounts
            left there is completed or undone first. None for what changes nothing.
    """
    # Imported here: each SDK costs a good part of a second, and a driver needs only one.
    if isinstance(spec, BlobSpec):
        from fuse.blob.opening import open_store
        from fuse.blob.volume import BlobVolume

        @asynccontextmanager
        async def opened() -> AsyncIterator[Volume]:
            async with open_store(spec).opened() as store:
                if lend is not None:
                    lend(store)
                volume = BlobVolume(store, cache_directory)
                if not store.read_only:
                    await volume.recover()
                yield volume

        return opened()
    from fuse.share.volume import ShareVolume

    return ShareVolume.connect(
        endpoint=spec.endpoint,
        share=spec.share,
        account=spec.account,
        key=spec.key,
        source=spec.source,
    )


def open_root(
    spec: VolumeSpec,
    mapped: Mapped,
    *,
    lend: Callable[[BlobStore], None] | None = None,
    cache_directory: Path | None = None,
) -> AbstractAsyncContextManager[Volume]:
    """What a mount with these instructions shows as its root, its mount options followed.

    As :func:`open_volume` otherwise.
    """
    if isinstance(spec, BlobSpec) and mapped.proxy is not None:
        spec = dataclasses.replace(spec, proxy=Secret(mapped.proxy))
    volume = open_volume(spec, lend=lend, cache_directory=cache_directory)
    return subtree.opened(volume, mapped.subdirectory)
