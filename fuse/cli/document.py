"""The driver's instructions, made of what a command line or a line of fstab says."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuse.cli import directories
from fuse.cli.credentials import Found
from fuse.cli.errors import usage
from fuse.cli.target import CLOUDS, DRIVERS_CLOUDS, Target, cloud_of
from fuse.errors import MountError

FUSE_CONF = Path("/etc/fuse.conf")
DEVICE = Path("/dev/fuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to mount; None leaves the driver's default.

    Attributes:
        read_only: Refuse changes.
        allow_other: Let other users in; None: if root mounts, or the machine lets users do so.
        uid: Owner of what the store knows none of; None: who mounts.
        gid: Its group.
        file_mode: Permission bits of files that the store knows none of, octal.
        directory_mode: The same for directories.
        attribute_timeout: Seconds for which attributes are believed.
        flush_timeout: Seconds that an unmount may take to store what is dirty.
        cache_directory: Where content and unsaved data lie.
        mount_options: blobfuse's options, in one string.
        cloud: A name of CLOUDS.
        endpoint: In place of the cloud's.
        extra: Fields of the driver's document that have no option here.
    """

    read_only: bool = False
    allow_other: bool | None = None
    uid: int | None = None
    gid: int | None = None
    file_mode: str = "0644"
    directory_mode: str = "0755"
    attribute_timeout: float | None = None
    flush_timeout: float | None = None
    cache_directory: Path | None = None
    mount_options: str = ""
    cloud: str | None = None
    endpoint: str | None = None
    extra: dict[str, Any] | None = None


def users_may_allow_other(text: str) -> bool:
    """Whether ``/etc/fuse.conf`` has ``user_allow_other`` on a line by itself (fuse(8))."""
    return any(line.strip() == "user_allow_other" for line in text.splitlines())


def check_machine() -> None:
    """Whether this user can mount anything at all here.

    Raises:
        MountError: He cannot, and why.
    """
    if not DEVICE.exists():
        raise MountError("MountFailed", f"there is no {DEVICE}", "load the kernel's module: fuse")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise MountError(
            "PermissionDenied",
            f"{DEVICE} is closed to you",
            "mount as root, or let root open it to all: chmod 666 /dev/fuse",
        )
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise MountError(
            "MountFailed", "there is no fusermount3, which mounts for users", "install fuse3"
        )


def make(target: Target, mountpoint: Path, found: Found, options: Options) -> dict[str, Any]:
    """The document.

    Raises:
        MountError: InvalidOption: parts of it contradict each other; or :func:`check_machine`'s.
    """
    check_machine()
    if found.name is not None and found.name != target.name:
        raise usage(
            f"the credential is for {found.name}, not for {target.name}", "name that, or none"
        )
    endpoint = (
        options.endpoint or target.endpoint or (found.endpoint if target.kind == "blob" else None)
    )
    if endpoint is None:
        endpoint = target.endpoint_in(CLOUDS[options.cloud or "public"])
    mount_options = options.mount_options
    if target.subdirectory:
        mount_options = f"{mount_options} --subdirectory={shlex.quote(target.subdirectory)}".strip()
    document: dict[str, Any] = {
        "version": 1,
        "id": directories.identifier(mountpoint),
        "kind": target.kind,
        "account": target.account,
        "container" if target.kind == "blob" else "share": target.name,
        "credential": found.credential,
        "endpoint": endpoint,
        "mountpoint": os.fspath(mountpoint),
        "readOnly": options.read_only,
        "uid": os.geteuid() if options.uid is None else options.uid,
        "gid": os.getegid() if options.gid is None else options.gid,
        "allowOther": _allow_other(asked=options.allow_other),
        "runDir": os.fspath(directories.runtime(mountpoint)),
        "cacheDir": os.fspath(
            directories.private(options.cache_directory or directories.cache_directory())
        ),
        "fileMode": options.file_mode,
        "directoryMode": options.directory_mode,
        **(options.extra or {}),
    }
    if target.kind == "blob":
        document["cloud"] = DRIVERS_CLOUDS[options.cloud or cloud_of(endpoint)]
    document |= {
        name: value
        for name, value in {
            "attributeTimeout": options.attribute_timeout,
            "flushTimeout": options.flush_timeout,
            "mountOptions": mount_options or None,
        }.items()
        if value is not None
    }
    return document


def _allow_other(*, asked: bool | None) -> bool:
    if os.geteuid() == 0:
        return asked is not False
    try:
        allowed = users_may_allow_other(FUSE_CONF.read_text("utf-8", "replace"))
    except OSError:
        allowed = False
    if asked and not allowed:
        raise usage(
            "--allow-other is not for users on this machine",
            f"root can put a line user_allow_other into {FUSE_CONF}",
        )
    return bool(asked)
