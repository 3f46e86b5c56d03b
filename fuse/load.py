"""What a mount was waiting for since somebody last asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: From this share of the time on, something dominates.
_MOST = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Totals since the mount began, in seconds.

    Attributes:
        elapsed: Time that has passed.
        processor: The driver's user and system time.
        reading: Time that reads waited for bytes, of all readers together.
        answering: Time until the store began to answer, of all requests together.
    """

    elapsed: float
    processor: float
    reading: float
    answering: float


def dominant(before: Sample, now: Sample) -> str:
    """What most of the time between two samples went to.

    Returns:
        ``processor`` (a driver has one: when that was busy, nothing else was slower), ``store`` (it
        is slow to begin), ``transfer`` (bytes are slow to come), or ``idle``.
    """
    elapsed = max(now.elapsed - before.elapsed, 1e-9)
    if (now.processor - before.processor) / elapsed >= _MOST:
        return "processor"
    reading = now.reading - before.reading
    if reading / elapsed < 1 - _MOST:
        return "idle"
    return "store" if (now.answering - before.answering) >= _MOST * reading else "transfer"


class Meter:
    """Remembers the last sample.

    Args:
        clock: Seconds, from any point in time on.
        processor: Seconds of user and system time that this process took.
    """

    def __init__(self, clock: Callable[[], float], processor: Callable[[], float]) -> None:
        self._clock = clock
        self._processor = processor
        self._last = self._sample(0.0, 0.0)

    def figures(self, reading: float, answering: float) -> dict[str, float | str]:
        """For ``stats``; see :class:`Sample` for the arguments."""
        before, self._last = self._last, self._sample(reading, answering)
        return {
            "processor_seconds": round(self._last.processor, 3),
            "dominant": dominant(before, self._last),
        }

    def _sample(self, reading: float, answering: float) -> Sample:
        return Sample(
            elapsed=self._clock(),
            processor=self._processor(),
            reading=reading,
            answering=answering,
        )
