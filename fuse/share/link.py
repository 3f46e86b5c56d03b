"""The connection of a volume over time: made, lost, made again.

Each connection has a generation; handles belong to theirs. Names are resolved anew for every
connection, since accounts move between addresses and old ones answer with a logon failure.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import trio

from fuse.errors import MountError
from fuse.share.channel import Channel
from fuse.share.errors import ConnectionLost
from fuse.share.handshake import Target, Timeouts, establish

Result = TypeVar("Result")

_ERRNOS = {
    "AuthenticationFailed": errno.EACCES,
    "ShareNotFound": errno.EIO,  # not ENOENT: that would say that the file is gone
    "ServerUnreachable": errno.ETIMEDOUT,
}
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0
#: A refused logon is not repeated sooner than this: servers lock accounts.
_REFUSAL_HOLDS = 2.0


class Link:
    """Gives operations a live connection, and tries them again over a new one.

    Attributes:
        generation: Number of connections made so far.
        retries: Operations tried again.
        losses: Connections lost.
    """

    def __init__(self, target: Target, timeouts: Timeouts, nursery: trio.Nursery) -> None:
        self.generation = 0
        self.retries = 0
        self.losses = 0
        self._target = target
        self._timeouts = timeouts
        self._nursery = nursery
        self._lock = trio.Lock()
        self._channel: Channel | None = None
        self._refusal: MountError | None = None
        self._refused_at = 0.0

    @property
    def current(self) -> Channel | None:
        """The live connection, if there is one."""
        return self._channel if self._channel is not None and self._channel.alive else None

    def change_key(self, key: str) -> None:
        """Use another account key from the next connection on; the one that stands goes on."""
        self._target = replace(self._target, key=key)
        self._refusal = None

    async def open(self) -> None:
        """Make the first connection. Raises MountError."""
        async with self._lock:
            await self._connect()

    async def run(self, operation: Callable[[Channel, bool], Awaitable[Result]]) -> Result:
        """Run ``operation`` on a live connection, again where the connection breaks under it.

        The operation's second argument says whether an earlier attempt may have been carried out
        although no answer came, so that it can tell its own work from somebody else's.

        Raises:
            OSError: ETIMEDOUT when no connection could be made in time, EACCES when the logon is
                refused by now, and whatever the operation raises.
        """
        deadline = trio.current_time() + self._timeouts.retry
        uncertain = False
        while True:
            channel = await self._live(deadline)
            try:
                return await operation(channel, uncertain)
            except ConnectionLost as error:
                uncertain = uncertain or error.sent
                # The session may be gone though TCP stands.
                channel.kill(error.strerror or "connection lost")
                if trio.current_time() >= deadline:
                    raise
                self.retries += 1

    async def _live(self, deadline: float) -> Channel:
        channel = self.current
        if channel is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            return channel
        delay = _FIRST_DELAY
        with trio.move_on_at(deadline + self._timeouts.connect):
            async with self._lock:
                while True:
                    channel = self.current
                    if channel is not None:
                        return channel
                    try:
                        return await self._connect()
                    except MountError as error:
                        pause = delay * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret
                        unreachable = error.code == "ServerUnreachable"
                        if not unreachable or trio.current_time() + pause >= deadline:
                            raise OSError(
                                _ERRNOS.get(error.code, errno.EIO), error.message
                            ) from error
                    await trio.sleep(pause)
                    delay = min(delay * 2, _LONGEST_DELAY)
        raise OSError(errno.ETIMEDOUT, f"no connection to {self._target!r}")

    async def _connect(self) -> Channel:
        if self._refusal and trio.current_time() - self._refused_at < _REFUSAL_HOLDS:
            raise self._refusal
        try:
            established = await establish(self._target, self._timeouts)
        except MountError as error:
            if error.code != "ServerUnreachable":
                self._refusal, self._refused_at = error, trio.current_time()
            raise
        self._refusal = None
        if self._channel is not None:
            self.losses += 1
        self.generation += 1
        channel = Channel(established, self._timeouts, self.generation)
        await self._nursery.start(channel.run)
        try:
            await channel.ask_for_credits()
        except ConnectionLost as error:
            raise MountError("ServerUnreachable", error.strerror or str(error)) from error
        except BaseException:
            channel.kill("given up")
            raise
        self._channel = channel
        return channel
