"""Block lists as the service writes and reads them, and ids for new blocks."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from fuse.blob.blocks import Block, Keep, Use

#: Length of our own ids before base64. All blocks of a blob must have ids of one length.
ID_LENGTH = 24

#: Ids shorter than this cannot be drawn at random.
_SHORTEST = 6


@dataclass(frozen=True, slots=True)
class BlockList:
    """The blocks of a blob (Get Block List), ids in base64 as the service writes them.

    Attributes:
        version: ETag of the committed blob.
        committed: Its blocks, in order.
        uncommitted: Ids of blocks that somebody sent and has not committed.
    """

    version: str = ""
    committed: Sequence[Block] = ()
    uncommitted: Sequence[str] = ()

    @classmethod
    def parse(cls, version: str, document: bytes) -> BlockList:
        """Read the answer to Get Block List.

        Raises:
            ValueError: It is not one.
        """
        try:
            root = ET.fromstring(document)  # noqa: S314 -- the store's, over its own TLS
        except ET.ParseError as error:
            raise ValueError(f"no block list: {error}") from error
        found = {
            kind: [
                Block(block.findtext("Name", ""), int(block.findtext("Size", "")))
                for block in root.iterfind(f"{kind}/Block")
            ]
            for kind in ("CommittedBlocks", "UncommittedBlocks")
        }
        return cls(
            version,
            found["CommittedBlocks"],
            [block.identifier for block in found["UncommittedBlocks"]],
        )


@dataclass(slots=True)
class Naming:
    """Ids for new blocks of one blob: of the length that they must have, and never met before."""

    length: int = ID_LENGTH
    taken: set[str] = field(default_factory=set)

    def new(self) -> str:
        """The next id."""
        while True:
            text = secrets.token_urlsafe(self.length)[: self.length]
            identifier = base64.b64encode(text.encode()).decode()
            if identifier not in self.taken:
                self.taken.add(identifier)
                return identifier


def naming(known: BlockList) -> tuple[Naming, Sequence[Block]]:
    """How to name new blocks of a blob, and which of its blocks can be kept beside them.

    The service refuses a block whose id is not as long as those of the uncommitted blocks that are
    there; those come first, then those of the blob itself.
    """
    taken = {*known.uncommitted, *(block.identifier for block in known.committed)}
    kept = {_length(block.identifier) for block in known.committed}
    length = next(
        (_length(name) for name in known.uncommitted),
        kept.pop() if len(kept) == 1 else ID_LENGTH,
    )
    committed = [block for block in known.committed if _length(block.identifier) == length]
    if length < _SHORTEST:
        length, committed = ID_LENGTH, []
    whole = len(committed) == len(known.committed)
    return Naming(length, taken), committed if whole else []


def document(steps: Iterable[Keep | Use]) -> bytes:
    """The body of Put Block List."""
    lines = [
        f"<Committed>{step.identifier}</Committed>"
        if isinstance(step, Keep)
        else f"<Uncommitted>{step.identifier}</Uncommitted>"
        for step in steps
    ]
    text = "".join(lines)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{text}</BlockList>'.encode()


def _length(identifier: str) -> int:
    try:
        return len(base64.b64decode(identifier, validate=True))
    except binascii.Error:
        return 0
