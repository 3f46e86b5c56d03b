"""JSON lines on stderr. What is logged holds no value of the job's environment."""

import contextlib
import json
import os
import time


def timestamp(nanoseconds: int | None = None) -> str:
    """RFC 3339, UTC, microseconds; the present when no time is given."""
    if nanoseconds is None:
        nanoseconds = time.time_ns()
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{rest // 1000:06d}Z"


def log(level: str, event: str, **fields: object) -> None:
    """Write one record; a log that cannot be written stops nobody's job."""
    record = {"timestamp": timestamp(), "level": level, "event": event, **fields}
    with contextlib.suppress(OSError):
        os.write(2, json.dumps(record).encode() + b"\n")
