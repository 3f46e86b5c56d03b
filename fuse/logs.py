"""The log: a JSON object a line, with ``event``, ``level``, ``timestamp``, and fields of its own.

These are structlog's lines, made by hand: importing it brings asyncio and what draws tracebacks on
terminals along, a good part of the time until a mount answers.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

#: Levels by name, the least severe first.
LEVELS = ("debug", "info", "warning", "error")

#: Takes one line's object.
Sink = Callable[[dict[str, Any]], None]


def write(line: dict[str, Any]) -> None:
    """Write a line to standard error. A log that cannot be written stops nobody."""
    try:
        # One write(2), so that lines of several threads and processes do not mix.
        sys.stderr.write(json.dumps(line, default=repr) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


class Log:
    """Where the driver says what happens.

    Attributes:
        level: Least severity that is written, of LEVELS.
        sink: Where lines go.
    """

    def __init__(self, level: str = "info", sink: Sink = write) -> None:
        self.level = level
        self.sink = sink

    def debug(self, event: str, **fields: Any) -> None:
        """For who looks for a fault in the driver."""
        self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What happens."""
        self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """What somebody may have to look at."""
        self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """What has failed."""
        self._say("error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """An error, with the traceback of the exception that is being handled."""
        self._say("error", event, fields | {"exception": traceback.format_exc().rstrip()})

    def _say(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS.index(level) < LEVELS.index(self.level):
            return
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self.sink(fields | {"event": event, "level": level, "timestamp": now})


#: Of the whole driver.
log = Log()


def set_up(level: str) -> None:
    """From ``level`` on; the libraries' own chatter only from warnings on."""
    log.level = level
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
