"""Tables and plots of a result."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from bench.markdown import tables
from bench.plots import draw
from bench.rows import Costs, Row, Value, at_least


def row(title, server, ours, rclone, *, better="higher", **changes):
    return Row(
        suite="read",
        row=title,
        server=server,
        unit="MB/s",
        better=better,
        cost_unit="GiB",
        ours=Value((ours,), (Costs(),)),
        peers={"rclone plain": Value((rclone,)), "rclone full": Value((rclone / 2,))},
        targets=(at_least(2.5, "rclone"),),
        **changes,
    )


ROWS = [
    row("sequential, 1 stream, cold", "static", 1000.0, 200.0),
    row("sequential, 1 stream, cold", "static+20ms", 900.0, 100.0),
    row("sequential, 4 streams, cold", "static", 1100.0, 500.0),
    row("first bytes: after open", "static", 0.5, 2.0, better="lower"),
    row("files of 256 KiB, 4 readers, cold", "static", 300.0, 150.0),
    row("files of 4 MiB, 4 readers, cold", "static", 600.0, 200.0),
    row(
        "sequential, 1 stream, cold: peak RSS",
        "static",
        200.0,
        150.0,
        better="lower",
        timelines={"ours": [(0.0, 90.0), (1.0, 200.0)], "rclone plain": [(0.0, 40.0)]},
    ),
]


def test_a_table_has_every_row_and_says_what_is_missed():
    text = tables(ROWS, "one machine")
    assert text.startswith("one machine\n\n### read\n")
    lines = [
        line for line in text.splitlines() if line.startswith("| sequential, 1 stream, cold |")
    ]
    assert "1,000 (1,000 to 1,000) MB/s" in lines[0]
    assert "5.00 × rclone" in lines[0]
    assert lines[0].endswith("| met |")
    four = next(line for line in text.splitlines() if "4 streams" in line)
    assert four.endswith("| **missed** |")


def test_plots_are_small_pictures_without_scripts_or_addresses(tmp_path):
    written = draw(ROWS, tmp_path / "plots")
    assert {path.name for path in written} == {
        "latency.svg",
        "readers.svg",
        "sizes.svg",
        "memory.svg",
        "memory-over-time.svg",
        "beside-rclone.svg",
    }
    for path in written:
        text = path.read_text()
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "<script" not in text
        assert len(text) < 60_000
    assert ">20<" in (tmp_path / "plots" / "latency.svg").read_text()
    assert ">256 KiB<" in (tmp_path / "plots" / "sizes.svg").read_text()
    beside = (tmp_path / "plots" / "beside-rclone.svg").read_text()
    assert "5.00 ×" in beside
    assert "2.00 ×" in beside, "less is better for a latency: the best of rclone took twice as long"


def test_no_plot_is_drawn_of_nothing(tmp_path):
    assert draw([], tmp_path) == []
