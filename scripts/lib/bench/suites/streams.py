"""Large files from front to end: alone, side by side, and over a distance."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import data, limits, readers
from bench.contenders import Contender
from bench.errors import BenchError
from bench.experiments import Experiment, Figure, Sample, Trial
from bench.rows import at_least
from bench.servers import Service
from bench.trials import BareClient, check_again, mounts, read
from bench.workbench import Workbench

MB = 1e6
GIB = 1024**3

#: Parts in which the bare client fetches a large file (bytes).
_PART = 8 * data.MIB

#: Numbers of connections among which the bare client finds its best: near, and over a distance.
_NEAR, _FAR = (1, 2, 4, 8), (16, 32)

#: Ours through the same proxy, which then only forwards: what differs is the delay alone, and not
#: the CPU time that a proxy takes from a small machine.
_UNDELAYED = "ours, 0 ms"

_CONTAINER = "large"

#: Files that are there to be read side by side.
_STREAMS = 8

#: How many of them the target is about.
_TARGETED = 4


def _large_file(workbench: Workbench) -> Path:
    """The file behind the static server."""

    def build(root: Path) -> Path:
        data.write_noise(root / "large.bin", workbench.scale.large)
        return root / "large.bin"

    return workbench.published(_CONTAINER, build)


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
        return Sample(metrics, done.costs, memory=done.memory)

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


def sequential(server: str) -> Experiment:
    """One reader, one file."""

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        source = _large_file(workbench)
        service = workbench.service(server)
        measure = _streamed(_CONTAINER, [source], [data.digest(source)])
        yield [
            *mounts(workbench, service, measure, null_root=source.parent),
            _bare_stream(service, _CONTAINER, [source], _NEAR),
        ]

    targets = [at_least(2.5, "rclone")]
    if server == "static":
        targets.append(at_least(0.8, "null driver"))
    return Experiment(
        suite="read",
        title="sequential, 1 stream, cold",
        server=server,
        cost_unit="GiB",
        figures=(Figure(metric="rate", unit="MB/s", targets=tuple(targets)),),
        prepare=prepare,
    )


def streams(count: int, server: str) -> Experiment:
    """Several readers, a file each."""

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        def build(root: Path) -> list[Path]:
            paths = [root / f"stream{number}.bin" for number in range(_STREAMS)]
            for path in paths:
                data.write_noise(path, workbench.scale.stream)
            return paths

        sources = workbench.published("streams", build)[:count]
        service = workbench.service(server)
        measure = _streamed("streams", sources, [data.digest(source) for source in sources])
        yield [
            *mounts(workbench, service, measure, null_root=sources[0].parent),
            _bare_stream(service, "streams", sources, _NEAR),
        ]

    return Experiment(
        suite="read",
        title=f"sequential, {count} streams, cold",
        server=server,
        cost_unit="GiB",
        figures=(
            Figure(
                metric="rate",
                unit="MB/s",
                targets=(at_least(2.5, "rclone"),) if count == _TARGETED else (),
            ),
            Figure(
                metric="evenness",
                unit="of the mean",
                row="slowest stream",
                targets=(at_least(0.5),),
            ),
        ),
        prepare=prepare,
    )


def distant(milliseconds: int, server: str) -> Experiment:
    """One reader, one file, each request delayed."""
    here, far = f"{server}+0ms", f"{server}+{milliseconds}ms"

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        source = _large_file(workbench)
        service = workbench.service(far)
        measure = _streamed(_CONTAINER, [source], [data.digest(source)])

        def ours(name: str) -> Sample:
            with workbench.place() as place:
                return measure(workbench.ours, workbench.service(name), place)

        yield [
            *mounts(workbench, service, measure),
            Trial(_UNDELAYED, "limit", lambda: ours(here)),
            Trial("ours, no proxy", "limit", lambda: ours(server)),
            _bare_stream(service, _CONTAINER, [source], _FAR),
        ]

    targets = (at_least(0.9, _UNDELAYED),) if milliseconds == 20 else ()
    return Experiment(
        suite="read",
        title="sequential, 1 stream, cold",
        server=far,
        cost_unit="GiB",
        figures=(Figure(metric="rate", unit="MB/s", targets=targets),),
        prepare=prepare,
    )
