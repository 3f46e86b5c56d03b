"""No secret in a log, in any of its forms."""

from __future__ import annotations

import base64
import io
import json
import logging
import stat
import urllib.parse
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agent import logs
from agent.config import LogConfig
from agent.secrets import REDACTED, Redactor, SecretFiles

KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def redactor(*values: str) -> Redactor:
    made = Redactor()
    made.add(values)
    return made


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        urllib.parse.quote(KEY),
        urllib.parse.quote(KEY, safe=""),
        urllib.parse.quote(KEY, safe="").replace("%2F", "%2f").replace("%3D", "%3d"),
        urllib.parse.quote_plus(KEY),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode().rstrip("="),
        json.dumps(KEY),
    ],
)
def test_forms_of_a_key(form: str) -> None:
    assert KEY[:40] not in redactor(KEY).redact(f"x={form}&y")
    assert REDACTED in redactor(KEY).redact(f"x={form}&y")


def test_values_are_counted() -> None:
    made = redactor("secret1", "secret1", "other22")
    made.discard(["secret1"])
    assert made.redact("secret1") == REDACTED
    made.discard(["secret1"])
    assert made.redact("secret1 other22") == f"secret1 {REDACTED}"


def test_short_values_do_not_black_out_everything() -> None:
    assert redactor("a", "").redact("a banana") == "a banana"


@given(st.text(min_size=4, max_size=30).filter(lambda text: text not in REDACTED))
def test_whatever_the_secret_is(value: str) -> None:
    made = redactor(value)
    if value in REDACTED:
        return
    assert value not in made.redact(f"<{value}>").replace(REDACTED, "")
    assert REDACTED in made.redact(json.dumps({"x": value}))
    assert REDACTED in made.redact(repr({"x": value}))


@pytest.fixture
def fresh_logging() -> object:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_gets_through_the_log(form: str, fresh_logging: object) -> None:
    out = io.StringIO()
    value = 'pa"ss\\wörd'
    logs.configure(LogConfig(format=form), redactor(value, KEY), out)
    logger = structlog.get_logger("test")
    logger.info("hello", key=KEY, nested={"a": [value, KEY]}, raw=value.encode())
    try:
        raise ValueError(f"cannot use {value}")
    except ValueError:
        logger.exception("failed")
    logging.getLogger("library").warning("url is %s", urllib.parse.quote(KEY, safe=""))
    text = out.getvalue()
    assert "hello" in text
    assert "url is" in text
    assert "Eby8vdM02" not in text
    assert "ss\\w" not in text
    assert value not in text
    if form == "json":
        for line in text.splitlines():
            json.loads(line)


def test_log_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    assert not logs.use_json(LogConfig(), terminal)
    assert logs.use_json(LogConfig(), io.StringIO())
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert logs.use_json(LogConfig(), terminal)
    assert not logs.use_json(LogConfig(format="console"), terminal)


def test_secret_files_are_private(tmp_path: Path) -> None:
    files = SecretFiles(tmp_path)
    files.write("u-1", {"key": KEY})
    assert files.read("u-1") == {"key": KEY}
    file = tmp_path / "u-1" / "secret" / "job.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    files.write("u-1", {"key": "new"})
    assert files.read("u-1") == {"key": "new"}
    files.delete("u-1")
    files.delete("u-1")
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        files.read("u-1")


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_traceback_shows_no_local_variable(format_, tmp_path):
    """A key that is cut in the middle is one that the redactor no longer knows."""
    import subprocess
    import sys

    program = """
import sys, structlog
from agent.config import LogConfig
from agent.logs import configure
from agent.secrets import Redactor
configure(LogConfig(format=sys.argv[1]), Redactor())
def work():
    account_key = "QUJD" * 22
    raise RuntimeError("no")
try:
    work()
except RuntimeError:
    structlog.get_logger().exception("failed")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, format_], capture_output=True, text=True, check=True
    )
    assert "RuntimeError" in done.stderr
    assert "QUJDQUJD" not in done.stderr + done.stdout
