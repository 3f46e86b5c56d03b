"""``$VAR`` and ``${VAR}`` in paths and variables: one pass, unknown names are errors.

``$$`` stands for a dollar sign; a ``$`` before anything that is no name is one too. What is put in
is not looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_REFERENCE = re.compile(r"\$(?:(\$)|\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ExpansionError(Exception):
    """A reference that cannot be resolved."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def expand(text: str, lookup: Callable[[str], str]) -> str:
    """Replace references by what ``lookup`` gives.

    Raises:
        ExpansionError: ``${…}`` without a name in it, or what ``lookup`` raised.
    """

    def substitute(match: re.Match[str]) -> str:
        dollar, braced, plain = match.groups()
        if dollar:
            return "$"
        name = plain if braced is None else braced
        if not _NAME.fullmatch(name):
            raise ExpansionError(
                "InvalidValue", f"${{{name[:80]}}} names no variable; write $$ for a dollar sign"
            )
        return lookup(name)

    return _REFERENCE.sub(substitute, text)


def references(text: str) -> list[str]:
    """The names that a text refers to, in order."""
    return [
        match[2] if match[3] is None else match[3]
        for match in _REFERENCE.finditer(text)
        if not match[1]
    ]
