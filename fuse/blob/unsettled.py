"""What failed half-way: settled in the background, as soon as the store allows it.

An operation of several requests (:mod:`fuse.intents`) that fails in the middle, and cannot be
undone at once, is completed or undone later, with growing pauses. Until then whoever asks for a
name that it is about has another try made first, so that in most cases nobody meets a half tree:
where the store answers again, it answers the try, too.

Where :meth:`Unsettled.run` is not running, what fails stays on disk for the next mount.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any, Final

import trio

from fuse.errors import fail
from fuse.intents import Intent, Intents
from fuse.logs import log

#: Seconds until another try: the first time, and at most. Who asks for a name waits for no more
#: tries than one per FIRST_RETRY.
FIRST_RETRY: Final = 1.0
LAST_RETRY: Final = 60.0

#: Details that are names of blobs or trees.
_NAMES: Final = ("source", "target", "one", "other", "temporary")

_INTERRUPTED: Final = "interrupted by the end of an earlier mount"

Resume = Callable[[Intent], Awaitable[None]]


class Undertaking:
    """An operation of several requests that is under way, noted on disk where there is a place.

    Attributes:
        intent: The note; None where the volume has no place for one, and once it has ended.
        left: Requests that are still to be made, for those who want to know how far it is.
    """

    def __init__(self, intent: Intent | None) -> None:
        self.intent = intent
        self.left = 0

    async def note(self, **details: Any) -> None:
        """Add to what is known of it, durably. OSError when the disk does not take it."""
        if self.intent is not None:
            intent = self.intent
            await trio.to_thread.run_sync(lambda: intent.note(**details))

    async def end(self) -> None:
        """It is complete, or undone."""
        intent, self.intent = self.intent, None
        if intent is not None:
            await trio.to_thread.run_sync(intent.end)


def names_of(intent: Intent) -> list[str]:
    """The blobs or trees that an operation is about."""
    return [str(intent.details[key]) for key in _NAMES if key in intent.details]


class _Failed:
    """One operation that waits for another try.

    Attributes:
        intent: Its note.
        reason: Why it failed.
        wait: Seconds between the last two tries.
        tried: When the last try ended (trio's clock).
        wanted: Whether somebody waits for another one.
        ended: Set when a try has ended; then there is another one of it.
        trying: Whether a try is under way.
    """

    def __init__(self, intent: Intent, reason: str, *, tried: float) -> None:
        self.intent = intent
        self.reason = reason
        self.wait = FIRST_RETRY
        self.tried = tried
        self.ended = trio.Event()
        self.trying = False
        self.wanted = False

    @property
    def names(self) -> list[str]:
        return names_of(self.intent)

    def is_about(self, name: str, *, above: bool) -> bool:
        """Whether a name is one of its names or below one, or (``above``) has one below itself."""
        return any(
            f"{name}/".startswith(f"{known}/") or (above and known.startswith(f"{name}/"))
            for known in self.names
        )

    def due(self) -> float:
        """When the next try is to be made (trio's clock)."""
        return self.tried + (FIRST_RETRY if self.wanted else self.wait)


class Unsettled:
    """The operations of one volume that wait to be completed or undone.

    Args:
        intents: Where they are written down; None: nowhere, and nothing is settled later.
        resume: Completes or undoes one, and ends its intent. OSError: not now.
        outermost: The kind of operations that consist of others, which come before them.
    """

    def __init__(self, intents: Intents | None, resume: Resume, outermost: str) -> None:
        self._intents = intents
        self._resume = resume
        self._outermost = outermost
        self._failed: list[_Failed] = []
        self._under_way: list[Undertaking] = []
        self._running = False
        self._changed = trio.Event()

    def __len__(self) -> int:
        return len(self._failed)

    @property
    def left(self) -> int:
        """Requests that what is under way has still to make."""
        return sum(one.left for one in self._under_way)

    def reasons(self) -> Iterator[tuple[str, str]]:
        """Of each what it is about, and why it failed, for people."""
        for failed in self._failed:
            yield " → ".join(failed.names[:2]), failed.reason

    @asynccontextmanager
    async def begun(self, kind: str, details: dict[str, Any]) -> AsyncIterator[Undertaking]:
        """Write down what is about to be done in here; left by an OSError, it is settled later.

        OSError, with nothing begun, when the disk does not take it.
        """
        intent = None
        if self._intents is not None:
            intent = await trio.to_thread.run_sync(self._intents.begin, kind, details)
        under_way = Undertaking(intent)
        self._under_way.append(under_way)
        try:
            yield under_way
            await under_way.end()
        except OSError as error:
            if under_way.intent is not None:
                self.leave(under_way.intent, error)
                under_way.intent = None
            raise
        finally:
            self._under_way.remove(under_way)
            if under_way.intent is not None:
                under_way.intent.close()

    def leave(self, intent: Intent, error: OSError) -> None:
        """Settle it later: by and by, or where nobody does, at the next mount."""
        if not self._running:
            intent.close()
            return
        failed = _Failed(intent, error.strerror or str(error), tried=trio.current_time())
        self._failed.append(failed)
        log.error(
            "an operation is incomplete: it is completed or undone in the background",
            kind=intent.kind,
            names=failed.names,
            reason=failed.reason,
        )
        self._changed.set()

    async def recover(self, patience: float) -> None:
        """Complete or undo what earlier mounts left behind, or leave it to :meth:`run`.

        Args:
            patience: Seconds; nothing is waited for any longer.
        """
        if self._intents is None:
            return
        left = await trio.to_thread.run_sync(
            lambda intents: list(intents.left_behind()), self._intents
        )
        left.sort(key=lambda intent: intent.kind == self._outermost)
        found = [_Failed(intent, _INTERRUPTED, tried=-inf) for intent in left]
        self._failed += found
        with trio.move_on_after(patience) as scope:
            for failed in found:
                await self._attempt(failed)
        if scope.cancelled_caught:
            log.warning("what was interrupted is completed or undone in the background")

    async def run(self) -> None:
        """Settle what has failed and what will, until cancelled; the rest is the next mount's."""
        self._running = True
        try:
            while True:
                due = min((failed.due() for failed in self._failed), default=inf)
                with trio.move_on_at(due):
                    await self._changed.wait()
                self._changed = trio.Event()
                now = trio.current_time()
                for failed in [failed for failed in self._failed if failed.due() <= now]:
                    await self._attempt(failed)
        finally:
            self._running = False
            for failed in self._failed:
                failed.intent.close()
                failed.ended.set()
            self._failed.clear()

    async def tried(self, *names: str, above: bool = False) -> None:
        """Wait for a try to settle what is about these names, if there is anything.

        Args:
            names: Of blobs or trees.
            above: Also what lies below them counts.
        """
        for failed in self._about(names, above=above):
            if failed.trying or failed.tried + FIRST_RETRY <= trio.current_time():
                failed.wanted = True
                self._changed.set()
                await failed.ended.wait()

    async def settled(self, *names: str) -> None:
        """As :meth:`tried`, of names that are to change places. EBUSY where it did not help."""
        await self.tried(*names, above=True)
        for failed in self._about(names, above=True):
            fail(errno.EBUSY, failed.names[0], f"an operation is incomplete: {failed.reason}")

    def is_pending(self, names: tuple[str, ...], besides: Intent) -> bool:
        """Whether anything else waits that is about these names."""
        return any(failed.intent is not besides for failed in self._about(names, above=True))

    def _about(self, names: tuple[str, ...], *, above: bool) -> list[_Failed]:
        return [
            failed
            for failed in self._failed
            if any(failed.is_about(name, above=above) for name in names)
        ]

    async def _attempt(self, failed: _Failed) -> None:
        failed.trying = True
        try:
            reason = await self._try(failed)
        finally:
            failed.trying = False
        if reason:
            failed.reason, failed.wait = reason, min(LAST_RETRY, failed.wait * 2)
        else:
            self._failed.remove(failed)
            failed.intent.close()
        failed.wanted, failed.tried = False, trio.current_time()
        ended, failed.ended = failed.ended, trio.Event()
        ended.set()

    async def _try(self, failed: _Failed) -> str:
        """Returns why it could not be settled; empty when it was."""
        intent = failed.intent
        try:
            await self._resume(intent)
        except (OSError, KeyError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            if reason != failed.reason:
                log.exception(
                    "an incomplete operation waits",
                    kind=intent.kind,
                    intent=str(intent.path),
                    reason=reason,
                )
            return reason
        return ""
