"""Who mounts: ours, rclone in two modes, and whatever ``--peer`` names."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bench import mounting, programs, usage
from bench.errors import BenchError
from bench.servers import Service
from bench.waiting import wait_until

#: Seconds for a mount to come up, and to go away.
_PATIENCE = 60.0

#: The variable by which a peer's processes are known.
_MARK = "BATCHAI_BENCH_MOUNT"


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount that answers.

    Attributes:
        path: Where.
        pids: The processes that serve it.
        service: The account behind it, None where there is none.
        seconds: From the start of the command until the mount was there.
    """

    path: Path
    pids: Sequence[int] = ()
    service: Service | None = None
    seconds: float = 0.0


class Contender(Protocol):
    """Something that can mount a container."""

    name: str

    def mounted(
        self, service: Service, container: str, place: Path, *, read_only: bool = True
    ) -> AbstractContextManager[Mounted]:
        """Mount, and unmount at the end.

        Args:
            service: The account.
            container: In it.
            place: A directory for mount point, cache and logs. With the same one again, the cache
                is the one that the last mount left; with a new one, it is cold.
            read_only: Whether nothing will be written.

        Raises:
            BenchError: The mount did not come up, or did not go away.
        """
        ...


class Ours:
    """``batchai-mount blob`` as a person would call it: no option that is about speed."""

    name = "ours"

    def __init__(self, options: Sequence[str] = ()) -> None:
        self._options = list(options)

    @contextlib.contextmanager
    def mounted(
        self, service: Service, container: str, place: Path, *, read_only: bool = True
    ) -> Iterator[Mounted]:
        """See :class:`Contender`."""
        mountpoint = _made(place)
        credential = place / "credential"
        credential.touch(mode=0o600)
        credential.write_text(f"{service.key or f'?{service.sas}'}\n")
        environment = {**os.environ, "BATCHAI_MOUNT_RUN_DIR": os.fspath(place / "run")}
        program = os.fspath(programs.SCRIPTS / "batchai-mount")
        command = [
            program, "blob", f"{service.endpoint}/{container}", os.fspath(mountpoint),
            "--credential-file", os.fspath(credential),
            "--cache-dir", os.fspath(place / "cache"),
            "--log-file", os.fspath(place / "driver.log"),
            *(["--read-only"] if read_only else []),
            *(["--ca-bundle", os.fspath(service.authority)] if service.authority else []),
            *self._options,
        ]  # fmt: skip
        begin = time.monotonic()
        _call(command, environment)
        seconds = time.monotonic() - begin
        states = list((place / "run").glob("*/state.json"))
        if len(states) != 1:
            raise BenchError(f"{len(states)} drivers say that they are mounted in {place}")
        pid = int(json.loads(states[0].read_text())["pid"])
        try:
            yield Mounted(mountpoint, (pid,), service, seconds)
            _call([program, "unmount", os.fspath(mountpoint)], environment)
        except BenchError as error:
            said = (place / "driver.log").read_text(errors="replace").strip()
            raise BenchError(f"{error}; the driver's log ends with: {said[-500:]}") from error
        finally:
            if mounting.is_there(mountpoint):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                mounting.detach(mountpoint)


class Rclone:
    """``rclone mount``.

    Args:
        name: Of the mode.
        options: Of ``rclone mount``.
    """

    def __init__(self, name: str, options: Sequence[str]) -> None:
        self.name = name
        self._options = list(options)

    @contextlib.contextmanager
    def mounted(
        self, service: Service, container: str, place: Path, *, read_only: bool = True
    ) -> Iterator[Mounted]:
        """See :class:`Contender`."""
        mountpoint = _made(place)
        configuration = place / "rclone.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"[bench]\ntype = azureblob\nsas_url = {service.endpoint}/{container}?{service.sas}\n"
        )
        command = [
            "rclone", "mount", f"bench:{container}", os.fspath(mountpoint),
            "--config", os.fspath(configuration),
            "--cache-dir", os.fspath(place / "cache"),
            *(["--read-only"] if read_only else []),
            *(["--ca-cert", os.fspath(service.authority)] if service.authority else []),
            *self._options,
        ]  # fmt: skip
        with _foreground(self.name, command, mountpoint, place / "rclone.log") as mounted:
            yield replace(mounted, service=service)


