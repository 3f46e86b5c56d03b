"""Errors of the driver: one kind for a mount that fails, and errnos for what happens on it.

Operations on a mounted volume raise :class:`OSError` with the errno that the manual pages give for
the situation; the file system core hands that errno to the kernel. What prevents a mount from
coming up is a :class:`MountError`, made for the person who must act.
"""

from __future__ import annotations

import errno
import os
from typing import NoReturn


class MountError(Exception):
    """A volume that cannot be mounted, said in a way that lets somebody mend it.

    Attributes:
        code: One of ``AuthenticationFailed``, ``ContainerNotFound``, ``ShareNotFound``,
            ``ServerUnreachable``, ``InvalidOption``, ``MountFailed``.
        message: What failed and why, in the words of the cause.
        hint: What to look at or change, or None.
    """

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, str | None]:
        """The error as it travels to the program that started the driver."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


def fail(number: int, path: str | None = None, reason: str | None = None) -> NoReturn:
    """Raise the OSError of ``number``; ``reason`` replaces the C library's words."""
    raise OSError(number, reason or os.strerror(number), path)


def is_missing(error: OSError) -> bool:
    """Whether the error says that a name does not exist."""
    return error.errno == errno.ENOENT
