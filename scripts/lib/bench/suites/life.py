"""The life of a mount: until it answers, and while nobody asks."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bench import usage
from bench.contenders import Contender
from bench.errors import BenchError
from bench.experiments import Experiment, Figure, Sample, Trial
from bench.rows import Costs, at_most
from bench.servers import Service
from bench.suites import listing
from bench.trials import Meter, mounts
from bench.workbench import Workbench

SUITE = "life"

_FEW = "few"


def experiments() -> list[Experiment]:
    """The suite."""
    return [_start(), _idle()]


def _start() -> Experiment:
    def build(root: Path) -> None:
        (root / "file").write_bytes(b"x")

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        workbench.published(_FEW, build)

        def measure(contender: Contender, service: Service, place: Path) -> Sample:
            with contender.mounted(service, _FEW, place) as mounted:
                begin = time.monotonic()
                found = os.listdir(mounted.path)  # noqa: PTH208 -- what ls does
                seconds = mounted.seconds + time.monotonic() - begin
                if found != ["file"]:
                    raise BenchError(f"{contender.name}: ls found {found}")
                return Sample({"seconds": seconds})

        yield mounts(workbench, workbench.service("static"), measure)

    return Experiment(
        suite=SUITE,
        title="from the mount command to the first ls",
        server="static",
        cost_unit="mount",
        figures=(
            Figure(metric="seconds", unit="s", better="lower", targets=(at_most(0.7, "rclone"),)),
        ),
        prepare=prepare,
    )


def _idle() -> Experiment:
    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        count = listing.published(workbench, 1)
        seconds = workbench.scale.idle

        def measure(contender: Contender, service: Service, place: Path) -> Sample:
            with contender.mounted(service, listing.container(1), place) as mounted:
                found = sum(len(files) for _, _, files in os.walk(mounted.path))
                if found != count:
                    raise BenchError(f"{contender.name}: {found} of {count} files were found")
                meter = Meter(mounted.service, mounted.pids)
                begin, used = time.monotonic(), usage.cpu_seconds(mounted.pids)
                time.sleep(seconds)  # that nothing happens is what is measured
                share = (usage.cpu_seconds(mounted.pids) - used) / (time.monotonic() - begin)
                costs: Costs = meter.costs(1)
                metrics = {"share": share * 100}
                if costs.requests is not None:
                    metrics["requests"] = costs.requests
            return Sample(metrics, costs)

        yield mounts(workbench, workbench.service("static"), measure)

    return Experiment(
        suite=SUITE,
        title="idle, with 100,000 entries cached",
        server="static",
        cost_unit="minute",
        figures=(
            Figure(
                metric="share", unit="% of a core", better="lower", row="CPU",
                targets=(at_most(0.1),),
            ),
            Figure(
                metric="requests", unit="requests", better="lower", row="requests",
                targets=(at_most(0),),
            ),
        ),
        prepare=prepare,
        rounds=1,
    )  # fmt: skip
