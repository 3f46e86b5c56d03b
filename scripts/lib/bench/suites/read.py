"""Reading: large files in one go, side by side and over a distance; small files; at random."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import data, limits, readers
from bench.contenders import Contender, Mounted
from bench.errors import BenchError
from bench.experiments import Experiment, Figure, Sample, Trial
from bench.rows import Costs, at_least, at_most
from bench.servers import Service
from bench.suites.small_files import small_files, unlisted_files
from bench.trials import BareClient, check_again, check_digests, mounts, read
from bench.workbench import Workbench

MB = 1e6
GIB = 1024**3

SUITE = "read"

#: Parts in which the bare client fetches a large file (bytes).
_PART = 8 * data.MIB

#: Numbers of connections among which the bare client finds its best: near, and over a distance.
_NEAR, _FAR = (1, 2, 4, 8), (16, 32)

#: Bytes of a random read, and of a first one.
_BLOCK = 4096

#: Noise at the front of the files whose first bytes are read.
_FRONT = data.MIB

#: Ours through the same proxy, which then only forwards: what differs is the delay alone, and not
#: the CPU time that a proxy takes from a small machine.
_UNDELAYED = "ours, 0 ms"

_STREAMS = 4
_RANDOM_READERS = 16

#: Requests by which the latency of a bare one is told.
_ALONE = 100


def experiments() -> list[Experiment]:
    """The suite."""
    near = ("static", "static+tls")
    return [
        *(_sequential(server) for server in near),
        *(_streams(server) for server in near),
        *(_distant(milliseconds) for milliseconds in (5, 20, 50)),
        *(small_files(server) for server in near),
        *(unlisted_files(server) for server in near),
        *(_random(server) for server in near),
        *(_random_alone(server) for server in near),
        *(_first(server) for server in near),
    ]


# -- large files --------------------------------------------------------------------------------


def _large(workbench: Workbench) -> Path:
    """The large file, its container ``large``."""

    def build(root: Path) -> Path:
        data.write_noise(root / "large.bin", workbench.scale.large)
        return root / "large.bin"

    return workbench.published("large", build)


def _streamed(
    container: str, sources: Sequence[Path], expected: Sequence[str]
) -> Callable[[Contender, Service, Path], Sample]:
    """Measures: each file by a reader of its own, from front to end, cold."""
    size = sum(source.stat().st_size for source in sources)

    def measure(contender: Contender, service: Service, place: Path) -> Sample:
        with contender.mounted(service, container, place) as mounted:
            paths = [mounted.path / source.name for source in sources]
            done = read(mounted, [readers.whole([path]) for path in paths], work=size / GIB)
            if done.bytes_read != size:
                raise BenchError(f"{contender.name}: {done.bytes_read} of {size} bytes were read")
            check_again(paths, expected, contender.name)
        rates = [report.rate for report in done.reports]
        metrics = {
            "rate": size / done.seconds / MB,
            "evenness": min(rates) / statistics.mean(rates),
        }
        return Sample(metrics, done.costs)

    return measure


def _bare_stream(
    service: Service, container: str, sources: Sequence[Path], candidates: Sequence[int]
) -> Trial:
    client = BareClient(service, container, candidates)
    ranges = [
        part
        for source in sources
        for part in limits.parts(source.name, source.stat().st_size, _PART)
    ]

    def measure() -> Sample:
        found, costs = client.fetch(ranges, work=sum(size for *_, size in ranges) / GIB)
        return Sample({"rate": found.bytes / found.seconds / MB}, costs)

    return Trial(client.name, "limit", measure)


def _sequential(server: str) -> Experiment:
    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        source = _large(workbench)
        service = workbench.service(server)
        measure = _streamed("large", [source], [data.digest(source)])
        yield [
            *mounts(workbench, service, measure, null_root=source.parent),
            _bare_stream(service, "large", [source], _NEAR),
        ]

    targets = [at_least(2.5, "rclone")]
    if server == "static":
        targets.append(at_least(0.8, "null driver"))
    return Experiment(
        suite=SUITE,
        title="sequential, 1 stream, cold",
        server=server,
        cost_unit="GiB",
        figures=(Figure(metric="rate", unit="MB/s", targets=tuple(targets)),),
        prepare=prepare,
    )


def _streams(server: str) -> Experiment:
    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        def build(root: Path) -> list[Path]:
            paths = [root / f"stream{number}.bin" for number in range(_STREAMS)]
            for path in paths:
                data.write_noise(path, workbench.scale.stream)
            return paths

        sources = workbench.published("streams", build)
        service = workbench.service(server)
        measure = _streamed("streams", sources, [data.digest(source) for source in sources])
        yield [
            *mounts(workbench, service, measure, null_root=sources[0].parent),
            _bare_stream(service, "streams", sources, _NEAR),
        ]

    return Experiment(
        suite=SUITE,
        title=f"sequential, {_STREAMS} streams, cold",
        server=server,
        cost_unit="GiB",
        figures=(
            Figure(metric="rate", unit="MB/s", targets=(at_least(2.5, "rclone"),)),
            Figure(
                metric="evenness",
                unit="of the mean",
                row="slowest stream",
                targets=(at_least(0.5),),
            ),
        ),
        prepare=prepare,
    )


def _distant(milliseconds: int) -> Experiment:
    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        source = _large(workbench)
        near = workbench.service("static")
        far = workbench.service(server)
        proxy = workbench.service("static+0ms")
        measure = _streamed("large", [source], [data.digest(source)])

        def here(service: Service) -> Sample:
            with workbench.place() as place:
                return measure(workbench.ours, service, place)

        yield [
            *mounts(workbench, far, measure),
            Trial(_UNDELAYED, "limit", lambda: here(proxy)),
            Trial("ours, no proxy", "limit", lambda: here(near)),
            _bare_stream(far, "large", [source], _FAR),
        ]

    server = f"static+{milliseconds}ms"
    targets = (at_least(0.9, _UNDELAYED),) if milliseconds == 20 else ()
    return Experiment(
        suite=SUITE,
        title="sequential, 1 stream, cold",
        server=server,
        cost_unit="GiB",
        figures=(Figure(metric="rate", unit="MB/s", targets=targets),),
        prepare=prepare,
    )


# -- random reads -------------------------------------------------------------------------------


def _scattered(
    source: Path, tasks: Sequence[Sequence[int]]
) -> Callable[[Contender, Service, Path], Sample]:
    """Measures: a reader for each list of offsets."""
    expected = [_block_digest(source, offset) for offsets in tasks for offset in offsets]
    count = len(expected)

    def measure(contender: Contender, service: Service, place: Path) -> Sample:
        with contender.mounted(service, "large", place) as mounted:
            return _pieces(mounted, contender.name)

    def _pieces(mounted: Mounted, who: str) -> Sample:
        path = mounted.path / source.name
        path.stat()
        wanted = [readers.pieces(path, offsets, _BLOCK) for offsets in tasks]
        done = read(mounted, wanted, work=count)
        check_digests(done.reports, expected, who)
        latencies = [latency for report in done.reports for latency in report.latencies]
        metrics = {
            "rate": count / done.seconds,
            "p50": statistics.median(latencies) * 1000,
        }
        if done.traffic is not None:
            metrics["wire"] = done.traffic.wire_bytes / (count * _BLOCK)
        return Sample(metrics, done.costs)

    return measure


def _block_digest(source: Path, offset: int) -> str:
    return data.digest(source, offset=offset, size=_BLOCK)


def _bare_pieces(
    service: Service, source: Path, offsets: Sequence[int], connections: int, name: str
) -> Trial:
    client = BareClient(service, "large", [connections])
    ranges = [(source.name, offset, _BLOCK) for offset in offsets]

    def measure() -> Sample:
        found, costs = client.fetch(ranges, work=len(ranges))
        rate = len(ranges) / found.seconds
        return Sample({"rate": rate, "p50": found.median_latency * 1000}, costs)

    return Trial(name, "limit", measure)


def _random_trials(workbench: Workbench, server: str, readers_count: int, name: str) -> list[Trial]:
    source = _large(workbench)
    service = workbench.service(server)
    count = workbench.scale.random_reads
    tasks = [
        data.offsets(count, workbench.scale.large, _BLOCK, seed)
        for seed in range(1, readers_count + 1)
    ]
    flat = [offset for offsets in tasks for offset in offsets]
    return [
        *mounts(workbench, service, _scattered(source, tasks), null_root=source.parent),
        _bare_pieces(service, source, flat, readers_count, name),
    ]


def _random(server: str) -> Experiment:
    name = f"bare request, {_RANDOM_READERS} at a time"

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        yield _random_trials(workbench, server, _RANDOM_READERS, name)

    return Experiment(
        suite=SUITE,
        title=f"random 4 KiB, {_RANDOM_READERS} readers, cold",
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


def _random_alone(server: str) -> Experiment:
    name = "bare request"

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        yield _random_trials(workbench, server, 1, name)

    return Experiment(
        suite=SUITE,
        title="random 4 KiB, 1 reader, cold",
        server=server,
        cost_unit="read",
        figures=(
            Figure(metric="p50", unit="ms", better="lower", row="p50", targets=(at_most(2, name),)),
        ),
        prepare=prepare,
    )


# -- the first byte -----------------------------------------------------------------------------


def _first(server: str) -> Experiment:
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
        suite=SUITE,
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
