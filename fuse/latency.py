"""How long things take, as percentiles: a pure histogram that costs next to nothing to add to."""

from __future__ import annotations

#: Buckets for each doubling: a percentile is right within 1/8.
_STEPS = 8

#: Doublings from one microsecond on: the last bucket begins beyond two minutes.
_DOUBLINGS = 28


class Latencies:
    """Counts durations in buckets whose width grows with them.

    Attributes:
        count: How many there were.
        total: Their sum in seconds.
        least: The shortest of them in seconds; infinity when there was none.
    """

    __slots__ = ("_buckets", "count", "least", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.least = float("inf")
        self._buckets = [0] * (_STEPS * _DOUBLINGS)

    def add(self, seconds: float) -> None:
        """Note one duration."""
        self.count += 1
        self.total += seconds
        self.least = min(self.least, seconds)
        micros = max(int(seconds * 1e6), 1)
        doubling = micros.bit_length() - 1
        step = ((micros << 3) >> doubling) - _STEPS
        self._buckets[min(doubling * _STEPS + step, len(self._buckets) - 1)] += 1

    def percentile(self, share: float) -> float:
        """Seconds that this share (0 to 1) did not exceed, within 1/8; 0 when there are none."""
        left = share * self.count
        for index, number in enumerate(self._buckets):
            left -= number
            if number and left <= 0:
                doubling, step = divmod(index, _STEPS)
                return (1 << doubling) * (1 + (step + 1) / _STEPS) / 1e6
        return 0.0

    def figures(self, name: str) -> dict[str, int | float]:
        """``NAME_p50_ms`` and so on, ``NAME_seconds`` in all and ``NAME_count``, for ``stats``."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
        percentiles = {
            f"{name}_{label}_ms": round(self.percentile(share) * 1e3, 3)
            for label, share in shares.items()
        }
        return {
            f"{name}_count": self.count,
            f"{name}_seconds": round(self.total, 3),
            **percentiles,
        }
