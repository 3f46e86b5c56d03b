"""Storage errors, as errnos for programs and as MountErrors for people.

Error codes: "Blob service error codes" and "Common REST API error codes" of the Azure Storage
REST reference.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from fuse.errors import MountError

#: What the service says of a body that is not the one that was sent.
_DAMAGED = "Md5Mismatch"

_BY_CODE = {
    "AccountIsDisabled": errno.EACCES,
    "AppendPositionConditionNotMet": errno.ESTALE,
    "BlobAlreadyExists": errno.EEXIST,
    "BlobArchived": errno.EIO,
    "BlobBeingRehydrated": errno.EIO,
    "BlobImmutableDueToPolicy": errno.EPERM,
    "BlobNotFound": errno.ENOENT,
    "BlockCountExceedsLimit": errno.EFBIG,
    "ConditionNotMet": errno.ESTALE,
    "ContainerBeingDeleted": errno.ENOENT,
    "ContainerNotFound": errno.ENOENT,
    "InsufficientAccountPermissions": errno.EACCES,
    "InvalidAuthenticationInfo": errno.EACCES,  # HTTP 400 where both keys and tokens are taken
    "InvalidBlobType": errno.EOPNOTSUPP,
    "InvalidRange": errno.ESTALE,
    "InvalidResourceName": errno.EINVAL,
    "InvalidUri": errno.EINVAL,
    "LeaseAlreadyPresent": errno.EBUSY,
    "LeaseIdMissing": errno.EBUSY,
    "MaxBlobSizeConditionNotMet": errno.EFBIG,
    _DAMAGED: errno.EIO,
    "MetadataTooLarge": errno.ENOSPC,
    "NoPendingCopyOperation": errno.EINVAL,
    "OperationTimedOut": errno.ETIMEDOUT,
    "PendingCopyOperation": errno.EBUSY,
    "PublicAccessNotPermitted": errno.EACCES,
    "RequestBodyTooLarge": errno.EFBIG,
    "ResourceNotFound": errno.ENOENT,
    "SnapshotsPresent": errno.EBUSY,
    "SourceConditionNotMet": errno.ESTALE,
    "TargetConditionNotMet": errno.ESTALE,
}

_BY_STATUS = {
    400: errno.EINVAL,
    401: errno.EACCES,
    403: errno.EACCES,
    404: errno.ENOENT,
    407: errno.EACCES,
    408: errno.ETIMEDOUT,
    409: errno.EBUSY,
    412: errno.ESTALE,
    416: errno.ESTALE,
}

#: Statuses and storage error codes that another try may mend.
RETRIED = {408, 429, 500, 502, 503, 504}
RETRIED_CODES = {_DAMAGED, "OperationTimedOut", "ServerBusy", "InternalError"}

#: Of these the service has not begun with the request. After the other ones it may be done.
_NOT_BEGUN = {429}

#: Codes that only a container or an account gets, never a name in it.
_CONTAINER_GONE = {"ContainerNotFound", "ContainerBeingDeleted"}


class StoreError(OSError):
    """What a request to the store ended as.

    Instances are also FileNotFoundError, FileExistsError, PermissionError or TimeoutError where
    that is their errno. Make them with :func:`store_error`.

    Attributes:
        status: HTTP status of the last answer; 0 when there was none.
        code: Storage error code of the last answer, or "".
        request_id: The service's id of the last answer, or "".
        uncertain: The request changes something, and a try whose answer is not known may have been
            carried out: what the store holds decides.
    """

    status = 0
    code = ""
    request_id = ""
    uncertain = False

    @property
    def refused(self) -> bool:
        """Whether it is the credential that was refused, or that may not do this."""
        return self.status in {401, 403} or self.errno == errno.EACCES

    @property
    def volume_gone(self) -> bool:
        """Whether it is the container that is missing, and not a name in it."""
        return self.code in _CONTAINER_GONE


class _MissingError(StoreError, FileNotFoundError):
    pass


class _ExistsError(StoreError, FileExistsError):
    pass


class _DeniedError(StoreError, PermissionError):
    pass


class _TimedOutError(StoreError, TimeoutError):
    pass


_CLASSES: dict[int, type[StoreError]] = {
    errno.ENOENT: _MissingError,
    errno.EEXIST: _ExistsError,
    errno.EACCES: _DeniedError,
    errno.EPERM: _DeniedError,
    errno.ETIMEDOUT: _TimedOutError,
}


def store_error(
    number: int,
    reason: str,
    path: str,
    *,
    status: int = 0,
    code: str | None = None,
    request_id: str | None = None,
) -> StoreError:
    """A :class:`StoreError` of the class that ``except`` clauses look for."""
    error = _CLASSES.get(number, StoreError)(number, reason, path)
    error.status = status
    error.code = code or ""
    error.request_id = request_id or ""
    return error


def code_of(headers: Mapping[str, str], body: bytes) -> str | None:
    """The storage error code of an answer."""
    code = headers.get("x-ms-error-code")
    if code == "InvalidOperation" and b"contentMD5" in body:
        return _DAMAGED  # what Azurite says of a body that is not that of its Content-MD5
    return code


def to_oserror(
    status: int, code: str | None, path: str, request_id: str | None = None
) -> StoreError:
    """The errno for an HTTP status and a storage error code."""
    number = _BY_CODE.get(code or "") or _BY_STATUS.get(status, errno.EIO)
    reason = f"{os.strerror(number)} (HTTP {status} {code or 'without a code'}"
    reason += f", request {request_id})" if request_id else ")"
    return store_error(number, reason, path, status=status, code=code, request_id=request_id)


def kind(error: StoreError) -> str:
    """What sort of failure it is: the name that it is counted under."""
    if error.status in {401, 403, 407} or error.errno == errno.EACCES:
        return "authentication"
    if error.code in _CONTAINER_GONE:
        return "missing"
    if error.code == "OperationTimedOut" or error.errno == errno.ETIMEDOUT:
        return "timeout"
    if error.status == 429 or error.code == "ServerBusy":
        return "throttled"
    if error.status >= 500:
        return "server"
    return "other"


def expected(error: StoreError) -> bool:
    """Whether the answer is no fault of the store's.

    A name that is there, or is not, and a version that is not current are what is asked about.
    """
    return (
        error.status in {404, 409, 412, 416}
        and error.code not in _CONTAINER_GONE
        and error.errno in {errno.ENOENT, errno.EEXIST, errno.ESTALE}
    )


def may_be_done(status: int) -> bool:
    """Whether a request that was answered with this retried status may have been carried out."""
    return status not in _NOT_BEGUN


def mount_error(
    error: StoreError,
    *,
    account: str,
    container: str,
    endpoint: str,
    credential: str,
    hint: str | None,
) -> MountError:
    """Why a container cannot be mounted, and what to look at.

    Args:
        error: What checking it ended as.
        account: The account's name.
        container: The container's name.
        endpoint: The account's blob endpoint.
        credential: Which kind of credential was shown, in words.
        hint: What is known to be wrong with that credential, or None.
    """
    said = f"HTTP {error.status} {error.code}".strip()
    if error.status == 404:
        return MountError(
            "ContainerNotFound",
            f"Azure Blob container '{container}' does not exist in account '{account}' ({said})",
            "check containerName, or create the container first"
            + (
                "; without a credential only public containers are there"
                if credential == "anonymous access"
                else ""
            ),
        )
    if error.refused:
        return MountError(
            "AuthenticationFailed",
            f"account '{account}' refused the credentials ({credential}) for container "
            f"'{container}' ({said if error.status else error.strerror})",
            hint or "check accountKey (was it rotated?), the account's name, and this node's clock"
            if credential == "account key"
            else hint or "check that it is meant for this account and container, and not expired",
        )
    if error.status:
        return MountError(
            "MountFailed",
            f"account '{account}' answered {said} for container '{container}'",
            "see the storage account's status and the driver's log",
        )
    if "certificate" in (error.strerror or ""):
        return MountError(
            "ServerUnreachable",
            f"no trusted connection to {endpoint} for container '{container}': {error.strerror}",
            "name the authority that signed it with caBundle, or check the endpoint's name",
        )
    return MountError(
        "ServerUnreachable",
        f"no answer from {endpoint} for container '{container}': {error.strerror}",
        "check the account's name, DNS, the firewall and the endpoint in the configuration",
    )


def first_line(error: BaseException) -> str:
    """An exception in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
