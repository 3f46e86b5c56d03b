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
        *(streams.streams(count, "static") for count in (2, 4, 8)),
        streams.streams(4, "static+tls"),
        *(streams.distant(milliseconds, "static") for milliseconds in (5, 20, 50)),
        streams.distant(20, "static+tls"),
        *(sizes.of_size(size) for size in sizes.SIZES),
        *(small_files.epochs(server) for server in _NEAR),
        *(small_files.unlisted(server) for server in _NEAR),
        *(random_reads.scattered(server) for server in _NEAR),
        *(random_reads.scattered_alone(server) for server in _NEAR),
        *(random_reads.first_bytes(server) for server in _NEAR),
    ]
