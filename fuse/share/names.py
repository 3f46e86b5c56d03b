"""Names that Windows forbids and Linux allows, mapped as the kernel's cifs does (``mapposix``).

The characters go to the private-use range that Services for Macintosh chose (cifs_unicode.h), a
dot or a blank only at a name's end. The mapping is a bijection between the names accepted here
and the names on the server, so that every file listed can be opened.
"""

from __future__ import annotations

import errno

from fuse.errors import fail

_ANYWHERE = {
    **{chr(code): chr(0xF000 + code) for code in range(0x01, 0x20)},
    '"': "\uf020",
    "*": "\uf021",
    ":": "\uf022",
    "<": "\uf023",
    ">": "\uf024",
    "?": "\uf025",
    "\\": "\uf026",
    "|": "\uf027",
}
_AT_END = {" ": "\uf028", ".": "\uf029"}
_TO_SERVER = str.maketrans(_ANYWHERE)
_FROM_SERVER = str.maketrans({there: here for here, there in _ANYWHERE.items()})
_FROM_END = {there: here for here, there in _AT_END.items()}
_RESERVED = frozenset(_ANYWHERE.values())

#: Longest component that Azure Files and Windows take, in UTF-16 units.
COMPONENT_LIMIT = 255


def to_server(name: str) -> str:
    """One component as the server spells it.

    Raises:
        OSError: EINVAL for names that hold the private-use characters themselves, ENAMETOOLONG.
    """
    if not _RESERVED.isdisjoint(name) or name[-1:] in _FROM_END:
        fail(errno.EINVAL, name, "the name holds characters that stand for others on a share")
    if len(name.encode("utf-16-le", "surrogatepass")) // 2 > COMPONENT_LIMIT:
        fail(errno.ENAMETOOLONG, name)
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        fail(errno.EILSEQ, name)
    mapped = name.translate(_TO_SERVER)
    return mapped[:-1] + _AT_END[mapped[-1]] if mapped[-1:] in _AT_END else mapped


def from_server(name: str) -> str:
    """One component as Linux spells it."""
    plain = name[:-1] + _FROM_END[name[-1]] if name[-1:] in _FROM_END else name
    return plain.translate(_FROM_SERVER)


def server_path(path: str) -> str:
    """A path of the volume as the server spells it; the root is the empty string."""
    return "\\".join(to_server(component) for component in path.split("/")) if path else ""
