"""The driver as a program: ``run``, ``ls`` and ``cat``, with their instructions on standard input.

Exit codes: 0 done, 1 failed, 2 wrong instructions, 3 path not found, 4 unmounted but not all data
is in the store.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import sys
from typing import Any

import click
import structlog
import trio

from fuse.driver import Driver, announce, open_volume
from fuse.errors import MountError
from fuse.groups import single_error
from fuse.spec import VolumeSpec, parse
from fuse.volume import Kind

PR_SET_DUMPABLE = 4

#: Bytes that ``cat`` reads at a time.
CHUNK = 1024 * 1024

#: Seconds that ``ls`` and ``cat`` may take.
PATIENCE = 60.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Mount an Azure Blob container or an Azure file share.

    Each command reads one JSON document from standard input: what to mount, where, and with which
    credential. The credential is never an argument, since arguments can be read by everybody.
    """
    # A core dump would hold the key.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    _log_to_stderr()


@main.command()
def run() -> None:
    """Mount, and serve until told to unmount.

    Prints one JSON line once the mount answers, or once it has failed.
    """
    try:
        spec = parse(sys.stdin.buffer.read())
        driver = Driver(
            spec, lambda: announce({"version": 1, "state": "mounted", "pid": os.getpid()})
        )
    except MountError as error:
        announce({"version": 1, "state": "failed", "error": error.as_dict()})
        sys.exit(2)
    try:
        failures = _run_driver(driver)
    except MountError as error:
        announce({"version": 1, "state": "failed", "error": error.as_dict()})
        sys.exit(1)
    sys.exit(4 if failures else 0)


@main.command(name="ls")
def list_directory() -> None:
    """List the directory ``path`` of a volume as JSON, without mounting it."""
    _once(_list)


@main.command()
def cat() -> None:
    """Write the file ``path`` of a volume to standard output, without mounting it."""
    _once(_cat)


async def _list(spec: VolumeSpec) -> None:
    async with open_volume(spec) as volume:
        found = await volume.stat(spec.path)
        if found.kind is not Kind.DIRECTORY:
            raise NotADirectoryError(20, "Not a directory", spec.path)
        entries: list[dict[str, Any]] = [
            {
                "name": entry.name,
                "type": "directory" if entry.attributes.kind is Kind.DIRECTORY else "file",
                "size": entry.attributes.size,
                "mtime": entry.attributes.mtime_ns / 1e9,
            }
            async for page in volume.list(spec.path)
            for entry in page
        ]
    entries.sort(key=lambda entry: str(entry["name"]))
    sys.stdout.write(json.dumps({"entries": entries}) + "\n")


async def _cat(spec: VolumeSpec) -> None:
    async with open_volume(spec) as volume:
        found = await volume.stat(spec.path)
        if found.kind is Kind.DIRECTORY:
            raise IsADirectoryError(21, "Is a directory", spec.path)
        end = found.size if spec.length is None else min(found.size, spec.offset + spec.length)
        for position in range(spec.offset, end, CHUNK):
            buffer = memoryview(bytearray(min(CHUNK, end - position)))
            await volume.read_into(spec.path, found, position, buffer, lambda _filled: None)
            sys.stdout.buffer.write(buffer)
    sys.stdout.buffer.flush()


def _once(command: Any) -> None:
    async def bounded() -> None:
        with trio.fail_after(PATIENCE):
            await command(parse(sys.stdin.buffer.read()))

    try:
        with single_error():
            trio.run(bounded)
    except MountError as error:
        _fail(error.as_dict(), 2 if error.code == "InvalidOption" else 1)
    except FileNotFoundError as error:
        _fail({"code": "NotFound", "message": str(error), "hint": None}, 3)
    except OSError as error:
        _fail({"code": "ReadFailed", "message": str(error), "hint": None}, 1)
    except trio.TooSlowError:
        _fail({"code": "TimedOut", "message": f"no answer in {PATIENCE:.0f} s", "hint": None}, 1)


def _fail(error: dict[str, Any], code: int) -> None:
    sys.stderr.write(json.dumps({"error": error}) + "\n")
    sys.exit(code)


def _run_driver(driver: Driver) -> dict[str, str]:
    with single_error():
        return trio.run(driver.run)
    raise AssertionError


def _log_to_stderr() -> None:
    """JSON lines; the libraries' own chatter only from warnings on."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


if __name__ == "__main__":
    main()