RCLONE_PLAIN = Rclone("rclone plain", ["--buffer-size", "64M"])

#: It uploads a file one second after its close: its own five would be in every figure, and without
#: any it loses files that are renamed while they are on their way (1.60).
RCLONE_FULL = Rclone(
    "rclone full",
    ["--vfs-cache-mode", "full", "--vfs-read-ahead", "128M", "--vfs-write-back", "1s"],
)

#: Both modes; the better one counts as "rclone".
RCLONES = (RCLONE_PLAIN, RCLONE_FULL)


class Peer:
    """A program that the command line names.

    Args:
        name: Of the rows' column.
        command: With ``{dir}``, and where it wants ``{endpoint}``, ``{account}``, ``{container}``,
            ``{sas}``, ``{cache}``, ``{ca}``. It may stay, or go into the background.
    """

    def __init__(self, name: str, command: str) -> None:
        self.name = name
        self._command = command

    @classmethod
    def parse(cls, text: str) -> Peer:
        """From ``NAME=COMMAND``.

        Raises:
            ValueError: It is not that, or has no ``{dir}``.
        """
        name, separator, command = text.partition("=")
        if not separator or not name.strip() or "{dir}" not in command:
            raise ValueError("write NAME=COMMAND … {dir}")
        return cls(name.strip(), command)

    @contextlib.contextmanager
    def mounted(
        self,
        service: Service,
        container: str,
        place: Path,
        *,
        read_only: bool = True,  # noqa: ARG002 -- the command says it
    ) -> Iterator[Mounted]:
        """See :class:`Contender`."""
        mountpoint = _made(place)
        (place / "cache").mkdir(exist_ok=True)
        values = {
            "dir": os.fspath(mountpoint),
            "endpoint": service.endpoint,
            "account": service.account,
            "container": container,
            "sas": service.sas,
            "cache": os.fspath(place / "cache"),
            "ca": os.fspath(service.authority or ""),
        }
        command = [_filled(word, values) for word in shlex.split(self._command)]
        with _foreground(self.name, command, mountpoint, place / "peer.log") as mounted:
            yield replace(mounted, service=service)


def _filled(word: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _made(place: Path) -> Path:
    mountpoint = place / "m"
    mountpoint.mkdir(parents=True, exist_ok=True)
    return mountpoint


def _call(command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run a command to its end; what a daemon of it inherits is nobody's pipe."""
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=_PATIENCE * 2,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise BenchError(f"{shlex.join(command[:2])} failed: {said[-500:]}")


@contextlib.contextmanager
def _foreground(
    name: str, command: Sequence[str], mountpoint: Path, log: Path
) -> Iterator[Mounted]:
    """A program that mounts, whether it stays or goes into the background."""
    if shutil.which(command[0]) is None:
        raise BenchError(f"{command[0]} is not installed: scripts/setup --with-bench")
    # Its processes keep it in their environment, wherever they go.
    mark = f"{_MARK}={mountpoint}"
    begin = time.monotonic()
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, _MARK: os.fspath(mountpoint)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def died() -> bool:
        return process.poll() not in {None, 0}

    def serving() -> list[int]:
        return usage.fuse_servers(mark)

    with process:
        try:
            wait_until(
                lambda: mounting.is_there(mountpoint) or died(), _PATIENCE, f"{name}: mounting"
            )
            if died():
                raise BenchError(f"{name} failed: {log.read_text(errors='replace')[-500:].strip()}")
            seconds = time.monotonic() - begin
            # fusermount3 mounts first, and only then hands the connection over.
            wait_until(lambda: bool(serving()), _PATIENCE, f"{name}: serving its mount")
            yield Mounted(mountpoint, serving(), None, seconds)
        finally:
            mounting.unmount(mountpoint, _PATIENCE)
            if process.poll() is None:
                try:
                    process.wait(_PATIENCE / 4)
                except subprocess.TimeoutExpired:
                    process.kill()
