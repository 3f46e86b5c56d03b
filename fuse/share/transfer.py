"""Bulk data: ranges of a file in pieces of 1 MiB, several in flight."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator

import trio

from fuse.errors import fail
from fuse.share import errors, wire
from fuse.share.channel import Channel
from fuse.share.errors import status_error
from fuse.share.state import FileState
from fuse.volume import DirtyContent, Progress

#: Pieces of one transfer that are under way at a time.
DEPTH = 4


async def read_range(
    channel: Channel,
    handle: bytes,
    path: str,
    offset: int,
    buffer: memoryview,
    done: int,
    progress: Progress,
) -> None:
    """Fill ``buffer`` with the file's bytes from ``offset`` on; ``done`` of them are there.

    Raises:
        OSError: ESTALE when the file ends before the buffer is full.
    """
    arrived: dict[int, int] = {}
    filled = done

    async def fetch(start: int, stop: int) -> None:
        nonlocal filled
        await _read_piece(channel, handle, path, offset + start, buffer[start:stop])
        arrived[start] = stop
        while filled in arrived:
            filled = arrived.pop(filled)
            progress(filled)

    await _in_parallel(fetch, list(_pieces(done, len(buffer), channel.io_size)))


async def _read_piece(
    channel: Channel, handle: bytes, path: str, offset: int, buffer: memoryview
) -> None:
    done = 0
    while done < len(buffer):
        (reply,) = await channel.call(
            wire.read(offset + done, len(buffer) - done, handle), urgent=False
        )
        if reply.status == errors.END_OF_FILE:
            fail(errno.ESTALE, path, "the file has been cut short by somebody else")
        if reply.status not in {errors.SUCCESS, errors.BUFFER_OVERFLOW}:
            raise status_error(reply.status, path)
        data = wire.read_data(reply)
        if not data:
            fail(errno.ESTALE, path, "the file has been cut short by somebody else")
        buffer[done : done + len(data)] = data
        done += len(data)


async def write_content(
    channel: Channel, handle: bytes, path: str, size_there: int, content: DirtyContent
) -> int:
    """Make the open file hold ``content``; returns the bytes that were sent.

    Can be repeated after having been interrupted anywhere: what is visible of the base is never
    touched.
    """
    ranges = list(content.dirty_ranges)
    if size_there > content.base_size:  # cut first: what comes behind must be zeros or new
        await _set(channel, path, wire.set_size(content.base_size, handle))
    pieces = [piece for start, end in ranges for piece in _pieces(start, end, channel.io_size)]

    async def send(start: int, stop: int) -> None:
        data = memoryview(await content.read(start, stop - start))
        done = 0
        while done < len(data):
            (reply,) = await channel.call(
                wire.write(start + done, data[done:], handle), urgent=False
            )
            if reply.status != errors.SUCCESS:
                raise status_error(reply.status, path)
            count = wire.written(reply)
            if not count:
                fail(errno.EIO, path, "the server wrote nothing")
            done += count

    await _in_parallel(send, pieces)
    end = max([min(size_there, content.base_size), *(stop for _, stop in ranges)])
    if content.size != end:
        await _set(channel, path, wire.set_size(content.size, handle))
    return sum(stop - start for start, stop in ranges)


async def finish(channel: Channel, handle: bytes, path: str, written_ns: int | None) -> FileState:
    """Set the time if asked to, bring everything to stable storage, close."""
    if written_ns is not None:
        await _set(channel, path, wire.set_written_time(written_ns, handle))
    await _set(channel, path, wire.flush(handle))
    (reply,) = await channel.call(wire.close(handle, want_state=True))
    if reply.status != errors.SUCCESS:
        raise status_error(reply.status, path)
    return wire.closed(reply, file_id=None)


async def _set(channel: Channel, path: str, message: wire.Message) -> None:
    (reply,) = await channel.call(message)
    if reply.status != errors.SUCCESS:
        raise status_error(reply.status, path)


def _pieces(start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    for position in range(start, end, size):
        yield position, min(position + size, end)


async def _in_parallel(
    work: Callable[[int, int], Awaitable[None]], pieces: list[tuple[int, int]]
) -> None:
    """Run ``work`` on all pieces, a few at a time; the first failure ends the rest."""
    if len(pieces) == 1:
        await work(*pieces[0])
        return
    remaining = iter(pieces)
    failure: OSError | None = None

    async def lane() -> None:
        nonlocal failure
        for start, stop in remaining:
            if failure is not None:
                return
            try:
                await work(start, stop)
            except OSError as error:
                failure = error
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(DEPTH, len(pieces))):
            nursery.start_soon(lane)
    if failure is not None:
        raise failure
