"""``list``, ``show``, ``stats``, ``flush``, ``unmount`` and ``credential``."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from fuse.cli import credentials, mounted, unmounting
from fuse.cli.asking import ask
from fuse.cli.errors import usage, warn
from fuse.cli.output import output_option, show, size
from fuse.errors import MountError

#: Seconds that a flush may take; it may have a full cache disk to send.
_FLUSH_TIMEOUT = 24 * 3600.0


def complete_mountpoint(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The mount points that begin so, for the shell."""
    del context, parameter
    try:
        found = mounted.find_all()
    except Exception:  # noqa: BLE001 (a shell that completes has no place for errors)
        return []
    return [
        os.fspath(one.mountpoint) for one in found if str(one.mountpoint).startswith(incomplete)
    ]


# Not a click.Path: that asks for the path's attributes, and hangs with what hangs there.
directory_argument = click.argument(
    "directory", type=Path, metavar="DIR", shell_complete=complete_mountpoint
)


@click.command(name="list")
@output_option
def list_mounts(output: str) -> None:
    """List the volumes that are mounted on this machine, those of the agent too.

    A volume is mounted; dead: its driver has died; left: only the driver's notes are there; other:
    mounted by somebody whose drivers you cannot ask.

    \b
    Examples:
      batchai-mount list
      batchai-mount list --output json | jq -r '.[].mountpoint'
    """
    found = [one.document() for one in mounted.find_all()]
    heads = ("Mount point", "Kind", "Source", "Status", "Pid")
    keys = ("mountpoint", "kind", "source", "status", "pid")
    show(found, output, heads, [[one[key] for key in keys] for one in found])


@click.command(name="show")
@directory_argument
@output_option
def show_mount(directory: Path, output: str) -> None:
    """Show one volume: what is mounted, by whom, and what its driver warns of.

    \b
    Examples:
      batchai-mount show /mnt/data
    """
    found = mounted.find(directory)
    document = found.document()
    if found.status in {"mounted", "ending"} and found.directory is not None:
        document |= ask(found.directory, "status")
    shown = {key: value for key, value in document.items() if key != "warnings"}
    show(document, output, ("What", "Value"), _rows(shown))
    for warning in document.get("warnings", []):
        warn(warning)
    if found.status == "mounted" and not all(document.get("tuned", {}).values()):
        warn("the kernel's read-ahead is its default: only root can raise it")


@click.command()
@directory_argument
@output_option
def stats(directory: Path, output: str) -> None:
    """Show the counters of a volume's driver: requests, bytes, caches, errors.

    \b
    Examples:
      batchai-mount stats /mnt/data
      batchai-mount stats /mnt/data --output json | jq .memory_used_bytes
    """
    _, place = mounted.find_served(directory)
    counters = ask(place, "stats")
    show(counters, output, ("Counter", "Value"), _rows(counters))


@click.command()
@directory_argument
def flush(directory: Path) -> None:
    """Store everything that was written and is not in the store yet.

    \b
    Examples:
      batchai-mount flush /mnt/data
    """
    _, place = mounted.find_served(directory)
    with unmounting.watched("storing", place) as meanwhile:
        ask(place, "flush", timeout=_FLUSH_TIMEOUT, meanwhile=meanwhile)


@click.command()
@directory_argument
@click.option("--force", is_flag=True, help="Do not wait for the driver; keep what is not stored.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long the driver may take.  [default: as long as its --flush-timeout]",
)
def unmount(directory: Path, *, force: bool, timeout: float | None) -> None:
    """Store what is not stored, then unmount.

    It fails with exit code 4 if something could not be stored; that is kept in the cache
    directory (batchai-mount recover). With --force requests that hang are ended with an error.

    \b
    Examples:
      batchai-mount unmount /mnt/data
      batchai-mount unmount --force /mnt/data
    """
    found = mounted.find(directory)
    if force:
        unmounting.force(found)
    else:
        unmounting.unmount(found, timeout)


@click.command()
@directory_argument
@click.option(
    "--credential-file",
    type=click.Path(path_type=Path),
    help="A file with it, for you alone (0600).",
)
@click.option("--key-stdin", is_flag=True, help="Read it from standard input.")
@click.option("--auth", type=click.Choice(credentials.METHODS), help="Use an identity.")
@click.option("--client-id", help="Of the identity or the service principal.")
@click.option("--tenant-id", help="Of the service principal.")
@click.option("--certificate", type=click.Path(), help="Of the service principal (PEM).")
def credential(
    directory: Path,
    *,
    credential_file: Path | None,
    key_stdin: bool,
    auth: str | None,
    client_id: str | None,
    tenant_id: str | None,
    certificate: str | None,
) -> None:
    """Replace the credential of a volume while it is mounted.

    The new one is tried first; a wrong one is refused, and the old one stays.

    \b
    Examples:
      batchai-mount credential /mnt/data --key-stdin < new.key
      batchai-mount credential /mnt/data --auth managed
    """
    found, place = mounted.find_served(directory)
    account = found.source.strip("/").partition("/")[0]
    new = credentials.find(
        account,
        auth=auth,
        file=credential_file,
        from_stdin=key_stdin,
        identity={
            "clientId": client_id,
            "tenantId": tenant_id,
            "certificatePath": certificate,
        },
    )
    try:
        ask(place, "credential", {"credential": new.credential}, timeout=120)
    except MountError as error:
        if error.code == "UnknownOperation":
            raise usage(
                "the driver of this mount is older than this command, and cannot do that",
                "unmount it, and mount it again",
            ) from None
        raise


def _rows(document: dict[str, Any]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in sorted(document.items()):
        if isinstance(value, dict):
            rows += [(f"{key}.{inner}", item) for inner, item in sorted(value.items())]
        elif isinstance(value, int) and not isinstance(value, bool) and key.endswith("bytes"):
            rows.append((key, f"{value} ({size(value)})" if value >= 1024 else value))
        elif value is not None:
            rows.append((key, value))
    return rows
