"""Listing: what ``ls -l`` and ``find`` take of a hundred thousand blobs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from azure.storage.blob import ContainerClient

from bench import workloads
from bench.contenders import Contender
from bench.errors import BenchError
from bench.experiments import Experiment, Figure, Sample, Trial
from bench.rows import Costs, at_least, at_most
from bench.servers import Service
from bench.trials import Meter, mounts
from bench.workbench import Workbench

SUITE = "listing"

#: A listing is nothing without the sizes.
_SIZE = 1

_COMMANDS: dict[str, Callable[[Path], list[str | Path]]] = {
    "ls -l": lambda path: ["ls", "-lR", path],
    "find": lambda path: ["find", path, "-type", "f", "-size", "-2c"],
}


def experiments() -> list[Experiment]:
    """The suite."""
    return [
        _listing(command, title, directories)
        for title, directories in (("in one directory", 1), ("in 1,000 directories", 1000))
        for command in _COMMANDS
    ]


def container(directories: int) -> str:
    """The container with all those names in so many directories."""
    return f"names{directories}"


def published(workbench: Workbench, directories: int) -> int:
    """Make it where it is not there yet; the number of its blobs."""
    return workbench.published(
        container(directories), lambda root: _build(root, workbench.scale.names, directories)
    )


def _build(root: Path, count: int, directories: int) -> int:
    for number in range(count):
        place = root / f"d{number % directories:04}"
        if number < directories:
            place.mkdir()
        (place / f"f{number:06}").write_bytes(b"x" * _SIZE)
    return count


def _sdk(service: Service, where: str, count: int) -> Sample:
    """The SDK's own listing of the same, with nothing made of it."""
    url = f"{service.endpoint}/{where}?{service.sas}"
    meter = Meter(service, ())
    cpu, begin = time.process_time(), time.monotonic()
    with ContainerClient.from_container_url(url) as client:
        found = sum(1 for _ in client.list_blobs())
    seconds = time.monotonic() - begin
    if found != count:
        raise BenchError(f"the SDK found {found} of {count} blobs")
    return Sample({"rate": count / seconds}, meter.costs(count, time.process_time() - cpu))


def _listing(command: str, title: str, directories: int) -> Experiment:
    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        count = published(workbench, directories)
        service = workbench.service("static")

        def measure(contender: Contender, service: Service, place: Path) -> Sample:
            with contender.mounted(service, container(directories), place) as mounted:
                meter = Meter(mounted.service, mounted.pids)
                done = workloads.run(workloads.command(*_COMMANDS[command](mounted.path)))
                if done.lines < count:
                    raise BenchError(f"{contender.name}: {done.lines} lines of {count} entries")
                costs: Costs = meter.costs(count, done.cpu)
                metrics = {"rate": count / done.seconds}
                if costs.requests is not None:
                    metrics["requests"] = costs.requests / count
            return Sample(metrics, costs)

        yield [
            *mounts(workbench, service, measure),
            Trial(
                "bare SDK listing", "limit", lambda: _sdk(service, container(directories), count)
            ),
        ]

    # A page has 5,000 entries; a directory takes one listing and what tells that it is one.
    requests = 0.001 if directories == 1 else 0.03
    return Experiment(
        suite=SUITE,
        title=f"{command}, {title}, cold",
        server="static",
        cost_unit="entry",
        figures=(
            Figure(metric="rate", unit="entries/s", targets=(at_least(0.8, "bare SDK listing"),)),
            Figure(
                metric="requests",
                unit="requests/entry",
                better="lower",
                row="requests",
                targets=(at_most(requests),),
            ),
        ),
        prepare=prepare,
    )
