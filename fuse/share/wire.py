"""SMB2 messages as bytes: what the data path sends and what it gets back (MS-SMB2 section 2.2).

smbprotocol negotiates, authenticates and connects the tree; from there on messages are packed
here. Its ``Structure`` classes cost 0.3-0.5 ms per request and copy every payload several times,
which is what a mount pays per ``stat``; :mod:`struct` costs a few microseconds.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fuse.share.state import FileState, from_filetime, to_filetime

HEADER_SIZE = 64
#: A related request refers to the file that the CREATE before it opened (MS-SMB2 3.2.4.1.4).
RELATED_FILE = b"\xff" * 16
#: Not an answer but a server's notice, such as an oplock break.
UNSOLICITED = 0xFFFF_FFFF_FFFF_FFFF

FLAG_ASYNC = 0x2
FLAG_RELATED = 0x4

_HEADER = struct.Struct("<4sHHIHHIIQIIQ16s")
_ENTRY = struct.Struct("<IIQQQQQQIIIIQ")
_CREATE = struct.Struct("<HBBIQQIIIIIHHII")
_CREATED = struct.Struct("<HBBIQQQQQQII16sII")
_CLOSED = struct.Struct("<HHIQQQQQQI")
#: Create context that asks for the file's number on disk (MS-SMB2 2.2.13.2.9).
_QUERY_FILE_ID = struct.pack("<IHHHHI4s4x", 0, 16, 4, 0, 0, 0, b"QFid")


class Command(enum.IntEnum):
    """Commands that the data path uses."""

    TREE_DISCONNECT = 4
    CREATE = 5
    CLOSE = 6
    FLUSH = 7
    READ = 8
    WRITE = 9
    ECHO = 13
    QUERY_DIRECTORY = 14
    QUERY_INFO = 16
    SET_INFO = 17


class Access(enum.IntFlag):
    """Desired access (MS-SMB2 2.2.13.1)."""

    READ_DATA = 0x1
    WRITE_DATA = 0x2
    READ_ATTRIBUTES = 0x80
    WRITE_ATTRIBUTES = 0x100
    DELETE = 0x1_0000
    SYNCHRONIZE = 0x10_0000


class Disposition(enum.IntEnum):
    """What CREATE does about a name that exists, or does not."""

    OPEN = 1
    CREATE = 2


class Option(enum.IntFlag):
    """Create options."""

    NONE = 0
    DIRECTORY = 0x1
    NOT_DIRECTORY = 0x40
    REPARSE_POINT = 0x20_0000


#: Others may read, write and delete what is open here, as on a local file system.
SHARE_ALL = 0x7
SHARE_NONE = 0x0
ATTRIBUTE_NORMAL = 0x80


class Info(enum.IntEnum):
    """Classes of file information (MS-FSCC 2.4)."""

    BASIC = 4
    RENAME = 10
    DISPOSITION = 13
    END_OF_FILE = 20
    ID_FULL_DIRECTORY = 38


@dataclass(frozen=True, slots=True)
class Message:
    """A request.

    Attributes:
        command: What is asked.
        body: What follows the header.
        payload: Data behind the body, copied only once on its way.
        charge: Credits that it costs: one for each 64 KiB of the larger of payload and answer.
    """

    command: Command
    body: bytes
    charge: int = 1
    payload: bytes | memoryview = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        status: NTSTATUS.
        credits: What the server granted along with it.
        frame: The answer from its header on; offsets in bodies count from there.
        asynchronous: Whether the answer belongs to a request that the server had put aside.
    """

    message_id: int
    status: int
    credits: int
    frame: memoryview
    asynchronous: bool

    @property
    def body(self) -> memoryview:
        """What follows the header."""
        return self.frame[HEADER_SIZE:]


def charge(length: int) -> int:
    """Credits for a payload of ``length`` bytes (MS-SMB2 3.1.5.2)."""
    return max(0, length - 1) // 65536 + 1


def pack(
    message: Message,
    *,
    message_id: int,
    session_id: int,
    tree_id: int,
    credits_wanted: int,
    related: bool = False,
    last: bool = True,
) -> bytes:
    """The message with its header, padded to 8 bytes where another one follows in a compound."""
    length = HEADER_SIZE + len(message.body) + len(message.payload)
    padding = 0 if last else -length % 8
    header = _HEADER.pack(
        b"\xfeSMB",
        HEADER_SIZE,
        message.charge,
        0,
        message.command,
        credits_wanted,
        FLAG_RELATED if related else 0,
        0 if last else length + padding,
        message_id,
        0,
        tree_id,
        session_id,
        bytes(16),
    )
    return b"".join((header, message.body, message.payload, bytes(padding)))


