"""Routes of Batch AI's ARM API, version 2018-05-01."""

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.errors import NotFound
from agent.jobs.service import Job, JobKey
from agent.rest.body import read_body, read_json
from agent.rest.context import (
    base_url,
    check_group,
    check_version,
    context_of,
    file_path,
    job_key,
    name_of,
    operation_url,
)
from agent.rest.errors import conflict, not_supported
from agent.rest.files import check_path
from agent.rest.operations import OperationId
from agent.rest.paging import MAX_RESULTS, number, page
from agent.rest.resources import (
    cluster_resource,
    file_resource,
    group_path,
    job_resource,
    namespace_resource,
)

Handler = Callable[[Request], Awaitable[Response]]

GROUP = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI"
WORKSPACES = GROUP + "/workspaces"
WORKSPACE = WORKSPACES + "/{workspace}"
EXPERIMENT = WORKSPACE + "/experiments/{experiment}"
CLUSTER = WORKSPACE + "/clusters/{cluster}"
JOBS = EXPERIMENT + "/jobs"
JOB = JOBS + "/{job}"
RESULTS = (
    "/subscriptions/{subscription}/providers/Microsoft.BatchAI/locations/{location}"
    "/operationresults/{operation}"
)

# How long a request, and then each poll, waits for its operation before it answers 202.
PATIENCE_S = 5.0
REVISION_HEADER = "x-batchai-revision"


def job_response(job: Job) -> JSONResponse:
    """A job, with the revision that a long poll starts from."""
    return JSONResponse(job_resource(job), headers={REVISION_HEADER: str(job.revision)})


def _page_response(request: Request, values: list[Any], token: str | None) -> JSONResponse:
    body: dict[str, Any] = {"value": values}
    if token is not None:
        query = dict(request.query_params) | {"$skiptoken": token}
        body["nextLink"] = f"{base_url(request)}{request.url.path}?{urlencode(query)}"
    return JSONResponse(body)


def _limit(request: Request) -> int:
    text = request.query_params.get("maxresults")
    return number(text, "maxresults", default=MAX_RESULTS, least=1, most=MAX_RESULTS)


async def get_job(request: Request) -> Response:
    """GET a job."""
    return job_response(await context_of(request).service.get(job_key(request)))


async def put_job(request: Request) -> Response:
    """PUT a job: validated and journalled when this answers, queued to run."""
    key = job_key(request)
    document = await read_json(request)
    return job_response(await context_of(request).service.create(key, document))


async def list_jobs(request: Request) -> Response:
    """GET the jobs of an experiment, a page at a time."""
    limit = _limit(request)
    jobs = await context_of(request).service.list(
        name_of(request, "workspace"), name_of(request, "experiment")
    )
    token = request.query_params.get("$skiptoken")
    taken, following = page(jobs, lambda job: job.id.job, limit=limit, token=token)
    return _page_response(request, [job_resource(job) for job in taken], following)


def _accepted(request: Request, operation: OperationId) -> Response:
    headers = {"location": operation_url(request, operation.encode()), "retry-after": "1"}
    return Response(status_code=202, headers=headers)


async def delete_job(request: Request) -> Response:
    """DELETE a job; one that runs is terminated first. 204 when there is none."""
    context, key = context_of(request), job_key(request)
    try:
        await context.service.get(key)
    except NotFound:
        return Response(status_code=204)
    operation = OperationId("delete", key)
    work = partial(context.service.delete, key)
    if await context.operations.run(operation, work, patience_s=PATIENCE_S):
        return Response(status_code=200)
    return _accepted(request, operation)


async def terminate_job(request: Request) -> Response:
    """POST terminate: over when the job has ended; a job that has ended is left as it is."""
    await read_body(request)
    context, key = context_of(request), job_key(request)
    operation = OperationId("terminate", key)

    async def work() -> None:
        job = await context.service.terminate(key)
        while not job.ended:
            job = await context.service.wait_changed(key, job.revision)

    if await context.operations.run(operation, work, patience_s=PATIENCE_S):
        return Response(status_code=200)
    return _accepted(request, operation)


