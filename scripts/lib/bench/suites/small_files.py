"""Small files: a data loader's first epoch, its second one, and the one after a remount."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import data, limits, readers
from bench.contenders import Contender, Mounted
from bench.errors import BenchError
from bench.experiments import Experiment, Figure, Sample, Trial
from bench.limits import NullDriver
from bench.rows import OURS, Target, at_least, at_most
from bench.servers import Service
from bench.trials import BareClient, Reading, check_again, mounts, read
from bench.workbench import Workbench

_CONTAINER = "small"
_READERS = 4
_CONNECTIONS = (4, 8, 16)


class _Files:
    """The small files and how they are read."""

    def __init__(self, root: Path, names: Sequence[str], size: int) -> None:
        self.root = root
        self._names = data.shuffled(names, seed=1)
        self._digests = [data.digest(root / name) for name in self._names]
        self._size = size

    def epoch(self, mounted: Mounted, who: str) -> Reading:
        """All of them, once, each reader a share."""
        paths = [mounted.path / name for name in self._names]
        shares = [paths[number::_READERS] for number in range(_READERS)]
        done = read(mounted, [readers.whole(share) for share in shares], work=len(paths))
        wanted = len(paths) * self._size
        if done.bytes_read != wanted:
            raise BenchError(f"{who}: {done.bytes_read} of {wanted} bytes were read")
        return done

    def listing(self, mounted: Mounted) -> None:
        """Find them all, as a data loader does when it starts; off the clock."""
        found = sum(len(files) for _, _, files in os.walk(mounted.path))
        assert found == len(self._names)

    def check(self, mounted: Mounted, who: str) -> None:
        """Off the clock."""
        check_again([mounted.path / name for name in self._names], self._digests, who)

    def ranges(self) -> list[limits.Range]:
        """For the bare client."""
        return [(name, 0, self._size) for name in self._names]

    def sample(self, epochs: dict[str, Reading]) -> Sample:
        """Of the epochs by their names."""
        count = len(self._names)
        metrics = {name: count / done.seconds for name, done in epochs.items()}
        metrics |= {
            f"{name} requests": (done.traffic.requests - done.traffic.listings) / count
            for name, done in epochs.items()
            if done.traffic is not None
        }
        last = next(iter(epochs.values()))
        return Sample(metrics, last.costs, {name: done.costs for name, done in epochs.items()})


def epochs(server: str) -> Experiment:
    """All epochs, by readers who have listed the directories: a data loader."""

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        files = _files(workbench)
        service = workbench.service(server)
        bare = BareClient(service, _CONTAINER, _CONNECTIONS)

        def measure(contender: Contender, service: Service, place: Path) -> Sample:
            epochs = {}
            with contender.mounted(service, _CONTAINER, place) as mounted:
                files.listing(mounted)
                epochs["cold"] = files.epoch(mounted, contender.name)
                epochs["second"] = files.epoch(mounted, contender.name)
                files.check(mounted, contender.name)
            if not isinstance(contender, NullDriver):
                with contender.mounted(service, _CONTAINER, place) as mounted:
                    files.listing(mounted)
                    epochs["remounted"] = files.epoch(mounted, contender.name)
                    files.check(mounted, contender.name)
            return files.sample(epochs)

        def local() -> Sample:
            done = files.epoch(Mounted(files.root), "local disk")
            return files.sample({"second": done, "remounted": done})

        def alone() -> Sample:
            ranges = files.ranges()
            found, costs = bare.fetch(ranges, work=len(ranges))
            return Sample({"cold": len(ranges) / found.seconds}, costs)

        yield [
            *mounts(workbench, service, measure, null_root=files.root),
            Trial("local disk", "limit", local),
            Trial(bare.name, "limit", alone),
        ]

    cold = [at_least(2, "rclone")]
    if server == "static":
        cold.append(at_least(0.6, "null driver"))
    return Experiment(
        suite="read",
        title=f"small files, {_READERS} readers",
        server=server,
        cost_unit="file",
        figures=(
            Figure(metric="cold", unit="files/s", row="cold", targets=tuple(cold)),
            _requests("cold", at_most(1.05)),
            Figure(
                metric="second",
                unit="files/s",
                row="second epoch",
                targets=(at_least(0.9, "local disk"),),
            ),
            _requests("second"),
            Figure(
                metric="remounted",
                unit="files/s",
                row="after remount",
                borrowed={"ours, cold": (OURS, "cold")},
                targets=(at_least(5, "ours, cold"),),
            ),
            _requests("remounted"),
        ),
        prepare=prepare,
    )


def unlisted(server: str) -> Experiment:
    """The first epoch by readers who know the names from elsewhere."""

    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        files = _files(workbench)

        def measure(contender: Contender, service: Service, place: Path) -> Sample:
            with contender.mounted(service, _CONTAINER, place) as mounted:
                done = files.epoch(mounted, contender.name)
                files.check(mounted, contender.name)
            return files.sample({"cold": done})

        yield mounts(workbench, workbench.service(server), measure, null_root=files.root)

    return Experiment(
        suite="read",
        title=f"small files, {_READERS} readers, never listed",
        server=server,
        cost_unit="file",
        figures=(
            Figure(metric="cold", unit="files/s", row="cold", targets=(at_least(2, "rclone"),)),
            _requests("cold"),
        ),
        prepare=prepare,
    )


def _files(workbench: Workbench) -> _Files:
    def build(root: Path) -> _Files:
        names = data.write_small(root, workbench.scale)
        return _Files(root, names, workbench.scale.small_size)

    return workbench.published(_CONTAINER, build)


def _requests(epoch: str, *targets: Target) -> Figure:
    names = {"cold": "cold", "second": "second epoch", "remounted": "after remount"}
    return Figure(
        metric=f"{epoch} requests",
        unit="requests/file",
        better="lower",
        row=f"{names[epoch]}, without listings",
        targets=targets,
    )
