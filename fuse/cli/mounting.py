"""``batchai-mount blob`` and ``batchai-mount share``."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fuse import process
from fuse.cli import credentials, directories, document, launch, target
from fuse.cli.errors import usage, warn

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that a mount may take to come up, unless ``--timeout`` says otherwise.
TIMEOUT = 60.0

_PATH = click.Path(path_type=Path)
_OCTAL = click.STRING

_OPTIONS = (
    click.option("--read-only", "--ro", is_flag=True, help="Refuse every change."),
    click.option(
        "-o",
        "mount_options",
        multiple=True,
        metavar="OPT[,OPT]",
        help="Options as of mount(8) and blobfuse: ro, umask=027, attr_timeout=5, …",
    ),
    click.option(
        "--mount-options",
        "more_options",
        metavar="TEXT",
        help="blobfuse's own options in one string, as a job's mountOptions.",
    ),
    click.option("--subdirectory", metavar="DIR", help="Mount only this directory of the volume."),
    click.option(
        "--allow-other/--no-allow-other",
        default=None,
        help="Let other users in.  [default: if root mounts]",
    ),
    click.option("--uid", type=click.IntRange(0), help="Owner of files.  [default: yourself]"),
    click.option("--gid", type=click.IntRange(0), help="Group of files.  [default: your own]"),
    click.option("--file-mode", type=_OCTAL, default="0644", show_default=True, metavar="OCTAL"),
    click.option("--dir-mode", type=_OCTAL, default="0755", show_default=True, metavar="OCTAL"),
    click.option(
        "--attr-timeout",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="How long names and attributes are believed; 0: ask every time.",
    ),
    click.option(
        "--flush-timeout",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="How long an unmount may take to store what is not stored.  [default: 120]",
    ),
    click.option(
        "--cache-dir",
        type=_PATH,
        help="Content and unsaved data.  [default: /var/cache/batchai, ~/.cache/batchai]",
    ),
    click.option("--log-file", type=_PATH, help="The driver's log.  [default: see batchai-mount]"),
    click.option(
        "--log-level", type=click.Choice(("error", "warning", "info", "debug")), help="Least of it."
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="How long the mount may take to come up.",
    ),
    click.option("--foreground", "-f", is_flag=True, help="Stay, log to stderr; Ctrl-C unmounts."),
    click.option(
        "--credential-file",
        type=_PATH,
        help="A key, SAS, connection string, or blobfuse's connection.cfg; for you alone (0600).",
    ),
    click.option("--key-stdin", is_flag=True, help="Read a key, SAS or connection string."),
    click.option("--endpoint", help="In place of the cloud's address."),
    click.option(
        "--cloud", type=click.Choice(tuple(target.CLOUDS)), help="Whose addresses.  [public]"
    ),
)

_BLOB_OPTIONS = (
    click.option(
        "--auth",
        type=click.Choice(credentials.METHODS),
        help="How to prove who you are.  [default: by what there is]",
    ),
    click.option("--client-id", help="Of the identity or the service principal."),
    click.option("--tenant-id", help="Of the service principal."),
    click.option("--certificate", type=_PATH, help="Of the service principal (PEM)."),
    click.option("--ca-bundle", type=_PATH, help="Certificate authorities to believe (PEM)."),
    click.option("--proxy", metavar="URL", help="In place of HTTPS_PROXY; without a password."),
)


def _with(options: tuple[Callable[[Any], Any], ...]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command()
@click.argument("container", metavar="ACCOUNT/CONTAINER[/DIR]")
@click.argument("directory", type=Path, metavar="DIR")
@_with(_OPTIONS)
@_with(_BLOB_OPTIONS)
def blob(container: str, directory: Path, **given: Any) -> None:
    """Mount a blob container.

    It returns when the mount answers; the driver goes on by itself. The credential comes from
    --credential-file, --key-stdin, an identity (--auth), the variables AZURE_STORAGE_KEY,
    AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or a prompt: never an argument.

    \b
    Examples:
      batchai-mount blob myaccount/data /mnt/data --credential-file ~/.azure/myaccount.key
      batchai-mount blob myaccount/data/images /mnt/images --read-only --auth managed
      AZURE_STORAGE_KEY=… batchai-mount blob myaccount/data /mnt/data -o attr_timeout=0
      batchai-mount blob http://127.0.0.1:10000/devstoreaccount1/data /mnt/data --foreground
    """
    _mount("blob", container, directory, given)


@click.command()
@click.argument("share", metavar="ACCOUNT/SHARE[/DIR]")
@click.argument("directory", type=Path, metavar="DIR")
@_with(_OPTIONS)
def share(share: str, directory: Path, **given: Any) -> None:
    """Mount a file share, by SMB 3.1.1.

    \b
    Examples:
      batchai-mount share myaccount/results /mnt/results --key-stdin < ~/.azure/myaccount.key
      batchai-mount share //myaccount.file.core.windows.net/results /mnt/results --foreground
    """
    _mount("share", share, directory, given)


def _mount(kind: target.Kind, text: str, directory: Path, given: dict[str, Any]) -> None:
    wanted = target.parse(kind, text, os.environ.get("AZURE_STORAGE_ACCOUNT"))
    mountpoint = directories.resolved(directory)
    found = credentials.find(
        wanted.account,
        auth=given.get("auth"),
        file=given["credential_file"],
        from_stdin=given["key_stdin"],
        identity={
            "clientId": given.get("client_id"),
            "tenantId": given.get("tenant_id"),
            "certificatePath": _text(given.get("certificate")),
        },
    )
    extra = {
        name: os.path.abspath(value) if name == "caBundle" else value  # noqa: PTH100
        for name, value in {
            "caBundle": _text(given.get("ca_bundle")),
            "proxy": given.get("proxy"),
        }.items()
        if value is not None
    }
    if "@" in extra.get("proxy", ""):
        raise usage("a proxy's password has no place in an argument", "set HTTPS_PROXY")
    options = document.Options(
        read_only=given["read_only"],
        allow_other=given["allow_other"],
        uid=given["uid"],
        gid=given["gid"],
        file_mode=given["file_mode"],
        directory_mode=given["dir_mode"],
        attribute_timeout=given["attr_timeout"],
        flush_timeout=given["flush_timeout"],
        cache_directory=given["cache_dir"],
        mount_options=_joined(given),
        cloud=given["cloud"],
        endpoint=given["endpoint"],
        extra=extra,
    )
    instructions = document.make(wanted, mountpoint, found, options)
    if given["foreground"]:
        launch.run_here(instructions)
    log = given["log_file"] or directories.log_file(instructions["id"])
    answer = launch.start(instructions, Path(os.path.abspath(log)), timeout=given["timeout"])  # noqa: PTH100
    for warning in answer.get("warnings", []):
        warn(warning)
    process.end(0)


def _joined(given: dict[str, Any]) -> str:
    parts = [f"-o {shlex.quote(item)}" for item in given["mount_options"]]
    if given["more_options"]:
        parts.insert(0, given["more_options"])
    if given["subdirectory"]:
        parts.append(f"--subdirectory={shlex.quote(given['subdirectory'])}")
    if level := given["log_level"]:
        word = {"error": "ERR", "warning": "WARNING", "info": "INFO", "debug": "DEBUG"}[level]
        parts.append(f"--log-level=LOG_{word}")
    return " ".join(parts)


def _text(path: Path | None) -> str | None:
    return None if path is None else os.fspath(path)
