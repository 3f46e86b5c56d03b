"""The sockets that the API listens on, and the token of the TCP one."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from agent.rest.errors import startup_error
from agent.rest.peers import resolve_group

# sizeof(sockaddr_un.sun_path), the final NUL included (unix(7)).
_SUN_PATH = 108
_BACKLOG = 128
_LOCK_DEADLINE_S = 5.0
TOKEN_MIN_BYTES = 16


@contextlib.contextmanager
def unix_listener(path: Path, *, mode: int, group: str | None) -> Iterator[socket.socket]:
    """Listen on a unix socket; its file is removed at the end, if it is still this one.

    Until it listens nobody but its owner can connect. A stale file is replaced; one that somebody
    answers on, and anything that is no socket, is left alone.

    Raises:
        BatchError: the path cannot be used, with the reason.
    """
    if len(os.fsencode(path)) >= _SUN_PATH:
        raise startup_error(
            "InvalidSocketPath",
            f"the socket's path is longer than {_SUN_PATH - 1} bytes, the kernel's limit: {path}",
            "choose a shorter api.socket",
        )
    try:
        with _directory_lock(path.parent), contextlib.ExitStack() as undo:
            _remove_stale(path)
            listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            # The file is created with the descriptor's mode: private, without touching the umask,
            # which is the whole process's.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(os.fspath(path))
            undo.callback(_unlink_quietly, path)
            if group is not None:
                os.chown(path, -1, resolve_group(group))
            path.chmod(mode)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            identity = _identity(path)
            undo.pop_all()
    except KeyError:
        message = f"the group {group!r} of the API's socket does not exist"
        raise startup_error(
            "UnknownGroup", message, "create it, or change api.socket_group"
        ) from None
    except OSError as error:
        raise startup_error(
            "SocketUnavailable",
            f"cannot listen on {path}: {error.strerror}",
            "check that its directory exists and is writable by the agent's user",
        ) from error
    try:
        yield listener
    finally:
        with contextlib.suppress(OSError):
            if _identity(path) == identity:
                path.unlink()
        listener.close()


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _unlink_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """Two agents that start at once must not both find the stale socket and replace it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_DEADLINE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)  # flock(2) has no timeout; the holder needs microseconds
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise startup_error(
            "SocketUnavailable", f"{path} exists and is no socket", "move it, or change api.socket"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # its owner is gone
            return
        except (TimeoutError, BlockingIOError):
            pass  # its queue is full: somebody owns it
    raise startup_error(
        "AgentAlreadyRunning",
        f"another agent already answers on {path}",
        "stop it first, or give this one another api.socket",
    )


@contextlib.contextmanager
def tcp_listener(address: str) -> Iterator[socket.socket]:
    """Listen on "host:port" ("[::1]:port" for IPv6; port 0 takes a free one).

    Raises:
        BatchError: the address is malformed or cannot be had.
    """
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        message = f'api.tcp must be "host:port", not {address!r}'
        raise startup_error("InvalidAddress", message, 'for example api.tcp = "127.0.0.1:8100"')
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise startup_error(
            "AddressUnavailable",
            f"cannot listen on {address}: {error.strerror or error}",
            "choose another port in api.tcp" if taken else "check the address in api.tcp",
        ) from error
    with listener:
        listener.setblocking(False)
        yield listener


def read_token(path: Path) -> bytes:
    """The bearer token; its file must be readable by its owner alone (mode 0600 or 0400).

    Raises:
        BatchError: the file is missing, readable by others, owned by another user, or the token
            is too short to be one.
    """
    hint = f"create it with: (umask 077; openssl rand -hex 32 > {path})"
    try:
        # O_NOFOLLOW and fstat: what was checked is what is read.
        with open(path, "rb", opener=lambda p, f: os.open(p, f | os.O_NOFOLLOW)) as file:
            status = os.fstat(file.fileno())
            token = file.read(4096).strip()
    except OSError as error:
        message = f"cannot read the API's token file {path}: {error.strerror}"
        raise startup_error("TokenUnavailable", message, hint) from error
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        message = f"the token file {path} (owner {status.st_uid}, mode {mode:04o}) is not private"
        raise startup_error(
            "TokenNotPrivate", message, f"chmod 600 {path}, owned by the agent's user"
        )
    if len(token) < TOKEN_MIN_BYTES:
        message = f"the token in {path} has fewer than {TOKEN_MIN_BYTES} characters"
        raise startup_error("TokenTooShort", message, hint)
    return token
