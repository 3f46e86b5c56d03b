"""`batchai agent`: the daemon."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.errors import usage_error
from agent.errors import BatchError

if TYPE_CHECKING:
    from agent.config import Config


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="agent.toml.  [default: /etc/batchai/agent.toml, if it exists]",
)
@click.option("--socket", type=click.Path(path_type=Path), help="api.socket")
@click.option("--tcp", metavar="HOST:PORT", help="api.tcp")
@click.option("--token-file", type=click.Path(path_type=Path), help="api.token_file")
@click.option(
    "--log-level", type=click.Choice(("debug", "info", "warning", "error")), help="log.level"
)
@click.option("--log-format", type=click.Choice(("auto", "json", "console")), help="log.format")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Any other setting of agent.toml (VALUE as in TOML, or plain text); repeatable.",
)
def agent(
    config: Path | None,
    socket: Path | None,
    tcp: str | None,
    token_file: Path | None,
    log_level: str | None,
    log_format: str | None,
    settings: tuple[str, ...],
) -> None:
    """Run the node agent in the foreground (systemd does this on a node).

    Settings come from the file, then the environment (BATCHAI_SECTION__KEY), then the options;
    later ones win. SIGTERM and Ctrl-C stop the agent; jobs and mounts go on, and the next agent
    takes them over.

    \b
    Examples:
      batchai agent --config /etc/batchai/agent.toml
      batchai agent --config agent.toml --log-level debug
      batchai agent --set jobs.user=alice --set node.workspace=vision
    """
    overrides: dict[str, dict[str, Any]] = {}
    for setting in settings:
        section, key, value = _parse(setting)
        overrides.setdefault(section, {})[key] = value
    for section, key, given in (
        ("api", "socket", socket and str(socket.absolute())),
        ("api", "tcp", tcp),
        ("api", "token_file", token_file and str(token_file.absolute())),
        ("log", "level", log_level),
        ("log", "format", log_format),
    ):
        if given is not None:
            overrides.setdefault(section, {})[key] = given
    from agent.config import load

    _run(load(config, overrides))


def _run(config: "Config") -> None:
    """Be the agent.

    Raises:
        BatchError: it cannot start as configured. Anything else is a fault of the agent's: its
            traceback belongs into the journal, and the exit code 1 lets systemd restart it.
    """
    import traceback

    import trio

    from agent import daemon

    try:
        trio.run(daemon.run, config)
    except BatchError:
        raise
    except BaseExceptionGroup as group:
        error = _only(group)
        if error is not None:
            raise error from None
        traceback.print_exc()
        sys.exit(1)
    except Exception:  # noqa: BLE001 (said in full, see above)
        traceback.print_exc()
        sys.exit(1)


def _only(group: BaseExceptionGroup[BaseException]) -> BatchError | None:
    """The one BatchError that a group of groups holds, if it holds nothing else."""
    if len(group.exceptions) != 1:
        return None
    error = group.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        return _only(error)
    return error if isinstance(error, BatchError) else None


def _parse(setting: str) -> tuple[str, str, Any]:
    """Split SECTION.KEY=VALUE; the value is TOML, or text when it is none."""
    import tomllib

    name, equals, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise usage_error(f"--set takes SECTION.KEY=VALUE, not {setting!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    return section, key, value
