"""Reads of 4 KiB anywhere in a large file, and the first bytes of many."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import data, readers
from bench.contenders import Contender
from bench.experiments import Experiment, Figure, Sample, Trial
from bench.rows import Costs, at_least, at_most
from bench.servers import Service
from bench.trials import BareClient, check_digests, mounts, read
from bench.workbench import Workbench

#: Bytes of a read.
_BLOCK = 4096

_CONTAINER = "scattered"

#: Noise at the front of the files whose first bytes are read.
_FRONT = data.MIB

_READERS = 16

#: Requests by which the latency of a bare one is told.
_ALONE = 100


def _scattered(
    source: Path, tasks: Sequence[Sequence[int]]
) -> Callable[[Contender, Service, Path], Sample]:
    """Measures: a reader for each list of offsets."""
    expected = [_block_digest(source, offset) for offsets in tasks for offset in offsets]
    count = len(expected)

    def measure(contender: Contender, service: Service, place: Path) -> Sample:
        with contender.mounted(service, _CONTAINER, place) as mounted:
            path = mounted.path / source.name
            path.stat()
            wanted = [readers.pieces(path, offsets, _BLOCK) for offsets in tasks]
            done = read(mounted, wanted, work=count)
            check_digests(done.reports, expected, contender.name)
        latencies = [latency for report in done.reports for latency in report.latencies]
        metrics = {"rate": count / done.seconds, "p50": statistics.median(latencies) * 1000}
        if done.traffic is not None:
            metrics["wire"] = done.traffic.wire_bytes / (count * _BLOCK)
        return Sample(metrics, done.costs)

    return measure


def _block_digest(source: Path, offset: int) -> str:
    return data.digest(source, offset=offset, size=_BLOCK)


def _bare_pieces(
    service: Service, source: Path, offsets: Sequence[int], connections: int, name: str
) -> Trial:
    client = BareClient(service, _CONTAINER, [connections])
    ranges = [(source.name, offset, _BLOCK) for offset in offsets]

    def measure() -> Sample:
        found, costs = client.fetch(ranges, work=len(ranges))
        rate = len(ranges) / found.seconds
        # Of several at a time, its one loop only starts the clock of those that it gets to; how
        # long each of so many readers would wait follows from the rate (Little's law).
        latency = found.median_latency if connections == 1 else connections / rate
        return Sample({"rate": rate, "p50": latency * 1000}, costs)

    return Trial(name, "limit", measure)


def _random_trials(workbench: Workbench, server: str, readers_count: int, name: str) -> list[Trial]:
    def build(root: Path) -> Path:
        data.write_noise(root / "scattered.bin", workbench.scale.scattered)
        return root / "scattered.bin"

    source = workbench.published(_CONTAINER, build)
    service = workbench.service(server)
    count = workbench.scale.random_reads
    tasks = [
        data.offsets(count, workbench.scale.scattered, _BLOCK, seed)
        for seed in range(1, readers_count + 1)
    ]
    flat = [offset for offsets in tasks for offset in offsets]
    return [
        *mounts(workbench, service, _scattered(source, tasks), null_root=source.parent),
        _bare_pieces(service, source, flat, readers_count, name),
    ]


def scattered(server: str) -> Experiment:
    """Sixteen readers, one file."""
    name = f"bare request, {_READERS} at a time"

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        yield _random_trials(workbench, server, _READERS, name)

    return Experiment(
        suite="read",
        title=f"random 4 KiB, {_READERS} readers, cold",
        server=server,
        cost_unit="read",
        figures=(
            Figure(metric="rate", unit="reads/s", targets=(at_least(5, "rclone"),)),
            Figure(
                metric="wire",
                unit="bytes/byte",
                better="lower",
                row="on the wire",
                targets=(at_most(64),),
            ),
            Figure(metric="p50", unit="ms", better="lower", row="p50", targets=(at_most(2, name),)),
        ),
        prepare=prepare,
    )


def scattered_alone(server: str) -> Experiment:
    """One reader: what a single read costs."""
    name = "bare request"

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        yield _random_trials(workbench, server, 1, name)

    return Experiment(
        suite="read",
        title="random 4 KiB, 1 reader, cold",
        server=server,
        cost_unit="read",
        figures=(
            Figure(metric="p50", unit="ms", better="lower", row="p50", targets=(at_most(2, name),)),
        ),
        prepare=prepare,
    )


def first_bytes(server: str) -> Experiment:
    """The first bytes of large files, one after the other."""

    def build(root: Path, scale: data.Scale) -> list[Path]:
        paths = [root / f"first{number:03}.bin" for number in range(scale.firsts)]
        for path in paths:
            data.write_sparse(path, data.FULL.large, noise=_FRONT)
        return paths

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        sources = workbench.published("firsts", lambda root: build(root, workbench.scale))
        service = workbench.service(server)
        expected = [_block_digest(source, 0) for source in sources]

        def measure(contender: Contender, service: Service, place: Path) -> Sample:
            with contender.mounted(service, "firsts", place) as mounted:
                paths = [mounted.path / source.name for source in sources]
                done = read(mounted, [readers.firsts(paths, _BLOCK)], work=len(paths))
                check_digests(done.reports, expected, contender.name)
            return _latencies(done.reports[0], done.costs)

        def bare() -> Sample:
            ranges = [(source.name, 0, _BLOCK) for source in sources]
            ranges *= -(-_ALONE // len(ranges))
            found, costs = client.fetch(ranges, work=len(ranges))
            return Sample({"first": found.median_latency * 1000}, costs)

        client = BareClient(service, "firsts", [1])
        yield [
            *mounts(workbench, service, measure, null_root=sources[0].parent),
            Trial("bare request", "limit", bare),
        ]

    return Experiment(
        suite="read",
        title="first bytes of files of 1 GiB, cold",
        server=server,
        cost_unit="file",
        figures=(
            Figure(
                metric="first",
                unit="ms",
                better="lower",
                row="after open",
                targets=(at_most(1.5, "bare request"),),
            ),
            Figure(metric="open", unit="ms", better="lower", row="open and read"),
        ),
        prepare=prepare,
    )


def _latencies(report: readers.Report, costs: Costs) -> Sample:
    both = [opened + first for opened, first in zip(report.opens, report.latencies, strict=True)]
    metrics = {
        "first": statistics.median(report.latencies) * 1000,
        "open": statistics.median(both) * 1000,
    }
    return Sample(metrics, costs)
