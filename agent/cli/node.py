"""`batchai node`: health, mounts."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

from pathlib import Path

import click

from agent.cli import options
from agent.cli.output import Column, show

MOUNTS = (
    Column("Mount point", lambda mount: mount["mountpoint"]),
    Column("Kind", lambda mount: mount["kind"]),
    Column("Source", lambda mount: mount["source"]),
    Column("Job", lambda mount: mount["job"] or "(cluster)"),
    Column("State", lambda mount: mount["state"]),
    Column("Pid", lambda mount: mount["pid"]),
    Column("Error", lambda mount: mount["error"]),
)
HEALTH = (Column("What", lambda row: row["what"]), Column("Value", lambda row: row["value"]))


@click.group()
def node() -> None:
    """Look at the node itself.

    \b
    Examples:
      batchai node health
      batchai node mounts
    """


@node.command()
@options.output_option
@options.socket_option
def health(output: str, socket: Path | None) -> None:
    """How the agent is, what it runs, and the names that commands take by default.

    \b
    Examples:
      batchai node health
      batchai node health -o json | jq .running
    """
    body = options.make_api(socket).health()
    rows = []
    for key, value in body.items():
        if isinstance(value, dict):
            rows += [{"what": f"{key}.{inner}", "value": item} for inner, item in value.items()]
        else:
            rows.append({"what": key, "value": value})
    show(body, HEALTH, output, items=rows)


@node.command()
@options.output_option
@options.socket_option
def mounts(output: str, socket: Path | None) -> None:
    """Every volume that is mounted or ought to be, and why one is not.

    \b
    Examples:
      batchai node mounts
      batchai node mounts -o json
    """
    found = options.make_api(socket).mounts()
    show(found, MOUNTS, output, items=found)
    if output == "table":
        for mount in found:
            for warning in mount["warnings"]:
                click.echo(f"warning: {mount['mountpoint']}: {warning}", err=True)
            if mount["hint"]:
                click.echo(f"hint: {mount['mountpoint']}: {mount['hint']}", err=True)
