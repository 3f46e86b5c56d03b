"""Rows of the result: medians with their spread, ratios, targets. Pure.

A row compares one figure of ours with that of each peer and each limit. ``as_dict`` is the JSON,
and ``from_dict`` reads it again.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Better = Literal["higher", "lower"]

#: Fields of a row that JSON has as they are.
_WORDS = ("suite", "row", "server", "unit", "better", "cost_unit")

#: Name of our own contender everywhere.
OURS = "ours"


@dataclass(frozen=True, slots=True)
class Costs:
    """What a measurement cost, beside its result. None where it cannot be known.

    Attributes:
        cpu_driver: CPU seconds (user and system) of the mount's driver.
        cpu_all: The same of driver, server and readers together.
        requests: Requests that the server answered.
        wire_bytes: Bytes that went over the wire, both ways, heads included.
        peak_rss: Largest resident memory of the driver in bytes.
    """

    cpu_driver: float | None = None
    cpu_all: float | None = None
    requests: float | None = None
    wire_bytes: float | None = None
    peak_rss: float | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """A figure over all rounds.

    Attributes:
        samples: One number a round.
        costs: One record a round.
    """

    samples: tuple[float, ...]
    costs: tuple[Costs, ...] = ()

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest."""
        return min(self.samples), max(self.samples)

    def cost(self, name: str) -> float | None:
        """Median of one of the costs, None where it is not known."""
        known = [value for each in self.costs if (value := getattr(each, name)) is not None]
        return statistics.median(known) if known else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "median": self.median,
            "spread": list(self.spread),
            "samples": list(self.samples),
            **{name: self.cost(name) for name in Costs.__dataclass_fields__},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Value:
        """From JSON, which has the costs' medians only. KeyError where it is no such thing."""
        costs = Costs(**{name: document[name] for name in Costs.__dataclass_fields__})
        return cls(tuple(document["samples"]), (costs,))


@dataclass(frozen=True, slots=True)
class Target:
    """What ours should reach.

    Attributes:
        factor: Times the reference, or the figure itself where there is none.
        of: Name of a peer or a limit; of several whose names begin so, the best counts.
        least: Ours should be at least that; else at most.
    """

    factor: float
    of: str | None = None
    least: bool = True

    def __str__(self) -> str:
        sign = "≥" if self.least else "≤"
        return f"{sign} {self.factor:g}" + (f" × {self.of}" if self.of else "")

    @classmethod
    def parse(cls, text: str) -> Target:
        """From what ``str`` makes of it. ValueError where it is nothing such."""
        sign, _, rest = text.partition(" ")
        factor, _, of = rest.partition(" × ")
        if sign not in {"≥", "≤"}:
            raise ValueError(f"{text!r} is no target")
        return cls(float(factor), of or None, least=sign == "≥")

    def reference(self, others: Mapping[str, float], better: Better) -> float | None:
        """What is compared with; None where it was not measured."""
        if self.of is None:
            return 1.0
        if self.of in others:
            return others[self.of]
        known = [value for name, value in others.items() if name.startswith(self.of)]
        if not known:
            return None
        return max(known) if better == "higher" else min(known)

    def met(self, ours: float, others: Mapping[str, float], better: Better) -> bool | None:
        """Whether it is reached; None where it cannot be told."""
        reference = self.reference(others, better)
        if reference is None:
            return None
        wanted = self.factor * reference
        return ours >= wanted if self.least else ours <= wanted


def at_least(factor: float, of: str | None = None) -> Target:
    """``≥ factor × of``."""
    return Target(factor, of)


def at_most(factor: float, of: str | None = None) -> Target:
    """``≤ factor × of``."""
    return Target(factor, of, least=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result.

    Attributes:
        timelines: How the figure went in the last round, by contender: seconds, value. Of memory.
    """

    suite: str
    row: str
    server: str
    unit: str
    better: Better
    cost_unit: str
    ours: Value | None
    peers: Mapping[str, Value] = field(default_factory=dict)
    limits: Mapping[str, Value] = field(default_factory=dict)
    targets: Sequence[Target] = ()
    timelines: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """In words; empty where there is none."""
        return "; ".join(str(target) for target in self.targets)

    @property
    def others(self) -> dict[str, float]:
        """Medians of peers and limits."""
        return {name: value.median for name, value in {**self.peers, **self.limits}.items()}

    @property
    def met(self) -> bool | None:
        """Whether all targets are; None where there is none, or it cannot be told."""
        if self.ours is None or not self.targets:
            return None
        found = [target.met(self.ours.median, self.others, self.better) for target in self.targets]
        if False in found:
            return False
        return None if None in found else True

    @property
    def ratios(self) -> dict[str, float]:
        """Ours over what each target compares it with."""
        if self.ours is None:
            return {}
        references = {
            target.of: target.reference(self.others, self.better)
            for target in self.targets
            if target.of is not None
        }
        return {
            name: self.ours.median / reference
            for name, reference in references.items()
            if reference
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "suite": self.suite,
            "row": self.row,
            "server": self.server,
            "unit": self.unit,
            "better": self.better,
            "cost_unit": self.cost_unit,
            "ours": None if self.ours is None else self.ours.as_dict(),
            "peers": {name: value.as_dict() for name, value in self.peers.items()},
            "limits": {name: value.as_dict() for name, value in self.limits.items()},
            "target": self.target,
            "ratios": self.ratios,
            "met": self.met,
            **({"timelines": dict(self.timelines)} if self.timelines else {}),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Row:
        """From JSON. KeyError, TypeError or ValueError where it is no row."""

        def values(name: str) -> dict[str, Value]:
            return {who: Value.from_dict(value) for who, value in document[name].items()}

        targets = filter(None, document["target"].split("; "))
        return cls(
            **{name: document[name] for name in _WORDS},
            ours=None if document["ours"] is None else Value.from_dict(document["ours"]),
            peers=values("peers"),
            limits=values("limits"),
            targets=tuple(Target.parse(text) for text in targets),
            timelines={
                who: tuple((seconds, value) for seconds, value in line)
                for who, line in document.get("timelines", {}).items()
            },
        )


def value_of(samples: Iterable[tuple[float, Costs]]) -> Value | None:
    """A value of what the rounds gave; None where no round gave anything."""
    pairs = list(samples)
    if not pairs:
        return None
    return Value(tuple(number for number, _ in pairs), tuple(costs for _, costs in pairs))
