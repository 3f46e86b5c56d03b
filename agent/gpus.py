"""How many GPUs the node has (AZ_BATCHAI_NUM_GPUS)."""

from __future__ import annotations

import re
from pathlib import Path

_DEVICE = re.compile(r"nvidia\d+")


def count(root: Path = Path("/")) -> int:
    """Count NVIDIA GPUs without starting a program.

    The driver lists them in /proc; in a container only the device files may be visible, and
    then only those that the container may use, so these count when there are any.
    """
    devices = sum(1 for entry in _names(root / "dev") if _DEVICE.fullmatch(entry))
    return devices or len(_names(root / "proc/driver/nvidia/gpus"))


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir()]
    except OSError:
        return []
