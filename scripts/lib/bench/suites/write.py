"""Writing to Azurite: a large file, a checkpoint, small files, a repository.

The clock runs until the store has all of it: rclone with a cache says that a file is closed before
it has begun to upload it, and is told to begin at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from azure.storage.blob import ContainerClient

from bench import arrivals, bare_upload, workloads
from bench.contenders import RCLONE_FULL, RCLONES, Contender, Mounted
from bench.errors import BenchError
from bench.experiments import Experiment, Figure, Role, Sample, Trial
from bench.rows import OURS, Costs, at_least, at_most
from bench.trials import Meter
from bench.workbench import Workbench
from bench.workloads import Work

SUITE = "write"
MB = 1e6
GIB = 1024**3

#: Numbers of connections among which the bare upload finds its best.
_CONNECTIONS = (1, 2, 4, 8)

#: Bytes of each small file; of how many one is read back.
_SMALL = 1000
_SAMPLED = 20

_numbers = itertools.count(1)

#: Does something in a mounted, empty container; the client sees what has arrived.
Doing = Callable[[Mounted, ContainerClient, str], Sample]


def experiments() -> list[Experiment]:
    """The suite."""
    return [_large(), _small_files(), _repository()]


def _trial(workbench: Workbench, contender: Contender, role: Role, do: Doing) -> Trial:
    def once() -> Sample:
        container = f"write{next(_numbers)}"
        service = workbench.service("azurite")
        with workbench.azurite.container(container) as client:
            try:
                with (
                    workbench.place() as place,
                    contender.mounted(service, container, place, read_only=False) as mounted,
                ):
                    return do(mounted, client, contender.name)
            finally:
                client.delete_container()

    return Trial(contender.name, role, once)


def _trials(workbench: Workbench, do: Doing, peers: Sequence[Contender]) -> list[Trial]:
    others = [peer for peer in workbench.peers if peer not in RCLONES]
    return [
        _trial(workbench, workbench.ours, "ours", do),
        *(_trial(workbench, peer, "peer", do) for peer in (*peers, *others)),
    ]


def _timed(
    mounted: Mounted, task: Mapping[str, object], work: float, arrived: Callable[[], None]
) -> tuple[float, Costs, Work]:
    """Seconds from a task's begin until its result has arrived."""
    meter = Meter(mounted.service, mounted.pids)
    done = workloads.run(dict(task))
    arrived()
    return time.monotonic() - done.begin, meter.costs(work, done.cpu), done


# -- large files --------------------------------------------------------------------------------


def _large() -> Experiment:
    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        size = workbench.scale.large
        work = size / GIB

        def do(mounted: Mounted, client: ContainerClient, who: str) -> Sample:
            path, seed = mounted.path / "sequential.bin", next(_numbers)
            seconds, costs, _ = _timed(
                mounted, workloads.write(path, size, seed), work,
                lambda: arrivals.one(client, path.name, size),
            )  # fmt: skip
            arrivals.compare(client, path.name, workloads.noise(size, seed))
            path.unlink()
            metrics = {"rate": size / seconds / MB, "write": seconds}
            costs_of = {}
            if who != "rclone plain":  # it cannot seek back
                archive = mounted.path / "model.pt"
                meter = Meter(mounted.service, mounted.pids)
                done = workloads.run(workloads.checkpoint(archive, size))
                arrivals.one(client, archive.name, archive.stat().st_size)
                metrics["checkpoint"] = time.monotonic() - done.begin
                costs_of["checkpoint"] = meter.costs(work, done.cpu)
                arrivals.unzip(client, archive.name)
            return Sample(metrics, costs, costs_of)

        candidates = list(_CONNECTIONS)

        def bare() -> Sample:
            container = f"write{next(_numbers)}"
            tried = []
            with workbench.azurite.container(container) as client:
                for connections in candidates:
                    service = workbench.service("azurite")
                    found = bare_upload.upload(service, container, size, connections=connections)
                    tried.append((*found, connections))
                client.delete_container()
            seconds, cpu, best = min(tried)
            candidates[:] = [best]
            metrics = {"rate": size / seconds / MB, "connections": float(best)}
            return Sample(metrics, Costs(cpu_all=cpu / work))

        yield [*_trials(workbench, do, RCLONES), Trial("bare block upload", "limit", bare)]

    return Experiment(
        suite=SUITE,
        title="large file",
        server="azurite",
        cost_unit="GiB",
        figures=(
            Figure(
                metric="rate",
                unit="MB/s",
                row="sequential, fsync",
                targets=(at_least(0.85, "bare block upload"), at_least(1.5, "rclone")),
            ),
            Figure(
                metric="checkpoint",
                unit="s",
                better="lower",
                row="checkpoint that seeks back, rename",
                borrowed={"ours, sequential": (OURS, "write")},
                targets=(at_most(1.2, "ours, sequential"),),
            ),
        ),
        prepare=prepare,
    )


