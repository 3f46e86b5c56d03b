"""Ways to unmount: with the driver, without it, and against it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fuse import connections
from fuse.cli.asking import ask
from fuse.cli.errors import refusing, warn
from fuse.cli.mounted import Mounted, Process
from fuse.cli.output import Progress
from fuse.errors import MountError

#: Seconds that a driver which is not bounded by its own time-out may take.
_PATIENCE = 24 * 3600.0

#: Seconds that a driver may take to end after its mount is gone, and after SIGTERM.
_GRACE = 10.0

_KEPT = "what was not stored is kept in the cache directory: batchai-mount recover {place}"


def unmount(found: Mounted, timeout: float | None) -> None:
    """Let the driver store what is not stored, and end; a dead driver's mount is taken off.

    Raises:
        MountError: NotCommitted when something is not in the store; the volume is unmounted then.
    """
    process = found.process
    if found.directory is None and found.status == "other":
        _detach(found)
        return
    if found.status in {"dead", "left"}:
        _take_off(found)
        _forget(found)
        warn(f"the driver of {found.mountpoint} had died; " + _kept(found))
        return
    assert found.directory is not None
    try:
        with watched("storing", found.directory) as meanwhile:
            ask(found.directory, "unmount", timeout=timeout or _PATIENCE, meanwhile=meanwhile)
    except MountError as error:
        if error.code != "NotCommitted" or error.hint:
            raise
        raise MountError(error.code, error.message, _kept(found)) from None
    if process is not None and not _ended(process, _GRACE):
        warn(f"the driver (process {process.pid}) has unmounted, and does not end")


def force(found: Mounted) -> None:
    """Unmount whatever hangs: requests fail at once, and the driver ends without storing.

    Raises:
        MountError: The mount is not this user's.
    """
    process = found.process
    if found.mount is not None and os.geteuid() == 0:
        # Without this, a process that waits for the driver stays until the driver is dead.
        with contextlib.suppress(OSError):
            connections.abort(found.mount.device)
    _take_off(found)
    if process is not None and process.alive():
        with refusing(f"cannot end process {process.pid}"):
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
                if process.alive():
                    os.kill(process.pid, number)
                _ended(process, _GRACE / 4)
    _forget(found)
    warn(_kept(found))


@contextmanager
def watched(label: str, directory: Path) -> Iterator[Callable[[], None]]:
    """A function that shows how much a driver still has to store."""
    progress = Progress(label)

    def look() -> None:
        with contextlib.suppress(MountError):
            left = ask(directory, "stats", timeout=2).get("dirty_bytes")
            if isinstance(left, int):
                progress.left(left)

    try:
        yield look
    finally:
        progress.end()


def _take_off(found: Mounted) -> None:
    if found.mount is not None:
        _detach(found)


def _detach(found: Mounted) -> None:
    # Imported here: it logs, and what it takes to log costs the other commands half of their start.
    from fuse import kernel

    with refusing(f"cannot unmount {found.mountpoint}"):
        kernel.detach(found.mountpoint)


def _forget(found: Mounted) -> None:
    """Remove what a driver that was killed could not remove."""
    if found.directory is not None and not (found.process and found.process.alive()):
        for name in ("control.sock", "state.json"):
            with contextlib.suppress(FileNotFoundError):
                (found.directory / name).unlink()


def _ended(process: Process, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while process.alive():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _kept(found: Mounted) -> str:
    return _KEPT.format(place=found.state.get("cacheDir", "DIR"))
