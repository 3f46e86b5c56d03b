"""Where things lie in a cache directory, which several mounts and users of one machine share.

    blocks/                     content read from stores, by version: may be deleted at any time
    journal/<volume>/           what programs wrote and the store does not have yet: precious
    recovery/<volume>/          what could not be committed and waits for a person: precious
    intents/<volume>/           operations of several requests that are under way: precious

``<volume>`` is a digest of :attr:`fuse.volume.Volume.identity`, so that the next mount of the same
container finds what an earlier one left, wherever it is mounted and whoever asked for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of one volume below a cache directory. Nothing is created here."""

    root: Path
    identity: str

    @property
    def _volume(self) -> str:
        return hashlib.sha256(self.identity.encode()).hexdigest()[:16]

    @property
    def blocks(self) -> Path:
        """Shared by all volumes: an entry's key names its volume."""
        return self.root / "blocks"

    @property
    def journal(self) -> Path:
        """Dirty data of live mounts, and of mounts that crashed."""
        return self.root / "journal" / self._volume

    @property
    def recovery(self) -> Path:
        """Dirty data in conflict with what the store has by now."""
        return self.root / "recovery" / self._volume

    @property
    def intents(self) -> Path:
        """Renames of trees and the like, which are completed or undone after a crash."""
        return self.root / "intents" / self._volume
