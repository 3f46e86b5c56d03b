"""What the kernel gets for whatever a handler raises."""

from __future__ import annotations

import errno
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import pyfuse3

from fuse.logs import log

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: Errnos that tell of trouble with the store rather than of the caller's request.
_TROUBLE = {errno.EIO, errno.ETIMEDOUT, errno.ENOSPC, errno.EACCES, errno.ESTALE, errno.ENOTCONN}


def answers(
    handler: Callable[Parameters, Awaitable[Result]],
) -> Callable[Parameters, Awaitable[Result]]:
    """Give the kernel an errno for whatever a handler raises."""

    @functools.wraps(handler)
    async def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            raise pyfuse3.FUSEError(errno_of(error, handler.__name__)) from error

    return wrapper


def errno_of(error: Exception, operation: str) -> int:
    """The errno that the kernel gets for what a handler raised; call it where that is handled.

    Trouble with the store is logged, and so is a defect of this program, with its traceback.
    """
    if not isinstance(error, OSError):
        log.exception("defect in a file system handler", operation=operation)
        return errno.EIO
    number = error.errno or errno.EIO
    if number in _TROUBLE:
        log.warning(
            "request failed",
            operation=operation,
            errno=errno.errorcode.get(number, number),
            reason=error.strerror or str(error),
            path=error.filename,
        )
    return number
