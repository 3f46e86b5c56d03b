"""Imports pyfuse3 without what it does not need.

When it is imported it asks importlib.metadata for its own version, which nobody reads here. That
brings in readers of mail, zip files and CSV, parses a file, and takes a fifteenth of the time until
a mount answers. So it is given a stand-in, which goes away again at once.
"""

from __future__ import annotations

import importlib
import sys
import types

_NAME = "importlib.metadata"


def load() -> None:
    """Import pyfuse3; the first import of it has to be this one. Not for a process with threads."""
    if _NAME in sys.modules:
        importlib.import_module("pyfuse3")
        return
    stand_in = types.ModuleType(_NAME)
    vars(stand_in).update(version=_unknown, PackageNotFoundError=ModuleNotFoundError)
    sys.modules[_NAME] = stand_in
    try:
        importlib.import_module("pyfuse3")
    finally:
        del sys.modules[_NAME]


def _unknown(_name: str) -> str:
    return "unknown"
