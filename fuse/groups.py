"""One error out of a nursery: callers act on the cause, not on the shape of the task tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def single_error() -> Iterator[None]:
    """Raise the first error of an exception group in place of the group.

    The others are consequences (siblings cancelled) or say the same; they stay reachable through
    ``__cause__``.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
