"""Prints results: json, jsonc (coloured), table, tsv.

rich is imported only for a terminal: in a pipe a table is plain text that is never wrapped or cut,
so that grep, awk and cut can be trusted with it.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

FORMATS = ("table", "json", "jsonc", "tsv")
STYLES = {
    "succeeded": "green",
    "failed": "red",
    "running": "yellow",
    "terminating": "yellow",
    "mounted": "green",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its head, and how its text is made from a resource."""

    head: str
    text: Callable[[Mapping[str, Any]], Any]


def _cell(column: Column, item: Mapping[str, Any]) -> str:
    value = column.text(item)
    text = "" if value is None else str(value)
    # A name from a share may hold anything; none of it may move the terminal's cursor.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def show(
    value: Any, columns: Sequence[Column], form: str, *, items: Sequence[Mapping[str, Any]]
) -> None:
    """Print a result: `value` as JSON, or `items` as rows of `columns`."""
    if form in {"json", "jsonc"}:
        _json(value, colour=form == "jsonc")
        return
    rows = [[_cell(column, item) for column in columns] for item in items]
    heads = [column.head for column in columns]
    if form == "tsv":
        for row in rows:
            click.echo("\t".join(row))
    elif sys.stdout.isatty():
        _rich_table(heads, rows)
    else:
        _plain_table(heads, rows)


def _json(value: Any, *, colour: bool) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if colour and sys.stdout.isatty():
        from rich.console import Console

        Console().print_json(text)
    else:
        click.echo(text)


def _rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console().print(table)


def _plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [heads, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def instant(text: str | None) -> datetime | None:
    """A time of the API's."""
    return None if text is None else datetime.fromisoformat(text)


def local_time(text: str | None) -> str | None:
    """A time of the API's as people here write it, to the second."""
    moment = instant(text)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else None


def duration(start: str | None, end: str | None) -> str | None:
    """How long it took, or takes so far: "7s", "3m 12s", "1h 05m"."""
    begin = instant(start)
    if begin is None:
        return None
    seconds = int(((instant(end) or datetime.now(UTC)) - begin).total_seconds())
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{minutes}m {seconds % 60:02d}s" if minutes else f"{seconds}s"


def size(count: int | None) -> str | None:
    """Bytes as a plain number: exact, and sort -n can read it."""
    return None if count is None else str(count)
