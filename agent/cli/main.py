"""The command `batchai`."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

import os
import sys

import click

from agent.cli.client import OutputClosed
from agent.cli.errors import report
from agent.cli.lazy import LazyGroup
from agent.errors import BatchError

PROGRAM = "batchai"


@click.group(
    cls=LazyGroup,
    lazy={
        "agent": "agent.cli.agent:agent",
        "completion": "agent.cli.completion:completion",
        "dev": "agent.cli.dev:dev",
        "job": "agent.cli.job:job",
        "node": "agent.cli.node:node",
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="batchai-node-agent", prog_name=PROGRAM)
def cli() -> None:
    """Run Azure Batch AI jobs on this node.

    \b
    Examples:
      batchai job create -n digits -f job.json
      batchai job file stream -j digits -f stdout.txt
      batchai job list
      batchai node mounts

    \b
    Exit codes: 0 done, 1 a fault of the agent's, 2 wrong usage or a refused job, 3 not found,
    4 conflict, 5 no agent or no permission, 6 the job failed without an exit code of its own.
    Commands that wait for a job exit with the job's exit code.
    """


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
    except BatchError as error:
        report(error)
        sys.exit(error.exit_code)
    except (OutputClosed, BrokenPipeError):
        # As a program that SIGPIPE kills; the rest of stdout must not be flushed into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("BATCHAI_DEBUG"):
            raise
        click.echo(f"error: InternalError: {type(error).__name__}: {error}", err=True)
        click.echo("hint: this is a fault of batchai's; BATCHAI_DEBUG=1 shows where", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


if __name__ == "__main__":
    main()
