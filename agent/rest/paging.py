"""Pages of a list: ``maxresults`` and ``$skiptoken``, as ARM has them.

The token is the last name of the page before, so that a page does not shift when something is
created or deleted between two requests.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from agent.rest.errors import bad_request

MAX_RESULTS = 1000

T = TypeVar("T")


def number(text: str | None, name: str, *, default: int, least: int, most: int) -> int:
    """A whole number from the query string.

    Raises:
        BatchError: 400, when it is no number or out of range.
    """
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        message = f'the query parameter "{name}" must be a whole number from {least} to {most}'
        raise bad_request("InvalidQueryParameter", f"{message}, not {text!r}", target=name)
    return int(text)


def page(
    items: Sequence[T], name: Callable[[T], str], *, limit: int, token: str | None
) -> tuple[list[T], str | None]:
    """One page of items in the order of their names, and the token of the next (None at the end).

    Raises:
        BatchError: 400, for a token that this API never gave.
    """
    ordered = sorted(items, key=name)
    if token is not None:
        try:
            after = base64.b64decode(token, altchars=b"-_", validate=True).decode()
        except (binascii.Error, ValueError):
            message = "the $skiptoken is not one that this API gave out"
            raise bad_request("InvalidSkipToken", message, target="$skiptoken") from None
        ordered = [item for item in ordered if name(item) > after]
    taken = ordered[:limit]
    if len(ordered) <= limit:
        return taken, None
    return taken, base64.urlsafe_b64encode(name(taken[-1]).encode()).decode()
