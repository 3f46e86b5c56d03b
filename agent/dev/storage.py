"""A storage account on this machine: Azurite for blobs and Samba for shares, both on loopback.

`up`, `down` and `status` are plain functions on a directory, which holds everything: data, key,
logs, state. The servers outlive the process that started them. Both ports and the key stay the same
over a `down` and an `up` (unless somebody else has taken a port meanwhile), so that an outage can
be staged.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.dev import samba, servers
from agent.dev.errors import DevStorageError
from agent.dev.ports import LOOPBACK
from agent.dev.servers import AZURITE, SAMBA, SERVERS, log_file, state_file
from agent.dev.state import ServerState, State, ensure_key, load, locked, save, write_atomically

DEFAULT_ACCOUNT = "devstoreaccount1"
CONTAINER, SHARE = "data", "share"
LOCK_SECONDS = 120.0
_SUN_PATH = 107

__all__ = ["SERVERS", "DevStorage", "DevStorageError", "Server", "down", "status", "up"]


@dataclass(frozen=True, slots=True)
class Server:
    """One of the two servers, at the moment of asking."""

    name: str
    """"azurite" or "samba"."""
    port: int | None
    """The port that it listens on, or listened on and will ask for again."""
    pid: int | None
    """None when it does not run."""
    log: Path

    @property
    def running(self) -> bool:
        """Whether exactly the process that was started lives."""
        return self.pid is not None


@dataclass(frozen=True, slots=True)
class DevStorage:
    """A local storage account: where it is and how to get in."""

    directory: Path
    account: str
    key: str = field(repr=False)
    """The account's key, base64 text; the password of the share as well."""
    container: str
    share: str
    servers: tuple[Server, ...]

    @property
    def running(self) -> bool:
        """Whether both servers run."""
        return all(server.running for server in self.servers)

    @property
    def blob_endpoint(self) -> str:
        """The blob service, the account in its path, as Azurite has it."""
        return servers.blob_endpoint(self._port(AZURITE), self.account)

    @property
    def file_endpoint(self) -> str:
        """The SMB server: "host:port"."""
        return f"{LOOPBACK}:{self._port(SAMBA)}"

    @property
    def share_user(self) -> str:
        """The user name that opens the share; its password is the key."""
        return self.account

    @property
    def share_directory(self) -> Path:
        """What lies behind the share on this machine's disk."""
        return self.directory / "share"

    @property
    def key_file(self) -> Path:
        """The file (0600) that holds the key."""
        return self.directory / "key"

    @property
    def config_file(self) -> Path:
        """The fragment of agent.toml that `up` wrote."""
        return self.directory / "agent.toml"

    def agent_config(self) -> str:
        """The fragment of agent.toml that makes an agent use this account."""
        # JSON's strings are TOML's basic strings, once nothing needs a surrogate pair.
        text = {
            name: json.dumps(str(value), ensure_ascii=False)
            for name, value in {
                "name": self.account,
                "key_file": self.key_file,
                "blob_endpoint": self.blob_endpoint,
                "file_endpoint": self.file_endpoint,
            }.items()
        }
        lines = ["[storage]", f"default_account = {text['name']}", "", "[[storage.accounts]]"]
        lines += [f"{name} = {value}" for name, value in text.items()]
        return "\n".join(lines) + "\n"

    def _port(self, name: str) -> int:
        port = next(server.port for server in self.servers if server.name == name)
        if port is None:
            raise DevStorageError(
                "DevStorageDown", f"{name} has never run", hint=_up_hint(self.directory)
            )
        return port


