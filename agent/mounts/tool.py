"""Looking into a volume that is not mounted: the driver's ``ls`` and ``cat``."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import trio

from agent.errors import BatchError, NotFound, Unavailable
from agent.jobs.service import FileEntry
from agent.processes import child_environment

_PROGRAM = (sys.executable, "-I", "-m", "fuse.main")
_PATH_NOT_FOUND = 3
_TIMEOUT_S = 75.0  # the programs give up by themselves after 60 s
_CHUNK = 1 << 20


class VolumeTool:
    """Runs the driver's program for single requests, a few at a time."""

    def __init__(self, program: tuple[str, ...] = _PROGRAM, *, most: int = 4) -> None:
        self._program = program
        self._limiter = trio.CapacityLimiter(most)

    async def listing(self, document: Mapping[str, Any], path: str) -> list[FileEntry]:
        """A directory of a volume, sorted by name.

        Raises:
            NotFound: There is no such directory.
            Unavailable: The storage cannot be asked, with its reason.
        """
        output = await self._run("ls", {**document, "path": path}, path)
        try:
            entries = json.loads(output)["entries"]
            return [
                FileEntry(
                    name=item["name"],
                    is_directory=item["type"] == "directory",
                    size=0 if item["type"] == "directory" else int(item["size"]),
                    last_modified=datetime.fromtimestamp(item["mtime"], UTC),
                )
                for item in sorted(entries, key=lambda item: str(item["name"]))
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable("StorageUnavailable", f"the driver's answer: {error}") from error

    async def read(self, document: Mapping[str, Any], path: str, offset: int, length: int) -> bytes:
        """Bytes of a file; raises as :meth:`listing`."""
        wanted = {**document, "path": path, "offset": offset, "length": length}
        return await self._run("cat", wanted, path)

    async def _run(self, operation: str, document: Mapping[str, Any], path: str) -> bytes:
        async with self._limiter:
            with trio.move_on_after(_TIMEOUT_S):
                done = await trio.run_process(
                    [*self._program, operation],
                    stdin=json.dumps(dict(document)).encode(),
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env=child_environment(),
                )
                if done.returncode == 0:
                    return done.stdout
                raise _failure(done.returncode, done.stderr, path)
        raise Unavailable("StorageNotResponding", f"no answer within {_TIMEOUT_S:g} s")

    async def stream(
        self, document: Mapping[str, Any], path: str, offset: int
    ) -> AsyncIterator[bytes]:
        """The bytes of a file from an offset to its end; raises as :meth:`listing`."""
        wanted = {**document, "path": path, "offset": offset, "length": None}
        async with self._limiter:
            process = await trio.lowlevel.open_process(
                [*self._program, "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=child_environment(),
            )
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                with contextlib.suppress(trio.BrokenResourceError):  # its exit code says why
                    await process.stdin.send_all(json.dumps(wanted).encode())
                await process.stdin.aclose()
                while chunk := await process.stdout.receive_some(_CHUNK):
                    yield bytes(chunk)
                stderr = bytearray()
                while piece := await process.stderr.receive_some(65536):
                    stderr += piece
                if await process.wait() != 0:
                    raise _failure(process.returncode or 1, bytes(stderr), path)
            finally:
                with trio.CancelScope(shield=True):
                    process.kill()
                    await process.wait()
                    for pipe in (process.stdin, process.stdout, process.stderr):
                        await trio.aclose_forcefully(pipe)


def _failure(code: int, stderr: bytes, path: str) -> BatchError:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    message, hint, word = f"the driver's program failed with exit code {code}", None, None
    for line in reversed(lines):
        try:
            error = json.loads(line)["error"]
            message, hint, word = str(error["message"]), error.get("hint"), error.get("code")
            break
        except (ValueError, KeyError, TypeError):
            continue
    if code == _PATH_NOT_FOUND:
        return NotFound("FileNotFound", f"there is no {path!r} in this directory")
    return Unavailable(str(word or "StorageUnavailable"), message, hint=hint)
