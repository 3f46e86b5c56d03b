"""The command ``batchai-mount``.

``blob`` and ``share`` leave a driver behind in the background, ``run`` is one; the others ask and
end drivers.
"""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

from __future__ import annotations

import importlib
import os
import sys

import click

from fuse import process
from fuse.cli.errors import exit_code, report
from fuse.errors import MountError

PROGRAM = "batchai-mount"

#: Command → where it is; what only one of them needs is imported for that one.
COMMANDS = {
    "blob": "mounting:blob",
    "share": "mounting:share",
    "list": "operating:list_mounts",
    "show": "operating:show_mount",
    "stats": "operating:stats",
    "flush": "operating:flush",
    "unmount": "operating:unmount",
    "recover": "recovering:recover",
    "credential": "operating:credential",
    "completion": "completing:completion",
    "run": "instructed:run",
    "ls": "instructed:list_directory",
    "cat": "instructed:cat",
}


class Commands(click.Group):
    """Imports a command when it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's
        """All names, sorted as click sorts them."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- click's
        """The command of a name."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(importlib.import_module(f"fuse.cli.{module}"), name)
        return command


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="batchai-node-agent", prog_name=PROGRAM)
def cli() -> None:
    """Mount Azure Blob containers and Azure file shares.

    Root's mounts are noted in /run/batchai/mounts, their logs are in /var/log/batchai; a user's in
    $XDG_RUNTIME_DIR/batchai and ~/.local/state/batchai. Volumes can be mounted by mount(8) and from
    fstab too: types fuse.batchai-blob and fuse.batchai-share.

    \b
    Examples:
      batchai-mount blob myaccount/data /mnt/data --credential-file ~/.azure/myaccount.key
      batchai-mount share myaccount/results /mnt/results --key-stdin
      batchai-mount list
      batchai-mount stats /mnt/data
      batchai-mount unmount /mnt/data

    \b
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 not all data is in the store,
    5 no permission or a wrong credential, 6 the server cannot be reached.
    """
    process.prepare()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every way out is an exit code, none a traceback."""
    try:
        result = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MountError as error:
        report(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # As a program that SIGPIPE kills; the rest of stdout must not be flushed into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("BATCHAI_DEBUG"):
            raise
        click.echo(f"error: InternalError: {type(error).__name__}: {error}", err=True)
        click.echo(f"hint: this is a fault of {PROGRAM}'s; BATCHAI_DEBUG=1 shows where", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
