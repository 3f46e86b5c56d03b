"""NTSTATUS in the words of Linux: errnos for requests, MountErrors for what prevents a mount."""

from __future__ import annotations

import errno
import os

from fuse.errors import MountError

SUCCESS = 0
PENDING = 0x103
BUFFER_OVERFLOW = 0x8000_0005
NO_MORE_FILES = 0x8000_0006
END_OF_FILE = 0xC000_0011
ACCESS_DENIED = 0xC000_0022
NAME_COLLISION = 0xC000_0035
SHARING_VIOLATION = 0xC000_0043
DELETE_PENDING = 0xC000_0056
INSUFFICIENT_RESOURCES = 0xC000_009A

_STATUSES: dict[int, tuple[str, int]] = {
    0x8000_002D: ("STATUS_STOPPED_ON_SYMLINK", errno.ELOOP),
    0xC000_0003: ("STATUS_INVALID_INFO_CLASS", errno.EOPNOTSUPP),
    0xC000_0008: ("STATUS_INVALID_HANDLE", errno.EBADF),
    0xC000_000D: ("STATUS_INVALID_PARAMETER", errno.EINVAL),
    0xC000_000F: ("STATUS_NO_SUCH_FILE", errno.ENOENT),
    END_OF_FILE: ("STATUS_END_OF_FILE", errno.ENODATA),
    ACCESS_DENIED: ("STATUS_ACCESS_DENIED", errno.EACCES),
    0xC000_0033: ("STATUS_OBJECT_NAME_INVALID", errno.EINVAL),
    0xC000_0034: ("STATUS_OBJECT_NAME_NOT_FOUND", errno.ENOENT),
    NAME_COLLISION: ("STATUS_OBJECT_NAME_COLLISION", errno.EEXIST),
    0xC000_0039: ("STATUS_OBJECT_PATH_INVALID", errno.ENOTDIR),
    0xC000_003A: ("STATUS_OBJECT_PATH_NOT_FOUND", errno.ENOENT),
    SHARING_VIOLATION: ("STATUS_SHARING_VIOLATION", errno.EBUSY),
    0xC000_0044: ("STATUS_QUOTA_EXCEEDED", errno.EDQUOT),
    0xC000_0054: ("STATUS_FILE_LOCK_CONFLICT", errno.EAGAIN),
    DELETE_PENDING: ("STATUS_DELETE_PENDING", errno.EBUSY),
    0xC000_0061: ("STATUS_PRIVILEGE_NOT_HELD", errno.EPERM),
    0xC000_007F: ("STATUS_DISK_FULL", errno.ENOSPC),
    INSUFFICIENT_RESOURCES: ("STATUS_INSUFFICIENT_RESOURCES", errno.ENOMEM),
    0xC000_00A2: ("STATUS_MEDIA_WRITE_PROTECTED", errno.EROFS),
    0xC000_00B5: ("STATUS_IO_TIMEOUT", errno.ETIMEDOUT),
    0xC000_00BA: ("STATUS_FILE_IS_A_DIRECTORY", errno.EISDIR),
    0xC000_00BB: ("STATUS_NOT_SUPPORTED", errno.EOPNOTSUPP),
    0xC000_00D4: ("STATUS_NOT_SAME_DEVICE", errno.EXDEV),
    0xC000_0101: ("STATUS_DIRECTORY_NOT_EMPTY", errno.ENOTEMPTY),
    0xC000_0103: ("STATUS_NOT_A_DIRECTORY", errno.ENOTDIR),
    0xC000_0106: ("STATUS_NAME_TOO_LONG", errno.ENAMETOOLONG),
    0xC000_011F: ("STATUS_TOO_MANY_OPENED_FILES", errno.EMFILE),
    0xC000_0120: ("STATUS_CANCELLED", errno.EINTR),
    0xC000_0121: ("STATUS_CANNOT_DELETE", errno.EACCES),
    0xC000_0123: ("STATUS_FILE_DELETED", errno.ENOENT),
}

#: The session or tree is gone though TCP stands: a new connection mends it.
_SESSION_GONE = {
    0xC000_00B6: "STATUS_FILE_FORCED_CLOSED",
    0xC000_00C9: "STATUS_NETWORK_NAME_DELETED",
    0xC000_0128: "STATUS_FILE_CLOSED",
    0xC000_0203: "STATUS_USER_SESSION_DELETED",
    0xC000_020C: "STATUS_CONNECTION_DISCONNECTED",
    0xC000_026E: "STATUS_VOLUME_DISMOUNTED",
    0xC000_035C: "STATUS_NETWORK_SESSION_EXPIRED",
}

