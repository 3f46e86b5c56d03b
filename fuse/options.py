"""What a mount can be told. The defaults are right for a job; nothing needs setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """Options of the file system core, the same for blob and share.

    Attributes:
        mountpoint: Absolute path of the directory to mount on.
        cache_directory: Where staging files live.
        read_only: Refuse every change with EROFS (the kernel does).
        uid: Owner of files whose owner the store does not know.
        gid: Their group.
        file_mode: Permission bits of files whose mode the store does not know.
        directory_mode: The same for directories.
        allow_other: Let other users than the mounting one in (needed for a job's user).
        attribute_timeout: Seconds for which attributes and entries are believed; None: as the
            volume suggests; 0: always ask.
        memory_budget: Bytes of file data kept in memory.
        disk_budget: Bytes of file data that all mounts together keep in the cache directory; None:
            a share of what is free; 0: none.
        read_ahead_limit: Largest read-ahead window of one handle in bytes.
    """

    mountpoint: Path
    cache_directory: Path
    read_only: bool = False
    uid: int = 0
    gid: int = 0
    file_mode: int = 0o777
    directory_mode: int = 0o777
    allow_other: bool = True
    attribute_timeout: float | None = None
    memory_budget: int = 192 * MIB
    disk_budget: int | None = None
    read_ahead_limit: int = 64 * MIB
