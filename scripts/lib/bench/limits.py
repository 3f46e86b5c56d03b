"""What nobody can be faster than: the bare client and the null driver."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import mounting, programs
from bench.contenders import Mounted
from bench.errors import BenchError
from bench.servers import Service
from bench.waiting import wait_until

_PATIENCE = 60.0

#: A part of a blob, as a request asks for it: name, offset, size.
Range = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the bare client did.

    Attributes:
        seconds: From the first request to the last byte.
        bytes: Of content.
        cpu: CPU seconds of the client.
        median_latency: Seconds of the median request.
    """

    seconds: float
    bytes: int
    cpu: float
    median_latency: float


def fetch(
    service: Service, container: str, ranges: Sequence[Range], *, connections: int
) -> Fetched:
    """Fetch ranges with our transport alone, ``connections`` at a time.

    Raises:
        BenchError: The server did not answer as it should.
    """
    task = {
        "endpoint": service.endpoint,
        "container": container,
        "sas": service.sas,
        "authority": None if service.authority is None else os.fspath(service.authority),
        "ranges": ranges,
        "connections": connections,
    }
    found = programs.ask("bare", task, "the bare client")
    latency = statistics.median(found["latencies"])
    return Fetched(found["seconds"], found["bytes"], found["cpu"], latency)


def parts(name: str, size: int, part: int) -> list[Range]:
    """A whole blob in ranges."""
    return [(name, start, min(part, size - start)) for start in range(0, size, part)]


class NullDriver:
    """Our file system layer over files in memory, in place of a contender.

    Args:
        root: What a static server's container holds.
    """

    name = "null driver"

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextlib.contextmanager
    def mounted(
        self,
        service: Service,  # noqa: ARG002 -- it needs none
        container: str,
        place: Path,
        *,
        read_only: bool = True,
    ) -> Iterator[Mounted]:
        """See :class:`bench.contenders.Contender`."""
        mountpoint = place / "m"
        mountpoint.mkdir(parents=True, exist_ok=True)
        instructions = {
            "version": 1,
            "kind": "blob",
            "account": "null",
            "container": container,
            "credential": {"anonymous": True},
            "endpoint": "http://127.0.0.1:9/null",
            "mountpoint": os.fspath(mountpoint),
            "cacheDir": os.fspath(place / "cache"),
            "diskBudget": 0,
            "readOnly": read_only,
        }
        log = place / "null.log"
        begin = time.monotonic()
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [*programs.command("null"), os.fspath(self._root)],
                env=programs.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                    stdin.write(json.dumps(instructions).encode())
                answer = process.stdout.readline()
                if b'"mounted"' not in answer:
                    said = answer.decode() + log.read_text(errors="replace")
                    raise BenchError(f"the null driver did not come up: {said[-500:]}")
                yield Mounted(mountpoint, (process.pid,), None, time.monotonic() - begin)
                process.terminate()
                wait_until(lambda: process.poll() is not None, _PATIENCE, "the null driver's end")
            finally:
                if process.poll() is None:
                    process.kill()
                if mounting.is_there(mountpoint):
                    mounting.detach(mountpoint)
