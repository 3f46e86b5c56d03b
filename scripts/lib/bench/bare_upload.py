"""Blocks of one blob over our transport, with no file system. ``python -m bench.bare_upload``.

Takes a task as JSON on standard input, and answers in JSON.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import sys
import time
from typing import Any
from urllib.parse import quote, urlsplit

import trio

from bench import programs
from bench.servers import Service
from fuse.blob.transport import Pool

_MIB = 1024 * 1024

#: Bytes of a block.
_BLOCK = 8 * _MIB


def upload(service: Service, container: str, size: int, *, connections: int) -> tuple[float, float]:
    """Upload a blob of noise in blocks, ``connections`` at a time.

    Returns:
        Seconds until it was committed, and CPU seconds of the client.

    Raises:
        BenchError: The server did not answer as it should.
    """
    task = {
        "endpoint": service.endpoint,
        "container": container,
        "sas": service.sas,
        "size": size,
        "connections": connections,
    }
    found = programs.ask("bare_upload", task, "the bare upload")
    return found["seconds"], found["cpu"]


async def _run(task: dict[str, Any]) -> dict[str, Any]:
    pool = Pool(task["endpoint"], limit=task["connections"])
    target = f"{urlsplit(task['endpoint']).path}/{task['container']}/{quote('bare')}"
    noise = memoryview(os.urandom(_BLOCK))
    starts = iter(range(0, task["size"], _BLOCK))
    identifiers: list[str] = []

    async def put(query: str, body: bytes | memoryview) -> None:
        headers = {"x-ms-version": "2021-12-02"}
        answer = await pool.request("PUT", f"{target}?{query}&{task['sas']}", headers, body=body)
        if answer.status != 201:
            raise SystemExit(f"HTTP {answer.status}")

    async def worker() -> None:
        for start in starts:
            identifier = base64.b64encode(f"{start:016}".encode()).decode()
            identifiers.append(identifier)
            block = noise[: min(_BLOCK, task["size"] - start)]
            await put(f"comp=block&blockid={quote(identifier, safe='')}", block)

    used = resource.getrusage(resource.RUSAGE_SELF)
    begin = time.monotonic()
    async with trio.open_nursery() as nursery:
        for _ in range(task["connections"]):
            nursery.start_soon(worker)
    listed = "".join(f"<Latest>{identifier}</Latest>" for identifier in sorted(identifiers))
    await put("comp=blocklist", f"<BlockList>{listed}</BlockList>".encode())
    seconds = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    pool.close()
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {"seconds": seconds, "cpu": cpu}


def main() -> None:
    """Do one task."""
    print(json.dumps(trio.run(_run, json.loads(sys.stdin.read()))))


if __name__ == "__main__":
    main()
