"""Our own programs, as processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_LIBRARY = Path(__file__).resolve().parents[1]

#: Where batchai-mount is.
SCRIPTS = Path(sys.prefix) / "bin"


def command(module: str) -> list[str]:
    """Runs a module of this package."""
    return [sys.executable, "-m", f"bench.{module}"]


def environment() -> dict[str, str]:
    """In which this package is found."""
    known = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((os.fspath(_LIBRARY), *([known] if known else []))),
    }
