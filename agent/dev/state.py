"""What a storage directory holds: its key, its state file, its lock."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.dev.processes import POLL_SECONDS
from agent.processes import ProcessIdentity

VERSION = 1
KEY_BYTES = 64
"""As long as Azure's own account keys."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server: the port that it has, or had and will ask for again, and who it is."""

    port: int | None = None
    identity: ProcessIdentity | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The state file."""

    account: str
    container: str
    share: str
    servers: dict[str, ServerState] = field(default_factory=dict)

    def with_server(self, name: str, server: ServerState) -> State:
        """A copy in which one server is another."""
        return replace(self, servers={**self.servers, name: server})


def load(file: Path) -> State | None:
    """Read the state file; None where there is none, or none that can be understood."""
    try:
        document: dict[str, Any] = json.loads(file.read_text())
        if document["version"] != VERSION:
            return None
        return State(
            account=document["account"],
            container=document["container"],
            share=document["share"],
            servers={
                name: ServerState(
                    port=server["port"],
                    identity=ProcessIdentity.from_json(server["identity"])
                    if server["identity"]
                    else None,
                )
                for name, server in document["servers"].items()
            },
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        # Written by another version, or cut off by a full disk: as good as none.
        return None


def save(file: Path, state: State) -> None:
    """Replace the state file in one step."""
    document = {
        "version": VERSION,
        "account": state.account,
        "container": state.container,
        "share": state.share,
        "servers": {
            name: {
                "port": server.port,
                "identity": server.identity.to_json() if server.identity else None,
            }
            for name, server in state.servers.items()
        },
    }
    write_atomically(file, json.dumps(document, indent=2) + "\n")


def write_atomically(file: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a neighbour and rename it: a reader sees the old text or the new, never a part."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(descriptor, mode)
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    draft.replace(file)


def ensure_key(file: Path) -> str:
    """The account's key as base64 text; made up at the first call."""
    with contextlib.suppress(FileNotFoundError):
        if key := file.read_text().strip():
            return key
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    write_atomically(file, f"{key}\n", mode=0o600)
    return key


@contextlib.contextmanager
def locked(file: Path, *, seconds: float) -> Iterator[None]:
    """Hold a directory's lock, so that two commands do not start or stop it at the same time.

    Raises:
        TimeoutError: another process held it all the time.
    """
    deadline = time.monotonic() + seconds
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{file} is locked") from error
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
