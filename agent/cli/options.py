"""Options that several commands share, spelt as `az batchai` spells them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.cli.api import Api, Scope
from agent.cli.client import AgentClient
from agent.cli.output import FORMATS

DEFAULT_CONFIG = Path("/etc/batchai/agent.toml")
DEFAULT_SOCKET = Path("/run/batchai/agent.sock")

F = TypeVar("F", bound=Callable[..., Any])


def find_socket(flag: Path | None) -> Path:
    """The agent's socket: flag, BATCHAI_SOCKET, the agent's own settings, the default."""
    if flag is not None:
        return flag
    for variable in ("BATCHAI_SOCKET", "BATCHAI_API__SOCKET"):
        if os.environ.get(variable):
            return Path(os.environ[variable])
    try:
        text = DEFAULT_CONFIG.read_bytes()
    except OSError:
        return DEFAULT_SOCKET
    # Only now: most commands never need the parser. The agent itself validates the file.
    import tomllib

    try:
        configured = tomllib.loads(text.decode()).get("api", {}).get("socket")
    except (ValueError, AttributeError):
        configured = None
    return Path(configured) if isinstance(configured, str) else DEFAULT_SOCKET


def make_api(socket: Path | None, scope: Scope | None = None) -> Api:
    """The agent that this command speaks to."""
    return Api(AgentClient(find_socket(socket)), scope or Scope())


def socket_option(command: F) -> F:
    """--socket."""
    return click.option(
        "--socket",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="The agent's socket.  [env: BATCHAI_SOCKET; default: the one in agent.toml, "
        f"or {DEFAULT_SOCKET}]",
    )(command)


def output_option(command: F) -> F:
    """-o/--output."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print the result.",
    )(command)


def scope_options(command: F) -> F:
    """-w, -e and -g, whose defaults are the node's own."""
    for option in (
        click.option("-g", "--resource-group", metavar="NAME", help="Default: the node's own."),
        click.option("-e", "--experiment", metavar="NAME", help="Default: the node's own."),
        click.option("-w", "--workspace", metavar="NAME", help="Default: the node's own."),
    ):
        command = option(command)
    return command


def _complete_jobs(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    del parameter
    given = context.params
    scope = Scope(given.get("workspace"), given.get("experiment"), given.get("resource_group"))
    try:
        jobs = make_api(given.get("socket"), scope).list_jobs()
    except Exception:  # noqa: BLE001 (a shell that completes has no place for errors)
        return []
    return [job["name"] for job in jobs if job["name"].startswith(incomplete)]


def job_name_option(command: F) -> F:
    """-n/--name, for commands on a job."""
    return click.option(
        "-n",
        "--name",
        required=True,
        metavar="JOB",
        shell_complete=_complete_jobs,
        help="Name of the job.",
    )(command)


def job_option(command: F) -> F:
    """-j/--job, for commands on a job's files."""
    return click.option(
        "-j",
        "--job",
        required=True,
        metavar="JOB",
        shell_complete=_complete_jobs,
        help="Name of the job.",
    )(command)


def reconnect_option(command: F) -> F:
    """--reconnect."""
    return click.option(
        "--reconnect",
        type=click.IntRange(min=0),
        default=600,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for an agent that went away, for example to be upgraded.",
    )(command)
