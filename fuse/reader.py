"""Reading one version of one file through the cache, with fetches that run ahead."""

from __future__ import annotations

import errno
from collections.abc import Callable

import trio

from fuse.blockfile import Version
from fuse.cache import AbandonedError, Extent, MemoryCache
from fuse.diskcache import DiskCache, HangingError
from fuse.logs import log
from fuse.readahead import UNIT, WHOLE_FILE, ReadAhead
from fuse.volume import Attributes, Volume


class Reader:
    """The bytes of one version of a file.

    What was read stays in memory after :meth:`close`, as long as there is room, where versions
    never change.

    Args:
        volume: Where they come from.
        path: Gives the file's path; asked anew for each fetch, since a rename may change it.
        attributes: The version to read. All bytes come from it, or the read fails with ESTALE.
        cache: The shared budget.
        nursery: Where fetches run that nobody waits for.
        disk: What was read before, by any mount; None where versions are not immutable.
    """

    __slots__ = (
        "_cache",
        "_disk",
        "_keeps",
        "_largest",
        "_nursery",
        "_path",
        "_shelf",
        "_size",
        "_version",
        "_volume",
        "attributes",
    )

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
        self._size = attributes.size
        self._largest = min(volume.preferred_read, cache.largest)
        self._keeps = disk is not None and bool(attributes.version)
        # Another path may have the same version only by chance; a renamed file has a new one.
        name = _path(path)
        self._keeps = self._keeps and name is not None
        key = (name, attributes.version, attributes.size) if self._keeps else object()
        self._shelf = cache.shelf(key)
        self._disk = disk if self._keeps else None
        self._version: Version | None = None

    def read_now(
        self, offset: int, end: int, window: ReadAhead, *, noted: bool = False
    ) -> memoryview | None:
        """The bytes from ``offset`` to ``end`` (within the file) if one extent in memory has them.

        Else None: :meth:`fetch` or :meth:`read` then notes the read in ``window``, which is done
        here otherwise, unless it is ``noted`` already.
        """
        extent = self._shelf.find(offset)
        if extent is None or end > extent.end or extent.filled < end - extent.start:
            return None
        # Taken first: what is read ahead may need the room of just this extent.
        taken = self._take(extent, offset, end, window)
        if not noted:
            self._cache.hits += 1
            if self._size > WHOLE_FILE:
                self._run_ahead(offset, end, window)
        return taken

    def fetch(self, offset: int, end: int, window: ReadAhead, resume: Callable[[], None]) -> bool:
        """Have the bytes fetched that :meth:`read_now` lacks, if that can be begun without waiting.

        ``resume`` is called once, maybe before this returns: then they are there, or they will not
        come by themselves, and :meth:`read` is to be asked. So it is where this returns False.
        """
        extent = self._shelf.find(offset)
        if extent is not None and end > extent.end:
            return False
        began = trio.current_time()
        demand = self._run_ahead(offset, end, window)
        extent = extent or self._shelf.find(offset) or self._begin_for(offset, end, demand)
        if extent is None or end > extent.end:
            return False

        def arrived() -> None:
            self._cache.waiting.add(trio.current_time() - began)
            resume()

        extent.when(end - extent.start, arrived)
        return True

    async def read(self, offset: int, size: int, window: ReadAhead) -> bytes | memoryview:
        """Up to ``size`` bytes at ``offset``; fewer only at the end of the version."""
        end = min(offset + size, self._size)
        if offset >= end:
            return b""
        began = trio.current_time()
        demand = self._run_ahead(offset, end, window)
        parts: list[memoryview] = []
        position = offset
        while position < end:
            extent = self._shelf.find(position)
            if extent is None:
                await self._fetch_for(position, end, demand)
                continue
            stop = min(end, extent.end)
            count = stop - extent.start
            if extent.filled < count:
                try:
                    await extent.wait(count)
                except AbandonedError:
                    continue
                except OSError:
                    self._cache.discard(extent)  # the next read tries again
                    raise
                self._cache.settled()
            parts.append(self._take(extent, position, stop, window))
            position = stop
        self._cache.waiting.add(trio.current_time() - began)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Nobody reads on: what was read ahead is not spared any more."""
        for extent in self._shelf:
            if self._keeps:
                self._cache.relegate(extent)
            else:
                self._cache.discard(extent)

    def _take(self, extent: Extent, offset: int, end: int, window: ReadAhead) -> memoryview:
        self._cache.touch(
            extent,
            to_the_end=end == extent.end,
            # The kernel has a small file's pages then, for whoever opens this version.
            streamed=window.window > 0 or (not offset and self._size <= WHOLE_FILE),
        )
        return extent.view[offset - extent.start : end - extent.start]

    def _run_ahead(self, offset: int, end: int, window: ReadAhead) -> tuple[int, int]:
        """Note a read, and fetch what is expected next; what is to be fetched for the read."""
        plan = window.plan(offset, end - offset, self._size)
        # Half a window is fetched at a time, so that requests stay large.
        start = plan.demand[1]
        if plan.ahead_end > start and not self._covered(end + window.window // 2):
            self._fetch_ahead(plan.demand, plan.ahead_end, smallest=window.window // 2)
        return plan.demand

    def _covered(self, position: int) -> bool:
        return self._shelf.find(min(position, self._size) - 1) is not None

    def _gap(self, start: int, end: int) -> int:
        """The end of what can be fetched in one request from ``start`` on, up to ``end``."""
        following = self._shelf.next_start(start)
        if following is not None:
            end = min(end, following)
        return min(end, start + self._largest)

    def _fetch_ahead(self, demand: tuple[int, int], end: int, *, smallest: int) -> None:
        """Fetch what is not there behind a demand, up to ``end``; nobody waits for it.

        It is given up when memory is short, and a request below ``smallest`` bytes waits until it
        can be larger. What is demanded goes first, so that it is asked for first.
        """
        worthwhile = min(smallest, self._largest)
        position, demanded = demand
        while position < end:
            extent = self._shelf.find(position)
            if extent is not None:
                position = extent.end
                continue
            ahead = position >= demanded
            stop = self._gap(position, end if ahead else demanded)
            if ahead and stop - position < worthwhile and stop < self._size:
                return
            made = self._cache.make(self._shelf, position, stop, ahead=True)
            if made is None:
                return
            self._begin(made)
            position = stop

    async def _fetch_for(self, position: int, end: int, demand: tuple[int, int]) -> None:
        """Fetch what the caller waits for, in the caller's own task: another one costs more."""
        made = self._make_for(position, end, demand)
        if made is None:
            await self._cache.room()
            return
        await self._fetch(made)
        made.check()

    def _begin_for(self, position: int, end: int, demand: tuple[int, int]) -> Extent | None:
        """Begin to fetch what somebody waits for; None when there is no room for it."""
        made = self._make_for(position, end, demand)
        if made is not None:
            self._begin(made)
        return made

    def _make_for(self, position: int, end: int, demand: tuple[int, int]) -> Extent | None:
        """An extent for what somebody waits for; None when there is no room for it."""
        if demand[0] <= position < demand[1]:
            wanted, end = demand
        else:
            wanted = position
        unit = position - position % UNIT
        start = next(
            at for at in (wanted, unit, position) if at == position or self._free(at, position)
        )
        return self._cache.make(self._shelf, start, self._gap(position, end))

    def _free(self, start: int, end: int) -> bool:
        """Whether there is nothing of ``[start, end]`` yet, which is then fetched at once."""
        following = self._shelf.next_start(start)
        return (
            self._shelf.find(start) is None
            and (following is None or following > end)
            and end - start < self._largest
        )

    def _begin(self, extent: Extent) -> None:
        """Fetch an extent: at once, by the short way, or in a task of its own."""
        on_disk: bool | None = False
        if self._disk is not None:
            try:
                on_disk = self._disk.read_now(self._disk_version(), extent.start, extent.view)
            except OSError:  # it has no path any more; the task knows what to say
                on_disk = None
        if on_disk:
            extent.finish()
            self._cache.settled()
        elif on_disk is None or not self._begin_read(extent):
            self._nursery.start_soon(self._fetch, extent, on_disk is None)

    def _begin_read(self, extent: Extent) -> bool:
        path = _path(self._path)
        if path is None:
            return False

        def done(there: bool) -> None:  # noqa: FBT001 -- the volume's protocol
            if there:
                self._offer(extent)
                extent.finish()
                self._cache.settled()
            else:
                self._cache.discard(extent)
                extent.finish(AbandonedError())

        return self._volume.begin_read(
            path, self.attributes, extent.start, extent.view, extent.progress, done
        )

    def _offer(self, extent: Extent) -> None:
        if self._disk is not None and self._version is not None:
            self._disk.offer(self._version, extent.start, extent.view, extent)

    async def _fetch(self, extent: Extent, look: bool = True) -> None:  # noqa: FBT001, FBT002
        """Fetch an extent, from the disk if ``look`` and it is there."""
        try:
            if not (look and await self._fetch_from_disk(extent)):
                await self._volume.read_into(
                    self._path(), self.attributes, extent.start, extent.view, extent.progress
                )
                self._offer(extent)
        except OSError as error:
            self._cache.discard(extent)
            extent.finish(error)
        except Exception:
            # A defect must not take the mount down with it: it ends in EIO for those who wait.
            log.exception("defect while fetching", path=_path(self._path) or "(unlinked)")
            self._cache.discard(extent)
            extent.finish(OSError(errno.EIO, "defect in the driver"))
        except BaseException:
            self._cache.discard(extent)
            extent.finish(AbandonedError())
            raise
        else:
            extent.finish()
            self._cache.settled()

    async def _fetch_from_disk(self, extent: Extent) -> bool:
        if self._disk is None:
            return False
        try:
            return await self._disk.read_into(self._disk_version(), extent.start, extent.view)
        except HangingError:
            extent.renew()
            return False

    def _disk_version(self) -> Version:
        """The version's name in the disk cache. ESTALE where the file has no path any more."""
        if self._version is None:
            self._version = Version.of(
                self._volume.identity, self._path(), self.attributes.version, self.attributes.size
            )
        return self._version


def _path(path: Callable[[], str]) -> str | None:
    try:
        return path()
    except OSError:  # unlinked
        return None