def up(
    directory: Path,
    *,
    account: str | None = None,
    services: Collection[str] = SERVERS,
    timeout: float = 60.0,
) -> DevStorage:
    """Start what does not run yet of `services`, and wait until it serves the account.

    Args:
        directory: where everything is; made if it is not there.
        account: the account's name; by default the one that the directory has, or
            "devstoreaccount1" in a new one.
        services: of "azurite" and "samba".
        timeout: seconds until the servers must be ready.

    Returns:
        The account. Calling `up` again while all runs changes nothing.

    Raises:
        DevStorageError: with the end of the server's log, where it has one.
    """
    directory = _checked(directory, account)
    deadline = time.monotonic() + timeout
    directory.mkdir(parents=True, exist_ok=True)
    with _held(directory):
        state = load(state_file(directory)) or State(account or DEFAULT_ACCOUNT, CONTAINER, SHARE)
        if account not in {None, state.account}:
            raise DevStorageError(
                "AccountDiffers",
                f"{directory} holds the account {state.account!r}, not {account!r}",
                hint="take another --directory",
            )
        key = ensure_key(directory / "key")
        state = servers.start(directory, state, key, names=services, deadline=deadline)
        storage = _storage(directory, state)
        if all(server.port for server in storage.servers):
            write_atomically(storage.config_file, storage.agent_config())
        return storage


def down(directory: Path, *, services: Collection[str] = SERVERS) -> bool:
    """Stop `services` of a directory, exactly the processes that `up` started; the data stays.

    Returns:
        Whether anything ran.

    Raises:
        DevStorageError: a process could not be ended even by SIGKILL.
    """
    directory = directory.resolve()
    if not directory.is_dir():
        return False
    with _held(directory):
        state = load(state_file(directory))
        if state is None:
            return False
        stopped = False
        # smbd first: it is the one whose clients may have something left to be told.
        for name in reversed([name for name in SERVERS if name in services]):
            server = state.servers.get(name, ServerState())
            if server.identity is not None:
                stopped |= servers.stop(name, server.identity, directory)
                state = state.with_server(name, replace(server, identity=None))
                save(state_file(directory), state)
        return stopped


def status(directory: Path) -> DevStorage:
    """What is in a directory, and what of it runs.

    Raises:
        DevStorageError: no storage was ever set up there.
    """
    directory = directory.resolve()
    state = load(state_file(directory))
    if state is None or not (directory / "key").is_file():
        raise DevStorageError(
            "DevStorageNotFound",
            f"there is no local storage in {directory}",
            hint=_up_hint(directory),
            exit_code=3,
        )
    return _storage(directory, state)


def _storage(directory: Path, state: State) -> DevStorage:
    found = []
    for name in SERVERS:
        server = state.servers.get(name, ServerState())
        alive = server.identity is not None and server.identity.is_alive()
        pid = server.identity.pid if server.identity is not None and alive else None
        found.append(Server(name, server.port, pid, log_file(directory, name)))
    key = (directory / "key").read_text().strip()
    return DevStorage(directory, state.account, key, state.container, state.share, tuple(found))


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(directory / "lock", seconds=LOCK_SECONDS))
        except TimeoutError as error:
            raise DevStorageError(
                "DevStorageBusy",
                f"another process has been starting or stopping {directory} for "
                f"{LOCK_SECONDS:.0f} s",
                hint=f"see who holds it: fuser {directory / 'lock'}",
            ) from error
        yield


def _checked(directory: Path, account: str | None) -> Path:
    if account is not None and not re.fullmatch(r"[a-z0-9]{3,24}", account):
        raise DevStorageError(
            "InvalidName",
            f"{account!r} cannot be the name of a storage account",
            hint="3 to 24 lower-case letters and digits",
            exit_code=2,
        )
    if os.geteuid() != 0:
        raise DevStorageError(
            "RootNeeded",
            "Samba can only be started by root",
            hint="run the command with sudo",
            exit_code=5,
        )
    directory = directory.resolve()
    if re.search(r"[%\"';#\x00-\x1f]", str(directory)):
        raise DevStorageError(
            "InvalidPath",
            f"{directory} holds a character that has a meaning of its own in smb.conf",
            hint="take a directory without any of % \" ' ; #",
            exit_code=2,
        )
    most = _SUN_PATH - samba.LONGEST_SOCKET
    if len(os.fsencode(directory)) > most:
        raise DevStorageError(
            "InvalidPath",
            f"{directory} is too long: smbd's sockets below it would not fit in an address",
            hint=f"take a directory of at most {most} bytes",
            exit_code=2,
        )
    return directory


def _up_hint(directory: Path) -> str:
    return f"start it: batchai dev up --directory {directory}"
