"""Errors for the person who must act: a code, what failed and why, and a hint.

The REST API turns them into ARM error bodies, the command line into one line and an exit code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Exit codes of the command line, by kind of error.
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_CONFLICT = 4
EXIT_UNREACHABLE = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with what a user gave.

    Attributes:
        code: For programs, such as ``UnknownField``.
        message: What is wrong, and what would be right.
        target: JSON path of the place, or None where there is no place.
    """

    code: str
    message: str
    target: str | None = None


class BatchError(Exception):
    """An error that a caller can do something about.

    Attributes:
        code: For programs, Batch AI's own where it had one.
        message: What failed, and why, in the words of the cause.
        hint: What to look at or change.
        status: HTTP status.
        exit_code: Of the command line.
        details: The single faults, where there are several.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        status: int = 500,
        exit_code: int = EXIT_INTERNAL,
        details: Sequence[Fault] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.status = status
        self.exit_code = exit_code
        self.details = tuple(details)


class ValidationFailed(BatchError):  # noqa: N818 -- it says what happened, as trio's names do
    """A document was refused; every fault in it is listed."""

    def __init__(
        self,
        details: Sequence[Fault],
        *,
        code: str = "InvalidJob",
        what: str = "the job",
        hint: str | None = None,
    ) -> None:
        count = len(details)
        said = details[0].message if count == 1 else f"{count} faults"
        super().__init__(
            code,
            f"{what} is not valid: {said}",
            hint=hint,
            status=400,
            exit_code=EXIT_USAGE,
            details=details,
        )


class NotFound(BatchError):  # noqa: N818
    """Something that does not exist."""

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(code, message, hint=hint, status=404, exit_code=EXIT_NOT_FOUND)


class Conflict(BatchError):  # noqa: N818
    """The request does not fit the state that things are in."""

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(code, message, hint=hint, status=409, exit_code=EXIT_CONFLICT)


class Unavailable(BatchError):  # noqa: N818
    """Something needed does not answer just now."""

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(code, message, hint=hint, status=503, exit_code=EXIT_UNREACHABLE)


class Forbidden(BatchError):  # noqa: N818
    """The caller may not do that."""

    def __init__(self, code: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(code, message, hint=hint, status=403, exit_code=EXIT_UNREACHABLE)
