"""How the command line says that something failed: one line, a hint, and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from fuse.errors import MountError

#: Exit codes by the kind of failure; whatever is not here is 1.
EXIT_CODES = {
    "InvalidOption": 2,
    "ContainerNotFound": 3,
    "ShareNotFound": 3,
    "NotFound": 3,
    "NotMounted": 3,
    "NotCommitted": 4,
    "AuthenticationFailed": 5,
    "PermissionDenied": 5,
    "ServerUnreachable": 6,
    "TimedOut": 6,
}

EXIT_HELP = (
    "0 done, 1 failed, 2 wrong usage, 3 not found, 4 not all data is in the store, "
    "5 no permission or a wrong credential, 6 the server cannot be reached."
)


def exit_code(error: MountError) -> int:
    """The exit code of a failure."""
    return EXIT_CODES.get(error.code, 1)


def usage(message: str, hint: str | None = None) -> MountError:
    """A mistake on the command line, or in a file that it names."""
    return MountError("InvalidOption", message, hint)


def report(error: MountError) -> None:
    """Print the error and its hint on stderr."""
    click.echo(f"error: {error.code}: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def warn(message: str) -> None:
    """Tell the user what he should know, on stderr: stdout is for results."""
    click.echo(f"warning: {message}", err=True)


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn an OSError into an error for the person: ``what`` failed, for the kernel's reason."""
    try:
        yield
    except PermissionError as error:
        raise MountError("PermissionDenied", f"{what}: {error.strerror or error}") from error
    except FileNotFoundError as error:
        raise MountError("NotFound", f"{what}: {error.strerror or error}") from error
    except OSError as error:
        raise MountError("Failed", f"{what}: {error.strerror or error}") from error
