"""Storage errors, as errnos for programs and as MountErrors for people.

Error codes: "Blob service error codes" and "Common REST API error codes" of the Azure Storage
REST reference.
"""

from __future__ import annotations

import errno
import os

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from fuse.errors import MountError

_BY_CODE = {
    "BlobAlreadyExists": errno.EEXIST,
    "BlobNotFound": errno.ENOENT,
    "ContainerNotFound": errno.ENOENT,
    "ContainerBeingDeleted": errno.ENOENT,
    "ResourceNotFound": errno.ENOENT,
    "ConditionNotMet": errno.ESTALE,
    "TargetConditionNotMet": errno.ESTALE,
    "SourceConditionNotMet": errno.ESTALE,
    "InvalidRange": errno.ESTALE,
    "LeaseIdMissing": errno.EBUSY,
    "LeaseAlreadyPresent": errno.EBUSY,
    "PendingCopyOperation": errno.EBUSY,
    "SnapshotsPresent": errno.EBUSY,
    "BlobImmutableDueToPolicy": errno.EPERM,
    "AccountIsDisabled": errno.EACCES,
    "InsufficientAccountPermissions": errno.EACCES,
    "OperationTimedOut": errno.ETIMEDOUT,
    "InvalidResourceName": errno.EINVAL,
    "InvalidUri": errno.EINVAL,
    "MetadataTooLarge": errno.E2BIG,
    "RequestBodyTooLarge": errno.EFBIG,
}

_BY_STATUS = {
    400: errno.EINVAL,
    401: errno.EACCES,
    403: errno.EACCES,
    404: errno.ENOENT,
    408: errno.ETIMEDOUT,
    409: errno.EBUSY,
    412: errno.ESTALE,
    416: errno.ESTALE,
}

#: Statuses that another try may mend.
RETRIED = {408, 429, 500, 502, 503, 504}


def to_oserror(status: int, code: str | None, path: str, request_id: str | None = None) -> OSError:
    """The errno for an HTTP status and a storage error code."""
    number = _BY_CODE.get(code or "") or _BY_STATUS.get(status, errno.EIO)
    reason = f"{os.strerror(number)} (HTTP {status} {code or 'without a code'}"
    return OSError(number, reason + (f", request {request_id})" if request_id else ")"), path)


def from_sdk(error: AzureError, path: str) -> OSError:
    """The errno for what the SDK raised."""
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        headers = getattr(error.response, "headers", {}) or {}
        code = getattr(error, "error_code", None) or headers.get("x-ms-error-code")
        return to_oserror(
            error.status_code, str(code) if code else None, path, headers.get("x-ms-request-id")
        )
    if isinstance(error, ServiceRequestError | ServiceResponseError):
        return OSError(
            errno.ETIMEDOUT if "timed out" in str(error).lower() else errno.EIO,
            f"the store does not answer: {_first_line(error)}",
            path,
        )
    return OSError(errno.EIO, _first_line(error), path)


def mount_error(error: AzureError, *, account: str, container: str, endpoint: str) -> MountError:
    """Why a container cannot be mounted, and what to look at."""
    if isinstance(error, HttpResponseError) and error.status_code is not None:
        headers = getattr(error.response, "headers", {}) or {}
        code = str(getattr(error, "error_code", None) or headers.get("x-ms-error-code") or "")
        said = f"HTTP {error.status_code} {code}".strip()
        if error.status_code == 404:
            return MountError(
                "ContainerNotFound",
                f"Azure Blob container '{container}' does not exist in account '{account}'"
                f" ({said})",
                "check containerName, or create the container first",
            )
        if error.status_code in {401, 403} or isinstance(error, ClientAuthenticationError):
            return MountError(
                "AuthenticationFailed",
                f"account '{account}' refused the credentials for container '{container}' ({said})",
                "check accountKey (was it rotated?), the account's name, and this node's clock",
            )
        return MountError(
            "MountFailed",
            f"account '{account}' answered {said} for container '{container}'",
            "see the storage account's status and the driver's log",
        )
    return MountError(
        "ServerUnreachable",
        f"no answer from {endpoint} for container '{container}': {_first_line(error)}",
        "check the account's name, DNS, the firewall and the endpoint in the configuration",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
