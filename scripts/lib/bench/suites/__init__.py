"""The suites, by name."""

from __future__ import annotations

from collections.abc import Callable

from bench.experiments import Experiment
from bench.suites import life, listing, read, write

#: Name → what it measures, in the order in which they run.
SUITES: dict[str, Callable[[], list[Experiment]]] = {
    "read": read.experiments,
    "listing": listing.experiments,
    "write": write.experiments,
    "life": life.experiments,
}


def all_experiments() -> list[Experiment]:
    """Of all suites."""
    return [experiment for suite in SUITES.values() for experiment in suite()]
