"""What people see of a row."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.report import line, number, show
from tests.bench.example import ROW


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (99.96, "100"), (12.34, "12.3"), (0.5, "0.5"), (0.00012, "0.00012")],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert number(value) == text


def test_a_line_has_all_of_it():
    text = line(ROW)
    assert "sequential [static]: 1,000 (900–1,200) MB/s" in text
    assert "rclone plain 250, null driver 1,250" in text
    assert "is 4.00 × rclone, 0.80 × null driver" in text
    assert "target ≥ 2.5 × rclone; ≥ 0.9 × null driver: missed" in text
    assert "CPU s/GiB (driver of all): ours 1.5 of 2.25" in text


def test_a_pipe_gets_lines_and_a_terminal_a_table():
    pipe = io.StringIO()
    show([ROW], Console(file=pipe, width=40))
    assert pipe.getvalue() == line(ROW) + "\n"
    terminal = io.StringIO()
    show([ROW], Console(file=terminal, force_terminal=True, width=200))
    assert "missed" in terminal.getvalue()
    assert "target" in terminal.getvalue().splitlines()[0]
