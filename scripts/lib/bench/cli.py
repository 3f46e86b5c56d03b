"""The command ``scripts/bench``."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from bench import markdown, plots, report, rounds
from bench.contenders import Peer
from bench.data import FULL, QUICK, TINY
from bench.errors import BenchError
from bench.experiments import Experiment, Sample, Trial, rows_of
from bench.rows import Row
from bench.suites import SUITES, all_experiments
from bench.workbench import Workbench
from fuse.options import MountOptions

#: Exit codes beside 0.
FAILED, MISSED = 1, 2


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("suites", nargs=-1, metavar="[SUITE[/TEXT]]...")
@click.option("--quick", is_flag=True, help="Less data, fewer rounds.")
@click.option("--tiny", is_flag=True, hidden=True, help="For tests: next to no data.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the rows there.")
@click.option(
    "--markdown", "markdown_file", type=click.Path(path_type=Path), help="Write tables there."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw plots (SVG) into there.")
@click.option("--peer", "peers", multiple=True, metavar="'NAME=COMMAND … {dir}'")
@click.option("--rounds", "wanted_rounds", type=click.IntRange(1), help="In place of 5 (or 3).")
@click.option("--work", type=click.Path(path_type=Path), help="Directory for data; else TMPDIR.")
@click.option("--list", "only_list", is_flag=True, help="Say what there is to measure.")
@click.option("--strict", is_flag=True, help="Exit with 2 where a target is missed.")
def main(
    *,
    suites: tuple[str, ...],
    quick: bool,
    tiny: bool,
    json_file: Path | None,
    markdown_file: Path | None,
    plot: Path | None,
    peers: tuple[str, ...],
    wanted_rounds: int | None,
    work: Path | None,
    only_list: bool,
    strict: bool,
) -> None:
    """Measure our mount beside its peers and its limits."""
    chosen = _chosen(suites)
    if only_list:
        for experiment in chosen:
            click.echo(experiment.name)
        return
    try:
        others = [Peer.parse(text) for text in peers]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--peer") from None
    scale = TINY if tiny else QUICK if quick else FULL
    # A stop must unmount, end the servers and remove the data, as an error does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    console = Console(stderr=False)
    begun = time.time()
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="bench-", dir=work, ignore_cleanup_errors=True)
        )
        workbench = stack.enter_context(Workbench(Path(directory), scale, others))
        rows, failed = _measured(workbench, chosen, wanted_rounds or scale.rounds, console)
    if json_file is not None:
        # The rows are the document: a list, as its readers expect.
        json_file.write_text(json.dumps([row.as_dict() for row in rows], indent=1) + "\n")
    machine = f"{os.cpu_count()} cores, Linux {platform.release()}"
    if markdown_file is not None:
        today = time.strftime("%Y-%m-%d", time.gmtime(begun))
        words = " ".join(["scripts/bench", *suites, *(["--quick"] if quick else [])])
        about = f"`{words}` on {today}, {machine}; medians, with the smallest and the largest."
        markdown_file.write_text(markdown.tables(rows, about))
    if plot is not None:
        for path in plots.draw(rows, plot):
            console.print(f"drawn: {path}", markup=False, highlight=False, soft_wrap=True)
    report.show(rows, console)
    console.print(f"{machine}; {time.time() - begun:.0f} s", highlight=False)
    if failed:
        sys.exit(FAILED)
    if strict and any(row.met is False for row in rows):
        sys.exit(MISSED)


def _chosen(words: Sequence[str]) -> list[Experiment]:
    unknown = [word for word in words if word.partition("/")[0] not in SUITES]
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is none of {', '.join(SUITES)}")
    found = [each for each in all_experiments() if each.selected_by(words)]
    if not found:
        raise click.BadParameter(f"nothing is called {' '.join(words)}: see --list")
    return found


def _measured(
    workbench: Workbench, chosen: Sequence[Experiment], wanted: int, console: Console
) -> tuple[list[Row], bool]:
    """All rows, and whether any trial failed."""
    rows: list[Row] = []
    failed = False
    for experiment in chosen:
        console.print(f"== {experiment.name}", markup=False, highlight=False)

        def tell(number: int, trial: Trial, found: Sample | Exception) -> None:
            nonlocal failed
            failed |= isinstance(found, Exception)
            said = f"  {number + 1} {trial.name}: {_said(found)}"
            console.print(said, markup=False, highlight=False, soft_wrap=True)

        try:
            with experiment.prepare(workbench) as trials:
                count = min(wanted, experiment.rounds or wanted)
                samples = rounds.run(trials, count, tell)
        except (BenchError, OSError) as error:
            failed = True
            console.print(f"  failed: {error}", markup=False, highlight=False)
            continue
        made = rows_of(
            experiment,
            [(trial.name, trial.role) for trial in trials],
            samples,
            memory_budget=_memory_budget(),
        )
        rows += made
    return rows, failed


def _memory_budget() -> int:
    """What a mount is configured to use where nobody says otherwise (bytes)."""
    nowhere = Path("/")
    return MountOptions(mountpoint=nowhere, cache_directory=nowhere).memory_budget


def _said(found: Sample | Exception) -> str:
    if isinstance(found, Exception):
        return f"failed: {str(found) or type(found).__name__}"
    parts = [f"{name} {report.number(value)}" for name, value in found.metrics.items()]
    costs = found.costs
    if costs.cpu_driver is not None:
        parts.append(f"driver's CPU {report.number(costs.cpu_driver)} s")
    if costs.peak_rss is not None:
        parts.append(f"{costs.peak_rss / 2**20:.0f} MiB")
    return ", ".join(parts)


def _stop(number: int, _frame: Any) -> NoReturn:
    raise SystemExit(128 + number)
