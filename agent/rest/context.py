"""What every route needs, and how it gets it from a request."""

import re
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from starlette.requests import Request

from agent.jobs.service import JobKey, JobService
from agent.rest.errors import bad_request, not_found
from agent.rest.links import LinkSigner
from agent.rest.operations import Operations

API_VERSION = "2018-05-01"
_NAME = re.compile(r"[-\w]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """Where this node sits in ARM's tree, and what the command line takes for left-out names."""

    subscription: str
    resource_group: str
    workspace: str
    experiment: str
    cluster: str


@dataclass(frozen=True, slots=True)
class Context:
    """The things behind the API; one for all requests."""

    service: JobService
    identity: Identity
    signer: LinkSigner
    operations: Operations
    started: datetime
    """When the agent started: the creation time of what exists by being named."""


def context_of(request: Request) -> Context:
    """The context that `Api` put into the request."""
    context: Context = request.state.context
    return context


def name_of(request: Request, parameter: str) -> str:
    """A resource's name from the path.

    Raises:
        BatchError: 400 for a name that Batch AI never allowed.
    """
    name: str = request.path_params[parameter]
    if not _NAME.fullmatch(name):
        message = (
            f'{name!r} is no name of a {parameter}: it must be 1 to 64 letters, digits, "-" and "_"'
        )
        raise bad_request("InvalidResourceName", message, target=parameter)
    return name


def job_key(request: Request) -> JobKey:
    """The job that the path names, in this node's own subscription and resource group."""
    return JobKey(
        name_of(request, "workspace"), name_of(request, "experiment"), name_of(request, "job")
    )


def check_group(request: Request) -> None:
    """A node belongs to one subscription and resource group (ARM compares them without case).

    Raises:
        BatchError: 404 for another one: its jobs live elsewhere.
    """
    identity = context_of(request).identity
    for parameter, own, code in (
        ("subscription", identity.subscription, "SubscriptionNotFound"),
        ("group", identity.resource_group, "ResourceGroupNotFound"),
    ):
        given = request.path_params.get(parameter, own)
        if given.lower() != own.lower():
            noun = "resource group" if parameter == "group" else parameter
            message = f"the {noun} {given!r} is not this node's"
            hint = f"this node belongs to the {noun} {own!r} (agent.toml, section [node])"
            raise not_found(code, message, hint=hint)


def check_version(request: Request) -> None:
    """ARM requires the api-version of every request.

    Raises:
        BatchError: 400 when it is missing or another one.
    """
    version = request.query_params.get("api-version")
    hint = f"add ?api-version={API_VERSION}"
    if not version:
        message = "the query parameter api-version is required"
        raise bad_request("MissingApiVersionParameter", message, hint=hint, target="api-version")
    if version != API_VERSION:
        message = f"the api-version {version!r} is not supported: this node speaks {API_VERSION}"
        raise bad_request("InvalidApiVersionParameter", message, hint=hint, target="api-version")


def base_url(request: Request) -> str:
    """The address by which the client reached this server, without a slash at the end."""
    return str(request.base_url).rstrip("/")


def file_path(key: JobKey, directory_id: str, path: str) -> str:
    """The (unquoted) address of one file below the server's root."""
    job = f"/node/workspaces/{key.workspace}/experiments/{key.experiment}/jobs/{key.job}"
    return f"{job}/files/{directory_id}/{path}"


def operation_url(request: Request, operation: str) -> str:
    """The absolute address of a long-running operation (ARM pollers need a scheme and a host)."""
    subscription = quote(context_of(request).identity.subscription)
    place = f"/subscriptions/{subscription}/providers/Microsoft.BatchAI/locations/local"
    address = f"{base_url(request)}{place}/operationresults/{operation}"
    return f"{address}?api-version={API_VERSION}"
