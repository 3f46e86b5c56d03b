"""Spool files: what the job wrote, on the local disk, before anything else happens to it.

A spool only ever grows: the shipper and the followers of a log go by offset, so bytes once
written are never taken back, not even half a marker.
"""

# ruff: noqa: PTH118 - pathlib would cost start-up time

import os

from agent.supervisor.log import log

_RETRY_SECONDS = 0.5
"""After a failed write output is dropped for so long before the disk is tried again."""


class Quota:
    """Bytes that all streams of a job may still spool; None is no limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._left = limit

    def take(self, wanted: int) -> int:
        """How many of `wanted` bytes may be kept."""
        if self._left is None:
            return wanted
        granted = min(wanted, self._left)
        self._left -= granted
        return granted


class Spool:
    """One stream's file. Never raises on a full or broken disk: it drops, counts and marks."""

    def __init__(self, directory: str, name: str, quota: Quota, tail_bytes: int) -> None:
        self.name = name
        self._tail_bytes = tail_bytes
        path = os.path.join(directory, name)
        flags = os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, os.O_WRONLY | flags, 0o600)
        self.reader = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        """For the shipper, which may not open the file by its name."""
        self.written = 0
        self.dropped = 0
        self.tail = b""
        """The last bytes of the stream, whether they could be kept or not."""
        self.tail_cut = False
        """Whether there was more before `tail`."""
        self.error: str | None = None
        self._quota = quota
        self._cut = False
        self._unmarked = 0
        """Bytes dropped since the last marker."""
        self._pending = b""
        """The rest of a marker that did not fit."""
        self._retry_at = 0.0

    def append(self, data: bytes, now: float) -> None:
        """Keep `data`, or drop and count it."""
        keep = self._tail_bytes
        self.tail_cut = self.tail_cut or len(self.tail) + len(data) > keep
        self.tail = (self.tail + data[-keep:])[-keep:]
        if self._cut or now < self._retry_at:
            self._drop(len(data))
            return
        if not self._settle(now):
            self._drop(len(data))
            return
        granted = self._quota.take(len(data))
        kept = self._put(data if granted == len(data) else data[:granted], now)
        self._drop(len(data) - kept)
        if granted < len(data):
            self._cut = True
            limit = self._quota.limit
            self._pending = (
                f"\n[batchai: output cut here: the spool quota of {limit} bytes is used up]\n"
            ).encode()
            self._flush_pending(now)

    def finish(self, now: float) -> None:
        """The stream has ended: the last marker, and what is there goes to the disk."""
        self._settle(now)
        try:
            os.fsync(self._fd)
        except OSError as error:
            log("error", "spool.sync-failed", stream=self.name, error=str(error))
        os.close(self._fd)
        self._fd = -1

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._unmarked += count

    def _settle(self, now: float) -> bool:
        """Write the markers that are due; False when the disk does not take them."""
        if not self._flush_pending(now):
            return False
        if self._unmarked == 0:
            return True
        cause = "" if self._cut else f": {self.error}"
        self._pending = f"\n[batchai: {self._unmarked} bytes of output dropped{cause}]\n".encode()
        self._unmarked = 0
        return self._flush_pending(now)

    def _flush_pending(self, now: float) -> bool:
        self._pending = self._pending[self._put(self._pending, now) :]
        return not self._pending

    def _put(self, data: bytes, now: float) -> int:
        """Write what the disk takes of `data`."""
        done = 0
        view = memoryview(data)
        try:
            while done < len(data):
                count = os.write(self._fd, view[done:])
                done += count
                self.written += count
        except OSError as error:
            self._retry_at = now + _RETRY_SECONDS
            if self.error is None:
                log("error", "spool.write-failed", stream=self.name, error=str(error))
            self.error = error.strerror or str(error)
        return done
