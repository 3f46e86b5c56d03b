"""Routes of the node itself: health, mounts, a job's files and long poll."""

from datetime import UTC, datetime

import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.rest.arm import job_response
from agent.rest.context import API_VERSION, check_group, context_of, job_key
from agent.rest.files import file_response
from agent.rest.paging import number
from agent.rest.resources import mount_resource, timestamp

JOB = "/node/workspaces/{workspace}/experiments/{experiment}/jobs/{job}"
WAIT_MOST_S = 60


async def health(request: Request) -> Response:
    """GET /node/health: how the node is, and the names that a client may leave out."""
    context = context_of(request)
    identity = context.identity
    body = {
        "status": "ok",
        "apiVersion": API_VERSION,
        "startedAt": timestamp(context.started),
        "now": timestamp(datetime.now(UTC)),
        "defaults": {
            "subscription": identity.subscription,
            "resourceGroup": identity.resource_group,
            "workspace": identity.workspace,
            "experiment": identity.experiment,
            "cluster": identity.cluster,
        },
    }
    return JSONResponse(body | dict(context.service.health()))


async def mounts(request: Request) -> Response:
    """GET /node/mounts: every volume that is, or should be, mounted."""
    service = context_of(request).service
    await service.ask_mounts()
    value = [mount_resource(mount) for mount in service.mounts()]
    return JSONResponse({"value": value})


async def wait(request: Request) -> Response:
    """GET a job once its revision is no longer the given one, or after `timeout` seconds."""
    context, key, query = context_of(request), job_key(request), request.query_params
    seen = number(query.get("revision"), "revision", default=0, least=0, most=2**62)
    timeout = number(query.get("timeout"), "timeout", default=30, least=0, most=WAIT_MOST_S)
    with trio.move_on_after(timeout):
        return job_response(await context.service.wait_changed(key, seen))
    return job_response(await context.service.get(key))


async def file(request: Request) -> Response:
    """GET the bytes of one file: Range for a part, `follow=true&offset=N` to follow it."""
    check_group(request)
    params = request.path_params
    return await file_response(
        context_of(request).service, job_key(request), params["directory"], params["path"], request
    )


def routes() -> list[Route]:
    """All routes below /node."""
    return [
        Route("/node/health", health, methods=["GET"]),
        Route("/node/mounts", mounts, methods=["GET"]),
        Route(JOB + "/wait", wait, methods=["GET"]),
        Route(JOB + "/files/{directory}/{path:path}", file, methods=["GET"]),
    ]
