"""Inodes: the numbers that the kernel knows files by, and the names behind them.

Inodes form the tree of names. A rename moves one node, and with it the whole subtree, in constant
time; a path is put together on demand.

One number stands for one version under open handles. The kernel keeps one page cache and one size
for a number, so a file that somebody else replaced while it is open here gets a new number
(:meth:`InodeTable.supersede`); what is open stays with the old one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fuse.content import Content
from fuse.dirnames import DirectoryNames
from fuse.errors import fail
from fuse.volume import Attributes, Kind

ROOT = 1


class Inode:
    """One file, directory or symbolic link that the kernel has heard of.

    Attributes:
        number: The inode number.
        parent: The directory that it is in; None for the root and for what has been unlinked.
        name: Its name there.
        attributes: What the volume last said of it.
        expires: Until when (trio's clock) that may be believed.
        lookups: How often the kernel has been told of it, less what it has forgotten.
        opens: Number of open handles; 1 where it may be open, if the kernel does not tell
            (:mod:`fuse.untold`).
        content: What its handles share, while it is open.
        cached_version: The version whose pages the kernel may hold.
        children: Nodes that the kernel has heard of in this directory.
        superseded: Its name means something else by now, or nothing: those who have it open keep
            their version, and whoever else comes gets ESTALE and looks the name up again.
        atime_ns: Access time as a program set it, nanoseconds since the epoch; stores keep none.
        changed_ns: When attributes were set last here, nanoseconds since the epoch; the store's own
            time of that has whole seconds.
        touched_ns: When a name in this directory changed last here, nanoseconds since the epoch.
    """

    __slots__ = (
        "_changing",
        "_names",
        "atime_ns",
        "attributes",
        "cached_version",
        "changed_ns",
        "children",
        "content",
        "expires",
        "lookups",
        "name",
        "number",
        "opens",
        "parent",
        "superseded",
        "touched_ns",
    )

    def __init__(
        self, number: int, parent: Inode | None, name: str, attributes: Attributes
    ) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.attributes = attributes
        self.expires = 0.0
        self.lookups = 0
        self.opens = 0
        self.content: Content | None = None
        self.cached_version = ""
        self.children: dict[str, Inode] = {}
        self.superseded = False
        self.atime_ns: int | None = None
        self.changed_ns = 0
        self.touched_ns = 0
        self._changing = 0
        self._names: DirectoryNames | None = None

    @property
    def names(self) -> DirectoryNames:
        """What is believed of the names in this directory."""
        if self._names is None:
            self._names = DirectoryNames()
        return self._names

    @property
    def is_local(self) -> bool:
        """Whether this node knows better than the store: it has content to commit."""
        content = self.content
        return bool(self._changing) or (
            content is not None and content.modified and not content.orphaned
        )

    def unmade(self) -> list[Inode]:
        """Files in this directory that were made here and that the store does not have yet."""
        return [
            node
            for node in self.children.values()
            if node.content is not None and node.content.unmade
        ]

    @property
    def linked(self) -> bool:
        """Whether its name still means it."""
        return self.number == ROOT or (self.parent is not None and not self.superseded)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A request of ours gives it a new version: what the store says meanwhile may be either."""
        self._changing += 1
        try:
            yield
        finally:
            self._changing -= 1

    def ancestry(self) -> Iterator[Inode]:
        """This node, the directory that it is in, and so on up."""
        node: Inode | None = self
        while node is not None:
            yield node
            node = node.parent

    def path(self) -> str:
        """Path from the volume's root; empty for the root itself. ESTALE once unlinked."""
        names: list[str] = []
        node = self
        while node.number != ROOT:
            names.append(node.name)
            if node.parent is None:
                fail(errno.ESTALE, node.name)
            node = node.parent
        return "/".join(reversed(names))

    def child_path(self, name: str) -> str:
        """Path of a name in this directory. ENOENT once the directory is gone."""
        if not self.linked:
            fail(errno.ENOENT, name)
        path = self.path()
        return f"{path}/{name}" if path else name

    def descendants(self) -> Iterator[Inode]:
        """This node and all known nodes below it."""
        yield self
        for child in list(self.children.values()):
            yield from child.descendants()


class InodeTable:
    """All inodes of a mount."""

    def __init__(self, root: Attributes) -> None:
        self.root = Inode(ROOT, None, "", root)
        self.root.lookups = 1
        self._by_number: dict[int, Inode] = {ROOT: self.root}
        self._next = ROOT + 1
        #: Told of a node that the kernel forgets while it may still be open here.
        self.forgotten: Callable[[Inode], None] | None = None

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._by_number.values()))

    def get(self, number: int) -> Inode:
        """The inode of a number that the kernel was given. ESTALE when it was forgotten since."""
        node = self._by_number.get(number)
        if node is None:
            fail(errno.ESTALE, reason=f"inode {number} has been forgotten")
        return node

    def remember(self, parent: Inode, name: str, attributes: Attributes, expires: float) -> Inode:
        """Find or make the inode of a name, and note what the volume said of it.

        A name that is another kind of thing by now gets a new number: the kernel would take a
        directory that turned into a file for corruption.
        """
        node = parent.children.get(name)
        if node is not None and node.attributes.kind is not attributes.kind:
            self.supersede(node)
            node = None
        if node is None:
            node = Inode(self._next, parent, name, attributes)
            self._next += 1
            self._by_number[node.number] = node
            parent.children[name] = node
        parent.names.added(name)
        if not node.is_local:
            node.attributes = attributes
            node.expires = expires
        return node

    def supersede(self, node: Inode) -> None:
        """Somebody else replaced or removed it: the name is free for another number.

        It keeps its path, for messages and for what still refers to its version in the store.
        """
        parent = node.parent
        if parent is None or not node.linked:
            return
        if parent.children.get(node.name) is node:
            del parent.children[node.name]
        parent.names.forget()  # there may be something of that name, or nothing
        node.superseded = True
        self.release(node)

    def detach(self, node: Inode) -> None:
        """It was removed here; it lives on until handles are closed and the kernel forgets."""
        if node.linked:
            self._unname(node)
        node.parent = None
        self.release(node)

    def move(self, node: Inode, parent: Inode, name: str) -> None:
        """Rename in the tree; whatever has the new name is detached."""
        there = parent.children.get(name)
        if there is not None and there is not node:
            self.detach(there)
        self._unname(node)
        self._name(node, parent, name)

    def exchange(self, one: Inode, other: Inode) -> None:
        """Let two nodes change places."""
        places = (one.parent, one.name), (other.parent, other.name)
        for node in (one, other):
            self._unname(node)
        for node, (parent, name) in zip((other, one), places, strict=True):
            if parent is None:
                raise AssertionError("an unlinked node has no place to give")
            self._name(node, parent, name)

    def forget(self, number: int, count: int) -> None:
        """The kernel forgets ``count`` of its lookups."""
        node = self._by_number.get(number)
        if node is None:
            return
        node.lookups = max(0, node.lookups - count)
        if not node.lookups and node.opens and self.forgotten is not None:
            self.forgotten(node)
        self.release(node)

    def release(self, node: Inode) -> None:
        """Free a node that nobody refers to, and its ancestors that only it kept."""
        current: Inode | None = node
        while (
            current is not None
            and current.number != ROOT
            and not current.lookups
            and not current.opens
            and not current.children
            and not current.is_local
            and current.content is None
        ):
            parent = current.parent
            self._by_number.pop(current.number, None)
            if parent is not None and parent.children.get(current.name) is current:
                del parent.children[current.name]
            current.parent = None
            current = parent

    def _name(self, node: Inode, parent: Inode, name: str) -> None:
        node.parent = parent
        node.name = name
        parent.children[name] = node
        parent.names.added(name)

    def _unname(self, node: Inode) -> None:
        parent = node.parent
        if parent is not None and parent.children.get(node.name) is node:
            del parent.children[node.name]
            parent.names.removed(node.name)


def is_directory(node: Inode) -> bool:
    """Whether the node is a directory."""
    return node.attributes.kind is Kind.DIRECTORY
