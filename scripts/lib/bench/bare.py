"""Our transport with no file system: what the network lets through. ``python -m bench.bare``.

Takes a task as JSON on standard input, and answers in JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import trio

from fuse.blob.routes import Route
from fuse.blob.transport import Pool


class _Client:
    """Fetches ranges with no regard to what they are for."""

    def __init__(self, task: dict[str, Any]) -> None:
        authority = Path(task["authority"]) if task["authority"] else None
        self._pool = Pool(
            task["endpoint"], limit=task["connections"], route=Route(ca_bundle=authority)
        )
        self._base = f"{urlsplit(task['endpoint']).path}/{task['container']}"
        self._sas = task["sas"]
        self.received = 0
        self.latencies: list[float] = []

    async def fetch(self, name: str, start: int, buffer: memoryview) -> None:
        target = f"{self._base}/{quote(name)}?{self._sas}"
        wanted = f"bytes={start}-{start + len(buffer) - 1}"
        headers = {"x-ms-range": wanted, "x-ms-version": "2021-12-02"}
        begin = time.perf_counter()
        response = await self._pool.request("GET", target, headers, into=buffer)
        self.latencies.append(time.perf_counter() - begin)
        if response.status not in {200, 206} or response.received != len(buffer):
            raise SystemExit(f"{name}: HTTP {response.status}, {response.received} bytes")
        self.received += len(buffer)

    async def all(self, ranges: Iterator[tuple[str, int, int]], connections: int) -> None:
        async def worker() -> None:
            scratch = memoryview(bytearray())
            for name, start, size in ranges:
                if size > len(scratch):
                    scratch = memoryview(bytearray(size))
                await self.fetch(name, start, scratch[:size])

        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(worker)

    def close(self) -> None:
        self._pool.close()


async def _run(task: dict[str, Any]) -> dict[str, Any]:
    client = _Client(task)
    ranges = [tuple(item) for item in task["ranges"]]
    connections = task["connections"]
    # Connections are opened before the clock starts: a mount has them, too.
    warm = iter([(*ranges[0][:2], 1)] * connections)
    await client.all(warm, connections)
    client.latencies.clear()
    client.received = 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    begin = time.monotonic()
    await client.all(iter(ranges), connections)
    seconds = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    client.close()
    return {
        "seconds": seconds,
        "bytes": client.received,
        "cpu": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime,
        "latencies": client.latencies,
    }


def main() -> None:
    """Do one task."""
    print(json.dumps(trio.run(_run, json.loads(sys.stdin.read()))))


if __name__ == "__main__":
    main()