async def operation_result(request: Request) -> Response:
    """GET an operation: 202 while it runs, 204 when it has ended."""
    context = context_of(request)
    operation = OperationId.decode(request.path_params["operation"])
    ended = await context.operations.wait(operation, patience_s=PATIENCE_S)
    if ended is None:
        # It ended before, or the agent was restarted: the job itself tells.
        ended = await _ended_by_job(request, operation.key, operation.verb)
    return Response(status_code=204) if ended else _accepted(request, operation)


async def _ended_by_job(request: Request, key: JobKey, verb: str) -> bool:
    try:
        job = await context_of(request).service.get(key)
    except NotFound:
        return True
    if verb == "terminate":
        return job.ended
    if job.provisioning_state == "deleting":
        return False
    message = f"the deletion of the job {key.job!r} did not finish: the agent was restarted"
    raise conflict("OperationInterrupted", message, "delete the job again")


async def list_output_files(request: Request) -> Response:
    """POST listOutputFiles: one directory, not its subdirectories; links to the content."""
    await read_body(request)
    context, key, query = context_of(request), job_key(request), request.query_params
    directory_id = query.get("outputdirectoryid") or "stdouterr"
    directory = query.get("directory") or "."
    check_path(directory)
    minutes = number(
        query.get("linkexpiryinminutes"), "linkexpiryinminutes", default=60, least=5, most=600
    )
    limit = _limit(request)
    parts = [part for part in directory.split("/") if part not in {"", "."}]
    entries = await context.service.list_files(key, directory_id, "/".join(parts) or ".")
    taken, following = page(
        entries, lambda entry: entry.name, limit=limit, token=query.get("$skiptoken")
    )
    values = []
    for entry in taken:
        path = file_path(key, directory_id, "/".join([*parts, entry.name]))
        link = base_url(request) + context.signer.sign(path, minutes=minutes)
        values.append(file_resource(entry, link))
    return _page_response(request, values, following)


async def list_remote_login(request: Request) -> Response:
    """POST listRemoteLoginInformation: the node of a job is this one, with no other way in."""
    await read_body(request)
    await context_of(request).service.get(job_key(request))
    return JSONResponse({"value": []})


async def get_workspace(request: Request) -> Response:
    """GET or PUT a workspace: it exists as soon as it is named."""
    return await _namespace(request, "workspaces", name_of(request, "workspace"))


async def get_experiment(request: Request) -> Response:
    """GET or PUT an experiment: it exists as soon as it is named."""
    workspace, experiment = name_of(request, "workspace"), name_of(request, "experiment")
    below = f"{workspace}/experiments/{experiment}"
    return await _namespace(request, "workspaces/experiments", below)


async def _namespace(request: Request, kind: str, below: str) -> Response:
    await read_body(request)
    context = context_of(request)
    group = group_path(context.identity.subscription, context.identity.resource_group)
    resource = namespace_resource(f"{group}/workspaces/{below}", kind, context.started)
    return JSONResponse(resource)


async def list_workspaces(request: Request) -> Response:
    """GET the workspaces: the configured one (others exist by being named)."""
    context = context_of(request)
    group = group_path(context.identity.subscription, context.identity.resource_group)
    path = f"{group}/workspaces/{context.identity.workspace}"
    return JSONResponse({"value": [namespace_resource(path, "workspaces", context.started)]})


async def list_experiments(request: Request) -> Response:
    """GET the experiments of a workspace: the configured one."""
    context = context_of(request)
    group = group_path(context.identity.subscription, context.identity.resource_group)
    workspace = name_of(request, "workspace")
    path = f"{group}/workspaces/{workspace}/experiments/{context.identity.experiment}"
    kind = "workspaces/experiments"
    return JSONResponse({"value": [namespace_resource(path, kind, context.started)]})


