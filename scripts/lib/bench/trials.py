"""What most trials do: mount cold, read, count, check the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import limits, readers, usage
from bench.contenders import Contender, Mounted
from bench.errors import BenchError
from bench.experiments import Role, Sample, Trial
from bench.limits import Fetched, NullDriver, Range
from bench.readers import Report
from bench.rows import OURS, Costs
from bench.servers import Service, Traffic
from bench.workbench import Workbench


class Meter:
    """Counts from its making on.

    Args:
        service: The server, None where there is none.
        pids: The driver's processes.
    """

    def __init__(self, service: Service | None, pids: Sequence[int]) -> None:
        self._service = service
        self._pids = tuple(pids)
        self._servers = tuple(service.pids()) if service else ()
        self._traffic = service.traffic() if service else None
        self._driver_cpu = usage.cpu_seconds(self._pids)
        self._server_cpu = usage.cpu_seconds(self._servers)

    def traffic(self) -> Traffic | None:
        """What went over the wire since then, where somebody counts."""
        now = self._service.traffic() if self._service else None
        return None if now is None or self._traffic is None else now - self._traffic

    def costs(self, work: float, readers_cpu: float = 0.0) -> Costs:
        """What it cost until now.

        Args:
            work: How much was done, in units that CPU time is divided by.
            readers_cpu: CPU seconds of those who used the mount.
        """
        driver = usage.cpu_seconds(self._pids) - self._driver_cpu
        server = usage.cpu_seconds(self._servers) - self._server_cpu
        traffic = self.traffic()
        return Costs(
            cpu_driver=driver / work if self._pids else None,
            cpu_all=(driver + server + readers_cpu) / work,
            requests=None if traffic is None else traffic.requests,
            wire_bytes=None if traffic is None else traffic.wire_bytes,
            peak_rss=usage.peak_rss(self._pids) if self._pids else None,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """What a phase of reading gave.

    Attributes:
        reports: One a reader.
        costs: For each unit of work.
        traffic: On the wire, where somebody counts.
        memory: The driver's resident memory meanwhile: seconds since the begin, bytes.
    """

    reports: Sequence[Report]
    costs: Costs
    traffic: Traffic | None
    memory: Sequence[tuple[float, int]] = ()

    @property
    def seconds(self) -> float:
        """From the first reader's begin to the last one's end."""
        return readers.elapsed(self.reports)

    @property
    def bytes_read(self) -> int:
        """By all of them."""
        return sum(report.bytes_read for report in self.reports)


def read(mounted: Mounted, tasks: Sequence[dict[str, Any]], *, work: float) -> Reading:
    """Let readers go, and count.

    Args:
        mounted: What they read.
        tasks: One a reader (:mod:`bench.readers`).
        work: Units that CPU time is divided by.
    """
    meter = Meter(mounted.service, mounted.pids)
    with usage.watched_memory(mounted.pids) as memory:
        reports = readers.run(tasks)
    costs = meter.costs(work, sum(report.cpu for report in reports))
    return Reading(reports, costs, meter.traffic(), memory)


def check_digests(reports: Sequence[Report], expected: Sequence[str], who: str) -> None:
    """Compare what was read with the source.

    Raises:
        BenchError: A byte was wrong.
    """
    found = [digest for report in reports for digest in report.digests]
    if found != list(expected):
        wrong = sum(one != other for one, other in zip(found, expected, strict=False))
        raise BenchError(f"{who}: wrong bytes in {wrong or 'all'} of {len(expected)} pieces")


def check_again(paths: Sequence[Path], expected: Sequence[str], who: str) -> None:
    """Read files once more, off the clock, and compare: the page cache still has what was read."""
    check_digests(readers.run([readers.whole(paths, digests=True)]), expected, who)


#: Measures one contender against a service, in a fresh place.
Measure = Callable[[Contender, Service, Path], Sample]


def mounts(
    workbench: Workbench, service: Service, measure: Measure, *, null_root: Path | None = None
) -> list[Trial]:
    """A trial for ours, one for each peer, and one for the null driver over ``null_root``."""

    def trial(contender: Contender, role: Role) -> Trial:
        def once() -> Sample:
            with workbench.place() as place:
                return measure(contender, service, place)

        return Trial(contender.name, role, once)

    trials = [trial(workbench.ours, "ours")]
    assert trials[0].name == OURS
    trials += [trial(peer, "peer") for peer in workbench.peers]
    if null_root is not None:
        trials.append(trial(NullDriver(null_root), "limit"))
    return trials


class BareClient:
    """The bare client as a limit: it keeps to the number of connections that was best at first.

    Args:
        service: The account.
        container: In it.
        candidates: Numbers of connections to try.
    """

    name = "bare client"

    def __init__(self, service: Service, container: str, candidates: Sequence[int]) -> None:
        self._service = service
        self._container = container
        self._candidates = list(candidates)

    def fetch(self, ranges: Sequence[Range], *, work: float) -> tuple[Fetched, Costs]:
        """Fetch all of ``ranges``; what it took, and its costs for each unit of ``work``."""
        tried: list[tuple[float, int, Fetched, Costs]] = []
        for connections in self._candidates:
            meter = Meter(self._service, ())
            found = limits.fetch(self._service, self._container, ranges, connections=connections)
            tried.append((found.seconds, connections, found, meter.costs(work, found.cpu)))
        _, best, found, costs = min(tried, key=lambda each: each[0])
        self._candidates = [best]
        return found, costs
