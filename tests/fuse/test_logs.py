"""Lines of the driver's log."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fuse import logs
from fuse.logs import Log


def lines_of(level, say):
    lines = []
    say(Log(level, lines.append))
    return lines


def test_a_line_has_its_fields_event_level_and_time():
    [line] = lines_of("info", lambda log: log.warning("it broke", path="a"))
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert line == {"path": "a", "event": "it broke", "level": "warning"}
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_is_less_severe_is_left_out(level, said):
    def say(log):
        for name in logs.LEVELS:
            getattr(log, name)("x")

    assert [line["level"] for line in lines_of(level, say)] == said


def test_an_exception_is_an_error_with_its_traceback():
    def say(log):
        try:
            raise OSError(5, "broken")
        except OSError:
            log.exception("defect", path="a")

    [line] = lines_of("error", say)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("OSError: [Errno 5] broken")


def test_a_line_is_one_line_of_json_whatever_is_in_it(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    Log().info("a\nb", path=Path("/x"), text="\udcff")
    assert written.getvalue().count("\n") == 1
    line = json.loads(written.getvalue())
    assert (line["event"], line["text"]) == ("a\nb", "\udcff")
    assert "/x" in line["path"]


def test_a_log_that_cannot_be_written_stops_nobody(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    Log().error("x")
