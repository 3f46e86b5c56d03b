"""`batchai dev`: a storage account on this machine."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent.cli.options import output_option
from agent.cli.output import Column, show

if TYPE_CHECKING:
    from agent.dev.storage import DevStorage

DEFAULT_DIRECTORY = "/var/lib/batchai-dev"
SERVERS = (
    Column("Server", lambda server: server["name"]),
    Column("State", lambda server: server["state"]),
    Column("Endpoint", lambda server: server["endpoint"]),
    Column("Holds", lambda server: server["holds"]),
    Column("Pid", lambda server: server["pid"]),
    Column("Log", lambda server: server["log"]),
)

F = TypeVar("F", bound=Callable[..., Any])


def _directory_option(command: F) -> F:
    return click.option(
        "-d",
        "--directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=DEFAULT_DIRECTORY,
        show_default=True,
        help="Where data, key, logs and state are.",
    )(command)


@click.group()
def dev() -> None:
    """Run a local storage account: Azurite for blobs, Samba for file shares.

    \b
    Examples:
      batchai dev up --directory /tmp/storage
      batchai dev status --directory /tmp/storage -o json
      batchai dev down --directory /tmp/storage
    """


@dev.command()
@_directory_option
@output_option
@click.option("--account", metavar="NAME", help="Name of the account.  [default: devstoreaccount1]")
def up(directory: Path, output: str, account: str | None) -> None:
    """Start what does not run yet, and wait until it can be used.

    The account's key is made up at the first start and kept in DIRECTORY/key; an agent uses the
    account with DIRECTORY/agent.toml in its configuration.
    """
    from agent.dev import storage

    _show(storage.up(directory, account=account), output)


@dev.command()
@_directory_option
@output_option
def status(directory: Path, output: str) -> None:
    """What runs, and where. Exits with 4 when not all of it runs."""
    from agent.dev import storage

    found = storage.status(directory)
    _show(found, output)
    if not found.running:
        click.get_current_context().exit(4)


@dev.command()
@_directory_option
@output_option
def down(directory: Path, output: str) -> None:
    """Stop it; the data stays."""
    from agent.dev import storage

    stopped = storage.down(directory)
    if output == "table":
        click.echo("stopped" if stopped else "nothing was running")
    else:
        answer = {"directory": str(directory.resolve()), "stopped": stopped}
        columns = [Column("Stopped", lambda row: row["stopped"])]
        show(answer, columns, output, items=[answer])


def _show(found: DevStorage, output: str) -> None:
    """Print all but the key."""
    servers = [
        {
            "name": server.name,
            "state": "running" if server.running else "stopped",
            "endpoint": endpoint,
            "holds": holds,
            "pid": server.pid,
            "log": str(server.log),
        }
        for server, endpoint, holds in zip(
            found.servers,
            (found.blob_endpoint, found.file_endpoint),
            (f"container {found.container}", f"share {found.share}"),
            strict=True,
        )
    ]
    document = {
        "directory": str(found.directory),
        "running": found.running,
        "account": found.account,
        "keyFile": str(found.key_file),
        "agentConfig": str(found.config_file),
        "blobEndpoint": found.blob_endpoint,
        "fileEndpoint": found.file_endpoint,
        "container": found.container,
        "share": found.share,
        "shareDirectory": str(found.share_directory),
        "servers": servers,
    }
    show(document, SERVERS, output, items=servers)
