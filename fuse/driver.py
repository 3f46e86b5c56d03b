"""One mount, from its instructions to its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pyfuse3
import structlog
import trio

from fuse import control, kernel
from fuse.blob.mount_options import apply as apply_mount_options
from fuse.errors import MountError
from fuse.filesystem import FileSystem
from fuse.spec import BlobSpec, VolumeSpec
from fuse.volume import Attributes, Kind, Volume

log = structlog.get_logger("fuse")

#: How often to look for data whose commit is due (seconds).
COMMIT_TICK = 0.2

#: Seconds that an unmount may take to commit what is dirty.
FLUSH_TIMEOUT = 120.0

ReadyCallback = Callable[[], None]


def open_volume(spec: VolumeSpec) -> AbstractAsyncContextManager[Volume]:
    """Connect to what ``spec`` names. Entering raises MountError when it cannot be used."""
    # Imported here: each SDK costs a good part of a second, and a driver needs only one.
    key = spec.credential.account_key.get_secret_value()
    if isinstance(spec, BlobSpec):
        from fuse.blob.volume import BlobVolume

        return BlobVolume.connect(
            account=spec.account, endpoint=spec.endpoint, container=spec.container, key=key
        )
    from fuse.share.volume import ShareVolume

    return ShareVolume.connect(
        endpoint=spec.endpoint, share=spec.share, account=spec.account, key=key, source=spec.source
    )


class Driver:
    """A mounted volume with its control socket.

    Args:
        spec: What to mount, and where.
        ready: Called once the mount answers.
    """

    def __init__(self, spec: VolumeSpec, ready: ReadyCallback) -> None:
        self._spec = spec
        mapped = apply_mount_options(spec.mount_options, spec.options())
        self._options = mapped.options
        if mapped.without_meaning:
            log.warning("mount options without a meaning here", options=mapped.without_meaning)
        self._ready = ready
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self._answered = trio.Event()
        self._unmount_asked = False
        self._socket: socket.socket | None = None
        self._failures: dict[str, str] = {}
        self._tuned: dict[str, bool] = {}
        self._filesystem: FileSystem | None = None

    async def run(self) -> dict[str, str]:
        """Mount, serve until told to stop, commit, unmount.

        Returns:
            Path → reason of everything that could not be committed; empty when all is well.

        Raises:
            MountError: The mount did not come up. Nothing is left behind.
        """
        self._check_mountpoint()
        self._options.cache_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with open_volume(self._spec) as volume, trio.open_nursery() as nursery:
            filesystem = FileSystem(volume, Attributes(Kind.DIRECTORY), self._options, nursery)
            self._filesystem = filesystem
            self._mount(filesystem)
            async with self._published():
                nursery.start_soon(self._watch_signals)
                nursery.start_soon(self._commit_when_due)
                async with trio.open_nursery() as serving:
                    serving.start_soon(self._serve)
                    if self._socket is not None:
                        nursery.start_soon(control.serve, self._socket, self._operations())
                    await trio.to_thread.run_sync(
                        self._wait_until_answering, abandon_on_cancel=True
                    )
                    self._tuned = kernel.tune(self._options.mountpoint)
                    log.info("mounted", source=volume.source, **self._tuned)
                    self._ready()
                    await self._stop.wait()
                    await self._finish(serving)
                pyfuse3.close(unmount=False)
                self._stopped.set()
                # Let the last answer on the control socket out before the sockets close.
                if self._unmount_asked:
                    with trio.move_on_after(1):
                        await self._answered.wait()
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        return self._failures

    # -- life ---------------------------------------------------------------------------------

    def _check_mountpoint(self) -> None:
        place = self._options.mountpoint
        if not place.is_absolute():
            raise MountError("InvalidOption", f"the mount point {place} is not an absolute path")
        if kernel.is_mounted(place):
            raise MountError(
                "MountFailed", f"something is mounted on {place} already", "unmount it first"
            )
        if not place.is_dir():
            raise MountError(
                "InvalidOption", f"{place} is not a directory", "create the mount point first"
            )

    def _mount(self, filesystem: FileSystem) -> None:
        options = set(pyfuse3.default_options)
        options |= {
            f"fsname={filesystem.volume.source}",
            f"subtype=batchai-{self._spec.kind}",
            "default_permissions",
        }
        if self._options.allow_other:
            options.add("allow_other")
        if self._options.read_only:
            options.add("ro")
        try:
            pyfuse3.init(filesystem, os.fspath(self._options.mountpoint), options)
        except RuntimeError as error:
            raise MountError(
                "MountFailed",
                f"the kernel refused to mount on {self._options.mountpoint}: {error}",
                "see the driver's log; is /dev/fuse there, and is user_allow_other set in "
                "/etc/fuse.conf for a mount by an unprivileged user?",
            ) from error

    async def _serve(self) -> None:
        await pyfuse3.main(min_tasks=1, max_tasks=99)
        # It returns when the file system was unmounted from outside, or by _finish.
        self._stop.set()

    def _wait_until_answering(self) -> None:
        """The kernel's first request has been answered: whoever looks now sees the volume."""
        os.statvfs(self._options.mountpoint)

    @asynccontextmanager
    async def _published(self) -> AsyncIterator[None]:
        """State file and control socket, as long as the mount lives."""
        directory = self._spec.run_dir
        if directory is None:
            yield
            return
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / "control.sock"
        self._socket = control.listen(path)
        _write_state(directory / "state.json", self._state())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            (directory / "state.json").unlink(missing_ok=True)

    async def _finish(self, serving: trio.Nursery) -> None:
        """Commit, unmount, end the loop. What cannot be committed is reported."""
        assert self._filesystem is not None
        with trio.move_on_after(FLUSH_TIMEOUT) as patience:
            self._failures = await self._filesystem.commit_stale(everything=True)
        if patience.cancelled_caught:
            self._failures["(all)"] = f"the store did not take it within {FLUSH_TIMEOUT:.0f} s"
        # A detached mount goes away for new users at once; the loop ends when it is terminated.
        if kernel.is_mounted(self._options.mountpoint):
            kernel.detach(self._options.mountpoint)
        serving.cancel_scope.cancel()
        log.info("unmounted", failures=len(self._failures))

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                self._stop.set()

    async def _commit_when_due(self) -> None:
        assert self._filesystem is not None
        while True:
            await trio.sleep(COMMIT_TICK)
            await self._filesystem.commit_stale()

    # -- control ------------------------------------------------------------------------------

    def _operations(self) -> dict[str, control.Operation]:
        return {
            "status": self._op_status,
            "stats": self._op_stats,
            "flush": self._op_flush,
            "unmount": self._op_unmount,
        }

    async def _op_status(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {**self._state(), "tuned": self._tuned, "stopping": self._stop.is_set()}

    async def _op_stats(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return dict(self._filesystem.statistics()) if self._filesystem else {}

    async def _op_flush(self) -> dict[str, Any]:
        assert self._filesystem is not None
        failures = await self._filesystem.commit_stale(everything=True)
        if failures:
            raise _not_committed(failures)
        return {}

    async def _op_unmount(self) -> dict[str, Any]:
        self._unmount_asked = True
        self._stop.set()
        await self._stopped.wait()
        try:
            if self._failures:
                raise _not_committed(self._failures)
            return {}
        finally:
            self._answered.set()

    def _state(self) -> dict[str, Any]:
        return {
            "version": 1,
            "id": self._spec.id,
            "pid": os.getpid(),
            "startTime": _start_time(),
            "bootId": Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(),
            "mountpoint": os.fspath(self._options.mountpoint),
            "source": self._spec.source,
            "kind": self._spec.kind,
        }


def announce(document: dict[str, Any]) -> None:
    """Say on standard output, once, how the start went, and close it."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _not_committed(failures: dict[str, str]) -> control.ControlError:
    listed = "; ".join(f"{path}: {reason}" for path, reason in sorted(failures.items()))
    return control.ControlError(
        "NotCommitted", f"{len(failures)} file(s) are not in the store: {listed}"
    )


def _start_time() -> int:
    """Field 22 of /proc/self/stat (proc(5)): clock ticks after boot."""
    text = Path("/proc/self/stat").read_text("ascii", errors="replace")
    return int(text.rpartition(")")[2].split()[19])


def _write_state(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(state), encoding="utf-8")
    temporary.replace(path)
