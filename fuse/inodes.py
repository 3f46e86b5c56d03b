"""Inodes: the numbers that the kernel knows files by, and the names behind them.

Inodes form the tree of names. A rename moves one node, and with it the whole subtree, in constant
time; a path is put together on demand.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import trio

from fuse.content import Content
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
        opens: Number of open handles.
        content: What its handles share, while it is open.
        cached_version: The version whose pages the kernel may hold.
        children: Nodes that the kernel has heard of in this directory.
        changed: When (trio's clock) a name was last removed from it here.
        hints: What a listing said of names that the kernel has not asked for; believed until
            ``hints_expire``.
        listed: Number of entries that its last listing had; 0 when there was none.
        probes: How often a single name in it was asked about since then.
    """

    __slots__ = (
        "attributes",
        "cached_version",
        "changed",
        "children",
        "content",
        "expires",
        "hints",
        "hints_expire",
        "listed",
        "lock",
        "lookups",
        "name",
        "number",
        "opens",
        "parent",
        "probes",
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
        self.lock = trio.Lock()
        self.changed = 0.0
        self.hints: dict[str, Attributes] = {}
        self.hints_expire = 0.0
        self.listed = 0
        self.probes = 0

    @property
    def is_local(self) -> bool:
        """Whether this node knows better than the store: it has content to commit."""
        return self.content is not None and self.content.modified and not self.content.orphaned

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
        """Path of a name in this directory."""
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

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._by_number.values()))

    def get(self, number: int) -> Inode:
        """The inode of a number that the kernel was given."""
        return self._by_number[number]

    def remember(self, parent: Inode, name: str, attributes: Attributes, expires: float) -> Inode:
        """Find or make the inode of a name, and note what the volume said of it.

        A name that is another kind of thing by now gets a new number: the kernel would take a
        directory that turned into a file for corruption.
        """
        parent.hints.pop(name, None)
        node = parent.children.get(name)
        if node is not None and node.attributes.kind is not attributes.kind:
            self.detach(node)
            node = None
        if node is None:
            node = Inode(self._next, parent, name, attributes)
            self._next += 1
            self._by_number[node.number] = node
            parent.children[name] = node
        if node.content is None or not node.content.modified:
            node.attributes = attributes
            node.expires = expires
        return node

    def detach(self, node: Inode) -> None:
        """The name is gone; the inode lives on until handles are closed and the kernel forgets."""
        if node.parent is not None:
            node.parent.changed = trio.current_time()
            if node.parent.children.get(node.name) is node:
                del node.parent.children[node.name]
        node.parent = None
        self.release(node)

    def move(self, node: Inode, parent: Inode, name: str) -> None:
        """Rename in the tree. Whatever had the new name must have been detached."""
        if node.parent is not None:
            node.parent.changed = trio.current_time()
            del node.parent.children[node.name]
        node.parent = parent
        node.name = name
        parent.children[name] = node
        parent.hints.pop(name, None)

    def forget(self, number: int, count: int) -> None:
        """The kernel forgets ``count`` of its lookups."""
        node = self._by_number.get(number)
        if node is None:
            return
        node.lookups = max(0, node.lookups - count)
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
            and current.content is None
        ):
            parent = current.parent
            self._by_number.pop(current.number, None)
            if parent is not None and parent.children.get(current.name) is current:
                del parent.children[current.name]
            current.parent = None
            current = parent


def is_directory(node: Inode) -> bool:
    """Whether the node is a directory."""
    return node.attributes.kind is Kind.DIRECTORY
