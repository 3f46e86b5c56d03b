"""What is believed of the names in one directory. Pure: times are given by the caller.

That a listing lacked a name is believed for a shorter time than what it said of others: programs on
different nodes wait for files of each other. In a directory that was made here that is unlikely,
and programs that unpack or check out into it ask for every name before they make it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import trio

from fuse.volume import Attributes

#: Seconds for which a listing's silence about a name is believed, in a directory of others.
ABSENCE = 1.0

#: Names that were asked for in vain and are remembered: those that are about to be made.
_MISSED = 16


class DirectoryNames:
    """Names that a listing had, or that a directory made here cannot have yet.

    Attributes:
        hints: What a listing said of names that the kernel has not asked for.
        asked: When hints were asked for (trio's clock).
        expires: Until when (trio's clock) hints are believed.
        absent_until: Until when it is believed that there are no others.
        ours: Whether the directory was made here.
        listed: Number of entries of the last complete listing; None when there was none.
        probes: How often a single name was asked about since then.
        lock: Held by whoever lists the directory on behalf of single names.
    """

    __slots__ = (
        "_missed",
        "_names",
        "_watches",
        "absent_until",
        "asked",
        "expires",
        "hints",
        "listed",
        "lock",
        "ours",
        "probes",
    )

    def __init__(self) -> None:
        self.hints: dict[str, Attributes] = {}
        self.asked = 0.0
        self.expires = 0.0
        self.ours = False
        self.listed: int | None = None
        self.probes = 0
        self.lock = trio.Lock()
        self._names: set[str] | None = None
        self.absent_until = 0.0
        self._watches: list[dict[str, bool]] = []
        self._missed: dict[str, float] = {}

    def absent(self, name: str, now: float) -> bool:
        """Whether it is known that there is no such name."""
        return self._names is not None and now < self.absent_until and name not in self._names

    def missed(self, name: str, until: float) -> None:
        """A name was asked for and is not there, which is believed for so long."""
        self._missed.pop(name, None)
        self._missed[name] = until
        if len(self._missed) > _MISSED:
            del self._missed[next(iter(self._missed))]

    def free(self, name: str, now: float) -> bool:
        """Whether a new file can be expected to get the name: the store has the last word."""
        return now < self._missed.get(name, now) or self.absent(name, now)

    def hint(self, name: str, now: float) -> Attributes | None:
        """What a listing that is still believed said of a name."""
        return self.hints.get(name) if now < self.expires else None

    def filled(
        self,
        entries: Mapping[str, Attributes],
        changes: Mapping[str, bool],
        asked: float,
        timeout: float,
        until: float,
    ) -> None:
        """Note a complete listing.

        Args:
            entries: What it had.
            changes: What was changed here while it was made.
            asked: When it was begun (trio's clock).
            timeout: For how long attributes are believed, in seconds.
            until: Until when (trio's clock) what it said of its names is believed.
        """
        self.listed = len(entries)
        self.probes = 0
        self.asked = asked
        self.expires = until
        self.absent_until = asked + (timeout if self.ours else min(timeout, ABSENCE))
        self._names = set(entries)
        self.hints = dict(entries)
        for name, present in changes.items():
            self.hints.pop(name, None)
            (self._names.add if present else self._names.discard)(name)

    def overfilled(self, count: int) -> None:
        """Note that there are more names than are worth keeping."""
        self.forget()
        self.listed = count
        self.probes = 0

    def forget(self) -> None:
        """Believe nothing any more: the store knows better."""
        self._names = None
        self.hints.clear()
        self._missed.clear()
        self.expires = self.absent_until = 0.0

    def added(self, name: str) -> None:
        """A name was made here, or found."""
        self.hints.pop(name, None)
        self._missed.pop(name, None)
        if self._names is not None:
            self._names.add(name)
        for watch in self._watches:
            watch[name] = True

    def removed(self, name: str) -> None:
        """A name was taken away, or is found to be gone."""
        self.hints.pop(name, None)
        if self._names is not None:
            self._names.discard(name)
        for watch in self._watches:
            watch[name] = False

    def watch(self) -> dict[str, bool]:
        """Collect changes from here on: name → whether it is there. :meth:`unwatch` ends it."""
        changes: dict[str, bool] = {}
        self._watches.append(changes)
        return changes

    def unwatch(self, changes: dict[str, bool]) -> None:
        """Collect no more into ``changes``."""
        self._watches = [watch for watch in self._watches if watch is not changes]

    @contextmanager
    def watched(self) -> Iterator[dict[str, bool]]:
        """Collect changes while a listing is made."""
        changes = self.watch()
        try:
            yield changes
        finally:
            self.unwatch(changes)
