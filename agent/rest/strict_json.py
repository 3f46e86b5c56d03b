"""JSON as people write it in job files, refused with the place of the mistake.

Only the standard library is imported: the command line loads this too, and its start-up counts.
"""

import json
from typing import Any


class JsonError(ValueError):
    """Text that is not acceptable JSON; the message holds line and column where they are known."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            # json keeps the last one silently: half of what the author wrote would be lost.
            raise JsonError(f'the key "{key}" occurs twice in one object')
        result[key] = value
    return result


def _constant(name: str) -> Any:
    raise JsonError(f"{name} is not JSON")


def loads(data: bytes) -> Any:
    """Parse UTF-8 JSON (a byte order mark is allowed: editors on Windows write it).

    Raises:
        JsonError: with "line L column C" of the first fault, for malformed text; also for
            duplicate keys, NaN and Infinity, and nesting that is too deep.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonError(f"not UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise JsonError("empty: a JSON object was expected")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise JsonError("nested too deeply") from None
