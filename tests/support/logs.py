"""The driver's log, as a test sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from fuse.logs import log


@contextlib.contextmanager
def captured() -> Iterator[list[dict[str, Any]]]:
    """The lines that are logged meanwhile, in place of writing them."""
    lines: list[dict[str, Any]] = []
    before, log.sink = log.sink, lines.append
    try:
        yield lines
    finally:
        log.sink = before
