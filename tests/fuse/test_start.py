"""What a mount imports until it answers: importing is most of the time that it takes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: Each of these took a good part of the start, or stands for something that did.
HEAVY = frozenset(
    {
        "asyncio", "azure", "concurrent", "cryptography", "difflib", "http", "logging.config",
        "msal", "multiprocessing", "pydantic", "pydantic_core", "requests", "rich", "smbprotocol",
        "spnego", "sqlite3", "structlog", "tenacity", "typing_extensions", "unittest",
        "urllib.request",
    }
)  # fmt: skip

COMMAND = "import fuse.main, fuse.cli.mounting, fuse.cli.helper"

DRIVER = f"{COMMAND}, fuse.driver, fuse.groups, fuse.spec, fuse.blob.opening, fuse.blob.volume"


def imported(code: str) -> set[str]:
    """What the statements import in an interpreter of their own."""
    script = (
        "import sys, json; before = set(sys.modules)\n"
        f"{code}\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def within(modules: set[str], names: frozenset[str]) -> set[str]:
    """Those of the names that are imported, or of which a part is."""
    return {
        name
        for name in names
        if any(each == name or each.startswith(f"{name}.") for each in modules)
    }


@pytest.mark.parametrize("code", [COMMAND, DRIVER], ids=["command", "driver"])
def test_nothing_heavy_is_imported_for_a_mount(code):
    assert within(imported(code), HEAVY) == set()


def test_the_command_leaves_the_driver_s_libraries_to_what_it_forks():
    """Also: what starts threads, or has state of its own, is not there yet when it forks."""
    libraries = frozenset({"trio", "pyfuse3", "httptools", "ssl", "fuse.driver"})
    assert within(imported(COMMAND), libraries) == set()
