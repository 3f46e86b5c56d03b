"""The agent's resources as the commands use them: names filled in, paths built."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from agent.cli.client import API_VERSION, AgentClient, Answer

FINAL = frozenset({"succeeded", "failed"})
_VERSION = {"api-version": API_VERSION}
_POLL_S = 30


@dataclass(frozen=True, slots=True)
class Scope:
    """The names given on the command line; None is filled from the node's defaults."""

    workspace: str | None = None
    experiment: str | None = None
    resource_group: str | None = None


class Api:
    """One agent, seen from one workspace and experiment."""

    def __init__(self, client: AgentClient, scope: Scope) -> None:
        self.client = client
        self._scope = scope

    @cached_property
    def defaults(self) -> dict[str, str]:
        """The node's own names (from /node/health)."""
        defaults: dict[str, str] = self.health()["defaults"]
        return defaults

    @property
    def _names(self) -> tuple[str, str]:
        workspace = self._scope.workspace or self.defaults["workspace"]
        return workspace, self._scope.experiment or self.defaults["experiment"]

    @property
    def _group(self) -> str:
        group = self._scope.resource_group or self.defaults["resourceGroup"]
        subscription = self.defaults["subscription"]
        return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI"

    def cluster_id(self, name: str | None) -> str:
        """The ARM id of a cluster in this workspace (a whole id is taken as it is)."""
        if name and name.startswith("/"):
            return name
        return (
            f"{self._group}/workspaces/{self._names[0]}/clusters/{name or self.defaults['cluster']}"
        )

    def _jobs(self) -> str:
        workspace, experiment = self._names
        return f"{self._group}/workspaces/{workspace}/experiments/{experiment}/jobs"

    def _node_job(self, job: str) -> str:
        workspace, experiment = self._names
        return f"/node/workspaces/{workspace}/experiments/{experiment}/jobs/{job}"

    def health(self) -> dict[str, Any]:
        """GET /node/health."""
        body: dict[str, Any] = self.client.request("GET", "/node/health").body
        return body

    def mounts(self) -> list[dict[str, Any]]:
        """GET /node/mounts."""
        mounts: list[dict[str, Any]] = self.client.request("GET", "/node/mounts").body["value"]
        return mounts

    def create_job(self, job: str, document: Any) -> dict[str, Any]:
        """PUT a job."""
        path = f"{self._jobs()}/{job}"
        created: dict[str, Any] = self.client.request("PUT", path, _VERSION, body=document).body
        return created

    def get_job(self, job: str) -> dict[str, Any]:
        """GET a job."""
        found: dict[str, Any] = self.client.request("GET", f"{self._jobs()}/{job}", _VERSION).body
        return found

    def list_jobs(self) -> list[dict[str, Any]]:
        """GET all jobs of the experiment, page after page."""
        return self._pages("GET", self._jobs(), dict(_VERSION))

    def list_files(
        self, job: str, directory_id: str, path: str, expiry_minutes: int
    ) -> list[dict[str, Any]]:
        """POST listOutputFiles, page after page."""
        query = {
            "outputdirectoryid": directory_id,
            "directory": path,
            "linkexpiryinminutes": str(expiry_minutes),
        }
        return self._pages("POST", f"{self._jobs()}/{job}/listOutputFiles", _VERSION | query)

    def _pages(self, method: str, path: str, query: dict[str, str]) -> list[dict[str, Any]]:
        values: list[dict[str, Any]] = []
        while True:
            body = self.client.request(method, path, query).body
            values += body["value"]
            if not body.get("nextLink"):
                return values
            query = dict(parse_qsl(urlsplit(body["nextLink"]).query))

    def terminate_job(self, job: str) -> bool:
        """POST terminate; whether the job has ended when this returns."""
        return self._is_done("POST", f"{self._jobs()}/{job}/terminate")

    def delete_and_wait(self, job: str) -> None:
        """DELETE a job; returns when it is gone.

        Raises:
            BatchError: it could not be deleted.
        """
        answer = self.client.request("DELETE", f"{self._jobs()}/{job}", _VERSION)
        while answer.status == 202:
            # The agent holds each of these requests for some seconds: it is a long poll.
            place = urlsplit(answer.headers["location"])
            query = dict(parse_qsl(place.query))
            answer = self.client.request("GET", unquote(place.path), query)

    def _is_done(self, method: str, path: str) -> bool:
        return self.client.request(method, path, _VERSION).status != 202

    def wait_changed(
        self, job: str, revision: int, *, timeout_s: int = _POLL_S
    ) -> tuple[dict[str, Any], int]:
        """The job once its revision is another one, or after the timeout; and its revision."""
        query = {"revision": str(revision), "timeout": str(timeout_s)}
        answer = self.client.request(
            "GET", f"{self._node_job(job)}/wait", query, timeout=timeout_s + 30.0
        )
        return answer.body, _revision(answer)

    def file_path(self, job: str, directory_id: str, path: str) -> str:
        """Where the bytes of a file are."""
        return f"{self._node_job(job)}/files/{directory_id}/{path}"


def _revision(answer: Answer) -> int:
    return int(answer.headers.get("x-batchai-revision", "0"))


def state(job: dict[str, Any]) -> str:
    """The execution state."""
    value: str = job["properties"]["executionState"]
    return value


def exit_code(job: dict[str, Any]) -> int:
    """What a command that waited for this job exits with.

    The job's own exit code, as `az batchai job wait` does; 6 for a job that failed without one (it
    was terminated, or a volume could not be mounted), where az exits 0.
    """
    info = job["properties"].get("executionInfo") or {}
    code = info.get("exitCode")
    if state(job) == "succeeded":
        return 0
    return int(code) & 0xFF or 6 if code is not None else 6
