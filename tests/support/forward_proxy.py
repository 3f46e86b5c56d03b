"""A small forward proxy: absolute-form for http, CONNECT for https, with or without a password."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Self
from urllib.parse import urlsplit


class ForwardProxy:
    """Runs in a thread.

    Args:
        password: What user ``who`` has to show, or None.
        names: Host name → address, or address and port, for names that only the proxy knows.

    Attributes:
        requests: First lines of the heads that came.
    """

    def __init__(self, password: str | None = None, names: dict[str, str] | None = None) -> None:
        self._expected = None
        if password is not None:
            self._expected = "Basic " + base64.b64encode(f"who:{password}".encode()).decode()
        self._names = names or {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="forward proxy")
        self.requests: list[str] = []
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

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
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _serve(self, reader, writer) -> None:
        store = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            self.requests.append(first)
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            given = next((x.split(": ", 1)[1] for x in lines if x[:6].lower() == "proxy-"), None)
            if given != self._expected:
                writer.write(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
                )
                return
            method, target, _version = first.split(" ")
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                store = await self._connect(host, int(port))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                parts = urlsplit(target)
                store = await self._connect(parts.hostname, parts.port or 80)
                path = target.split(parts.netloc, 1)[1]
                kept = [x for x in lines if x and x[:6].lower() != "proxy-"]
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                rest = "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close"])
                store[1].write(rest.encode("latin-1") + b"\r\n\r\n" + body)
            await asyncio.gather(
                self._pump(reader, store[1]), self._pump(store[0], writer), return_exceptions=True
            )
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            return
        finally:
            if store is not None:
                store[1].transport.abort()
            writer.close()

    async def _connect(self, host, port):
        address, _, elsewhere = self._names.get(host, host).partition(":")
        return await asyncio.open_connection(address, int(elsewhere or port))

    async def _pump(self, source, sink) -> None:
        while data := await source.read(64 * 1024):
            sink.write(data)
            await sink.drain()
        sink.close()