_LOGON_FAILURES = {
    0xC000_0022: "STATUS_ACCESS_DENIED",
    0xC000_0064: "STATUS_NO_SUCH_USER",
    0xC000_006A: "STATUS_WRONG_PASSWORD",
    0xC000_006D: "STATUS_LOGON_FAILURE",
    0xC000_006E: "STATUS_ACCOUNT_RESTRICTION",
    0xC000_0071: "STATUS_PASSWORD_EXPIRED",
    0xC000_0072: "STATUS_ACCOUNT_DISABLED",
    0xC000_0234: "STATUS_ACCOUNT_LOCKED_OUT",
}

_BAD_NETWORK_NAME = 0xC000_00CC


class StatusError(OSError):
    """The server refused a request.

    Attributes:
        status: NTSTATUS.
    """

    def __init__(self, status: int, path: str | None = None) -> None:
        name, number = _STATUSES.get(status, (f"NTSTATUS {status:#010x}", errno.EIO))
        super().__init__(number, f"{os.strerror(number)} ({name})", path)
        self.status = status


class _MissingError(StatusError, FileNotFoundError):
    pass


class _ExistsError(StatusError, FileExistsError):
    pass


class _IsDirectoryError(StatusError, IsADirectoryError):
    pass


class _NotDirectoryError(StatusError, NotADirectoryError):
    pass


class _DeniedError(StatusError, PermissionError):
    pass


#: OSError chooses the subclass that goes with an errno only where OSError itself is raised.
_CLASSES: dict[int, type[StatusError]] = {
    errno.ENOENT: _MissingError,
    errno.EEXIST: _ExistsError,
    errno.EISDIR: _IsDirectoryError,
    errno.ENOTDIR: _NotDirectoryError,
    errno.EACCES: _DeniedError,
}


class ConnectionLost(OSError):  # noqa: N818 -- it names an event, as ConnectionResetError's kin do
    """The connection broke while the request was under way: it may have been carried out, or not.

    Attributes:
        sent: Whether the request left this machine; if not, it certainly was not carried out.
    """

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(errno.ETIMEDOUT, f"the file server does not answer: {reason}")
        self.sent = sent


def status_error(status: int, path: str | None = None) -> OSError:
    """The exception for an answer that is no success."""
    if status in _SESSION_GONE:
        return ConnectionLost(_SESSION_GONE[status])
    number = _STATUSES.get(status, ("", errno.EIO))[1]
    return _CLASSES.get(number, StatusError)(status, path)


def unreachable(host: str, port: int, cause: BaseException | str) -> MountError:
    """The server cannot be talked to at all."""
    number = cause.errno if isinstance(cause, OSError) else None
    # trio words its own strerror; the hint depends on the bare cause.
    reason = cause if isinstance(cause, str) else describe(cause)
    if number is not None and number in errno.errorcode:
        reason = os.strerror(number)
    if number == errno.ECONNREFUSED:
        hint = f"Nothing listens on port {port} there: check the endpoint and that the server runs."
    elif "getaddrinfo" in reason or "resolve" in reason:
        hint = "Check the account's name and this node's DNS."
    else:
        hint = (
            f"Many networks block outgoing TCP port {port}: "
            f"try `nc -zv {host} {port}` from this node, and check firewalls and private endpoints."
        )
    return MountError("ServerUnreachable", f"cannot reach {host}:{port}: {reason}", hint)


def handshake_error(
    status: int | None, reason: str, *, account: str, share: str, host: str, port: int, stage: str
) -> MountError:
    """What a failed negotiation, logon or tree connect means for the person who must act."""
    if status == _BAD_NETWORK_NAME:
        return MountError(
            "ShareNotFound",
            f"{host} has no share {share!r} (STATUS_BAD_NETWORK_NAME)",
            f"Check the share's name in the URL; account {account!r} was accepted.",
        )
    if status in _LOGON_FAILURES and stage != "negotiate":
        what = "the share" if stage == "tree" else "the logon"
        return MountError(
            "AuthenticationFailed",
            f"{host} refused {what} of account {account!r} ({_LOGON_FAILURES[status]})",
            "Check the account key (it may have been rotated) and that the account's firewall and "
            "SMB security settings admit NTLMv2 from this node.",
        )
    if stage == "key":
        return MountError("AuthenticationFailed", reason, "Check the account's name and key.")
    code = "MountFailed" if status is not None else "ServerUnreachable"
    words = f" (NTSTATUS {status:#010x})" if status is not None else ""
    return MountError(
        code,
        f"{host}:{port} ended the {stage} phase: {reason}{words}",
        "The server must speak SMB 3.1.1 with encryption.",
    )


def describe(error: BaseException) -> str:
    """An exception in one line; the C library's words where there is an errno."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
