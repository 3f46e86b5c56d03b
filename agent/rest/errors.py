"""Errors as ARM writes them, and those that only HTTP knows.

Body: ``{"error": {"code", "message", "target", "details": [{"code", "message", "target"}],
"additionalInfo": [{"type": "Hint", "info": {"hint": …}}]}}`` (Azure Resource Manager common API
details, "Error response content").
"""

import traceback
from collections.abc import Mapping
from typing import Any

from agent.errors import BatchError, Fault


def error_body(error: BatchError, *, error_id: str | None = None) -> dict[str, Any]:
    """The JSON body of an error response."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if len(error.details) == 1:
        body["target"] = error.details[0].target
    if error.details:
        body["details"] = [
            {"code": fault.code, "message": fault.message, "target": fault.target}
            for fault in error.details
        ]
    extra: list[dict[str, Any]] = []
    if error.hint:
        extra.append({"type": "Hint", "info": {"hint": error.hint}})
    if error_id is not None:
        extra.append({"type": "ErrorId", "info": {"errorId": error_id}})
    if extra:
        body["additionalInfo"] = extra
    return {"error": body}


def trace(error: BaseException) -> str:
    """A traceback for the log, as text.

    Not exc_info: loggers may render the frames' local variables with it, and in this API's frames
    these are jobs with their keys.
    """
    return "".join(traceback.format_exception(error))


def bad_request(
    code: str, message: str, *, hint: str | None = None, target: str | None = None
) -> BatchError:
    """400: the request cannot be understood; `target` is the parameter at fault."""
    details = (Fault(code, message, target),) if target else ()
    return BatchError(code, message, hint=hint, status=400, exit_code=2, details=details)


def unauthorized(message: str) -> BatchError:
    """401: over TCP, without the token."""
    hint = "send the header `Authorization: Bearer TOKEN`, with the token of api.token_file"
    return BatchError("AuthenticationFailed", message, hint=hint, status=401, exit_code=5)


def forbidden(message: str, hint: str) -> BatchError:
    """403: known, and not allowed."""
    return BatchError("AuthorizationFailed", message, hint=hint, status=403, exit_code=5)


def not_found(code: str, message: str, *, hint: str | None = None) -> BatchError:
    """404: no such thing."""
    return BatchError(code, message, hint=hint, status=404, exit_code=3)


def file_not_found(path: str) -> BatchError:
    """404: no such file, or not yet."""
    hint = "list what is there: batchai job file list"
    return not_found("FileNotFound", f"there is no file {path!r}", hint=hint)


def conflict(code: str, message: str, hint: str) -> BatchError:
    """409: not in this state of things."""
    return BatchError(code, message, hint=hint, status=409, exit_code=4)


def not_supported(message: str, hint: str) -> BatchError:
    """405: the service could do it, a node cannot."""
    return BatchError("NotSupported", message, hint=hint, status=405, exit_code=2)


def request_timeout(message: str) -> BatchError:
    """408: the client was too slow."""
    return BatchError("RequestTimeout", message, hint=None, status=408, exit_code=1)


def too_large(limit: int) -> BatchError:
    """413: the body is over the limit (in bytes)."""
    message = f"the request's body is larger than {limit // 1024} KiB"
    hint = "keep data out of job.json: put it into a container or a share"
    return BatchError("RequestBodyTooLarge", message, hint=hint, status=413, exit_code=2)


def internal_error(message: str) -> BatchError:
    """500: a fault of the agent's; the log knows more."""
    hint = "look at the agent's log: journalctl -u batchai-agent"
    return BatchError("InternalError", message, hint=hint, status=500, exit_code=1)


def startup_error(code: str, message: str, hint: str) -> BatchError:
    """The API cannot be served as configured."""
    return BatchError(code, message, hint=hint, status=500, exit_code=2)


def from_http(status: int, headers: Mapping[str, str]) -> BatchError:
    """What the router refuses: unknown paths and methods."""
    if status == 405:
        allowed = headers.get("Allow", "")
        return not_supported("this resource does not know that method", f"it allows: {allowed}")
    message = "there is no such resource in this API"
    hint = "jobs are at /subscriptions/…/providers/Microsoft.BatchAI/…, the node at /node/health"
    return BatchError("ResourceNotFound", message, hint=hint, status=status, exit_code=3)
