"""Sending a file's new content ahead of its commit, so that ``close`` is short.

A program that writes a file from front to back has its finished blocks sent while it goes on
writing (:meth:`fuse.volume.Volume.stage`). Nothing of it becomes visible before the commit, which
then has little left to send. A writer never waits for this: what is ready queues as a pair of
offsets, and its bytes stay in the staging file on disk until the commit has succeeded.

What was sent and is overwritten afterwards does not count any more. It is sent once more (formats
such as zip write a header when its record is complete), but not again and again: then the commit
sends that part itself, as it does after an error here. Whoever comes back is followed at a distance
from then on. So nothing in this module can make content wrong or a write fail, as long as
:class:`Ledger` never hands out a piece that was changed after its bytes were read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from fuse.buffers import BufferBudget
from fuse.logs import log
from fuse.slabs import Slabs
from fuse.volume import Attributes, Staged, Volume

MIB = 1024 * 1024

#: Sequential writes that are told apart in one file; more at a time are not followed.
RUNS = 8

#: Pieces of one file on their way at a time.
PARALLEL = 8

#: Blocks that a writer is followed at a distance, at most, where it comes back to what it wrote.
FARTHEST = 4

#: Seconds that a commit waits for any piece to arrive; then it sends the rest itself.
PATIENCE = 20.0

#: Bytes of all files that are held in memory while they are sent ahead.
BUFFERS = 64 * MIB

#: Bytes of them that are kept for the next pieces, since fresh memory costs page faults.
SPARE = 16 * MIB


@dataclass(eq=False, slots=True)
class Piece:
    """``[start, end)`` of the new content, on its way to the store or there.

    Attributes:
        start: Offset of its first byte.
        end: Offset behind its last byte.
        path: Where it was sent to.
        staged: The store's answer; None while it is on its way.
        scope: Cancelled when the piece has become worthless.
    """

    start: int
    end: int
    path: str = ""
    staged: Staged | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


@dataclass(slots=True)
class _Run:
    """Bytes written one after the other: ``[start, end)`` of them is not taken yet.

    Attributes:
        complete: It is a block that was taken before: nothing is to be written behind it.
    """

    start: int
    end: int
    complete: bool = False


class Ledger:
    """Decides what is worth sending, and knows what of it still holds the content. Pure.

    Runs and pieces are disjoint at all times: a piece leaves its run, and every write goes to a run
    and ends the pieces that it touches.

    Args:
        size_at: Bytes worth sending in one piece from an offset on; 0: none.
    """

    def __init__(self, size_at: Callable[[int], int]) -> None:
        self._size_at = size_at
        self._runs: list[_Run] = []  # the one that was written to last comes last
        self._starts: list[int] = []
        self._pieces: list[Piece] = []  # ascending; _starts are their offsets
        self._repeated: set[int] = set()  # where pieces begin that are not sent a third time
        self._distance = 0

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def wrote(self, start: int, end: int) -> list[Piece]:
        """Note a write to ``[start, end)``; returns the pieces that it ended."""
        if start >= end:
            return []
        ended = self._end(start, end)
        front = self._runs[-1].end if self._runs else 0
        for piece in ended:
            # Who writes a record's header when the record is complete does so again with the next.
            behind = front - piece.end
            if self._distance < behind <= FARTHEST * (piece.end - piece.start):
                self._distance = behind
            if piece.start not in self._repeated:
                self._repeated.add(piece.start)
                self._add(_Run(piece.start, piece.end, complete=True))
        self._add(_Run(start, end))
        return ended

    def truncated(self, size: int) -> list[Piece]:
        """Note that the content was cut (or extended) to ``size``; returns the pieces that end."""
        for run in self._runs:
            run.end = min(run.end, size)
        self._runs = [run for run in self._runs if run.start < run.end]
        ended = [piece for piece in self._pieces if piece.end > size]
        for piece in ended:
            self.drop(piece)
        return ended

    def take(self, *, complete: bool = False) -> Piece | None:
        """The next piece to send: a whole block of a run that has gone on behind it.

        Args:
            complete: Whether nobody will come back to what has been written.
        """
        distance = 0 if complete else self._distance
        for run in self._runs:
            size = self._size_at(run.start)
            if size and run.end - run.start >= size + (0 if run.complete else 1 + distance):
                piece = Piece(run.start, run.start + size)
                run.start = piece.end
                index = bisect_left(self._starts, piece.start)
                self._starts.insert(index, piece.start)
                self._pieces.insert(index, piece)
                return piece
        return None

    def drop(self, piece: Piece) -> None:
        """Forget a piece: it was not sent, or does not hold the content any more."""
        index = bisect_left(self._starts, piece.start)
        if index < len(self._pieces) and self._pieces[index] is piece:
            del self._starts[index], self._pieces[index]

    def clear(self) -> list[Piece]:
        """Forget everything; returns the pieces there were."""
        pieces = self._pieces
        self._runs, self._starts, self._pieces = [], [], []
        self._repeated.clear()
        self._distance = 0
        return pieces

    def _add(self, run: _Run) -> None:
        apart: list[_Run] = []
        for other in self._runs:
            if other.start <= run.end and run.start <= other.end:
                within = other.complete and other.start <= run.start and run.end <= other.end
                run = _Run(min(run.start, other.start), max(run.end, other.end), within)
            else:
                apart.append(other)
        self._runs = [*apart[-(RUNS - 1) :], run]

    def _end(self, start: int, end: int) -> list[Piece]:
        index = max(0, bisect_left(self._starts, start) - 1)
        if index < len(self._pieces) and self._pieces[index].end <= start:
            index += 1
        stop = bisect_left(self._starts, end)
        ended = self._pieces[index:stop]
        del self._starts[index:stop], self._pieces[index:stop]
        return ended


class Staging:
    """What the files of one mount share: the volume, memory for bodies, counters.

    Args:
        volume: Where to.
        nursery: Owns what is under way.
    """

    def __init__(self, volume: Volume, nursery: trio.Nursery) -> None:
        self.volume = volume
        self.nursery = nursery
        self.buffers = BufferBudget(BUFFERS)
        self.threads = trio.CapacityLimiter(4)
        self.bytes = 0
        self.failures = 0
        self._slabs = Slabs()

    @asynccontextmanager
    async def buffer(self, size: int) -> AsyncIterator[memoryview]:
        """Wait for memory for a body, and have it. Nobody may refer to it afterwards."""
        async with self.buffers.held(size):
            slab = self._slabs.reuse(size) or self._slabs.make(size)
            with memoryview(slab)[:size] as view:
                yield view
            if self._slabs.spare + size <= SPARE:
                self._slabs.give_back(slab)

    def rest(self) -> None:
        """A file is complete: where no other is under way, memory is free again."""
        if not self.buffers.used:
            self._slabs.clear()

    def statistics(self) -> dict[str, int | float]:
        """Bytes sent ahead, pieces that could not be, and memory that is held for it now."""
        return {
            "staged_bytes": self.bytes,
            "staging_failures": self.failures,
            "staging_memory_bytes": self.buffers.used,
        }


class Stager:
    """Sends one file's finished blocks while it is being written.

    Args:
        staging: What it shares with other files.
        path: The file's path now.
        base: The version that the new content rests on, now.
        read: ``(offset, buffer)``: fills the buffer with what was written from there on; is called
            in a thread.
    """

    def __init__(
        self,
        staging: Staging,
        path: Callable[[], str],
        base: Callable[[], Attributes],
        read: Callable[[int, memoryview], None],
    ) -> None:
        self._shared = staging
        self._path = path
        self._base = base
        self._read = read
        self._ledger = Ledger(staging.volume.staging_size)
        self._sending = 0
        self._ended = trio.Event()
        self._paused = False
        self._refused = False
        self._settling = False

    @property
    def staged(self) -> list[Staged]:
        """What the store has that still holds the content; ascending."""
        return [piece.staged for piece in self._ledger if piece.staged is not None]

    def wrote(self, start: int, end: int) -> None:
        """Note that ``[start, end)`` has been written to the staging file."""
        _cancel(self._ledger.wrote(start, end))
        self._paused = self._settling = False
        self._launch()

    def holds_back(self, size: int) -> bool:
        """Whether blocks of a content of so many bytes wait for its name to be in the store.

        They have to: making a name discards what was sent to it before.
        """
        least = self._shared.volume.staging_size(0)
        return self._base().unmade and bool(least) and size > least

    def resume(self) -> None:
        """Send what was held back."""
        self._launch()

    def truncated(self, size: int) -> None:
        """Note that the content has been cut or extended to ``size`` bytes."""
        _cancel(self._ledger.truncated(size))

    async def settle(self) -> None:
        """Send what is finished, wait for it, and start nothing new before the next write.

        Call it before a commit, with the content locked; :attr:`staged` then stays as it is.
        """
        self._settling = True
        self._launch()
        patient = True
        while self._sending and patient:
            self._ended = trio.Event()
            with trio.move_on_after(PATIENCE) as waiting:
                await self._ended.wait()
            patient = not waiting.cancelled_caught
        self._settling = False
        self._paused = True
        path = self._path() if self._ledger else ""
        for piece in list(self._ledger):
            # What the store did not take in time; and of a renamed file, what has its old name.
            if piece.staged is None or piece.path != path:
                piece.scope.cancel()
                self._ledger.drop(piece)

    def reset(self) -> None:
        """Forget everything: it is committed, or never will be."""
        _cancel(self._ledger.clear())
        self._refused = False
        self._shared.rest()

    def _launch(self) -> None:
        while self._sending < PARALLEL and not (self._paused or self._refused):
            if self._base().unmade:
                return
            piece = self._ledger.take(complete=self._settling)
            if piece is None:
                return
            self._sending += 1
            self._shared.nursery.start_soon(self._send, piece)

    async def _send(self, piece: Piece) -> None:
        shared = self._shared
        try:
            with piece.scope:
                async with shared.buffer(piece.end - piece.start) as body:
                    piece.path = self._path()
                    await trio.to_thread.run_sync(
                        self._read, piece.start, body, limiter=shared.threads
                    )
                    # A write that came while the thread was reading has cancelled the scope.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    answer = await shared.volume.stage(piece.path, self._base(), piece.start, body)
                if answer is not None:
                    piece.staged = answer
                    shared.bytes += piece.end - piece.start
                else:
                    self._refused = True
        except OSError as error:
            # No error of the write: the commit sends this piece again, and reports what it meets.
            shared.failures += 1
            self._paused = True  # until the next write, so that a store in trouble is left alone
            log.info("could not send ahead", path=piece.path, reason=error.strerror or str(error))
        finally:
            if piece.staged is None:
                self._ledger.drop(piece)
            self._sending -= 1
            self._ended.set()
        self._launch()


def _cancel(pieces: list[Piece]) -> None:
    for piece in pieces:
        piece.scope.cancel()
