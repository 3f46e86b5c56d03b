"""``run``, ``ls`` and ``cat``: for programs, with their instructions as JSON on standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fuse import logs, program
from fuse.errors import MountError

if TYPE_CHECKING:
    from fuse.spec import VolumeSpec
    from fuse.volume import Volume

#: Bytes that ``cat`` reads at a time.
CHUNK = 1024 * 1024

#: Seconds that ``ls`` and ``cat`` may take.
PATIENCE = 60.0


@click.command()
def run() -> None:
    """Mount, and serve until told to unmount (SIGTERM, or the control socket).

    Prints one JSON line once the mount answers, or once it has failed. The instructions are one
    JSON document on standard input. A second SIGTERM ends at once, and keeps what is not stored.
    """
    code, _ = program.run(sys.stdin.buffer.read(), program.announce)
    sys.exit(code)


@click.command(name="ls")
def list_directory() -> None:
    """List the directory ``path`` of a volume as JSON, without mounting it."""
    _once(_list)


@click.command()
def cat() -> None:
    """Write the file ``path`` of a volume to standard output, without mounting it."""
    _once(_cat)


def _opened(spec: VolumeSpec) -> AbstractAsyncContextManager[Volume]:
    """The volume of a mount with these instructions: what its users see as the root."""
    from fuse.blob.mount_options import apply
    from fuse.opening import open_root
    from fuse.options import MountOptions

    nowhere = MountOptions(mountpoint=Path("/"), cache_directory=Path("/"))
    endpoint = spec.endpoint if spec.kind == "blob" else None
    return open_root(spec, apply(spec.mount_options, nowhere, endpoint=endpoint))


async def _list(spec: VolumeSpec) -> None:
    from fuse.volume import Kind

    async with _opened(spec) as volume:
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
    from fuse.volume import Kind

    async with _opened(spec) as volume:
        found = await volume.stat(spec.path)
        if found.kind is Kind.DIRECTORY:
            raise IsADirectoryError(21, "Is a directory", spec.path)
        end = found.size if spec.length is None else min(found.size, spec.offset + spec.length)
        for position in range(spec.offset, end, CHUNK):
            buffer = memoryview(bytearray(min(CHUNK, end - position)))
            await volume.read_into(spec.path, found, position, buffer, lambda _filled: None)
            sys.stdout.buffer.write(buffer)
    sys.stdout.buffer.flush()


def _once(command: Callable[[VolumeSpec], Awaitable[None]]) -> None:
    import trio

    from fuse.groups import single_error
    from fuse.spec import parse

    logs.set_up("info")

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
