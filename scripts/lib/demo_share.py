"""The demo's own view of the file share: an SMB client that shares nothing with the mounts.

What the demo says about the share, it has read with this client, from the server, beside the agent.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

POLL_S = 0.02


@dataclass(frozen=True)
class Sighting:
    """The first bytes of a file that the share showed.

    Attributes:
        size: Bytes that were there.
        delay_s: Seconds since the moment named by the file's first line, None if it names none.
    """

    size: int
    delay_s: float | None


class Share:
    """One share of one SMB server, opened with an account's name and key."""

    def __init__(self, endpoint: str, share: str, account: str, key: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._root = rf"\\{host}\{share}"
        self._connections: dict[str, Any] = {}
        self._options: dict[str, Any] = {
            "username": account,
            "password": key,
            "port": int(port),
            "encrypt": True,
            "connection_cache": self._connections,
        }

    def read(self, path: str) -> bytes:
        """The whole file. FileNotFoundError (an OSError) when it is not there."""
        import smbclient

        name = self._root + "\\" + path.replace("/", "\\")
        with smbclient.open_file(name, mode="rb", share_access="rwd", **self._options) as file:
            content: bytes = file.read()
            return content

    def close(self) -> None:
        """Close the connection."""
        import smbclient

        smbclient.reset_connection_cache(fail_on_error=False, connection_cache=self._connections)


def delay_of(content: bytes, now: datetime) -> float | None:
    """Seconds from the time in the first line, ``started at <ISO 8601> ...``, to ``now``."""
    words = content.decode(errors="replace").partition("\n")[0].split()
    if words[:2] != ["started", "at"] or len(words) < 3:
        return None
    try:
        return (now - datetime.fromisoformat(words[2])).total_seconds()
    except (ValueError, TypeError):
        return None


class Watcher:
    """Looks for a file on the share until it holds a line, in a thread of its own."""

    def __init__(self, share: Share, path: str, seen: Callable[[Sighting], None]) -> None:
        self._share = share
        self._path = path
        self._seen = seen
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="share watcher", daemon=True)
        self.sighting: Sighting | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                content = self._share.read(self._path)
            except OSError:  # not there yet
                content = b""
            if b"\n" in content:
                self.sighting = Sighting(len(content), delay_of(content, datetime.now(UTC)))
                self._seen(self.sighting)
                return
            self._stopping.wait(POLL_S)


def read_until(share: Share, path: str, size: int, timeout_s: float) -> bytes:
    """The file, as soon as it is ``size`` bytes long, or as it is when the time is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        content = share.read(path)
        if len(content) >= size or time.monotonic() > deadline:
            return content
        time.sleep(POLL_S)
