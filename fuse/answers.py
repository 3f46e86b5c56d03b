"""What the kernel gets for whatever a handler raises."""

from __future__ import annotations

import errno
import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import pyfuse3
import structlog

log = structlog.get_logger("fuse")

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
        except OSError as error:
            number = error.errno or errno.EIO
            if number in _TROUBLE:
                log.warning(
                    "request failed",
                    operation=handler.__name__,
                    errno=errno.errorcode.get(number, number),
                    reason=error.strerror or str(error),
                    path=error.filename,
                )
            raise pyfuse3.FUSEError(number) from error
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            log.exception("defect in a file system handler", operation=handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from error

    return wrapper
