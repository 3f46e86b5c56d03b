"""Reading one version of one file through the cache, with fetches that run ahead."""

from __future__ import annotations

import errno
from collections.abc import Callable

import structlog
import trio
from sortedcontainers import SortedDict

from fuse.blockfile import Version
from fuse.cache import Extent, MemoryCache
from fuse.diskcache import DiskCache, HangingError
from fuse.readahead import ReadAhead
from fuse.volume import Attributes, Volume

log = structlog.get_logger("fuse")


class Reader:
    """The bytes of one version of a file.

    Args:
        volume: Where they come from.
        path: Gives the file's path; asked anew for each fetch, since a rename may change it.
        attributes: The version to read. All bytes come from it, or the read fails with ESTALE.
        cache: The shared budget.
        nursery: Where fetches run; they outlive the read that started them.
        disk: What was read before, by any mount; None where versions are not immutable.
    """

    def __init__(
        self,
        volume: Volume,
        path: Callable[[], str],
        attributes: Attributes,
        cache: MemoryCache,
        nursery: trio.Nursery,
        disk: DiskCache | None = None,
    ) -> None:
        self.attributes = attributes
        self._volume = volume
        self._path = path
        self._cache = cache
        self._nursery = nursery
        self._extents: SortedDict[int, Extent] = SortedDict()
        self._disk = disk if attributes.version else None
        self._version: Version | None = None

    async def read(self, offset: int, size: int, window: ReadAhead) -> bytes | memoryview:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the version."""
        end = min(offset + size, self.attributes.size)
        if offset >= end:
            return b""
        plan = window.plan(offset, size, self.attributes.size)
        self._fetch_missing(*plan.demand)
        # Half a window is fetched at a time, so that requests stay large.
        if plan.ahead_end > plan.demand[1] and not self._covered(end + window.window // 2):
            self._fetch_missing(plan.demand[1], plan.ahead_end, smallest=window.window // 2)
        parts: list[memoryview] = []
        position = offset
        while position < end:
            extent = self._find(position)
            if extent is None:  # evicted while another part was waited for
                self._fetch_missing(position, end)
                continue
            stop = min(end, extent.end)
            try:
                await extent.wait(stop - extent.start)
            except OSError:
                self._cache.discard(extent)  # the next read tries again
                raise
            self._cache.touch(extent, to_the_end=stop == extent.end)
            parts.append(extent.view[position - extent.start : stop - extent.start])
            position = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give the memory back."""
        for extent in list(self._extents.values()):
            self._cache.discard(extent)

    def _find(self, position: int) -> Extent | None:
        index = self._extents.bisect_right(position) - 1
        if index < 0:
            return None
        extent = self._extents.peekitem(index)[1]
        return extent if position < extent.end else None

    def _covered(self, position: int) -> bool:
        last = min(position, self.attributes.size) - 1
        return self._find(last) is not None

    def _fetch_missing(self, start: int, end: int, *, smallest: int = 0) -> None:
        """Fetch what is not there of ``[start, end)``.

        With ``smallest`` nobody waits for it (read-ahead): it is given up when memory is short,
        and a request below that size waits until it can be larger.
        """
        position = start
        while position < end:
            extent = self._find(position)
            if extent is not None:
                position = extent.end
                continue
            index = self._extents.bisect_right(position)
            stop = end
            if index < len(self._extents):
                stop = min(stop, self._extents.peekitem(index)[0])
            stop = min(stop, position + self._volume.preferred_read)
            worthwhile = min(smallest, self._volume.preferred_read)
            if stop - position < worthwhile and stop < self.attributes.size:
                return
            if not self._cache.reserve(stop - position, demand=not smallest):
                return
            extent = Extent(self._extents, position, stop)
            self._extents[position] = extent
            self._cache.add(extent)
            self._nursery.start_soon(self._fetch, extent)
            position = stop

    async def _fetch(self, extent: Extent) -> None:
        try:
            if not await self._fetch_from_disk(extent):
                await self._volume.read_into(
                    self._path(), self.attributes, extent.start, extent.view, extent.progress
                )
                if self._disk is not None and self._version is not None:
                    self._disk.offer(self._version, extent.start, extent.view)
        except OSError as error:
            self._cache.discard(extent)
            extent.finish(error)
        except Exception:
            # A defect must not take the mount down with it: it ends in EIO for those who wait.
            log.exception("defect while fetching", path=_path(self._path))
            self._cache.discard(extent)
            extent.finish(OSError(errno.EIO, "defect in the driver"))
        except BaseException:
            self._cache.discard(extent)
            extent.finish(OSError(errno.EIO, "the read was given up"))
            raise
        else:
            extent.finish()

    async def _fetch_from_disk(self, extent: Extent) -> bool:
        if self._disk is None:
            return False
        if self._version is None:
            self._version = Version.of(
                self._volume.identity, self._path(), self.attributes.version, self.attributes.size
            )
        try:
            return await self._disk.read_into(self._version, extent.start, extent.view)
        except HangingError:
            extent.renew()
            return False


def _path(path: Callable[[], str]) -> str:
    try:
        return path()
    except OSError:
        return "(unlinked)"
