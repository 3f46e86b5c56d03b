"""`batchai completion`: scripts for the shells."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion script for a shell; it completes the names of jobs too.

    \b
    Examples:
      eval "$(batchai completion bash)"
      batchai completion fish > ~/.config/fish/completions/batchai.fish
      batchai completion zsh > ~/.zfunc/_batchai
    """
    from agent.cli.main import PROGRAM, cli

    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover (the choices are click's own)
        raise click.UsageError(f"no completion for {shell}")
    click.echo(kind(cli, {}, PROGRAM, "_BATCHAI_COMPLETE").source())
