"""The result for people: one line a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bench.rows import OURS, Row, Value

_MET = {True: "met", False: "missed", None: ""}
_COLUMNS = (
    "row",
    "server",
    "ours",
    "unit",
    "peers",
    "limits",
    "ratio",
    "target",
    "",
    "CPU s, driver of all",
)
_STYLE = {True: "green", False: "bold red", None: ""}


def number(value: float) -> str:
    """Three digits that count."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 or not value else f"{value:.5f}"


def _value(value: Value | None) -> str:
    if value is None:
        return "failed"
    low, high = value.spread
    return f"{number(value.median)} ({number(low)}–{number(high)})"


def _cpu(row: Row) -> list[str]:
    """CPU seconds of each contender's driver for each unit of work, and of all processes."""
    values = {**({OURS: row.ours} if row.ours else {}), **row.peers, **row.limits}
    costs = {
        name: (value.cost("cpu_driver"), value.cost("cpu_all")) for name, value in values.items()
    }
    return [
        f"{name} {'–' if driver is None else number(driver)} of {number(everything)}"
        for name, (driver, everything) in costs.items()
        if everything is not None
    ]


def line(row: Row) -> str:
    """A row in plain text."""
    others = [f"{name} {number(value)}" for name, value in row.others.items()]
    ratios = [f"{ratio:.2f} × {name}" for name, ratio in row.ratios.items()]
    parts = [
        f"{row.row} [{row.server}]: {_value(row.ours)} {row.unit}",
        ", ".join(others),
        f"is {', '.join(ratios)}" if ratios else "",
        f"target {row.target}: {_MET[row.met] or 'unknown'}" if row.target else "",
        f"CPU s/{row.cost_unit} (driver of all): {', '.join(_cpu(row))}" if _cpu(row) else "",
    ]
    return "; ".join(part for part in parts if part)


def show(rows: Sequence[Row], console: Console) -> None:
    """A table on a terminal, lines in a pipe."""
    if not console.is_terminal:
        for row in rows:
            console.print(line(row), markup=False, highlight=False, soft_wrap=True)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(
            row.row,
            row.server,
            _value(row.ours),
            row.unit,
            _listed(row.peers),
            _listed(row.limits),
            "\n".join(f"{ratio:.2f} × {name}" for name, ratio in row.ratios.items()),
            row.target.replace("; ", "\n"),
            f"[{_STYLE[row.met]}]{_MET[row.met]}[/]" if row.target and row.met is not None else "",
            "\n".join((f"per {row.cost_unit}:", *_cpu(row))) if _cpu(row) else "",
        )
    console.print(table)


def _listed(values: Mapping[str, Value]) -> str:
    return "\n".join(f"{name} {number(value.median)}" for name, value in values.items())
