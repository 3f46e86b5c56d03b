"""A directory of a volume as a volume of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fuse.errors import MountError
from fuse.volume import (
    Attributes,
    Changes,
    DirtyContent,
    Entry,
    Kind,
    Progress,
    Space,
    Staged,
    Volume,
)


@asynccontextmanager
async def opened(
    volume: AbstractAsyncContextManager[Volume], directory: str
) -> AsyncIterator[Volume]:
    """Open a volume, or with ``directory`` that directory of it.

    Raises:
        MountError: The volume cannot be used, or has no such directory.
    """
    async with volume as whole:
        if not directory:
            yield whole
            return
        try:
            found = await whole.stat(directory)
        except FileNotFoundError:
            raise MountError(
                "InvalidOption",
                f"{whole.source} has no directory {directory}",
                "an empty directory is known to the store only when it was made as one (mkdir)",
            ) from None
        except OSError as error:
            raise MountError(
                "MountFailed", f"{whole.source}/{directory}: {error.strerror or error}"
            ) from error
        if found.kind is not Kind.DIRECTORY:
            raise MountError("InvalidOption", f"{whole.source}/{directory} is not a directory")
        yield Subtree(whole, directory)


class Subtree:
    """What lies below one directory; a :class:`fuse.volume.Volume` like the one it is taken from.

    Args:
        whole: The volume that holds the directory, which must exist.
        directory: Its path there, not empty.
    """

    def __init__(self, whole: Volume, directory: str) -> None:
        self._whole = whole
        self._directory = directory
        self.source = f"{whole.source}/{directory}"
        self.identity = f"{whole.identity}/{directory}"
        self.keeps_xattrs = whole.keeps_xattrs
        self.versions_are_immutable = whole.versions_are_immutable
        self.preferred_read = whole.preferred_read
        self.commit_interval = whole.commit_interval
        self.name_max = whole.name_max
        self.attribute_timeout = whole.attribute_timeout

    @property
    def round_trip(self) -> float:
        """As of the whole volume."""
        return self._whole.round_trip

    def _at(self, path: str) -> str:
        return f"{self._directory}/{path}" if path else self._directory

    async def stat(self, path: str) -> Attributes:
        """As of the whole volume."""
        return await self._whole.stat(self._at(path))

    def list(self, path: str) -> AsyncGenerator[Sequence[Entry], None]:
        """As of the whole volume."""
        return self._whole.list(self._at(path))

    async def read_into(
        self, path: str, attributes: Attributes, offset: int, buffer: memoryview, progress: Progress
    ) -> None:
        """As of the whole volume."""
        await self._whole.read_into(self._at(path), attributes, offset, buffer, progress)

    def begin_read(
        self,
        path: str,
        attributes: Attributes,
        offset: int,
        buffer: memoryview,
        progress: Progress,
        done: Callable[[bool], None],
    ) -> bool:
        """As of the whole volume."""
        return self._whole.begin_read(self._at(path), attributes, offset, buffer, progress, done)

    async def commit(
        self, path: str, base: Attributes | None, content: DirtyContent, changes: Changes
    ) -> Attributes:
        """As of the whole volume."""
        return await self._whole.commit(self._at(path), base, content, changes)

    def makes_at_commit(self, path: str) -> bool:
        """As of the whole volume."""
        return self._whole.makes_at_commit(self._at(path))

    def staging_size(self, offset: int) -> int:
        """As of the whole volume."""
        return self._whole.staging_size(offset)

    async def stage(
        self, path: str, base: Attributes, start: int, body: bytes | memoryview
    ) -> Staged | None:
        """As of the whole volume."""
        return await self._whole.stage(self._at(path), base, start, body)

    async def create(self, path: str, changes: Changes) -> Attributes:
        """As of the whole volume."""
        return await self._whole.create(self._at(path), changes)

    async def set_attributes(
        self, path: str, attributes: Attributes, changes: Changes
    ) -> Attributes:
        """As of the whole volume."""
        return await self._whole.set_attributes(self._at(path), attributes, changes)

    async def make_directory(
        self, path: str, changes: Changes, *, free: bool = False
    ) -> Attributes:
        """As the whole volume."""
        return await self._whole.make_directory(self._at(path), changes, free=free)

    async def remove_directory(self, path: str) -> None:
        """As of the whole volume."""
        await self._whole.remove_directory(self._at(path))

    async def unlink(self, path: str) -> None:
        """As of the whole volume."""
        await self._whole.unlink(self._at(path))

    async def rename(
        self, source: str, target: str, attributes: Attributes, *, replace: bool
    ) -> Attributes:
        """As of the whole volume."""
        return await self._whole.rename(
            self._at(source), self._at(target), attributes, replace=replace
        )

    async def exchange(self, one: str, other: str) -> None:
        """As of the whole volume."""
        await self._whole.exchange(self._at(one), self._at(other))

    async def symlink(self, path: str, target: str, changes: Changes) -> Attributes:
        """As of the whole volume."""
        return await self._whole.symlink(self._at(path), target, changes)

    async def readlink(self, path: str, attributes: Attributes) -> str:
        """As of the whole volume."""
        return await self._whole.readlink(self._at(path), attributes)

    async def space(self) -> Space:
        """As of the whole volume."""
        return await self._whole.space()

    async def continues(self, path: str, old: Attributes, new: Attributes) -> bool:
        """As of the whole volume."""
        return await self._whole.continues(self._at(path), old, new)

    async def settle(self) -> None:
        """As of the whole volume."""
        await self._whole.settle()

    def warnings(self) -> Sequence[str]:
        """As of the whole volume."""
        return self._whole.warnings()

    def statistics(self) -> dict[str, int | float]:
        """As of the whole volume."""
        return self._whole.statistics()