def _cluster(request: Request, name: str) -> dict[str, Any]:
    context = context_of(request)
    group = group_path(context.identity.subscription, context.identity.resource_group)
    path = f"{group}/workspaces/{name_of(request, 'workspace')}/clusters/{name}"
    return cluster_resource(path, context.started, context.service.health())


async def get_cluster(request: Request) -> Response:
    """GET the cluster that this node is; any name will do, as for a job's cluster id."""
    return JSONResponse(_cluster(request, name_of(request, "cluster")))


async def list_clusters(request: Request) -> Response:
    """GET the clusters of a workspace: this node's own."""
    return JSONResponse({"value": [_cluster(request, context_of(request).identity.cluster)]})


async def refuse(request: Request) -> Response:
    """What a node cannot do to itself: create or delete clusters and namespaces."""
    message = f"{request.method} is not possible here: this is one node, not the whole service"
    raise not_supported(message, "workspaces, experiments and the cluster exist by being named")


async def list_operations(request: Request) -> Response:
    """GET the provider's operations."""
    del request
    return JSONResponse({"value": []})


def _arm(handler: Handler) -> Handler:
    """ARM's own conditions on every request, before the resource is looked at."""

    @wraps(handler)
    async def checked(request: Request) -> Response:
        check_version(request)
        check_group(request)
        return await handler(request)

    return checked


def routes() -> list[Route]:
    """All routes of the ARM API."""
    table: list[tuple[str, str, Handler]] = [
        (JOB, "GET", get_job),
        (JOB, "PUT", put_job),
        (JOB, "DELETE", delete_job),
        (JOBS, "GET", list_jobs),
        (JOB + "/terminate", "POST", terminate_job),
        (JOB + "/listOutputFiles", "POST", list_output_files),
        (JOB + "/listRemoteLoginInformation", "POST", list_remote_login),
        (RESULTS, "GET", operation_result),
        (WORKSPACE, "GET", get_workspace),
        (WORKSPACE, "PUT", get_workspace),
        (WORKSPACE, "DELETE", refuse),
        (WORKSPACES, "GET", list_workspaces),
        (
            "/subscriptions/{subscription}/providers/Microsoft.BatchAI/workspaces",
            "GET",
            list_workspaces,
        ),
        (EXPERIMENT, "GET", get_experiment),
        (EXPERIMENT, "PUT", get_experiment),
        (EXPERIMENT, "DELETE", refuse),
        (WORKSPACE + "/experiments", "GET", list_experiments),
        (CLUSTER, "GET", get_cluster),
        (CLUSTER, "PUT", refuse),
        (CLUSTER, "DELETE", refuse),
        (WORKSPACE + "/clusters", "GET", list_clusters),
        ("/providers/Microsoft.BatchAI/operations", "GET", list_operations),
    ]
    by_path: dict[str, dict[str, Handler]] = {}
    for path, method, handler in table:
        by_path.setdefault(path, {})[method] = _arm(handler)
    return [
        Route(path, dispatch(handlers), methods=list(handlers))
        for path, handlers in by_path.items()
    ]


def dispatch(handlers: dict[str, Handler]) -> Handler:
    """One handler for all methods of a path (starlette would try one route after another)."""

    async def handle(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await handlers[method](request)

    return handle


# The words of ARM paths are compared without case (ARM RPC, "Resource ID"); names are kept.
_KEYWORDS = """
    subscriptions resourceGroups providers Microsoft.BatchAI workspaces experiments jobs operations
    clusters terminate listOutputFiles listRemoteLoginInformation locations operationresults
"""
KEYWORDS = {word.lower(): word for word in _KEYWORDS.split()}


def canonical_path(path: str) -> str:
    """An ARM path with its keywords (not the names between them) spelt as in the routes."""
    parts = path.split("/")
    if len(parts) < 2 or parts[1].lower() not in {"subscriptions", "providers"}:
        return path
    for index in range(1, len(parts)):
        word = KEYWORDS.get(parts[index].lower())
        named = index % 2 == 0 and parts[index - 1].lower() != "providers"
        if word is not None and not named:
            parts[index] = word
    return "/".join(parts)
