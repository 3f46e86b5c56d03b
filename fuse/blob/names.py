"""Names of blobs as paths of files, and back: pure, reversible, and never outside the mount.

A blob's name is any text of up to 1,024 characters ("Naming and Referencing Containers, Blobs, and
Metadata"); a path is made of components that a file system can carry. Nearly every name is its own
path. The others are escaped, so that nothing in a container is out of reach:

    ``a//b``, ``/a``, ``a/``     an empty component is ``_$empty$`` (``a/`` without content is the
                                 marker of the directory ``a``, and not shown)
    ``a/./b``, ``a/../b``        ``_$dot$``, ``_$dotdot$``
    longer than 1,024 bytes      ``<its start>_$long-<digest>$``: FUSE carries no longer component
    ``a`` beside ``a/b``         the file keeps its name, the directory is ``a_$directory$``

The other way round, the store cannot carry every name that a file system can: it refuses control
characters, and takes a backslash for a slash. These characters become ``_$x5c$`` (their code in
hexadecimal) in the blob's name. A name that reads like an escape and is none gets ``_$raw$`` at its
end (of a path) or ``_$x5f$`` for its underscore (of a blob).
"""

from __future__ import annotations

import errno
import hashlib
import re
from typing import Final

from fuse.errors import fail

#: Longest blob name, in characters, and most components of it (the service's limits).
NAME_LIMIT: Final = 1024
SEGMENT_LIMIT: Final = 254

#: Longest component, in bytes, that FUSE lets through (FUSE_NAME_MAX in the kernel's fs/fuse).
COMPONENT_LIMIT: Final = 1024

_WORDS: Final = {"_$empty$": "", "_$dot$": ".", "_$dotdot$": ".."}
_ESCAPED_WORDS: Final = {component: word for word, component in _WORDS.items()}
_RAW: Final = "_$raw$"
_DIRECTORY: Final = "_$directory$"
_SHORTENED: Final = re.compile(r"_\$long-[0-9a-f]{16}\$\Z")

_UNSTORABLE: Final = r"[\x01-\x1f\x7f-\x9f\\\ufffe\uffff]"
_CODE: Final = r"\$x(?:0[1-9a-f]|1[0-9a-f]|7f|8[0-9a-f]|9[0-9a-f]|5c|fffe|ffff)\$"
# An escaped underscore is one only before what would make an escape with it.
_REST: Final = rf"(?:\$x5f\$(?=(?:\$x5f\$)*{_CODE})|{_CODE})"
_TO_ENCODE: Final = re.compile(rf"{_UNSTORABLE}|_(?={_REST})")
_TO_DECODE: Final = re.compile(rf"_{_REST}")


class ShortenedError(LookupError):
    """A component stands for a longer one, which only a listing can tell."""


def blob_name(path: str) -> str:
    """The name of the blob at ``path``; of a directory, its prefix without the last slash.

    Raises:
        ShortenedError: A component is a shortened one.
    """
    if "_$" not in path and not _TO_ENCODE.search(path):
        return path
    return "/".join(blob_component(component) for component in path.split("/"))


def prefix_of(path: str, name: str) -> str:
    """What the names of all blobs below the directory ``path`` begin with; ``name`` is its own."""
    return f"{name}/" if path else ""


def blob_component(component: str) -> str:
    """One component of a path as a component of a blob's name.

    Raises:
        ShortenedError: It is a shortened one.
    """
    if component in _WORDS:
        return _WORDS[component]
    if component.endswith(_RAW):
        literal = component.removesuffix(_RAW)
        if literal not in _ESCAPED_WORDS and not _is_canonical(literal):
            return literal
    if _SHORTENED.search(component):
        raise ShortenedError(component)
    if is_directory_alias(component):
        return blob_component(component.removesuffix(_DIRECTORY))
    return _TO_ENCODE.sub(_encoded, component)


def path_component(component: str) -> str:
    """One component of a blob's name as a component of a path."""
    if component in _ESCAPED_WORDS:
        return _ESCAPED_WORDS[component]
    shown = _TO_DECODE.sub(_decoded, component) if _is_canonical(component) else component + _RAW
    if len(shown) * 4 > COMPONENT_LIMIT and len(shown.encode()) > COMPONENT_LIMIT:
        digest = hashlib.sha256(component.encode()).hexdigest()[:16]
        start = shown.encode()[:200].decode(errors="ignore")
        return f"{start}_$long-{digest}$"
    return shown


def directory_alias(component: str) -> str:
    """How a directory is called where a file has its name."""
    return component + _DIRECTORY


def is_directory_alias(component: str) -> bool:
    """Whether a path's component is a directory beside a file of the same name."""
    return component.endswith(_DIRECTORY) and len(component) > len(_DIRECTORY)


def has_dots(name: str) -> bool:
    """Whether a blob's name has components that servers on the way may take for directions."""
    return any(component in {".", ".."} for component in name.split("/"))


def check_new(path: str) -> None:
    """Whether a file or directory may be made at ``path``.

    Raises:
        OSError: EINVAL for names that stand for something else, ENAMETOOLONG beyond the limits.
    """
    component = path.rpartition("/")[2]
    if component in _WORDS or _SHORTENED.search(component) or is_directory_alias(component):
        fail(errno.EINVAL, path, "a reserved name: it stands for a blob that no path can say")
    if re.search(_UNSTORABLE, blob_component(component)):
        fail(errno.EINVAL, path, "the store cannot carry this name")
    try:
        name = blob_name(path)
    except ShortenedError:  # a directory on the way: its real name is longer still
        fail(errno.ENAMETOOLONG, path)
    if has_dots(name):
        fail(errno.EINVAL, path, "a server on the way may take it for another name")
    check_length(name)


def check_length(name: str) -> None:
    """Whether the store takes a blob's name of that length. ENAMETOOLONG."""
    units = len(name.encode("utf-16-le", "surrogatepass")) // 2
    if units > NAME_LIMIT or name.count("/") >= SEGMENT_LIMIT:
        fail(errno.ENAMETOOLONG, name)


def _is_canonical(component: str) -> bool:
    """Whether a path can show a blob's component so that it finds the way back by itself."""
    if component in _ESCAPED_WORDS:
        return False
    if "_$" not in component and not re.search(_UNSTORABLE, component):
        return True
    shown = _TO_DECODE.sub(_decoded, component)
    try:
        return bool(shown) and blob_component(shown) == component
    except ShortenedError:
        return False


def _encoded(found: re.Match[str]) -> str:
    return f"_$x{ord(found[0]):02x}$"


def _decoded(found: re.Match[str]) -> str:
    return chr(int(found[0][3:-1], 16))
