"""Starting and stopping the two servers of a storage directory."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from agent.dev import azurite, ports, processes, samba
from agent.dev.errors import DevStorageError
from agent.dev.state import ServerState, State, save
from agent.processes import ProcessIdentity

AZURITE, SAMBA = SERVERS = ("azurite", "samba")

PORT_ATTEMPTS = 8
TERM_SECONDS, KILL_SECONDS = 8.0, 5.0
LOG_TAIL_LINES = 15
_PORT_TAKEN = re.compile(
    r"EADDRINUSE|NT_STATUS_ADDRESS_ALREADY_ASSOCIATED|already in use", re.IGNORECASE
)


def log_file(directory: Path, name: str) -> Path:
    """Where a server writes what it has to say; each start begins it anew."""
    return directory / "logs" / f"{name}.log"


def state_file(directory: Path) -> Path:
    """Where a directory's state is kept."""
    return directory / "state.json"


def blob_endpoint(port: int, account: str) -> str:
    """The blob service's address, the account in its path, as Azurite has it."""
    return f"http://{ports.LOOPBACK}:{port}/{account}"


def start(
    directory: Path, state: State, key: str, *, names: Collection[str], deadline: float
) -> State:
    """Start what does not run yet of `names`, side by side, and wait until all of it is ready.

    Args:
        directory: where everything is.
        state: what is known to run.
        key: the account's key.
        names: of `SERVERS`.
        deadline: on the monotonic clock.

    Returns:
        What runs now. What this call started is stopped again if any of it fails.

    Raises:
        DevStorageError: with the end of the log of the server that failed.
    """
    starter = _Starter(directory, state, key, deadline)
    starter.run([name for name in SERVERS if name in names])
    return starter.state


def stop(name: str, identity: ProcessIdentity, directory: Path) -> bool:
    """Stop a server, all its processes, and take its sockets away.

    Returns:
        Whether anything of it ran.

    Raises:
        DevStorageError: a process could not be ended even by SIGKILL.
    """
    ran = bool(processes.members(identity, directory))
    gone = processes.stop(identity, directory, term_seconds=TERM_SECONDS, kill_seconds=KILL_SECONDS)
    if not gone:
        raise DevStorageError(
            "DevStorageStuck",
            f"{name} (process {identity.pid}) does not end, not even by SIGKILL",
            hint=f"see /proc/{identity.pid}/stack for what it waits for in the kernel",
        )
    if name == SAMBA:
        _remove_sockets(directory / "samba")
    return ran


