"""``batchai-mount completion``: scripts for the shells."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell; it completes mount points too.

    \b
    Examples:
      eval "$(batchai-mount completion bash)"
      batchai-mount completion fish > ~/.config/fish/completions/batchai-mount.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    assert context.parent is not None
    program = "batchai-mount"
    click.echo(kind(context.parent.command, {}, program, "_BATCHAI_MOUNT_COMPLETE").source())
