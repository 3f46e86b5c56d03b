"""Reads a request's body: bounded in size and time, and JSON."""

from contextlib import aclosing
from typing import Any

import trio
from starlette.requests import ClientDisconnect, Request

from agent.rest import strict_json
from agent.rest.errors import bad_request, request_timeout, too_large

BODY_LIMIT = 1024 * 1024
BODY_DEADLINE_S = 30.0


async def read_body(request: Request, *, limit: int = BODY_LIMIT) -> bytes:
    """The whole body.

    Raises:
        BatchError: 413 over the limit, 408 when it does not arrive, 400 when it is cut short.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)
    body = bytearray()
    with trio.move_on_after(BODY_DEADLINE_S) as scope:
        try:
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit:
                        raise too_large(limit)
        except ClientDisconnect:
            raise bad_request("IncompleteBody", "the request's body was cut short") from None
    if scope.cancelled_caught:
        raise request_timeout(f"the request's body did not arrive within {BODY_DEADLINE_S:.0f} s")
    return bytes(body)


async def read_json(request: Request) -> Any:
    """The body as JSON.

    Raises:
        BatchError: 400 with line and column for malformed JSON; and as `read_body`.
    """
    body = await read_body(request)
    try:
        return strict_json.loads(body)
    except strict_json.JsonError as error:
        raise bad_request(
            "InvalidRequestContent",
            f"the request's body is not valid JSON: {error}",
            hint="send one JSON object, for example the content of job.json",
        ) from None
