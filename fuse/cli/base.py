"""What kept data was written over, asked of the driver that has the volume mounted."""

from __future__ import annotations

import base64
import errno
from pathlib import Path
from typing import Any

import trio

from fuse.cli.asking import ask
from fuse.errors import MountError
from fuse.restoring import FETCH
from fuse.volume import Attributes, Progress

#: Seconds that the driver may take for a piece: its own deadline for the store, and some.
_TIMEOUT = 150.0


class DriversBase:
    """The version below one entry, as :class:`fuse.leftover.Base`.

    Args:
        directory: The mount's own, which holds its ``control.sock``.
        identifier: The entry's id.
    """

    def __init__(self, directory: Path, identifier: str) -> None:
        self._directory = directory
        self._id = identifier

    async def read_into(
        self, path: str, attributes: Attributes, offset: int, buffer: memoryview, progress: Progress
    ) -> None:
        """See :meth:`fuse.volume.Volume.read_into`; EIO when the driver does not answer."""
        del attributes  # the driver knows them by the entry
        for start in range(0, len(buffer), FETCH):
            size = min(FETCH, len(buffer) - start)
            wanted = {"id": self._id, "start": offset + start, "size": size}
            try:
                answer = await trio.to_thread.run_sync(self._ask, wanted)
            except MountError as error:
                raise OSError(errno.EIO, error.message, path) from error
            if "data" not in answer:
                raise OSError(answer["errno"], answer["reason"], path)
            buffer[start : start + size] = base64.b64decode(answer["data"])
            progress(start + size)

    def _ask(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return ask(self._directory, "base", wanted, timeout=_TIMEOUT)
