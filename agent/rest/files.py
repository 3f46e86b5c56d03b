"""The content of a job's files: Range requests, and following a file that still grows."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import structlog
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.errors import BatchError
from agent.jobs.service import JobKey, JobService
from agent.rest.errors import bad_request, conflict, file_not_found
from agent.rest.paging import number

PIECE = 1024 * 1024
_CLOSE_S = 5.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_TEXT = (".txt", ".log", ".csv", ".json", ".md", ".py", ".yaml", ".yml")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes start..end-1 of a file of the given size; partial when a Range header chose them."""

    start: int
    end: int
    size: int
    partial: bool

    @property
    def satisfiable(self) -> bool:
        """Whether any byte is there to send (RFC 9110 14.1.1)."""
        return not self.partial or self.start < self.end


def parse_range(header: str | None, size: int) -> ByteRange:
    """One byte range of RFC 9110 section 14.

    Several ranges, other units and nonsense mean the whole file, as the RFC allows.
    """
    whole = ByteRange(0, size, size, partial=False)
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return whole
    first, last = match.groups()
    if first:
        end = min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return whole
        return ByteRange(int(first), end, size, partial=True)
    if last:
        return ByteRange(max(0, size - int(last)) if int(last) else size, size, size, partial=True)
    return whole


def check_path(path: str) -> None:
    """Refuse a path that could leave its output directory, before any file system sees it.

    Raises:
        BatchError: 400.
    """
    if "\0" in path or path.startswith("/") or ".." in path.split("/"):
        message = f'the path {path!r} must be relative, without ".."'
        raise bad_request("InvalidPath", message, target="path")


async def file_response(
    service: JobService, key: JobKey, directory_id: str, path: str, request: Request
) -> Response:
    """The answer to GET or HEAD of one file.

    Raises:
        BatchError: 404 where there is no such file, 409 for a directory, 400 for a bad path.
    """
    check_path(path)
    if request.query_params.get("follow", "false").lower() in {"true", "1"}:
        offset = number(
            request.query_params.get("offset"), "offset", default=0, least=0, most=2**62
        )
        return await _follow(service, key, directory_id, path, offset, _patience(request))
    size = await _size(service, key, directory_id, path)
    wanted = parse_range(request.headers.get("range"), size)
    headers = _headers(path) | {"accept-ranges": "bytes"}
    if not wanted.satisfiable:
        return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
    headers["content-length"] = str(wanted.end - wanted.start)
    if wanted.partial:
        headers["content-range"] = f"bytes {wanted.start}-{wanted.end - 1}/{size}"
    status = 206 if wanted.partial else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    pieces = _pieces(service, key, directory_id, path, wanted)
    return StreamResponse(pieces, status=status, headers=headers)


async def _follow(
    service: JobService, key: JobKey, directory_id: str, path: str, offset: int, patience_s: float
) -> Response:
    """Follow a file; one that is not there is waited for, but its follower hears of that in time.

    Raises:
        BatchError: 404 FileNotFound when it has not come after patience_s, or never will.
    """
    try:
        await _size(service, key, directory_id, path)
    except BatchError as error:
        if error.status == 404 and error.code != "FileNotFound":
            raise
        there = error.status == 503  # the storage is away: the stream may still be local
    else:
        there = True
    if there:
        stream = await service.open_stream(key, directory_id, path, offset=offset, follow=True)
        return StreamResponse(stream, headers=_headers(path))
    opened: AsyncIterator[bytes] | None = None
    with trio.move_on_after(patience_s):
        opened = await service.open_stream(key, directory_id, path, offset=offset, follow=True)
        async for first in opened:
            return StreamResponse(opened, headers=_headers(path), first=first)
    if opened is not None:
        await _close(opened)
    # It may have come meanwhile, and be empty.
    await _size(service, key, directory_id, path)
    stream = await service.open_stream(key, directory_id, path, offset=offset, follow=True)
    return StreamResponse(stream, headers=_headers(path))


def _patience(request: Request) -> int:
    text = request.query_params.get("patience")
    return number(text, "patience", default=20, least=0, most=60)


def _headers(path: str) -> dict[str, str]:
    text = path.endswith(_TEXT)
    return {
        "content-type": "text/plain; charset=utf-8" if text else "application/octet-stream",
        # What a job wrote must never be taken for a page of this server's.
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }


async def _size(service: JobService, key: JobKey, directory_id: str, path: str) -> int:
    parent, _, name = path.rpartition("/")
    for entry in await service.list_files(key, directory_id, parent or "."):
        if entry.name == name:
            if entry.is_directory:
                raise conflict("IsADirectory", f"{path!r} is a directory", "list it instead")
            return entry.size
    raise file_not_found(path)


async def _pieces(
    service: JobService, key: JobKey, directory_id: str, path: str, wanted: ByteRange
) -> AsyncIterator[bytes]:
    position = wanted.start
    while position < wanted.end:
        length = min(PIECE, wanted.end - position)
        piece = await service.read_file(key, directory_id, path, position, length)
        if not piece:
            raise EOFError(f"{path} became shorter while it was read")
        yield piece
        position += len(piece)


class StreamResponse(Response):
    """A body that comes as it is made.

    The first piece is awaited only after the head is sent: a follower must see at once that the
    agent is following. A failure in the middle cuts the connection, so that the client can tell it
    from the end; and a client that goes away cancels the source.
    """

    def __init__(
        self,
        source: AsyncIterator[bytes],
        *,
        status: int = 200,
        headers: dict[str, str],
        first: bytes = b"",
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        if "content-length" not in headers:
            del self.headers["content-length"]  # an empty body's, set by Response
        self._source = source
        self._first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send head and body (ASGI)."""
        failure: Exception | None = None
        finished = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **head})
            try:
                if self._first:
                    first = {"type": "http.response.body", "body": self._first}
                    await send(first | {"more_body": True})
                async for piece in self._source:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                finished = True
            except Exception as error:  # noqa: BLE001 (reported below, outside the nursery)
                failure = error
            finally:
                await _close(self._source)
            nursery.cancel_scope.cancel()
        if finished:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif failure is not None:
            log.warning("a file's stream broke off", path=scope["path"], error=repr(failure))
            scope["state"]["connection"].abort()


async def _close(source: AsyncIterator[bytes]) -> None:
    if isinstance(source, AsyncGenerator):
        with trio.move_on_after(_CLOSE_S, shield=True):
            await source.aclose()


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
