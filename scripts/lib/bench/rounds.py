"""Rounds: every contender once, then every contender again, so that a machine's moods hit all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

from bench.errors import BenchError
from bench.experiments import Sample, Trial

#: Told of each measurement: the round (from 0), the trial, its sample or why there is none.
Listener = Callable[[int, Trial, Sample | Exception], None]


def run(trials: Sequence[Trial], rounds: int, tell: Listener) -> dict[str, list[Sample]]:
    """Measure all of ``trials`` in turns.

    A trial that fails is left out of the rounds that remain: what it gave before counts no more,
    and ``tell`` hears of it.

    Args:
        trials: In the order of each round.
        rounds: How many.
        tell: See :data:`Listener`.

    Returns:
        Samples by the trial's name, one a round.
    """
    samples: dict[str, list[Sample]] = {trial.name: [] for trial in trials}
    failed: set[str] = set()
    for number in range(rounds):
        for trial in trials:
            if trial.name in failed:
                continue
            try:
                sample = trial.measure()
            except (BenchError, OSError, subprocess.SubprocessError) as error:
                failed.add(trial.name)
                samples[trial.name] = []
                tell(number, trial, error)
            else:
                samples[trial.name].append(sample)
                tell(number, trial, sample)
    return samples
