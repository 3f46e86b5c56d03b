"""What is mounted, from ``/proc/self/mountinfo`` (proc(5)): nothing that is mounted is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(rb"\\([0-7]{3})")

#: What the file systems of this driver begin with; the kind of volume follows.
TYPE_PREFIX = "fuse.batchai-"


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount.

    Attributes:
        device: Its ``st_dev``; of a fuse mount the minor number names the connection.
        mountpoint: Absolute path.
        options: Those of the mount and those of its file system, as the kernel writes them.
        filesystem: Its type with its subtype: ``fuse.batchai-blob``.
        source: ``account/container``, or ``//account/share``.
    """

    device: int
    mountpoint: Path
    options: frozenset[str]
    filesystem: str
    source: str

    @property
    def kind(self) -> str | None:
        """``blob`` or ``share`` for a volume of this driver."""
        if self.filesystem.startswith(TYPE_PREFIX):
            return self.filesystem.removeprefix(TYPE_PREFIX)
        return None


def read() -> list[Mount]:
    """All mounts, in the kernel's order: a later one on the same directory covers the earlier."""
    return list(parse(Path("/proc/self/mountinfo").read_bytes()))


def parse(text: bytes) -> Iterator[Mount]:
    """The mounts of a mountinfo file; a line that is none is left out."""
    for line in text.split(b"\n"):
        before, separator, after = line.partition(b" - ")
        fields, tail = before.split(b" "), after.split(b" ")
        if not separator or len(fields) < 6 or len(tail) < 3:
            continue
        major, _, minor = fields[2].partition(b":")
        yield Mount(
            device=os.makedev(int(major), int(minor)),
            mountpoint=Path(_path(fields[4])),
            options=frozenset(
                b",".join((fields[5], tail[2])).decode("ascii", "replace").split(",")
            ),
            filesystem=os.fsdecode(tail[0]),
            source=_path(tail[1]),
        )


def topmost(mountpoint: Path) -> Mount | None:
    """What is seen at a directory when it is a mount point."""
    found = None
    for mount in read():
        if mount.mountpoint == mountpoint:
            found = mount
    return found


def _path(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda code: bytes([int(code[1], 8)]), field))
