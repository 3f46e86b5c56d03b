"""The result as tables in Markdown, for documents. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bench.report import number
from bench.rows import Row, Value

_HEAD = "| row | server | ours | peers | limits | ours to them | target | |"
_RULE = "| --- | --- | --- | --- | --- | --- | --- | --- |"
_MET = {True: "met", False: "**missed**", None: ""}


def tables(rows: Sequence[Row], about: str) -> str:
    """A table for each suite, under a line that says where the figures are from.

    Args:
        rows: In their order.
        about: Machine, date and command.
    """
    parts = [about]
    for suite, some in itertools.groupby(rows, key=lambda row: row.suite):
        parts += ["", f"### {suite}", "", _HEAD, _RULE, *map(_line, some)]
    return "\n".join(parts) + "\n"


def _line(row: Row) -> str:
    ours = "failed" if row.ours is None else f"{_value(row.ours)} {row.unit}"
    cells = (
        row.row,
        row.server,
        ours,
        "; ".join(f"{name} {number(value.median)}" for name, value in row.peers.items()),
        "; ".join(f"{name} {number(value.median)}" for name, value in row.limits.items()),
        "; ".join(f"{ratio:.2f} × {name}" for name, ratio in row.ratios.items()),
        row.target,
        _MET[row.met] if row.target else "",
    )
    return f"| {' | '.join(cells)} |"


def _value(value: Value) -> str:
    low, high = value.spread
    return f"{number(value.median)} ({number(low)} to {number(high)})"
