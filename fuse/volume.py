"""What a volume is: the protocol that Azure Blob containers and SMB shares both implement.

The file system core (inodes, handles, read-ahead, cache, write-back) sits above this protocol and
knows nothing of HTTP or SMB. A volume knows nothing of inodes, handles or the kernel.

Paths are :class:`str`, relative to the volume's root, with ``/`` between components, without a
leading or trailing slash; the root is the empty string. All methods raise :class:`OSError` with
the errno of the situation (ENOENT, EEXIST, ENOTEMPTY, ENOTDIR, EISDIR, EACCES, ESTALE, ETIMEDOUT,
EIO, ...), and are cancellable at their checkpoints.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable


class Kind(enum.Enum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a volume knows of one file, directory or symbolic link.

    Attributes:
        kind: File, directory or symbolic link.
        size: Length in bytes; of a symbolic link the length of its target, of a directory 0.
        mtime_ns: Modification time, nanoseconds since the epoch.
        ctime_ns: Change time, nanoseconds since the epoch.
        version: Names this content: two equal versions of a path hold equal bytes. A blob's ETag;
            a share's change time, write time and size. Empty for directories.
        mode: Permission bits, or None where the volume does not keep them.
        uid: Owner, or None where the volume does not keep it.
        gid: Group, or None where the volume does not keep it.
        file_id: A number that stays with the file across renames, or None where there is none.
        metadata: What else the store keeps with the entry and an overwrite must carry over.
        headers: Properties with names of the store's own that an overwrite must carry over, or
            that decide how it is done: a blob's type, content type, tier. Lower case, sorted.
        xattrs: Extended attributes (xattr(7)), full names with their namespace, sorted.
        fixed: Bytes at the front that the store does not let anybody change or cut: all of them in
            an append blob. A write there gets EPERM.
    """

    kind: Kind
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    version: str = ""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    file_id: int | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    xattrs: tuple[tuple[str, bytes], ...] = ()
    fixed: int = 0

    @property
    def unmade(self) -> bool:
        """Whether it is a file that the store does not have yet."""
        return not self.version and self.kind is Kind.FILE

    def changed(self, **fields: Any) -> Attributes:
        """A copy with some fields replaced."""
        return replace(self, **fields)


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a directory, with its attributes (so that ``ls -l`` needs no further request)."""

    name: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Changes:
    """Attributes to set; None leaves one as it is.

    Attributes:
        mode: Permission bits.
        uid: Owner.
        gid: Group.
        mtime_ns: Modification time, nanoseconds since the epoch.
        xattrs: Extended attributes to set, or with None to remove; each name at most once.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    xattrs: tuple[tuple[str, bytes | None], ...] = ()

    def __bool__(self) -> bool:
        numbers = (self.mode, self.uid, self.gid, self.mtime_ns)
        return bool(self.xattrs) or any(number is not None for number in numbers)

    def merged(self, later: Changes) -> Changes:
        """These changes with ``later`` ones on top."""
        return Changes(
            mode=self.mode if later.mode is None else later.mode,
            uid=self.uid if later.uid is None else later.uid,
            gid=self.gid if later.gid is None else later.gid,
            mtime_ns=self.mtime_ns if later.mtime_ns is None else later.mtime_ns,
            xattrs=tuple(sorted({**dict(self.xattrs), **dict(later.xattrs)}.items())),
        )


@dataclass(frozen=True, slots=True)
class Space:
    """What ``statvfs`` reports. Bytes; 0 total means that the store sets no limit."""

    total: int = 0
    free: int = 0


@dataclass(frozen=True, slots=True)
class Staged:
    """A part of new content that the store has already, and that no reader sees before a commit.

    Attributes:
        start: Offset of its first byte.
        end: Offset behind its last byte.
        identifier: The store's name for it: a block id.
    """

    start: int
    end: int
    identifier: str


