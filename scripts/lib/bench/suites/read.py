"""Reading: large files, small files, at random."""

from __future__ import annotations

from bench.experiments import Experiment
from bench.suites import random_reads, sizes, small_files, streams

#: Real accounts are always TLS.
_NEAR = ("static", "static+tls")


def experiments() -> list[Experiment]:
    """The suite."""
    return [
        *(streams.sequential(server) for server in _NEAR),
        *(streams.streams(count, server) for count in (2, 4, 8) for server in _NEAR),
        *(streams.distant(delay, server) for delay in (5, 20, 50) for server in _NEAR),
        *(sizes.of_size(size, server) for size in sizes.SIZES for server in _NEAR),
        *(small_files.epochs(server) for server in _NEAR),
        *(small_files.unlisted(server) for server in _NEAR),
        *(random_reads.scattered(server) for server in _NEAR),
        *(random_reads.scattered_alone(server) for server in _NEAR),
        *(random_reads.first_bytes(server) for server in _NEAR),
    ]