# -- small files --------------------------------------------------------------------------------


def _small_files() -> Experiment:
    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        count = workbench.scale.written_files
        made = {workloads.name(number): _SMALL for number in range(count)}
        renamed = {workloads.name(number, renamed=True): _SMALL for number in range(count)}

        def do(mounted: Mounted, client: ContainerClient, _who: str) -> Sample:
            place = mounted.path / "small"
            metrics: dict[str, float] = {}
            costs_of: dict[str, Costs] = {}

            def phase(task: dict[str, object], wanted: Mapping[str, int] | None) -> None:
                def arrived() -> None:
                    if wanted is not None:
                        arrivals.exactly(client, "small/", wanted)

                kind = str(task["kind"])
                seconds, costs_of[kind], done = _timed(mounted, task, count, arrived)
                # Looking whether all is there takes a while itself; ours does not answer before.
                metrics[kind] = count / (done.seconds if wanted is None else seconds)

            def check(names: Iterable[str]) -> None:
                for name in itertools.islice(names, 0, None, _SAMPLED):
                    arrivals.compare(client, f"small/{name}", [workloads.small(_SMALL)])

            phase(workloads.create(place, count, _SMALL), made)
            check(made)
            phase(workloads.stat(place, count), None)
            phase(workloads.rename(place, count), renamed)
            check(renamed)
            phase(workloads.delete(place, count), {})
            return Sample(metrics, costs_of["create"], costs_of)

        yield _trials(workbench, do, (RCLONE_FULL,))

    names = ("create", "stat", "rename", "delete")
    return Experiment(
        suite=SUITE,
        title="small files",
        server="azurite",
        cost_unit="file",
        figures=tuple(
            Figure(metric=name, unit="files/s", row=name, targets=(at_least(2, "rclone"),))
            for name in names
        ),
        prepare=prepare,
    )


# -- a repository -------------------------------------------------------------------------------


def _repository() -> Experiment:
    @contextlib.contextmanager
    def prepare(workbench: Workbench) -> Iterator[list[Trial]]:
        with workbench.place() as place:
            source = place / "repository"
            _make_repository(source, workbench.scale.written_files)

            def do(mounted: Mounted, client: ContainerClient, who: str) -> Sample:
                target = mounted.path / "clone"
                words = ("git", "clone", "--quiet", "--no-hardlinks", source, target)
                wanted = {
                    path.relative_to(source).as_posix(): path.stat().st_size
                    for path in source.glob("d*/*")
                }

                seconds, costs, _ = _timed(
                    mounted, workloads.command(*words), 1,
                    lambda: arrivals.all_of(client, "clone/", wanted),
                )  # fmt: skip
                done = subprocess.run(
                    ["git", "-C", target, "fsck", "--strict"], capture_output=True, check=False
                )
                if done.returncode:
                    raise BenchError(f"{who}: git fsck: {done.stderr.decode()[-300:]}")
                return Sample({"seconds": seconds}, costs)

            yield _trials(workbench, do, (RCLONE_FULL,))

    return Experiment(
        suite=SUITE,
        title="git clone",
        server="azurite",
        cost_unit="clone",
        figures=(
            Figure(metric="seconds", unit="s", better="lower", targets=(at_most(0.5, "rclone"),)),
        ),
        prepare=prepare,
    )


def _make_repository(root: Path, count: int) -> None:
    """The same one every time: names, content, times and author are given."""
    for number in range(count):
        place = root / f"d{number % 40:02}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number:05}.py").write_text(f"value = {number}\n" * (1 + number % 100))
    moment = "2020-01-01T00:00:00Z"
    environment = {
        **os.environ,
        **{f"GIT_{who}_{what}": value
           for who in ("AUTHOR", "COMMITTER")
           for what, value in (("NAME", "bench"), ("EMAIL", "bench@localhost"), ("DATE", moment))},
    }  # fmt: skip
    for words in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "."),
        ("commit", "--quiet", "--message=all"),
        ("gc", "--quiet"),
    ):
        subprocess.run(["git", "-C", root, *words], env=environment, check=True)
