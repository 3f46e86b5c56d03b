"""Files of one size, from a few KiB to many MiB: where throughput comes from and where it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bench import data, limits, readers
from bench.contenders import Contender
from bench.errors import BenchError
from bench.experiments import Experiment, Figure, Sample, Trial
from bench.servers import Service
from bench.trials import BareClient, check_again, mounts, read
from bench.workbench import Workbench

_KIB = 1024

#: Bytes of a file.
SIZES = (16 * _KIB, 256 * _KIB, 4 * data.MIB, 64 * data.MIB)

_READERS = 4

#: Bytes that the bare client asks for at once, and the connections among which it finds its best.
_PART = 8 * data.MIB
_CONNECTIONS = (4, 8, 16)

_MOST_FILES = 2_000


def title(size: int) -> str:
    """Name of the row of a size."""
    return f"files of {data.words(size)}, {_READERS} readers, cold"


def of_size(size: int, server: str) -> Experiment:
    """Files that have been listed, in random order, each read from front to end."""

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        container = f"size{size}"

        def build(root: Path) -> list[Path]:
            count = max(_READERS, min(_MOST_FILES, workbench.scale.large // size // 4))
            paths = [root / f"f{number:05}.bin" for number in range(count)]
            for path in paths:
                data.write_noise(path, min(size, workbench.scale.large))
            return paths

        sources = workbench.published(container, build)
        names = data.shuffled([source.name for source in sources], seed=1)
        digests = [data.digest(sources[0].parent / name) for name in names]
        volume = sum(source.stat().st_size for source in sources)
        service = workbench.service(server)
        bare = BareClient(service, container, _CONNECTIONS)
        parts = [
            part
            for source in sources
            for part in limits.parts(source.name, source.stat().st_size, _PART)
        ]

        def measure(contender: Contender, service: Service, place: Path) -> Sample:
            with contender.mounted(service, container, place) as mounted:
                assert len(os.listdir(mounted.path)) == len(names)  # noqa: PTH208 -- names only
                paths = [mounted.path / name for name in names]
                shares = [paths[number::_READERS] for number in range(_READERS)]
                done = read(mounted, [readers.whole(share) for share in shares], work=len(names))
                if done.bytes_read != volume:
                    raise BenchError(f"{contender.name}: {done.bytes_read} of {volume} bytes")
                check_again(paths, digests, contender.name)
            return Sample({"rate": volume / done.seconds / 1e6}, done.costs, memory=done.memory)

        def fetch() -> Sample:
            found, costs = bare.fetch(parts, work=len(names))
            return Sample({"rate": found.bytes / found.seconds / 1e6}, costs)

        yield [
            *mounts(workbench, service, measure, null_root=sources[0].parent),
            Trial(bare.name, "limit", fetch),
        ]

    return Experiment(
        suite="read",
        title=title(size),
        server=server,
        cost_unit="file",
        figures=(Figure(metric="rate", unit="MB/s"),),
        prepare=prepare,
    )
