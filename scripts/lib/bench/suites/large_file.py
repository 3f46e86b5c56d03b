"""The large file that several experiments read."""

from __future__ import annotations

from pathlib import Path

from bench import data
from bench.workbench import Workbench

#: The container that holds nothing else.
CONTAINER = "large"


def large_file(workbench: Workbench) -> Path:
    """The file behind the static server."""

    def build(root: Path) -> Path:
        data.write_noise(root / "large.bin", workbench.scale.large)
        return root / "large.bin"

    return workbench.published(CONTAINER, build)
