"""Reads JSON objects field by field into typed values; what is wrong is named by its place.

By hand: a library that validates takes longer to import than everything else of a mount's start
that is not trio, and the documents are small.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
D = TypeVar("D")

#: Makes a value of what was parsed from JSON, or raises :class:`Fault`.
Reader = Callable[[object], T]


class Fault(ValueError):  # noqa: N818 - what a document has, not what a program did
    """Something that a document should not say; never with a value of it in the text.

    Attributes:
        said: What is wrong.
        place: Names of the fields on the way to it.
    """

    def __init__(self, said: str, *place: str) -> None:
        super().__init__(said)
        self.said = said
        self.place = place

    def below(self, name: str) -> Fault:
        """The same, seen from the object that holds the field ``name``."""
        return Fault(self.said, name, *self.place)


class Secret:
    """A text that nobody sees by accident: not in a traceback, not in a log.

    Args:
        value: The text.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    def get_secret_value(self) -> str:
        """The text itself."""
        return self._value


class Fields:
    """The fields of one JSON object; null is as good as absent.

    Args:
        given: What should be an object.

    Raises:
        Fault: It is none.
    """

    def __init__(self, given: object) -> None:
        if not isinstance(given, Mapping):
            raise Fault("Input should be an object")
        self._left = {name: value for name, value in given.items() if value is not None}

    def must(self, name: str, read: Reader[T]) -> T:
        """A field that has to be there.

        Raises:
            Fault: It is not, or is not what ``read`` takes.
        """
        if name not in self._left:
            raise Fault("Field required", name)
        try:
            return read(self._left.pop(name))
        except Fault as fault:
            raise fault.below(name) from None

    def may(self, name: str, read: Reader[T], default: D) -> T | D:
        """A field, or ``default`` where it is not given.

        Raises:
            Fault: It is not what ``read`` takes.
        """
        return self.must(name, read) if name in self._left else default

    def end(self) -> None:
        """Nothing else may have been given.

        Raises:
            Fault: Something was.
        """
        for name in self._left:
            raise Fault("there is no such field", name)


def record(make: Callable[[Fields], T]) -> Reader[T]:
    """An object whose fields ``make`` takes, all of them."""

    def read(value: object) -> T:
        fields = Fields(value)
        made = make(fields)
        fields.end()
        return made

    return read


def text(*, pattern: str | None = None, least: int = 0) -> Reader[str]:
    """A string of at least so many characters that matches the pattern as a whole."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise Fault("Input should be a string")
        if len(value) < least:
            raise Fault(f"it should have at least {least} character(s)")
        if pattern is not None and re.fullmatch(pattern, value) is None:
            raise Fault(f"it should match {pattern}")
        return value

    return read


def path(value: object) -> Path:
    """A path."""
    return Path(text()(value))


def secret(value: object) -> Secret:
    """A string that is not to be shown."""
    return Secret(text()(value))


def flag(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Fault("Input should be true or false")
    return value


def number(*, least: int, most: int | None = None) -> Reader[int]:
    """A whole number within bounds, both included."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Fault("Input should be a whole number")
        _within(value, least, most)
        return value

    return read


def seconds(*, least: float, most: float | None = None) -> Reader[float]:
    """A number within bounds, both included."""

    def read(value: object) -> float:
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not math.isfinite(value)
        ):
            raise Fault("Input should be a number")
        _within(value, least, most)
        return float(value)

    return read


def choice(known: Collection[T]) -> Reader[T]:
    """One of the values."""

    def read(value: object) -> T:
        for one in known:
            if type(value) is type(one) and value == one:
                return one
        raise Fault(f"Input should be one of {', '.join(map(repr, known))}")

    return read


def many(read: Reader[T], *, most: int) -> Reader[list[T]]:
    """An array of at most so many."""

    def read_all(value: object) -> list[T]:
        if not isinstance(value, list):
            raise Fault("Input should be an array")
        if len(value) > most:
            raise Fault(f"it should have at most {most} items")
        made = []
        for index, each in enumerate(value):
            try:
                made.append(read(each))
            except Fault as fault:
                raise fault.below(str(index)) from None
        return made

    return read_all


def parsed(document: str | bytes) -> object:
    """What the JSON text says.

    Raises:
        Fault: It is no JSON.
    """
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        raise Fault("Input should be JSON") from None


def _within(value: float, least: float, most: float | None) -> None:
    if value < least:
        raise Fault(f"it should be at least {least:g}")
    if most is not None and value > most:
        raise Fault(f"it should be at most {most:g}")