def replies(plain: memoryview) -> Iterator[Reply]:
    """The answers of one packet, which a server may have compounded.

    Raises:
        ValueError: The bytes are no SMB2 answers.
    """
    while True:
        if len(plain) < HEADER_SIZE or bytes(plain[:4]) != b"\xfeSMB":
            raise ValueError("not an SMB2 header")
        fields = _HEADER.unpack_from(plain)
        following = fields[7]
        if following and not HEADER_SIZE <= following <= len(plain):
            raise ValueError("a compound answer points outside of its packet")
        frame = plain[:following] if following else plain
        yield Reply(fields[8], fields[3], fields[5], frame, bool(fields[6] & FLAG_ASYNC))
        if not following:
            return
        plain = plain[following:]


def create(
    name: str,
    access: Access,
    disposition: Disposition = Disposition.OPEN,
    options: Option = Option.NONE,
    *,
    share: int = SHARE_ALL,
    want_file_id: bool = True,
) -> Message:
    """Open or create ``name`` (as the server spells it, with backslashes). Never an oplock."""
    encoded = name.encode("utf-16-le")
    attributes = 0 if options & Option.DIRECTORY else ATTRIBUTE_NORMAL
    contexts = _QUERY_FILE_ID if want_file_id else b""
    padding = bytes(-len(encoded) % 8) if contexts else b""
    offset = HEADER_SIZE + 56
    body = _CREATE.pack(
        57,
        0,
        0,  # OPLOCK_NONE: nobody here answers a break
        2,  # impersonation
        0,
        0,
        access,
        attributes,
        share,
        disposition,
        options,
        offset,
        len(encoded),
        offset + len(encoded) + len(padding) if contexts else 0,
        len(contexts),
    )
    return Message(
        Command.CREATE, b"".join((body, encoded, padding, contexts)) + b"\0" * (not encoded)
    )


def created(reply: Reply) -> tuple[bytes, FileState]:
    """File handle and state from the answer to CREATE."""
    fields = _CREATED.unpack_from(reply.frame, HEADER_SIZE)
    contexts = reply.frame[fields[13] : fields[13] + fields[14]] if fields[14] else None
    state = FileState(
        created_ns=from_filetime(fields[4]),
        written_ns=from_filetime(fields[6]),
        changed_ns=from_filetime(fields[7]),
        size=fields[9],
        attributes=fields[10],
        file_id=_disk_id(contexts) if contexts is not None else None,
    )
    return fields[12], state


def _disk_id(contexts: memoryview) -> int | None:
    while len(contexts) >= 16:
        following, name_at, name_length, _, data_at, data_length = struct.unpack_from(
            "<IHHHHI", contexts
        )
        if bytes(contexts[name_at : name_at + name_length]) == b"QFid" and data_length >= 8:
            return int.from_bytes(contexts[data_at : data_at + 8], "little") or None
        if not following:
            break
        contexts = contexts[following:]
    return None


def close(handle: bytes = RELATED_FILE, *, want_state: bool = False) -> Message:
    """Close a file; ``want_state`` asks for its attributes after that."""
    return Message(Command.CLOSE, struct.pack("<HHI16s", 24, int(want_state), 0, handle))


def closed(reply: Reply, *, file_id: int | None) -> FileState:
    """State from the answer to CLOSE with ``want_state``."""
    fields = _CLOSED.unpack_from(reply.frame, HEADER_SIZE)
    return FileState(
        created_ns=from_filetime(fields[3]),
        written_ns=from_filetime(fields[5]),
        changed_ns=from_filetime(fields[6]),
        size=fields[8],
        attributes=fields[9],
        file_id=file_id,
    )


def flush(handle: bytes) -> Message:
    """Bring a file's data to stable storage."""
    return Message(Command.FLUSH, struct.pack("<HHI16s", 24, 0, 0, handle))


def read(offset: int, length: int, handle: bytes = RELATED_FILE) -> Message:
    """Read up to ``length`` bytes."""
    body = struct.pack("<HBBIQ16sIIIHHB", 49, 80, 0, length, offset, handle, 0, 0, 0, 0, 0, 0)
    return Message(Command.READ, body, charge(length))


