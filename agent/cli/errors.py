"""How the command line says that something failed: for the person, on stderr, with an exit code.

Exit codes: 0 done; 1 a fault of the agent's; 2 wrong usage or a refused job; 3 not found; 4 not in
this state; 5 no agent, or no permission; 6 the job failed without an exit code; 130 Ctrl-C; 141 the
reader of our output has gone. Commands that wait for a job exit with the job's own exit code.
"""

import click

from agent.errors import BatchError


def usage_error(message: str, *, hint: str | None = None) -> BatchError:
    """A mistake on the command line, or in a file that it names."""
    return BatchError("InvalidArgument", message, hint=hint, status=400, exit_code=2)


def not_found(message: str, *, hint: str | None = None) -> BatchError:
    """What was asked for is not there, and will not come."""
    return BatchError("NotFound", message, hint=hint, status=404, exit_code=3)


def report(error: BatchError) -> None:
    """Print the error, each of its faults with its JSON path, and the hint."""
    click.echo(f"error: {error.code}: {error.message}", err=True)
    for fault in error.details:
        if fault.message == error.message:
            continue  # said already
        where = f"{fault.target}: " if fault.target else ""
        click.echo(f"  {where}{fault.message} [{fault.code}]", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def notice(message: str) -> None:
    """Tell the user what is going on, on stderr: stdout is for results."""
    click.echo(message, err=True)
