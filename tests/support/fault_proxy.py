"""A fault injector: an HTTP proxy before the store that does to requests what networks do.

    with FaultProxy(storage.blob_endpoint) as proxy:
        spec["endpoint"] = proxy.endpoint          # as the store's own, with the same path
        proxy.once(lose_answer(), method="PUT", match="comp=blocklist")
        proxy.always(answer(503, "ServerBusy", retry_after=1), match="/container/blob")
        proxy.randomly(0.1, [refuse(), cut(1000), stall()], seed=7)
        proxy.clear()                              # honest again
        proxy.requests                             # what came: method, target, headers, fault

`once` (with `times`) and `always` are looked at in the order in which they were added, then the
random ones. It runs in a thread of its own, so it serves tests with and without an event loop, and
drivers in other processes. A fault is a plain value, made by the functions of this module:

    refuse()            the connection is cut before the store sees the request
    lose_answer()       the store does it; the connection is cut before the answer
    cut(after)          the answer is cut after so many bytes of its body
    cut_request(after)  the connection is cut after so many bytes of the request's body came
    stall(after=None)   silence in place of the answer, or after so many bytes of its body
    stall_before()      silence, and the store sees nothing
    drip(size, every)   the body comes in pieces of so many bytes, one every so many seconds
    answer(status, code, retry_after)    an error in place of the store, which sees nothing
    answer_after(status, code)           the same error, but the store did it
    declare(delta)      Content-Length is wrong by so many bytes (not that of HEAD, whose
                        Content-Length is a property of the blob: nobody could tell)
    header(name, value) a header of the answer replaced (None: removed)
    status(code)        another status over the store's own answer
    flip(position)      a bit of the body turned
    flip_request(position)               a bit of the request's body turned
    garbage(data)       bytes that are no HTTP in place of the answer
    delay(seconds)      the answer comes late; on concurrent requests: out of order
"""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request; see the functions of this module."""

    name: str
    after: int | None = None
    seconds: float = 0.0
    status: int = 0
    code: str = ""
    retry_after: float | None = None
    header: str = ""
    value: str | None = None
    data: bytes = b""


@dataclass(slots=True)
class Request:
    """A request that came, and what was done to it."""

    method: str
    target: str
    headers: dict[str, str]
    fault: Fault | None = None


def refuse() -> Fault:
    return Fault("refuse")


def lose_answer() -> Fault:
    return Fault("lose_answer")


def cut(after: int) -> Fault:
    return Fault("cut", after=after)


def cut_request(after: int) -> Fault:
    return Fault("cut_request", after=after)


def stall(after: int | None = None) -> Fault:
    return Fault("stall", after=after)


def stall_before() -> Fault:
    return Fault("stall_before")


def drip(size: int, every: float) -> Fault:
    return Fault("drip", after=size, seconds=every)


def answer(status: int, code: str = "", retry_after: float | None = None) -> Fault:
    return Fault("answer", status=status, code=code, retry_after=retry_after)


def answer_after(status: int, code: str = "") -> Fault:
    return Fault("answer_after", status=status, code=code)


def declare(delta: int) -> Fault:
    return Fault("declare", after=delta)


def header(name: str, value: str | None) -> Fault:
    return Fault("header", header=name.lower(), value=value)


def status(code: int) -> Fault:
    return Fault("status", status=code)


def flip(position: int) -> Fault:
    return Fault("flip", after=position)


def flip_request(position: int) -> Fault:
    return Fault("flip_request", after=position)


def garbage(data: bytes = b"\x16\x03\x01 no HTTP\r\n\r\n") -> Fault:
    return Fault("garbage", data=data)


def delay(seconds: float) -> Fault:
    return Fault("delay", seconds=seconds)


@dataclass(slots=True)
class _Rule:
    fault: Fault
    method: str | None
    match: str
    times: int | None  # None: always

    def takes(self, request: Request) -> bool:
        if self.times == 0 or (self.method and self.method != request.method):
            return False
        return self.match in request.target


@dataclass(slots=True)
class _Random:
    rate: float
    faults: Sequence[Fault]
    dice: random.Random
    allowed: Callable[[Request], bool]


@dataclass(slots=True)
class _Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = field(repr=False)


class _CutError(Exception):
    """The connection to the client ends here."""


class FaultProxy:
    """See the module.

    Args:
        upstream: Endpoint of the store (``http``); its path is kept in :attr:`endpoint`.
        tls: The proxy's own certificate: it is spoken to by https then.
        host: Name by which the endpoint says it is reached (loopback in any case).
    """

    def __init__(
        self, upstream: str, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port or 80)
        self._path = parts.path
        self._tls = tls
        self._host = host
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._random: list[_Random] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")
        self.requests: list[Request] = []
        self.port = 0

    @property
    def endpoint(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{self._host}:{self.port}{self._path}"

    def once(self, fault: Fault, *, method: str | None = None, match: str = "", times: int = 1):
        """Do it to the next matching request(s)."""
        with self._lock:
            self._rules.append(_Rule(fault, method, match, times))

    def always(self, fault: Fault, *, method: str | None = None, match: str = ""):
        """Do it to every matching request."""
        with self._lock:
            self._rules.append(_Rule(fault, method, match, None))

    def randomly(
        self,
        rate: float,
        faults: Sequence[Fault],
        *,
        seed: int,
        allowed: Callable[[Request], bool] = lambda _request: True,
    ):
        """Do one of ``faults`` to a share of the requests, the same ones for the same seed."""
        with self._lock:
            self._random.append(_Random(rate, faults, random.Random(seed), allowed))

    def clear(self):
        """Pass everything on from now."""
        with self._lock:
            self._rules.clear()
            self._random.clear()

    def injected(self, name: str | None = None) -> int:
        """Requests that something was done to."""
        with self._lock:
            return sum(1 for r in self.requests if r.fault and name in {None, r.fault.name})

    # -- life ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._tls, limit=256 * 1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    # -- requests -----------------------------------------------------------------------------

    def _fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if rule.takes(request):
                    if rule.times is not None:
                        rule.times -= 1
                    request.fault = rule.fault
                    return rule.fault
            for group in self._random:
                if group.allowed(request) and group.dice.random() < group.rate:
                    request.fault = group.dice.choice(group.faults)
                    return request.fault
            return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = _parse_request(head)
                fault = self._fault_for(request)
                size = int(request.headers.get("content-length", "0"))
                if fault and fault.name == "refuse":
                    return
                if fault and fault.name == "cut_request":
                    await reader.readexactly(min(size, fault.after))
                    return
                body = await reader.readexactly(size)
                if fault and fault.name == "stall_before":
                    await _silence(reader)
                    return
                if fault and fault.name == "flip_request" and body:
                    body = _flipped(body, fault.after)
                if fault and fault.name == "answer":
                    await _send(writer, request, _error(fault), None)
                    continue
                if fault and fault.name == "garbage":
                    writer.write(fault.data)
                    await writer.drain()
                    return
                if store is None or store[0].at_eof():
                    store = await asyncio.open_connection(*self._upstream)
                found = await _ask(store, request, head, body)
                if fault and fault.name == "lose_answer":
                    return
                if fault and fault.name == "stall" and fault.after is None:
                    await _silence(reader)
                    return
                if fault and fault.name == "delay":
                    await asyncio.sleep(fault.seconds)
                if fault and fault.name == "answer_after":
                    found = _error(fault)
                if fault and fault.name == "declare" and request.method == "HEAD":
                    request.fault = fault = None
                await _send(writer, request, _altered(found, fault), fault)
                if fault and fault.name == "stall":
                    await _silence(reader)
                    return
        except (asyncio.IncompleteReadError, ConnectionError, _CutError, asyncio.CancelledError):
            return
        finally:
            if store is not None:
                store[1].transport.abort()
            # Aborting would take back bytes of the answer that were to arrive.
            writer.close()


def _parse_request(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ", 2)
    pairs = (line.split(":", 1) for line in lines if line)
    return Request(method, target, {name.lower(): value.strip() for name, value in pairs})


async def _ask(store, request: Request, head: bytes, body: bytes) -> _Answer:
    reader, writer = store
    writer.write(head + body)
    await writer.drain()
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.split("\r\n")
    _version, number, *reason = first.split(" ", 2)
    headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines if line]
    known = {name.lower(): value for name, value in headers}
    if request.method == "HEAD" or int(number) in {204, 304}:
        content = b""
    elif known.get("transfer-encoding", "").lower() == "chunked":
        content = await _read_chunked(reader)
        headers = [pair for pair in headers if pair[0].lower() != "transfer-encoding"]
        headers.append(("Content-Length", str(len(content))))
    else:
        content = await reader.readexactly(int(known.get("content-length", "0")))
    headers = [pair for pair in headers if pair[0].lower() not in {"connection", "keep-alive"}]
    return _Answer(int(number), " ".join(reason), headers, content)


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        parts.append(await reader.readexactly(size))
        await reader.readline()
        if not size:
            return b"".join(parts)


def _error(fault: Fault) -> _Answer:
    body = f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>".encode()
    headers = [
        ("Content-Type", "application/xml"),
        ("Content-Length", str(len(body))),
        ("x-ms-request-id", "injected-by-the-fault-proxy"),
    ]
    if fault.code:
        headers.append(("x-ms-error-code", fault.code))
    if fault.retry_after is not None:
        headers.append(("Retry-After", f"{fault.retry_after:g}"))
    return _Answer(fault.status, "Injected", headers, body)


def _altered(found: _Answer, fault: Fault | None) -> _Answer:
    if fault is None:
        return found
    if fault.name == "status":
        found.status = fault.status
    if fault.name == "header":
        found.headers = [pair for pair in found.headers if pair[0].lower() != fault.header]
        if fault.value is not None:
            found.headers.append((fault.header, fault.value))
    if fault.name == "declare":
        size = str(max(0, len(found.body) + fault.after))
        found.headers = [p for p in found.headers if p[0].lower() != "content-length"]
        found.headers.append(("Content-Length", size))
    if fault.name == "flip" and found.body:
        found.body = _flipped(found.body, fault.after)
    return found


def _flipped(body: bytes, position: int) -> bytes:
    turned = bytearray(body)
    turned[position % len(body)] ^= 0x10
    return bytes(turned)


async def _send(writer, request: Request, found: _Answer, fault: Fault | None) -> None:
    lines = [f"HTTP/1.1 {found.status} {found.reason}"]
    lines += [f"{name}: {value}" for name, value in found.headers]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    body = b"" if request.method == "HEAD" else found.body
    if fault and fault.name == "drip":
        for start in range(0, len(body), fault.after):
            writer.write(body[start : start + fault.after])
            await writer.drain()
            await asyncio.sleep(fault.seconds)
        return
    limit = fault.after if fault and fault.name in {"cut", "stall"} else None
    writer.write(body[:limit])
    await writer.drain()
    if fault and (fault.name == "cut" or (fault.name == "declare" and fault.after > 0)):
        raise _CutError


async def _silence(reader: asyncio.StreamReader) -> None:
    """Until the client gives up."""
    while await reader.read(CHUNK):
        pass
