"""Where mounts made by hand keep their things: root's in the system, a user's in his home."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from fuse import mountinfo
from fuse.cli.errors import refusing, usage

#: Names the directory of the drivers' state in place of the default.
VARIABLE = "BATCHAI_MOUNT_RUN_DIR"

_SYSTEM_RUN = Path("/run/batchai/mounts")

#: Links are followed as often as the kernel does (path_resolution(7)).
_MOST_LINKS = 40

#: A unix socket's address holds 107 bytes (unix(7)); this much of it is ours.
_LONGEST = 107 - len("/control.sock")


def run_directory() -> Path:
    """Holds a directory for each mount of the caller's."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if os.geteuid() == 0:
        return _SYSTEM_RUN
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / "batchai"
    session_directory = Path(f"/run/user/{os.geteuid()}")
    if session_directory.is_dir():
        return session_directory / "batchai"
    return cache_directory() / "run"


def run_directories() -> list[Path]:
    """All that the caller may be able to look into: his own, and the system's."""
    return list(dict.fromkeys((run_directory(), _SYSTEM_RUN)))


def cache_directory() -> Path:
    """Default of ``--cache-dir``."""
    if os.geteuid() == 0:
        return Path("/var/cache/batchai")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchai"


def log_file(identifier: str) -> Path:
    """Default of ``--log-file``."""
    if os.geteuid() == 0:
        return Path("/var/log/batchai") / f"{identifier}.log"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "batchai" / f"{identifier}.log"


def identifier(mountpoint: Path) -> str:
    """Names the mount on a directory in the run directory."""
    return "manual-" + hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:12]


def private(path: Path) -> Path:
    """Make a directory that only the caller may enter.

    Raises:
        MountError: It cannot be made, or is somebody else's.
    """
    with refusing(f"cannot make {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat(follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise usage(f"{path} is not a directory of yours", "remove it, or name another one")
    if found.st_mode & 0o022:
        raise usage(f"{path} is open to others", f"chmod 700 {path}, or name another one")
    return path


def runtime(mountpoint: Path) -> Path:
    """The directory of one mount's control socket and state.

    Raises:
        MountError: Its path is too long for a socket, or it cannot be made.
    """
    path = private(run_directory()) / identifier(mountpoint)
    if len(os.fsencode(path)) > _LONGEST:
        raise usage(f"{path} is too long for a unix socket", f"set {VARIABLE} to a shorter path")
    return path


def resolved(directory: Path) -> Path:
    """The absolute path of a mount point, links followed.

    What is mounted there is not touched: it may hang.

    Raises:
        MountError: A directory on the way to it is not there.
    """
    place = Path(os.path.abspath(directory))  # noqa: PTH100 -- resolve() would touch it
    for _ in range(_MOST_LINKS):
        if not place.name:
            return place
        with refusing(f"cannot find {directory}"):
            place = place.parent.resolve(strict=True) / place.name
            if mountinfo.topmost(place) is not None or not place.is_symlink():
                return place
            place = place.parent / place.readlink()
    raise usage(f"{directory} is a link to itself")