def read_data(reply: Reply) -> memoryview:
    """Bytes from the answer to READ (a view of the packet)."""
    start, length = struct.unpack_from("<2xBxI", reply.frame, HEADER_SIZE)
    return reply.frame[start : start + length]


def write(offset: int, data: bytes | memoryview, handle: bytes) -> Message:
    """Write ``data``."""
    head = struct.pack(
        "<HHIQ16sIIHHI", 49, HEADER_SIZE + 48, len(data), offset, handle, 0, 0, 0, 0, 0
    )
    return Message(Command.WRITE, head, charge(len(data)), data)


def written(reply: Reply) -> int:
    """Bytes that WRITE wrote."""
    count: int = struct.unpack_from("<4xI", reply.frame, HEADER_SIZE)[0]
    return count


def query_directory(length: int, handle: bytes = RELATED_FILE, *, restart: bool = False) -> Message:
    """The next entries of a directory, with attributes, in at most ``length`` bytes."""
    pattern = "*".encode("utf-16-le")
    body = struct.pack(
        "<HBBI16sHHI",
        33,
        Info.ID_FULL_DIRECTORY,
        int(restart),
        0,
        handle,
        HEADER_SIZE + 32,
        len(pattern),
        length,
    )
    return Message(Command.QUERY_DIRECTORY, body + pattern, charge(length))


def entries(reply: Reply) -> Iterator[tuple[str, FileState]]:
    """Names (as the server spells them) and states from the answer to QUERY_DIRECTORY."""
    start, length = struct.unpack_from("<2xHI", reply.frame, HEADER_SIZE)
    data = reply.frame[start : start + length]
    position = 0
    while position + _ENTRY.size <= len(data):
        fields = _ENTRY.unpack_from(data, position)
        name_at = position + _ENTRY.size
        # A name that is no UTF-16 cannot be asked for either: it is shown, marked.
        name = str(data[name_at : name_at + fields[9]], "utf-16-le", "replace")
        yield (
            name,
            FileState(
                created_ns=from_filetime(fields[2]),
                written_ns=from_filetime(fields[4]),
                changed_ns=from_filetime(fields[5]),
                size=fields[6],
                attributes=fields[8],
                file_id=fields[12] or None,
            ),
        )
        if not fields[0]:
            return
        position += fields[0]


def _set_info(info: Info, data: bytes, handle: bytes) -> Message:
    head = struct.pack("<HBBIHHI16s", 33, 1, info, len(data), HEADER_SIZE + 32, 0, 0, handle)
    return Message(Command.SET_INFO, head + data, charge(len(data)))


def set_size(size: int, handle: bytes = RELATED_FILE) -> Message:
    """Cut or extend a file."""
    return _set_info(Info.END_OF_FILE, struct.pack("<Q", size), handle)


def set_written_time(nanoseconds: int, handle: bytes = RELATED_FILE) -> Message:
    """Set the last write time; 0 leaves the other times as they are (MS-FSCC 2.4.7)."""
    data = struct.pack("<QQQQII", 0, 0, to_filetime(nanoseconds), 0, 0, 0)
    return _set_info(Info.BASIC, data, handle)


def rename(name: str, handle: bytes = RELATED_FILE, *, replace: bool) -> Message:
    """Rename the open file to ``name``, a path from the share's root."""
    encoded = name.encode("utf-16-le")
    data = struct.pack("<B7xQI", int(replace), 0, len(encoded)) + encoded
    return _set_info(Info.RENAME, data, handle)


def delete(handle: bytes = RELATED_FILE) -> Message:
    """Mark the open file for deletion when it is closed."""
    return _set_info(Info.DISPOSITION, b"\1", handle)


def query_space(handle: bytes = RELATED_FILE) -> Message:
    """FileFsFullSizeInformation of the share."""
    body = struct.pack("<HBBIHHIII16sB", 41, 2, 7, 32, 0, 0, 0, 0, 0, handle, 0)
    return Message(Command.QUERY_INFO, body)


def space(reply: Reply) -> tuple[int, int]:
    """Total and available bytes from the answer to :func:`query_space`."""
    start, _length = struct.unpack_from("<2xHI", reply.frame, HEADER_SIZE)
    total, available, _, sectors, sector = struct.unpack_from("<QQQII", reply.frame, start)
    return total * sectors * sector, available * sectors * sector


def echo() -> Message:
    """Ask for a sign of life."""
    return Message(Command.ECHO, struct.pack("<HH", 4, 0))