class DirtyContent(Protocol):
    """The new content of a file, as the write-back core hands it to :meth:`Volume.commit`.

    Content is an overlay: the ranges written since the base version, over the base itself.
    It does not change while a commit runs.
    """

    @property
    def size(self) -> int:
        """Length of the new content in bytes."""
        ...

    @property
    def dirty_ranges(self) -> Sequence[tuple[int, int]]:
        """Ascending, disjoint, non-adjacent ``(start, end)`` ranges that differ from the base.

        Bytes beyond the base's end that no range covers are zero.
        """
        ...

    @property
    def base_size(self) -> int:
        """Bytes of the base version that the new content still shows (after truncations)."""
        ...

    @property
    def mtime_ns(self) -> int:
        """When it was written last, nanoseconds since the epoch."""
        ...

    @property
    def staged(self) -> Sequence[Staged]:
        """What :meth:`Volume.stage` sent that still holds the new content; ascending, disjoint.

        A hint: a commit may send any of it again.
        """
        ...

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """``size`` bytes of the new content (overlay, base and zeros) at ``offset``."""
        ...


@runtime_checkable
class Volume(Protocol):
    """A remote tree of files. One object serves many concurrent tasks."""

    #: ``account/container`` or ``//server/share``: what mountinfo shows as the source.
    source: str
    #: The same for the same volume on every node and at every time, and for no other volume:
    #: ``blob:https://account.blob.core.windows.net/container``. Keys of caches and journals.
    identity: str
    #: Whether a version names its bytes for ever, so that they may be kept after it is replaced.
    versions_are_immutable: bool
    #: Whether extended attributes can be kept.
    keeps_xattrs: bool
    #: Largest number of bytes that one read request should ask for.
    preferred_read: int
    #: Commit dirty data this often (seconds) while a file is open; None: on fsync and close only.
    commit_interval: float | None
    #: Longest file name component, in bytes of UTF-8 unless the store counts otherwise.
    name_max: int
    #: How long attributes and entries may be believed, in seconds, unless an option says otherwise.
    attribute_timeout: float

    @property
    def round_trip(self) -> float:
        """Seconds until the store begins to answer, at best; infinity where that is not known."""
        ...

    async def stat(self, path: str) -> Attributes:
        """Attributes of ``path``, always asked of the store. ENOENT when it is not there."""
        ...

    def list(self, path: str) -> AsyncGenerator[Sequence[Entry], None]:
        """The entries of a directory in pages (no ``.`` and ``..``). ENOENT, ENOTDIR."""
        ...

    async def read_into(
        self, path: str, attributes: Attributes, offset: int, buffer: memoryview, progress: Progress
    ) -> None:
        """Fill ``buffer`` with the bytes of the version in ``attributes`` from ``offset`` on.

        Reports how many bytes have arrived through ``progress`` as they do. The range lies within
        ``attributes.size``. ESTALE when that version is gone, never bytes of another.
        """
        ...

    def begin_read(
        self,
        path: str,
        attributes: Attributes,
        offset: int,
        buffer: memoryview,
        progress: Progress,
        done: Callable[[bool], None],
    ) -> bool:
        """Begin what :meth:`read_into` does, where it can be done without waiting; else False.

        ``done`` is called once, maybe before this returns: whether the bytes are there. If not,
        nothing is said of the reason: :meth:`read_into` is to be asked, which has all the patience.
        Until then the buffer is not the caller's.
        """
        ...

    async def commit(
        self, path: str, base: Attributes | None, content: DirtyContent, changes: Changes
    ) -> Attributes:
        """Make ``content`` the file's content, durably, and return the new attributes.

        ``base`` is the version that the file was opened at, None for a file that must not exist
        yet. So does one that is still unmade (:attr:`Attributes.unmade`): unless there is what
        :meth:`create` makes of its attributes. ESTALE (EEXIST for a new file) when the store holds
        something else by now. What it holds may be this very content, committed by an earlier try
        whose answer was lost: that is recognised, and is a success.
        """
        ...

    def makes_at_commit(self, path: str) -> bool:
        """Whether a new file need not be made before it has content: :meth:`commit` makes it.

        Raises what :meth:`create` would say of the name: ENAMETOOLONG, EINVAL.
        """
        ...

    def staging_size(self, offset: int) -> int:
        """Bytes worth sending ahead of a commit, from ``offset`` of a new content on; 0: none."""
        ...

    async def stage(
        self, path: str, base: Attributes, start: int, body: bytes | memoryview
    ) -> Staged | None:
        """Send new content from ``start`` on ahead of a commit, which then need not send it.

        None where the store would not take it so. Nothing becomes visible; what is never
        committed vanishes in time.
        """
        ...

    async def create(self, path: str, changes: Changes) -> Attributes:
        """Create an empty file with these attributes. EEXIST when the name is taken."""
        ...

    async def set_attributes(
        self, path: str, attributes: Attributes, changes: Changes
    ) -> Attributes:
        """Apply mode, owner and times. What the store cannot keep is accepted and forgotten."""
        ...

    async def make_directory(
        self, path: str, changes: Changes, *, free: bool = False
    ) -> Attributes:
        """Create a directory with these attributes. EEXIST, ENOENT when the parent is missing.

        With ``free`` it is believed that the parent is there and has nothing of the name: what
        asking anew would find need not be found. Of two who make it at once one gets EEXIST still.
        """
        ...

    async def remove_directory(self, path: str) -> None:
        """Remove an empty directory. ENOTEMPTY, ENOENT."""
        ...

    async def unlink(self, path: str) -> None:
        """Remove a file or a symbolic link. ENOENT."""
        ...

    async def rename(
        self, source: str, target: str, attributes: Attributes, *, replace: bool
    ) -> Attributes:
        """Rename; returns the attributes at the new name.

        ``attributes`` are the source's. With ``replace`` an existing file (or empty directory for
        a directory) at ``target`` gives way; without it EEXIST.
        """
        ...

    async def exchange(self, one: str, other: str) -> None:
        """Let two names change places (renameat2(2), RENAME_EXCHANGE). EINVAL where impossible."""
        ...

    async def symlink(self, path: str, target: str, changes: Changes) -> Attributes:
        """Create a symbolic link with these attributes. EEXIST."""
        ...

    async def readlink(self, path: str, attributes: Attributes) -> str:
        """The target of a symbolic link."""
        ...

    async def space(self) -> Space:
        """Capacity, for ``statfs``."""
        ...

    async def continues(self, path: str, old: Attributes, new: Attributes) -> bool:
        """Whether a file opened at ``old`` may be read on at ``new``, found in its place since.

        True where a file is one living thing (a share), or has only grown (an append blob); False
        where ``new`` replaced ``old`` as a whole: handles on ``old`` then get ESTALE.
        """
        ...

    async def settle(self) -> None:
        """Complete or undo in the background what failed half-way; run it beside everything else.

        Whatever :meth:`begin_read` has begun goes on in here, too. Returns when cancelled, or at
        once where there is nothing to do.
        """
        ...

    def warnings(self) -> Sequence[str]:
        """What people should know of the volume's state just now; a sentence each."""
        ...

    def statistics(self) -> dict[str, int | float]:
        """Counters of requests, bytes, retries and errors."""
        ...


class Progress(Protocol):
    """Called by :meth:`Volume.read_into` with the number of bytes that are in the buffer so far."""

    def __call__(self, filled: int, /) -> None:
        """Note that the first ``filled`` bytes are there."""
        ...


#: How a volume is brought up: entering connects and checks it (raising MountError), leaving closes.
VolumeFactory = AbstractAsyncContextManager[Volume]

__all__ = [
    "Attributes",
    "Changes",
    "DirtyContent",
    "Entry",
    "Kind",
    "Progress",
    "Space",
    "Staged",
    "Volume",
    "VolumeFactory",
]
