"""Left-over data that could not be committed before the mount was ready, and is its own since.

It becomes the content of its file, as if it had been written to this mount: programs see it, and it
is committed in the background, with growing pauses, by what commits everything else. So it follows
its file through renames, and gives way when that is removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuse.content import Content
from fuse.contents import Contents
from fuse.inodes import Inode, InodeTable
from fuse.journal import Journal
from fuse.leftover import Leftover
from fuse.logs import log
from fuse.records import JournalError
from fuse.recovery import Report
from fuse.volume import Attributes, Kind


class Adopted:
    """What one mount has adopted.

    Attributes:
        contents: Of the files.
    """

    def __init__(self) -> None:
        self.contents: list[Content] = []

    @property
    def waiting(self) -> int:
        """How many the store does not have yet."""
        return sum(one.modified and not one.orphaned for one in self.contents)

    @property
    def committed(self) -> int:
        """How many it has by now."""
        return sum(not (one.modified or one.superseded or one.orphaned) for one in self.contents)


def adopt(journal: Journal, inodes: InodeTable, contents: Contents, report: Report) -> Adopted:
    """Take over what earlier mounts left in the journal, before anybody asks for it.

    What is damaged, may lack something, or rests on something else that waits, stays for the next
    mount. What is taken over no longer waits in ``report``.
    """
    adopted = Adopted()
    if not report.waiting:
        return adopted
    for leftover in _leftovers(journal.take_over(), journal.places.identity):
        node = _node(inodes, leftover)
        try:
            if node.content is None:  # else an older generation, which comes first
                adopted.contents.append(contents.adopt(node, leftover))
                report.waiting.pop(leftover.path, None)
                log.info("left-over data is committed in the background", path=leftover.path)
        except OSError as error:
            log.warning("left-over data waits", path=leftover.path, reason=error.strerror)
            inodes.release(node)
    return adopted


def _leftovers(directories: list[Path], identity: str) -> list[Leftover]:
    found = [one for directory in directories for one in _in(directory)]
    found.sort(key=lambda one: (one.replay.header.created, one.log_file))
    return [
        one
        for one in found
        if one.replay.header.identity == identity and not (one.damage or one.replay.doubtful)
    ]


def _in(directory: Path) -> Iterator[Leftover]:
    for log_file in directory.glob("*.log"):
        try:
            yield Leftover(log_file)
        except (OSError, JournalError) as error:
            log.warning("left-over data waits", path=str(log_file), reason=str(error))


def _node(inodes: InodeTable, leftover: Leftover) -> Inode:
    """The inode of its file. Nothing is believed of the directories above it."""
    *parents, name = leftover.path.split("/")
    node = inodes.root
    for parent in parents:
        node = inodes.remember(node, parent, Attributes(Kind.DIRECTORY), 0.0)
    return inodes.remember(node, name, leftover.base, 0.0)
