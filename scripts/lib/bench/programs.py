"""Our own programs, as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.errors import BenchError

#: Seconds that a program may take.
_PATIENCE = 900.0

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


def ask(module: str, task: dict[str, Any], what: str) -> dict[str, Any]:
    """Run a module of this package that takes a task and answers, both in JSON.

    Args:
        module: Its name.
        task: For its standard input.
        what: What it does, for people.

    Raises:
        BenchError: It failed, or took too long.
    """
    try:
        done = subprocess.run(
            command(module),
            env=environment(),
            input=json.dumps(task).encode(),
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what} took more than {_PATIENCE:g} s") from None
    if done.returncode:
        # Several lines: the last one of a group of exceptions is its frame.
        said = done.stderr.decode(errors="replace").strip() or "it said nothing"
        raise BenchError(f"{what} failed: {said[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
