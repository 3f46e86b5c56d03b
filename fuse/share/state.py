"""What a server tells of a file, in this project's units."""

from __future__ import annotations

from dataclasses import dataclass

#: 1601-01-01 to 1970-01-01 in units of 100 ns.
_EPOCH = 116_444_736_000_000_000
_DIRECTORY = 0x10


@dataclass(frozen=True, slots=True)
class FileState:
    """What CREATE, CLOSE and a directory listing tell of a file. Times in nanoseconds (Unix)."""

    created_ns: int
    written_ns: int
    changed_ns: int
    size: int
    attributes: int
    file_id: int | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return bool(self.attributes & _DIRECTORY)

    @property
    def version(self) -> str:
        """Names the content; empty for directories."""
        if self.is_directory:
            return ""
        return f"{self.changed_ns:x}-{self.written_ns:x}-{self.size:x}"


def to_filetime(nanoseconds: int) -> int:
    """FILETIME of a Unix time; what lies before 1601 becomes the smallest valid time."""
    return max(1, nanoseconds // 100 + _EPOCH)


def from_filetime(ticks: int) -> int:
    """Unix time in nanoseconds; 0 (not given) stays 0."""
    return (ticks - _EPOCH) * 100 if ticks else 0
