"""Waiting for a condition, with a deadline; never for a time."""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.2


def _pauses():
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _failure(condition: Callable[..., Any], deadline: float, last: object) -> AssertionError:
    text = getattr(condition, "__doc__", None) or getattr(condition, "__qualname__", condition)
    return AssertionError(f"not within {deadline:g} s: {text} (it was last {last!r})")


def eventually(condition: Callable[[], T], deadline: float = 10.0) -> T:
    """Call `condition` until it is true, and return what it returned; fail after `deadline` s."""
    end = time.monotonic() + deadline
    for pause in _pauses():
        result = condition()
        if result:
            return result
        if time.monotonic() + pause > end:
            raise _failure(condition, deadline, result)
        time.sleep(pause)
    raise AssertionError("unreachable")


async def eventually_async(condition: Callable[[], T | Awaitable[T]], deadline: float = 10.0) -> T:
    """`eventually` on trio's clock; `condition` may be an async function."""
    end = trio.current_time() + deadline
    for pause in _pauses():
        result = condition()
        if inspect.isawaitable(result):
            with trio.move_on_at(end) as scope:
                result = await result
            if scope.cancelled_caught:
                raise _failure(condition, deadline, "still being asked for")
        if result:
            return result
        if trio.current_time() + pause > end:
            raise _failure(condition, deadline, result)
        await trio.sleep(pause)
    raise AssertionError("unreachable")
