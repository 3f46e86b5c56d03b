"""Prints results as a table or as JSON, and how far a long operation is.

In a pipe a table is plain text that is never cut, and progress is lines; on a terminal a bar.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

FORMATS = ("table", "json")

F = TypeVar("F", bound=Callable[..., Any])

#: Lines of progress in a pipe: one for each such part of the whole.
_STEP = 0.1


def output_option(command: F) -> F:
    """-o/--output."""
    return click.option(
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print the result.",
    )(command)


def show(value: Any, form: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print ``value`` as JSON, or ``rows`` as a table."""
    if form == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    lines = [list(heads), *([cell(item) for item in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    for line in lines:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def cell(value: Any) -> str:
    """A value in a table; nothing in it may move the terminal's cursor."""
    text = "" if value is None else str(value)
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def size(count: float) -> str:
    """Bytes for people: ``3.1 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class Progress:
    """How much of something is left, told on stderr as it shrinks.

    Args:
        label: What is going on.
        terminal: Whether to draw a bar; otherwise lines are written.
    """

    def __init__(self, label: str, *, terminal: bool | None = None) -> None:
        self._label = label
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._most = 0
        self._told = 0.0
        self._drawn = False

    def left(self, remaining: int) -> None:
        """``remaining`` bytes are still to be done."""
        self._most = max(self._most, remaining)
        if self._most == 0:
            return
        part = 1 - remaining / self._most
        if self._terminal:
            filled = int(part * 30)
            bar = "#" * filled + "-" * (30 - filled)
            click.echo(f"\r{self._label} [{bar}] {size(remaining)} left \033[K", err=True, nl=False)
            self._drawn = True
        elif part >= self._told + _STEP or self._told == 0:
            self._told = max(part, 1e-9)
            click.echo(f"{self._label}: {size(remaining)} left", err=True)

    def end(self) -> None:
        """The operation is over."""
        if self._drawn:
            click.echo("\r\033[K", err=True, nl=False)
