"""What is measured: experiments, their trials, and the rows that their figures make. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from bench.rows import OURS, Better, Costs, Row, Target, Value, at_most, value_of

if TYPE_CHECKING:
    from bench.workbench import Workbench

Role = Literal["ours", "peer", "limit"]

MIB = 1024 * 1024

#: What the driver may take beside the memory that it is told to use (bytes).
OVERHEAD = 96 * MIB


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one contender.

    Attributes:
        metrics: Its figures by name.
        costs: What it cost for each unit of work.
        costs_of: Other costs for single metrics, where a trial has several phases.
        memory: The driver's resident memory meanwhile: seconds since the begin, bytes.
    """

    metrics: Mapping[str, float]
    costs: Costs = field(default_factory=Costs)
    costs_of: Mapping[str, Costs] = field(default_factory=dict)
    memory: Sequence[tuple[float, int]] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One contender's way through an experiment: ``measure`` does it once."""

    name: str
    role: Role
    measure: Callable[[], Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A metric that makes a row.

    Attributes:
        metric: Its name in the samples.
        unit: Its unit.
        better: Which way is better.
        row: The row's name behind the experiment's title; empty for the title alone.
        targets: What ours should reach.
        borrowed: Limits that are metrics of other trials: name → (trial, metric).
    """

    metric: str
    unit: str
    better: Better = "higher"
    row: str = ""
    targets: tuple[Target, ...] = ()
    borrowed: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Contenders that are measured in turns.

    Attributes:
        suite: Name of the suite.
        title: What is done.
        server: Name of the service (:meth:`bench.workbench.Workbench.service`), or ``-``.
        cost_unit: What costs are divided by: ``GiB``, ``file``, ``operation``.
        figures: The rows.
        prepare: Makes the data and the trials.
        rounds: Fewer rounds than asked for, where one takes long; None: as asked for.
    """

    suite: str
    title: str
    server: str
    cost_unit: str
    figures: tuple[Figure, ...]
    prepare: Callable[[Workbench], AbstractContextManager[Sequence[Trial]]]
    rounds: int | None = None

    @property
    def name(self) -> str:
        """What ``--list`` shows and the command line selects."""
        return f"{self.suite}/{self.title} [{self.server}]"

    def selected_by(self, words: Sequence[str]) -> bool:
        """Whether one of ``SUITE`` or ``SUITE/TEXT`` means it; no words mean everything."""
        return not words or any(
            self.suite == suite and text.lower() in f"{self.title} [{self.server}]".lower()
            for suite, _, text in (word.partition("/") for word in words)
        )


def rows_of(
    experiment: Experiment,
    trials: Sequence[tuple[str, Role]],
    samples: Mapping[str, Sequence[Sample]],
    *,
    memory_budget: int,
) -> list[Row]:
    """The rows of an experiment.

    Args:
        experiment: What was measured.
        trials: Names and roles.
        samples: What the rounds gave, by the trial's name.
        memory_budget: Bytes that our driver is configured to use.
    """

    def value(trial: str, metric: str) -> Value | None:
        return value_of(
            (sample.metrics[metric], sample.costs_of.get(metric, sample.costs))
            for sample in samples.get(trial, ())
            if metric in sample.metrics
        )

    def row(figure: Figure) -> Row:
        def of(role: Role) -> dict[str, Value]:
            found = {name: value(name, figure.metric) for name, each in trials if each == role}
            return {name: known for name, known in found.items() if known is not None}

        borrowed = {name: value(*source) for name, source in figure.borrowed.items()}
        return Row(
            suite=experiment.suite,
            row=f"{experiment.title}: {figure.row}" if figure.row else experiment.title,
            server=experiment.server,
            unit=figure.unit,
            better=figure.better,
            cost_unit=experiment.cost_unit,
            ours=value(OURS, figure.metric),
            peers=of("peer"),
            limits=of("limit")
            | {name: known for name, known in borrowed.items() if known is not None},
            targets=figure.targets,
        )

    return [row(figure) for figure in experiment.figures] + _memory(
        row, dict(trials), samples, memory_budget=memory_budget
    )


def _memory(
    row: Callable[[Figure], Row],
    roles: Mapping[str, Role],
    samples: Mapping[str, Sequence[Sample]],
    *,
    memory_budget: int,
) -> list[Row]:
    """The row of the drivers' peak memory, where it is known. A limit's data is its own memory."""
    most = (memory_budget + OVERHEAD) / MIB
    figure = Figure(metric="", unit="MiB", better="lower", row="peak RSS", targets=(at_most(most),))

    def peaks(name: str) -> Value | None:
        return value_of(
            (sample.costs.peak_rss / MIB, Costs())
            for sample in samples.get(name, ())
            if sample.costs.peak_rss
        )

    ours = peaks(OURS)
    if ours is None:
        return []
    found = {name: peaks(name) for name, role in roles.items() if role == "peer"}
    peers = {name: known for name, known in found.items() if known is not None}
    timelines = {
        name: [(seconds, size / MIB) for seconds, size in samples[name][-1].memory]
        for name in (OURS, *peers)
        if samples[name][-1].memory
    }
    return [replace(row(figure), ours=ours, peers=peers, timelines=timelines)]
