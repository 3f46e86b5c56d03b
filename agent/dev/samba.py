"""Samba with the profile of an Azure file share: SMB 3.1.1 only, encrypted, 1 MiB requests.

smbd needs a Unix account for each user of its own. The storage account is mapped to root, in a
password database that only this instance reads, and every file is root's: whoever holds an
account's key is the superuser of a real share as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path

UNIX_ACCOUNT = "root"
LONGEST_SOCKET = len("/samba/private/msg.sock/4294967295")
"""smbd's longest socket below the directory; sun_path holds 107 bytes (unix(7))."""

CONFIGURATION = """\
# Written by `batchai dev up`; changes are overwritten.
[global]
    server role = standalone server
    passdb backend = tdbsam:{samba}/private/passdb.tdb
    username map = {samba}/users.map
    map to guest = never
    restrict anonymous = 2

    # As Azure Files.
    server min protocol = SMB3_11
    server smb encrypt = required
    smb2 max read = 1048576
    smb2 max write = 1048576
    smb2 max trans = 1048576
    smb2 max credits = 512

    # Reachable from this machine only, and nothing but files.
    interfaces = 127.0.0.1
    bind interfaces only = yes
    smb ports = {port}
    server multi channel support = no
    disable netbios = yes
    name resolve order = host
    rpc start on demand helpers = no
    load printers = no
    printing = bsd
    printcap name = /dev/null
    disable spoolss = yes
    usershare max shares = 0

    private dir = {samba}/private
    lock directory = {samba}/lock
    state directory = {samba}/state
    cache directory = {samba}/cache
    pid directory = {samba}/pid
    ncalrpc dir = {samba}/ncalrpc
    log file = {log}
    log level = 1
    max log size = 0

[{share}]
    path = {path}
    read only = no
    force user = root
    ea support = no
    case sensitive = no
    mangled names = no
    hide dot files = no
"""
DIRECTORIES = ("private", "lock", "state", "cache", "pid", "ncalrpc")


class SambaError(Exception):
    """A program of Samba's failed; the text is its own."""


def find() -> dict[str, str] | None:
    """The programs by name, or None when one is missing (Debian keeps smbd in /usr/sbin)."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    found = {name: shutil.which(name, path=path) for name in ("smbd", "smbpasswd")}
    return {name: where for name, where in found.items() if where} if all(found.values()) else None


def configure(samba: Path, *, port: int, share: str, path: Path, account: str, log: Path) -> Path:
    """Write smb.conf and the directories that it names; returns the file's path."""
    for name in DIRECTORIES:
        directory = samba / name
        directory.mkdir(parents=True, exist_ok=True)
        # smbd insists on 0755 for its ncalrpc directory.
        directory.chmod(0o700 if name == "private" else 0o755)
    (samba / "users.map").write_text(f"{UNIX_ACCOUNT} = {account}\n")
    file = samba / "smb.conf"
    file.write_text(CONFIGURATION.format(samba=samba, port=port, share=share, path=path, log=log))
    return file


def set_password(program: str, configuration: Path, key: str) -> None:
    """Put the account's key into the private password database, by way of standard input.

    Raises:
        SambaError: smbpasswd failed.
    """
    done = subprocess.run(
        [program, "-c", configuration, "-L", "-s", "-a", UNIX_ACCOUNT],
        input=f"{key}\n{key}\n",
        text=True,
        capture_output=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0:
        raise SambaError((done.stderr or done.stdout).strip() or f"exit status {done.returncode}")


def command(program: str, configuration: Path) -> list[str]:
    """In the foreground of the session that it is started in."""
    return [program, "--foreground", "--no-process-group", "-s", os.fspath(configuration)]


def probe(*, port: int, account: str, key: str, share: str) -> None:
    """Log in and open the share, as a client would: proof that server and key are in order.

    Raises:
        smbprotocol.exceptions.SMBException, OSError, ValueError: not ready yet, or not ours.
    """
    from smbprotocol.connection import Connection
    from smbprotocol.session import Session
    from smbprotocol.tree import TreeConnect

    connection = Connection(uuid.uuid4(), "127.0.0.1", port)
    connection.connect(timeout=5)
    try:
        session = Session(connection, account, key)
        session.connect()
        try:
            TreeConnect(session, rf"\\127.0.0.1\{share}").connect()
        finally:
            session.disconnect(close=True, timeout=5)
    finally:
        connection.disconnect(close=False, timeout=5)
