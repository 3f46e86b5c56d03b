"""What is mounted, as the kernel tells it: a parser of ``/proc/self/mountinfo`` (proc(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    mount_id: int
    parent_id: int
    major: int
    minor: int
    """Of ``st_dev``; for fuse the minor is the connection's name below /sys/fs/fuse/connections."""
    root: str
    mountpoint: str
    options: frozenset[str]
    filesystem: str
    source: str

    @property
    def is_fuse(self) -> bool:
        """Whether a user-space driver serves it."""
        return self.filesystem == "fuse" or self.filesystem.startswith("fuse.")


def _unescape(text: str) -> str:
    # Space, tab, newline and backslash are octal; the rest of the bytes are as they are.
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def parse(text: str) -> list[Mount]:
    """All mounts, in the kernel's order: a later one on the same mountpoint covers the earlier.

    Lines that are cut or malformed are left out: no other program's mount may stop this agent.
    """
    mounts = []
    for line in text.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 2:
            continue
        major, _, minor = fields[2].partition(":")
        try:
            numbers = int(fields[0]), int(fields[1]), int(major), int(minor)
        except ValueError:
            continue
        mounts.append(
            Mount(
                *numbers,
                root=_unescape(fields[3]),
                mountpoint=_unescape(fields[4]),
                options=frozenset(fields[5].split(",")),
                filesystem=tail[0],
                source=_unescape(tail[1]),
            )
        )
    return mounts


def read() -> list[Mount]:
    """All mounts of this process's mount namespace."""
    # Names are bytes; surrogateescape keeps those that are no UTF-8.
    return parse(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))


def at(mounts: Iterable[Mount], mountpoint: str) -> list[Mount]:
    """The mounts stacked on a directory, lowest first."""
    return [mount for mount in mounts if mount.mountpoint == mountpoint]


def below(mounts: Iterable[Mount], directory: str) -> list[Mount]:
    """The mounts on a directory and beneath it, in the order in which they must be undone."""
    prefix = directory.rstrip("/") + "/"
    inside = [m for m in mounts if m.mountpoint == directory or m.mountpoint.startswith(prefix)]
    return inside[::-1]
