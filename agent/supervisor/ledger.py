"""The offset ledger: what is spooled, what the far end holds, what to send next, when to stop.

Pure: no file, no clock. Offsets and lengths are in bytes, times in seconds of one monotonic clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

CHUNK_BYTES = 1 << 20
"""One write to the far end: the largest that SMB on Azure Files takes."""
_BACKOFF_FIRST = 0.25
_BACKOFF_LAST = 5.0


class ForeignContent(Exception):  # noqa: N818 - named for what it is
    """The far file holds what this job did not write; it is reported and left alone."""


def resume_offset(*, far: int, spooled: int, confirmed: int, owned: bool, agreement: int) -> int:
    """Where to go on in a far file that is `far` bytes long.

    Args:
        far: Length of the far file.
        spooled: Length of the spool.
        confirmed: Bytes that an earlier attempt has written and synced.
        owned: Whether an earlier attempt of this job had accepted the file as its own.
        agreement: Offset of the first byte that differs from the spool; `far` when none does
            (of those that were compared).

    Raises:
        ForeignContent: the file is not a beginning of the spool.
    """
    if far > spooled:
        raise ForeignContent(
            f"is {far} bytes long, but the job has written only {spooled}: not overwritten"
        )
    if agreement >= far:
        return far
    # What follows the confirmed bytes may be a write of ours that broke half-way (a hole, or
    # zeros after a server's crash). Nothing before them may be.
    if owned and agreement >= confirmed:
        return confirmed
    raise ForeignContent(
        f"differs at byte {agreement} from what the job has written: not overwritten"
    )


@dataclass(slots=True)
class Cursor:
    """The shipper's place in one far file."""

    confirmed: int = 0
    """Bytes written and synced at the far end."""
    owned: bool = False
    position: int | None = None
    """Next byte to write; None until the far end has been looked at."""
    failures: int = 0
    retry_at: float = 0.0

    def opened(self, *, far: int, spooled: int, agreement: int) -> None:
        """The far file was looked at: see `resume_offset`."""
        self.position = None
        self.position = resume_offset(
            far=far,
            spooled=spooled,
            confirmed=self.confirmed,
            owned=self.owned,
            agreement=agreement,
        )
        self.owned = True
        self.confirmed = min(self.confirmed, self.position)

    def next_chunk(self, spooled: int) -> tuple[int, int] | None:
        """Offset and length of the next write, None when the far end has caught up."""
        if self.position is None or self.position >= spooled:
            return None
        return self.position, min(CHUNK_BYTES, spooled - self.position)

    def wrote(self, count: int) -> None:
        """The far end took `count` bytes; they are not safe before `synced`."""
        if self.position is None:
            raise AssertionError("written before the far end was looked at")
        self.position += count

    def synced(self) -> None:
        """Everything written so far is safe at the far end."""
        if self.position is not None:
            self.confirmed = self.position
        self.failures = 0
        self.retry_at = 0.0

    def failed(self, now: float) -> None:
        """Forget the far file, and leave it alone for a while."""
        self.position = None
        delay = min(_BACKOFF_LAST, _BACKOFF_FIRST * 2.0 ** min(self.failures, 16))
        self.failures += 1
        self.retry_at = now + delay

    def hurry(self) -> None:
        """Try again at once."""
        self.failures = 0
        self.retry_at = 0.0


@dataclass(slots=True)
class StreamLedger:
    """The supervisor's view of one stream."""

    name: str
    spooled: int = 0
    shipped: int = 0
    """Bytes safe at the far end, as the shipper reports them."""
    seen: int = 0
    """Length of the spool when the shipper last looked."""
    owned: bool = False
    error: str | None = None
    hopeless: bool = False
    """The error will not go away by waiting: a symbolic link, foreign content."""
    complete: bool = False
    """The far file was closed, looked at again, and is as long as the spool was then."""

    @property
    def done(self) -> bool:
        """All that was spooled is at the far end."""
        return self.complete and self.shipped == self.spooled

    @property
    def shortfall(self) -> int:
        """Bytes that the far end lacks."""
        return max(0, self.spooled - self.shipped)


class Verdict(Enum):
    """What is to be done about the far end."""

    WAIT = "wait"
    DONE = "done"
    SHORTFALL = "shortfall"


class Drain:
    """Decides how long the end of a job waits for the far end.

    Progress is a new maximum of the bytes shipped, so that a far file that is truncated again and
    again cannot hold a job for ever.
    """

    def __init__(self, streams: Sequence[StreamLedger], timeout: float, now: float) -> None:
        self._streams = streams
        self._timeout = timeout
        self._deadline = now + timeout
        self._cap = float("inf")
        self._most = self._total()

    def _total(self) -> int:
        return sum(stream.shipped for stream in self._streams)

    def cap(self, deadline: float) -> None:
        """Wait no longer than until `deadline`, progress or not."""
        self._cap = min(self._cap, deadline)

    def decide(self, now: float, *, finishing: bool) -> Verdict:
        """What to do now.

        Args:
            now: The clock.
            finishing: Whether the shipper's last report came after it was told that the spools
                are complete: an error before that may be out of date.
        """
        if finishing and all(stream.done for stream in self._streams):
            return Verdict.DONE
        if self._total() > self._most:
            self._most = self._total()
            self._deadline = now + self._timeout
        if now >= min(self._deadline, self._cap):
            return Verdict.SHORTFALL
        if finishing and all(stream.done or stream.hopeless for stream in self._streams):
            return Verdict.SHORTFALL
        return Verdict.WAIT

    def next_deadline(self) -> float:
        """When `decide` is due even if nothing happens."""
        return min(self._deadline, self._cap)
