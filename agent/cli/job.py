"""`batchai job`: create, list, show, wait, terminate, delete."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from agent.cli import credentials, options
from agent.cli.api import Scope, exit_code, state
from agent.cli.errors import notice, usage_error
from agent.cli.lazy import LazyGroup
from agent.cli.output import Column, duration, local_time, show
from agent.cli.watch import error_lines, progress, tell_end, wait_for_end
from agent.rest import strict_json


def _info(job: Any, field: str) -> Any:
    return (job["properties"].get("executionInfo") or {}).get(field)


COLUMNS = (
    Column("Name", lambda job: job["name"]),
    Column("Tool", lambda job: job["properties"].get("toolType")),
    Column("State", lambda job: job["properties"]["executionState"]),
    Column("Exit code", lambda job: _info(job, "exitCode")),
    Column("Created", lambda job: local_time(job["properties"]["creationTime"])),
    Column("Duration", lambda job: duration(_info(job, "startTime"), _info(job, "endTime"))),
)


@click.group(cls=LazyGroup, lazy={"file": "agent.cli.job_file:file"})
def job() -> None:
    """Create jobs, look at them, wait for them.

    \b
    Examples:
      batchai job create -n digits -f job.json
      batchai job file stream -j digits -f stdout.txt
      batchai job wait -n digits
    """


@job.command()
@click.option(
    "-n", "--name", metavar="JOB", help="Name of the job.  [default: the file's, and the time]"
)
@click.option(
    "-f",
    "--config-file",
    "config",
    required=True,
    type=click.File("rb"),
    metavar="FILE",
    help="The job as JSON (Batch AI's job.json); - reads stdin.",
)
@click.option(
    "-c", "--cluster", metavar="NAME", help="Name or ARM id of the cluster.  Default: this node."
)
@options.scope_options
@click.option(
    "--storage-account-name",
    metavar="NAME",
    help="Replaces <AZURE_BATCHAI_STORAGE_ACCOUNT>; the account that the key belongs to.  "
    "[env: AZURE_BATCHAI_STORAGE_ACCOUNT]",
)
@click.option(
    "--storage-account-key",
    metavar="KEY",
    help="Key for volumes without credentials.  Other users of this machine can read it in the "
    "list of processes: prefer the environment variable or the file.  "
    "[env: AZURE_BATCHAI_STORAGE_KEY]",
)
@click.option(
    "--storage-account-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File that holds the key.",
)
@options.output_option
@options.socket_option
def create(
    name: str | None,
    config: Any,
    cluster: str | None,
    workspace: str | None,
    experiment: str | None,
    resource_group: str | None,
    storage_account_name: str | None,
    storage_account_key: str | None,
    storage_account_key_file: Path | None,
    output: str,
    socket: Path | None,
) -> None:
    """Create a job; it is queued when this returns.

    Keys come from the job file, from the options below, or from the agent's own accounts.
    A job that is refused is refused with every fault and its JSON path; exit code 2.

    \b
    Examples:
      batchai job create -f job.json
      batchai job create -n digits -f job.json -w vision -e mnist
      AZURE_BATCHAI_STORAGE_KEY=$(cat key) batchai job create -n digits -f job.json
      jq '.properties.nodeCount = 1' job.json | batchai job create -n digits -f - -o json
    """
    if storage_account_key is not None:
        notice(
            "warning: a key on the command line is visible to other users; prefer "
            "AZURE_BATCHAI_STORAGE_KEY or --storage-account-key-file"
        )
    account = credentials.storage_account(
        storage_account_name, storage_account_key, storage_account_key_file
    )
    try:
        document = strict_json.loads(config.read())
    except strict_json.JsonError as error:
        raise usage_error(f"{config.name} is not valid JSON: {error}") from None
    document = credentials.fill(document, account)
    api = options.make_api(socket, Scope(workspace, experiment, resource_group))
    if isinstance(document, dict):
        properties = document.get("properties", document)
        if isinstance(properties, dict) and (cluster or "cluster" not in properties):
            properties["cluster"] = {"id": api.cluster_id(cluster)}
    created = api.create_job(name or _name_for(config.name), document)
    show(created, COLUMNS, output, items=[created])


def _name_for(file: str) -> str:
    stem = re.sub(r"[^-\w]+", "-", Path(file).stem, flags=re.ASCII).strip("-")[:40] or "job"
    if file in {"-", "<stdin>"}:
        stem = "job"
    return f"{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


@job.command("list")
@options.scope_options
@options.output_option
@options.socket_option
def list_(
    workspace: str | None,
    experiment: str | None,
    resource_group: str | None,
    output: str,
    socket: Path | None,
) -> None:
    """List the jobs of an experiment.

    \b
    Examples:
      batchai job list
      batchai job list -w vision -e mnist -o json
      batchai job list -o tsv | awk -F'\\t' '$3 == "failed" {print $1}'
    """
    jobs = options.make_api(socket, Scope(workspace, experiment, resource_group)).list_jobs()
    show(jobs, COLUMNS, output, items=jobs)


@job.command("show")
@options.job_name_option
@options.scope_options
@options.output_option
@options.socket_option
def show_(
    name: str,
    workspace: str | None,
    experiment: str | None,
    resource_group: str | None,
    output: str,
    socket: Path | None,
) -> None:
    """Show one job: what was asked for, and what became of it. Secrets are never shown.

    \b
    Examples:
      batchai job show -n digits
      batchai job show -n digits -o json | jq .properties.executionInfo
    """
    found = options.make_api(socket, Scope(workspace, experiment, resource_group)).get_job(name)
    show(found, COLUMNS, output, items=[found])
    if output == "table":
        for line in error_lines(found):
            click.echo(line)


@job.command()
@options.job_name_option
@options.scope_options
@options.reconnect_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(("none", "table", "json", "jsonc", "tsv")),
    default="none",
    show_default=True,
    help="Print the job in the end.",
)
@options.socket_option
def wait(
    name: str,
    workspace: str | None,
    experiment: str | None,
    resource_group: str | None,
    reconnect: int,
    output: str,
    socket: Path | None,
) -> None:
    """Wait for a job to end, and exit with its exit code.

    The exit code is the job's own, as `az batchai job wait` has it; 6 when the job failed without
    one (it was terminated, or could not start). A restart of the agent is waited out.

    \b
    Examples:
      batchai job wait -n digits
      batchai job wait -n digits && batchai job file list -j digits -d MODEL
    """
    api = options.make_api(socket, Scope(workspace, experiment, resource_group))
    ended = wait_for_end(api, name, reconnect_s=reconnect)
    tell_end(ended)
    if output != "none":
        show(ended, COLUMNS, output, items=[ended])
    sys.exit(exit_code(ended))


@job.command()
@options.job_name_option
@options.scope_options
@click.option("--no-wait", is_flag=True, help="Do not wait for the job to end.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.socket_option
def terminate(
    name: str,
    workspace: str | None,
    experiment: str | None,
    resource_group: str | None,
    no_wait: bool,  # noqa: FBT001 (click passes by name)
    yes: bool,  # noqa: FBT001
    socket: Path | None,
) -> None:
    """End a job; its logs so far are kept. A job that has ended is left as it is.

    Asks on a terminal; in a script, --yes is not needed.

    \b
    Examples:
      batchai job terminate -n digits
      batchai job terminate -n digits --no-wait
    """
    api = options.make_api(socket, Scope(workspace, experiment, resource_group))
    if not yes and sys.stdin.isatty():
        click.confirm(f"Terminate the job {name}?", abort=True, err=True)
    if not api.terminate_job(name) and not no_wait:
        wait_for_end(api, name, reconnect_s=60)
    if no_wait:
        notice(f"the job {name} is {state(api.get_job(name))}")
    else:
        notice(f"the job {name} has ended")


@job.command()
@options.job_name_option
@options.scope_options
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@options.socket_option
def delete(
    name: str,
    workspace: str | None,
    experiment: str | None,
    resource_group: str | None,
    yes: bool,  # noqa: FBT001 (click passes by name)
    socket: Path | None,
) -> None:
    """Delete a job; one that runs is terminated first. Its files on the share stay.

    Asks on a terminal; in a script, --yes is not needed.

    \b
    Examples:
      batchai job delete -n digits
      batchai job delete -n digits -y
    """
    api = options.make_api(socket, Scope(workspace, experiment, resource_group))
    api.get_job(name)  # to say that it is not there, before asking
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete the job {name}?", abort=True, err=True)
    with progress(f"deleting the job {name}"):
        api.delete_and_wait(name)
    notice(f"the job {name} is deleted")
