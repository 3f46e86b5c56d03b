"""`batchai job file`: list, stream."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

import sys
from pathlib import Path
from typing import Any

import click

from agent.cli import options
from agent.cli.api import FINAL, Api, Scope, exit_code, state
from agent.cli.client import AgentError, AgentUnreachable, OutputClosed
from agent.cli.errors import not_found, notice
from agent.cli.output import Column, local_time, show, size
from agent.cli.watch import Patience, wait_for_end

COLUMNS = (
    Column("Name", lambda file: file["name"]),
    Column("Type", lambda file: file["fileType"]),
    Column("Size", lambda file: size(file["properties"].get("contentLength"))),
    Column("Modified", lambda file: local_time(file["properties"].get("lastModified"))),
)


@click.group()
def file() -> None:
    """List and stream the files of a job's output directories.

    \b
    Examples:
      batchai job file list -j digits
      batchai job file stream -j digits -f stdout.txt
    """


def _directory_option(command: Any) -> Any:
    return click.option(
        "-d",
        "--output-directory-id",
        "directory_id",
        default="stdouterr",
        show_default=True,
        metavar="ID",
        help="Id of the output directory.",
    )(command)


def _path_option(command: Any) -> Any:
    return click.option(
        "-p",
        "--path",
        default=".",
        show_default=True,
        help="Path in the output directory.",
    )(command)


@file.command("list")
@options.job_option
@_directory_option
@_path_option
@click.option(
    "--expiry",
    type=click.IntRange(5, 600),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="How long the download links (in -o json) are good for.",
)
@options.scope_options
@options.output_option
@options.socket_option
def list_(
    job: str,
    directory_id: str,
    path: str,
    expiry: int,
    workspace: str | None,
    experiment: str | None,
    resource_group: str | None,
    output: str,
    socket: Path | None,
) -> None:
    """List one directory of a job's output.

    \b
    Examples:
      batchai job file list -j digits
      batchai job file list -j digits -d MODEL
      batchai job file list -j digits -d MODEL -p checkpoints -o json
    """
    api = options.make_api(socket, Scope(workspace, experiment, resource_group))
    files = api.list_files(job, directory_id, path, expiry)
    show(files, COLUMNS, output, items=files)


@file.command()
@options.job_option
@click.option("-f", "--file-name", required=True, metavar="NAME", help="Name of the file.")
@_directory_option
@_path_option
@options.scope_options
@click.option("--exit-code", "use_exit_code", is_flag=True, help="Exit with the job's exit code.")
@options.reconnect_option
@options.socket_option
def stream(
    job: str,
    file_name: str,
    directory_id: str,
    path: str,
    workspace: str | None,
    experiment: str | None,
    resource_group: str | None,
    use_exit_code: bool,  # noqa: FBT001 (click passes by name)
    reconnect: int,
    socket: Path | None,
) -> None:
    """Print a file while the job writes it, to the last byte.

    Ends when the job has ended and everything was printed. Waits for a file that is not there yet.
    The bytes are printed as they are; everything else goes to stderr. A restart of the agent is
    waited out, and nothing is printed twice.

    \b
    Examples:
      batchai job file stream -j digits -f stdout.txt
      batchai job file stream -j digits -f stderr.txt | grep -i warning
      batchai job file stream -j digits -f stdout.txt --exit-code && echo trained
      batchai job file stream -j digits -d MODEL -p logs -f train.log
    """
    api = options.make_api(socket, Scope(workspace, experiment, resource_group))
    parts = [part for part in path.split("/") if part not in {"", "."}]
    name = "/".join([*parts, file_name])
    _Follower(api, job, directory_id, name, reconnect_s=reconnect).run()
    if use_exit_code:
        sys.exit(exit_code(wait_for_end(api, job, reconnect_s=reconnect, show=False)))


class _Follower:
    """Copies a growing file to stdout; holds how far it got."""

    def __init__(
        self, api: Api, job: str, directory_id: str, name: str, *, reconnect_s: float
    ) -> None:
        self._api = api
        self._job = job
        self._name = name
        self._url = api.file_path(job, directory_id, name)
        self._patience = Patience(reconnect_s)
        self._offset = 0
        self._waiting = False
        self._output = sys.stdout.buffer

    def run(self) -> None:
        """Follow to the end.

        Raises:
            BatchError: no such job, directory or file; or the agent stayed away.
            OutputClosed: the reader of stdout has gone.
        """
        while True:
            # Asked before the file is: a job that had ended by then creates no file after it.
            job = self._patience.call(lambda: self._api.get_job(self._job))
            try:
                self._copy(patience_s=20 if self._waiting else 1)
            except AgentUnreachable as error:
                self._patience.lost(error)
            except AgentError as error:
                if error.code != "FileNotFound":
                    raise
                self._not_there(ended=state(job) in FINAL)
            else:
                return

    def _not_there(self, *, ended: bool) -> None:
        if ended:
            raise not_found(
                f'The file "{self._name}" not found for the completed job.',
                hint=f"list what is there: batchai job file list -j {self._job}",
            )
        if not self._waiting:
            self._waiting = True
            notice(f'The file "{self._name}" not found. Waiting for the job to generate it.')

    def _copy(self, *, patience_s: int) -> None:
        query = {"follow": "true", "offset": str(self._offset), "patience": str(patience_s)}
        with self._api.client.stream(self._url, query, output=_pipe_of(self._output)) as pieces:
            for piece in pieces:
                self._patience.answered()
                try:
                    self._output.write(piece)
                    self._output.flush()
                except BrokenPipeError:
                    raise OutputClosed from None
                self._offset += len(piece)


def _pipe_of(output: Any) -> int | None:
    try:
        descriptor: int = output.fileno()
    except (OSError, ValueError):
        return None  # not a real file: a test's buffer
    return descriptor