class _Starter:
    """One call of `start`."""

    def __init__(self, directory: Path, state: State, key: str, deadline: float) -> None:
        self.state = state
        self._directory = directory
        self._key = key
        self._deadline = deadline
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("logs", "share", "azurite"):
            (directory / name).mkdir(exist_ok=True)

    def run(self, names: list[str]) -> None:
        try:
            for name in names:
                identity = self._server(name).identity
                if identity is None or not identity.is_alive():
                    self._start(name)
            for name in names:
                self._wait_ready(name)
        except BaseException:
            for name in self._started:
                self._stop(name)
            raise

    def _start(self, name: str) -> None:
        """Start a server on the port that it had before, or else on a free one."""
        self._stop(name)
        port = self._server(name).port
        if port is None or not ports.is_free(port):
            port = ports.free_port()
        command, environment = self._command(name, port)
        log = log_file(self._directory, name)
        log.unlink(missing_ok=True)
        process = processes.start(
            command, environment=environment, directory=self._directory, log=log
        )
        self._started[name] = process
        self._save(name, ServerState(port, ProcessIdentity.of(process.pid)))

    def _stop(self, name: str) -> None:
        server = self._server(name)
        if server.identity is not None:
            stop(name, server.identity, self._directory)
            self._save(name, replace(server, identity=None))

    def _wait_ready(self, name: str) -> None:
        for _ in range(PORT_ATTEMPTS):
            reason = self._until_ready(name)
            if reason is None:
                return
            if not (self._dead(name) and _PORT_TAKEN.search(self._log_text(name))):
                raise self._failure(name, reason)
            # Somebody took the port between our look and the server's bind: try another one.
            self._save(name, replace(self._server(name), port=None))
            self._start(name)
        raise self._failure(name, f"{PORT_ATTEMPTS} ports in a row were taken by others")

    def _until_ready(self, name: str) -> str | None:
        """Wait until a server can be used (None), has ended, or the time is over (why)."""
        while True:
            if self._dead(name):
                return "it has ended"
            # Only our server has the key: nobody else's can answer this in its place.
            reason = self._probe(name)
            if reason is None:
                return None
            if time.monotonic() >= self._deadline:
                return f"it was not ready in time: {reason}"
            time.sleep(processes.POLL_SECONDS)

    def _probe(self, name: str) -> str | None:
        """Use the server as a client would; what was wrong, or None."""
        port = self._server(name).port
        if port is None or not ports.listens(port):
            return "it does not listen"
        account, key = self.state.account, self._key
        try:
            if name == AZURITE:
                azurite.prepare(
                    endpoint=blob_endpoint(port, account),
                    account=account,
                    key=key,
                    container=self.state.container,
                )
            else:
                samba.probe(port=port, account=account, key=key, share=self.state.share)
        except Exception as error:  # noqa: BLE001 - whatever a client library says: not ready
            return f"{type(error).__name__}: {str(error).strip().partition(os.linesep)[0]}"
        return None

    def _command(self, name: str, port: int) -> tuple[list[str], Mapping[str, str]]:
        if name == AZURITE:
            program = azurite.find()
            if program is None:
                raise _missing("Azurite, or node,")
            command = [*program, *azurite.arguments(data=self._directory / AZURITE, port=port)]
            return command, azurite.environment(
                os.environ, account=self.state.account, key=self._key
            )
        programs = samba.find()
        if programs is None:
            raise _missing("Samba (smbd, smbpasswd)")
        configuration = samba.configure(
            self._directory / SAMBA,
            port=port,
            share=self.state.share,
            path=self._directory / "share",
            account=self.state.account,
            log=log_file(self._directory, SAMBA),
        )
        try:
            samba.set_password(programs["smbpasswd"], configuration, self._key)
        except (samba.SambaError, OSError, subprocess.TimeoutExpired) as error:
            raise DevStorageError(
                "DevStorageFailed",
                f"smbpasswd could not set the account's key: {error}",
                hint=f"remove {self._directory / SAMBA} and try again",
            ) from error
        path = os.environ.get("PATH", os.defpath)
        return samba.command(programs["smbd"], configuration), {"PATH": path}

    def _failure(self, name: str, reason: str) -> DevStorageError:
        process = self._started.get(name)
        status = process.poll() if process is not None else None
        if status is not None:
            reason = f"{reason} (exit status {status})"
        lines = self._log_text(name).strip().splitlines()[-LOG_TAIL_LINES:]
        log = log_file(self._directory, name)
        return DevStorageError(
            "DevStorageFailed",
            f"{name} did not start: {reason}" + "".join(f"\n  | {line}" for line in lines),
            hint=f"its log is {log}; scripts/setup repairs a broken installation",
        )

    def _dead(self, name: str) -> bool:
        if name in self._started:
            return self._started[name].poll() is not None
        identity = self._server(name).identity
        return identity is None or not identity.is_alive()

    def _server(self, name: str) -> ServerState:
        return self.state.servers.get(name, ServerState())

    def _save(self, name: str, server: ServerState) -> None:
        self.state = self.state.with_server(name, server)
        save(state_file(self._directory), self.state)

    def _log_text(self, name: str) -> str:
        try:
            return log_file(self._directory, name).read_text(errors="replace")
        except FileNotFoundError:
            return ""


def _remove_sockets(directory: Path) -> None:
    for parent, _, files in os.walk(directory):
        for file in files:
            path = Path(parent, file)
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink(missing_ok=True)


def _missing(what: str) -> DevStorageError:
    return DevStorageError("NotInstalled", f"{what} is not installed", hint="run scripts/setup")
