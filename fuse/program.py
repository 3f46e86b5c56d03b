"""The driver as a program: from its instructions to its exit code.

Nothing that takes time is imported before :func:`run` is called: the command line imports this
module, forks, and only what it forked off goes on to import the driver.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from fuse import logs
from fuse.errors import MountError

#: Objects that may be made before young ones are looked through for cycles, and how often the older
#: ones are, among those times. What a mount makes for a file is freed without that, or stays; with
#: Python's 700 a sixth of the time of a file that is on the disk went into looking.
GARBAGE = 50_000, 10, 10

#: Told once how the start went: ``state`` is ``mounted`` or ``failed``.
Say = Callable[[dict[str, Any]], None]


def run(instructions: bytes, say: Say) -> tuple[int, dict[str, str]]:
    """Mount, and serve until told to stop.

    Args:
        instructions: The JSON document.
        say: Told once the mount answers, or has failed.

    Returns:
        Exit code, and what could not be stored: path → reason.
    """
    # What a start makes, most of it by importing, is no garbage: looking for that takes a tenth
    # of the time.
    gc.disable()
    import trio

    from fuse.driver import Driver
    from fuse.groups import single_error
    from fuse.spec import parse

    def ready() -> None:
        say({"state": "mounted", "pid": os.getpid(), "warnings": driver.warnings})
        gc.freeze()
        gc.set_threshold(*GARBAGE)
        gc.enable()

    try:
        driver = Driver(parse(instructions), ready)
    except MountError as error:
        say({"state": "failed", "error": error.as_dict()})
        return 2, {}
    logs.set_up(driver.log_level)
    try:
        with single_error():
            failures = trio.run(driver.run)
    except MountError as error:
        say({"state": "failed", "error": error.as_dict()})
        return 1, {}
    return (4 if failures else 0), failures


def announce(document: dict[str, Any]) -> None:
    """Say on standard output, once, how the start went, and close it."""
    sys.stdout.write(json.dumps({"version": 1, **document}) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
