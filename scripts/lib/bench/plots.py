"""Plots of the rows, as SVG: throughput over distance, readers and size; memory; who is ahead.

Text stays text, the ground is transparent, and the colours can be read on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import data
from bench.rows import OURS, Row
from bench.suites import sizes

_STREAM = "sequential, {} stream{}, cold"

#: Milliseconds by which servers hold requests back, by their names.
_DELAYS = {"static": 0, "static+5ms": 5, "static+20ms": 20, "static+50ms": 50}

_STREAMS = (1, 2, 4, 8)

#: Points that make a curve.
_LEAST = 2

_PEERS = ("rclone plain", "rclone full")

_COLOURS = {
    OURS: "#2f81f7",
    "rclone plain": "#d29922",
    "rclone full": "#db6d28",
    "bare client": "#8957e5",
    "null driver": "#3fb950",
}

_GREY = "#767676"  # 4.5 : 1 on white and on black

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",  # the same rows make the same file
    "font.family": "sans-serif",
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "axes.titlecolor": _GREY,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "text.color": _GREY,
    "grid.color": _GREY,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}

#: Inches: a plot's width, its height, and what each bar of a long one takes.
_WIDTH, _HEIGHT, _BAR = 7.6, 3.6, 0.24


def draw(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Write every plot that the rows have figures for.

    Args:
        rows: Of any suites.
        directory: Is made where it is not there.

    Returns:
        The files.
    """
    written = []
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # its keys are a Literal of hundreds
        for name, figure in (
            ("latency.svg", _over_latency(rows)),
            ("readers.svg", _over_readers(rows)),
            ("sizes.svg", _over_sizes(rows)),
            ("memory.svg", _memory(rows)),
            ("memory-over-time.svg", _memory_over_time(rows)),
            ("beside-rclone.svg", _beside(rows)),
        ):
            if figure is not None:
                directory.mkdir(parents=True, exist_ok=True)
                figure.savefig(
                    directory / name, transparent=True, bbox_inches="tight", metadata={"Date": None}
                )
                written.append(directory / name)
    return written


def _axes(title: str, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    return figure, axes


def _figures(row: Row) -> dict[str, float]:
    """Medians by contender, ours among them."""
    ours = {OURS: row.ours.median} if row.ours else {}
    return ours | row.others


def _over_latency(rows: Sequence[Row]) -> Figure | None:
    wanted = _STREAM.format(1, "")
    found = {row.server: _figures(row) for row in rows if row.row == wanted}
    servers = [server for server in _DELAYS if server in found]
    if len(servers) < _LEAST:
        return None
    figure, axes = _axes("One stream, cold, MB/s over the delay of each request")
    for name in (OURS, *_PEERS):
        points = [(_DELAYS[server], found[server][name]) for server in servers
                  if name in found[server]]  # fmt: skip
        axes.plot(*zip(*points, strict=True), marker="o", label=name, color=_COLOURS[name])
    axes.set_xlabel("ms")
    axes.set_xticks([_DELAYS[server] for server in servers])
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.legend()
    return figure


def _over_readers(rows: Sequence[Row]) -> Figure | None:
    titles = {_STREAM.format(count, "s" if count > 1 else ""): count for count in _STREAMS}
    found = {
        titles[row.row]: _figures(row)
        for row in rows
        if row.row in titles and row.server == "static"
    }
    counts = sorted(found)
    if len(counts) < _LEAST:
        return None
    figure, axes = _axes("Streams of a file each, cold, MB/s of all together")
    names = [name for name in _COLOURS if all(name in figures for figures in found.values())]
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        axes.bar(
            [group + place * width for group in range(len(counts))],
            [found[count][name] for count in counts],
            width,
            label=name,
            color=_COLOURS[name],
        )
    axes.set_xticks(
        [group + 0.4 - width / 2 for group in range(len(counts))],
        [f"{count} stream{'s' * (count > 1)}" for count in counts],
    )
    axes.grid(axis="y")
    axes.legend()
    return figure


def _over_sizes(rows: Sequence[Row]) -> Figure | None:
    titles = {sizes.title(size): size for size in sizes.SIZES}
    found = {
        titles[row.row]: _figures(row)
        for row in rows
        if row.row in titles and row.server == "static"
    }
    if len(found) < _LEAST:
        return None
    figure, axes = _axes("Files of one size, cold, 4 readers: MB/s over the size of a file")
    for name, colour in _COLOURS.items():
        points = [(size, figures[name]) for size, figures in sorted(found.items())
                  if name in figures]  # fmt: skip
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name, color=colour)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(found), [data.words(size) for size in sorted(found)])
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.legend()
    return figure


def _memory_over_time(rows: Sequence[Row]) -> Figure | None:
    """Of the first row that has it: the large file."""
    row = next((row for row in rows if row.timelines), None)
    if row is None:
        return None
    title = row.row.partition(": peak RSS")[0]
    figure, axes = _axes(f"Resident memory, MiB: {title} [{row.server}]")
    for name, points in row.timelines.items():
        axes.plot(*zip(*points, strict=True), label=name, color=_COLOURS.get(name, _GREY))
    axes.set_xlabel("s")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.legend()
    return figure


def _memory(rows: Sequence[Row]) -> Figure | None:
    found = [
        (f"{row.row.partition(': peak RSS')[0]} [{row.server}]", _figures(row))
        for row in rows
        if row.row.endswith("peak RSS") and row.ours
    ][::-1]
    if not found:
        return None
    figure, axes = _axes("Largest resident memory, MiB", 1 + 3 * _BAR * len(found))
    names = (OURS, *_PEERS)
    for place, name in enumerate(names):
        bars = [
            (line - 0.25 * place, figures[name])
            for line, (_, figures) in enumerate(found)
            if name in figures
        ]
        if bars:
            lines, values = zip(*bars, strict=True)
            axes.barh(lines, values, 0.25, label=name, color=_COLOURS[name])
    axes.set_yticks([line - 0.25 for line in range(len(found))], [title for title, _ in found])
    axes.grid(axis="x")
    axes.legend()
    return figure


def _beside(rows: Sequence[Row]) -> Figure | None:
    found = [
        (f"{row.row} [{row.server}]", ratio)
        for row in rows
        if not row.row.endswith("peak RSS") and (ratio := _advantage(row)) is not None
    ][::-1]
    if not found:
        return None
    figure, axes = _axes("How many times better than rclone's better mode", 1 + _BAR * len(found))
    titles, ratios = zip(*found, strict=True)
    colours = [_COLOURS[OURS] if ratio >= 1 else _COLOURS["rclone full"] for ratio in ratios]
    bars = axes.barh(range(len(found)), [ratio - 1 for ratio in ratios], left=1, color=colours)
    axes.bar_label(bars, [f"{ratio:.2f} ×" for ratio in ratios], padding=3, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g} ×")
    axes.set_yticks(range(len(found)), titles, fontsize=8)
    axes.axvline(1, color=_GREY, linewidth=1)
    axes.margins(x=0.15)
    return figure


def _advantage(row: Row) -> float | None:
    """Ours over the better mode of rclone, the way round that more is better."""
    peers = [value for name, value in row.others.items() if name in _PEERS and value > 0]
    if not peers or row.ours is None or row.ours.median <= 0:
        return None
    if row.better == "higher":
        return row.ours.median / max(peers)
    return min(peers) / row.ours.median
