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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from bench import markdown, plots, report, rounds
from bench.contenders import Peer
from bench.data import FULL, QUICK, TINY, Scale
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
@click.option(
    "--from",
    "earlier",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing: the rows are those of earlier runs with --json.",
)
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
    earlier: tuple[Path, ...],
    strict: bool,
) -> None:
    """Measure our mount beside its peers and its limits.

    A run that is interrupted shows and writes what it has measured until then.
    """
    if earlier and suites:
        raise click.BadParameter("with --from nothing is measured", param_hint="SUITE")
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
    output = _Output(Console(stderr=False), json_file, markdown_file, plot)
    rows: list[Row] = []
    failed = False
    if earlier:
        for path in earlier:
            rows += _read(path)
        output.publish(rows, f"Rows of {', '.join(path.name for path in earlier)}; medians.")
    else:
        machine = f"{os.cpu_count()} cores, Linux {platform.release()}"
        begun = time.time()
        try:
            with _workbench(work, scale, others) as workbench:
                count = wanted_rounds or scale.rounds
                failed = _measure(workbench, chosen, count, output.console, rows)
        finally:  # hours may have gone into what there is
            today = time.strftime("%Y-%m-%d", time.gmtime(begun))
            words = " ".join(["scripts/bench", *suites, *(["--quick"] if quick else [])])
            about = f"`{words}` on {today}, {machine}; medians, with the smallest and the largest."
            output.publish(rows, about)
        output.console.print(f"{machine}; {time.time() - begun:.0f} s", highlight=False)
    if failed:
        sys.exit(FAILED)
    if strict and any(row.met is False for row in rows):
        sys.exit(MISSED)


@dataclass(frozen=True, slots=True)
class _Output:
    """Where the rows go: to the console always, and into the files that were asked for."""

    console: Console
    json_file: Path | None
    markdown_file: Path | None
    plots: Path | None

    def publish(self, rows: Sequence[Row], about: str) -> None:
        if self.json_file is not None:
            # The rows are the document: a list, as its readers expect.
            document = json.dumps([row.as_dict() for row in rows], indent=1)
            self.json_file.write_text(f"{document}\n")
        if self.markdown_file is not None:
            self.markdown_file.write_text(markdown.tables(rows, about))
        if self.plots is not None:
            for path in plots.draw(rows, self.plots):
                words = f"drawn: {path}"
                self.console.print(words, markup=False, highlight=False, soft_wrap=True)
        report.show(rows, self.console)


def _read(path: Path) -> list[Row]:
    try:
        documents = json.loads(path.read_text())
        if not isinstance(documents, list):
            raise TypeError("no list")
        return [Row.from_dict(document) for document in documents]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise click.BadParameter(f"{path} has no rows: {error!r}", param_hint="--from") from None


@contextlib.contextmanager
def _workbench(work: Path | None, scale: Scale, others: Sequence[Peer]) -> Iterator[Workbench]:
    # A stop must unmount, end the servers and remove the data, as an error does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    with (
        tempfile.TemporaryDirectory(
            prefix="bench-", dir=work, ignore_cleanup_errors=True
        ) as directory,
        Workbench(Path(directory), scale, others) as workbench,
    ):
        yield workbench


def _chosen(words: Sequence[str]) -> list[Experiment]:
    unknown = [word for word in words if word.partition("/")[0] not in SUITES]
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is none of {', '.join(SUITES)}")
    found = [each for each in all_experiments() if each.selected_by(words)]
    if not found:
        raise click.BadParameter(f"nothing is called {' '.join(words)}: see --list")
    return found


def _measure(
    workbench: Workbench,
    chosen: Sequence[Experiment],
    wanted: int,
    console: Console,
    rows: list[Row],
) -> bool:
    """Add to ``rows`` what each experiment gives; whether any trial failed."""
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
    return failed


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
