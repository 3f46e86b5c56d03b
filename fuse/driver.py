"""One mount, from its instructions to its end."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyfuse3
import trio

from fuse import control, kernel
from fuse.adoption import Adopted, adopt
from fuse.blob.mount_options import apply as apply_mount_options
from fuse.errors import MountError
from fuse.filesystem import FileSystem
from fuse.logs import log
from fuse.opening import open_root
from fuse.places import Places
from fuse.recovery import Report, kept, recover
from fuse.restoring import Fetch, Restore, fetch, restore
from fuse.serving import serve
from fuse.spec import BlobSpec, NewCredential, VolumeSpec
from fuse.volume import Attributes, Kind

if TYPE_CHECKING:
    from fuse.blob.store import BlobStore

#: How often to look for data whose commit is due (seconds).
COMMIT_TICK = 0.2

#: Seconds before the mount is ready that are spent on what earlier mounts left behind.
RECOVERY = 5.0

#: Seconds from a second request to stop until the process is gone, whatever hangs.
HURRY = 5.0

#: Files that the driver may have open, where the hard limit allows it (getrlimit(2)).
OPEN_FILES = 65536

ReadyCallback = Callable[[], None]


class Driver:
    """A mounted volume with its control socket.

    Args:
        spec: What to mount, and where.
        ready: Called once the mount answers.
    """

    def __init__(self, spec: VolumeSpec, ready: ReadyCallback) -> None:
        self._spec = spec
        self._mapped = apply_mount_options(
            spec.mount_options,
            spec.options(),
            container=spec.container if isinstance(spec, BlobSpec) else None,
            endpoint=spec.endpoint if isinstance(spec, BlobSpec) else None,
        )
        self._options = self._mapped.options
        self._ready = ready
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self._answered = trio.Event()
        self._unmount_asked = False
        self._flushing = trio.CancelScope()
        self._socket: socket.socket | None = None
        self._failures: dict[str, str] = {}
        self._tuned: dict[str, bool] = {}
        self._filesystem: FileSystem | None = None
        self._store: BlobStore | None = None
        self._recovered = Report()
        self._adopted = Adopted()

    @property
    def warnings(self) -> list[str]:
        """What the person who asked for this mount should know; a sentence each."""
        told = list(self._mapped.warnings)
        if self._options.read_only and not self._mapped.options.read_only:
            told.append("mounted read-only: the credential does not let anybody write")
        by_hand = f"see: batchai-mount recover {self._options.cache_directory}"
        if conflicts := len(self._recovered.conflicts):
            told.append(
                f"{conflicts} file(s) that an earlier mount could not store have been changed by "
                f"somebody else since; what was written is kept: {by_hand}"
            )
        if self._lost:
            told.append(
                f"{self._lost} file(s) were changed by somebody else before what was written here "
                f"could be stored; it is kept: {by_hand}"
            )
        if waiting := self._waiting:
            told.append(f"{waiting} file(s) of an earlier mount are still not stored: {by_hand}")
        if self._filesystem is not None:
            told += self._filesystem.volume.warnings()
        return told

    @property
    def _waiting(self) -> int:
        """Files of earlier mounts that the store does not have yet."""
        return len(self._recovered.waiting) + self._adopted.waiting

    @property
    def _lost(self) -> int:
        """Files that lost to another writer since this mount began."""
        return self._filesystem.contents.conflicts if self._filesystem is not None else 0

    @property
    def log_level(self) -> str:
        """Least severity that the mount options want logged."""
        return self._mapped.log_level or "info"

    async def run(self) -> dict[str, str]:
        """Mount, serve until told to stop, commit, unmount.

        Returns:
            Path → reason of everything that could not be committed; empty when all is well.

        Raises:
            MountError: The mount did not come up. Nothing is left behind.
        """
        self._check_mountpoint()
        _raise_open_files()
        self._options.cache_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for warning in self._mapped.warnings:
            log.warning(warning)
        opening = open_root(
            self._spec,
            self._mapped,
            lend=self._borrow,
            cache_directory=None if self._options.read_only else self._options.cache_directory,
        )
        async with opening as volume, trio.open_nursery() as nursery:
            self._recovered = await recover(
                volume,
                Places(self._options.cache_directory, volume.identity),
                read_only=self._options.read_only,
                patience=RECOVERY,
            )
            filesystem = FileSystem(volume, Attributes(Kind.DIRECTORY), self._options, nursery)
            self._filesystem = filesystem
            if not self._options.read_only:
                self._adopted = adopt(
                    filesystem.journal, filesystem.inodes, filesystem.contents, self._recovered
                )
            nursery.start_soon(filesystem.journal.sync_when_due)
            nursery.start_soon(volume.settle)
            self._mount(filesystem)
            async with self._published():
                nursery.start_soon(self._watch_signals)
                if not self._options.read_only:
                    nursery.start_soon(self._commit_when_due)
                async with trio.open_nursery() as serving:
                    serving.start_soon(self._serve, filesystem)
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
            # What waits for the next mount outlives a reboot before it, too.
            await filesystem.journal.sync()
            filesystem.close()
            nursery.cancel_scope.cancel()
        return self._failures

    def _borrow(self, store: BlobStore) -> None:
        """Keep the store at hand; nothing can be written where its credential does not let us."""
        self._store = store
        if store.read_only and not self._options.read_only:
            self._options = dataclasses.replace(self._options, read_only=True)
            log.warning("mounted read-only", reason=f"{store.credential} cannot write")

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
        options |= set(self._mapped.flags)
        try:
            pyfuse3.init(filesystem, os.fspath(self._options.mountpoint), options)
        except RuntimeError as error:
            raise MountError(
                "MountFailed",
                f"the kernel refused to mount on {self._options.mountpoint}: {error}",
                "see the driver's log; is /dev/fuse there, and is user_allow_other set in "
                "/etc/fuse.conf for a mount by an unprivileged user?",
            ) from error

    async def _serve(self, filesystem: FileSystem) -> None:
        await serve(filesystem)
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
        timeout = self._spec.flush_timeout
        with self._flushing, trio.move_on_after(timeout) as patience:
            self._failures = await self._filesystem.contents.commit_stale(everything=True)
        if patience.cancelled_caught:
            self._failures["(all)"] = f"the store did not take it within {timeout:g} s"
        elif self._flushing.cancelled_caught:
            self._failures["(all)"] = "told to stop before the store had taken it"
        # A detached mount goes away for new users at once; the loop ends when it is terminated.
        if kernel.is_mounted(self._options.mountpoint):
            kernel.detach(self._options.mountpoint)
        serving.cancel_scope.cancel()
        log.info("unmounted", failures=len(self._failures))
        if self._failures:
            log.error(_kept_message(self._options.cache_directory), failures=self._failures)

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                again = self._stop.is_set()
                log.info("stopping", signal=signal.Signals(number).name, at_once=again)
                self._stop.set()
                if again:
                    # What is not in the store stays in the cache directory. SIGALRM ends the
                    # process where even that hangs.
                    signal.setitimer(signal.ITIMER_REAL, HURRY)
                    self._flushing.cancel()

    async def _commit_when_due(self) -> None:
        assert self._filesystem is not None
        contents = self._filesystem.contents
        while True:
            await contents.in_use()
            await trio.sleep(COMMIT_TICK)
            await contents.commit_stale()

    # -- control ------------------------------------------------------------------------------

    def _operations(self) -> dict[str, control.Handler]:
        return {
            "status": self._op_status,
            "stats": self._op_stats,
            "flush": self._op_flush,
            "unmount": self._op_unmount,
            "credential": control.Accepting(NewCredential.read, self._op_credential),
            "restore": control.Accepting(Restore.read, self._op_restore),
            "base": control.Accepting(Fetch.read, self._op_base),
            "recovery": self._op_recovery,
        }

    async def _op_status(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return {
            **self._state(),
            "tuned": self._tuned,
            "stopping": self._stop.is_set(),
            "warnings": self.warnings,
            "recovery": {
                "committed": len(self._recovered.committed) + self._adopted.committed,
                "conflicts": len(self._recovered.conflicts) + self._lost,
                "waiting": self._waiting,
            },
        }

    async def _op_recovery(self) -> dict[str, Any]:
        """What is kept of this volume: in conflict, or left behind by other mounts."""
        assert self._filesystem is not None
        found = await trio.to_thread.run_sync(kept, self._options.cache_directory)
        identity = self._filesystem.volume.identity
        return {"entries": [entry.as_dict() for entry in found if entry.volume == identity]}

    async def _op_stats(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if self._filesystem is None:
            return {}
        contents = [node.content for node in self._filesystem.inodes if node.content is not None]
        dirty = sum(end - start for each in contents for start, end in each.dirty_ranges)
        return {"dirty_bytes": dirty, **self._filesystem.statistics()}

    async def _op_flush(self) -> dict[str, Any]:
        assert self._filesystem is not None
        failures = await self._filesystem.contents.commit_stale(everything=True)
        if failures:
            raise _not_committed(failures, self._options.cache_directory)
        return {}

    async def _op_restore(self, wanted: Restore) -> dict[str, Any]:
        """Store what an earlier mount, or a conflict, left in the cache directory."""
        assert self._filesystem is not None
        return await restore(self._filesystem.volume, self._options.cache_directory, wanted)

    async def _op_base(self, wanted: Fetch) -> dict[str, Any]:
        """What kept data was written over, for an export."""
        assert self._filesystem is not None
        return await fetch(self._filesystem.volume, self._options.cache_directory, wanted)

    async def _op_credential(self, new: NewCredential) -> dict[str, Any]:
        """Go on with another credential, once the store has taken it."""
        if self._store is None or not isinstance(self._spec, BlobSpec):
            raise control.ControlError(
                "NotSupported",
                "the credential of a file share cannot be replaced while it is mounted",
                "unmount it and mount it again",
            )
        from fuse.blob.opening import another_credential

        try:
            credential = another_credential(new.credential, self._spec, self._store)
            await self._store.replace_credential(credential)
        except MountError as error:
            raise control.ControlError(error.code, error.message, error.hint) from error
        log.info("credential replaced", credential=self._store.credential)
        return {"credential": self._store.credential}

    async def _op_unmount(self) -> dict[str, Any]:
        self._unmount_asked = True
        self._stop.set()
        await self._stopped.wait()
        try:
            if self._failures:
                raise _not_committed(self._failures, self._options.cache_directory)
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
            "source": self._filesystem.volume.source if self._filesystem else self._spec.source,
            "identity": self._filesystem.volume.identity if self._filesystem else None,
            "cacheDir": os.fspath(self._options.cache_directory),
            "kind": self._spec.kind,
        }


def _raise_open_files() -> None:
    """Each file that is not stored yet takes two descriptors, however long the store is away."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _not_committed(failures: dict[str, str], cache: Path) -> control.ControlError:
    listed = "; ".join(f"{path}: {reason}" for path, reason in sorted(failures.items()))
    return control.ControlError(
        "NotCommitted",
        f"{len(failures)} file(s) are not in the store: {listed}",
        _kept_message(cache),
    )


def _kept_message(cache: Path) -> str:
    return (
        f"what is not in the store is kept in {cache}: the next mount of the volume with this "
        f"cache directory stores it; see batchai-mount recover {cache}"
    )


def _start_time() -> int:
    """Field 22 of /proc/self/stat (proc(5)): clock ticks after boot."""
    text = Path("/proc/self/stat").read_text("ascii", errors="replace")
    return int(text.rpartition(")")[2].split()[19])


def _write_state(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(state), encoding="utf-8")
    temporary.replace(path)
