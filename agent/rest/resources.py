"""What the API returns: ARM resources in the shape of Batch AI 2018-05-01.

Field names and nesting are those of the published specification (BatchAI.json, 2018-05-01) and of
recorded answers of the service; ``azure-mgmt-batchai`` parses them in tests/compat.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.jobs.service import FileEntry, Job, MountStatus

PROVIDER = "Microsoft.BatchAI"


def timestamp(value: datetime | None) -> str | None:
    """RFC 3339 in UTC with microseconds, as ARM writes times."""
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def group_path(subscription: str, resource_group: str) -> str:
    """The ARM id under which a resource group keeps Batch AI's resources."""
    return f"/subscriptions/{subscription}/resourceGroups/{resource_group}/providers/{PROVIDER}"


def job_resource(job: Job) -> dict[str, Any]:
    """A job as GET returns it: what was asked for, without secrets, and what became of it."""
    key = job.id
    group = group_path(key.subscription, key.resource_group)
    properties = dict(job.properties)
    properties |= {
        "toolType": job.tool_type,
        "jobOutputDirectoryPathSegment": key.segment,
        "creationTime": timestamp(job.creation_time),
        "provisioningState": job.provisioning_state,
        "provisioningStateTransitionTime": timestamp(job.creation_time),
        "executionState": job.execution_state,
        "executionStateTransitionTime": timestamp(job.execution_state_transition_time),
        "executionInfo": _execution_info(job),
    }
    return {
        "id": f"{group}/workspaces/{key.workspace}/experiments/{key.experiment}/jobs/{key.job}",
        "name": key.job,
        "type": f"{PROVIDER}/workspaces/experiments/jobs",
        "properties": properties,
    }


def _execution_info(job: Job) -> dict[str, Any] | None:
    if job.start_time is None and job.end_time is None and not job.errors:
        return None
    errors = [
        {
            "code": error.code,
            "message": error.message,
            "details": [{"name": name, "value": value} for name, value in error.details] or None,
        }
        for error in job.errors
    ]
    return {
        "startTime": timestamp(job.start_time),
        "endTime": timestamp(job.end_time),
        "exitCode": job.exit_code,
        "errors": errors or None,
    }


def namespace_resource(path: str, kind: str, created: datetime) -> dict[str, Any]:
    """A workspace or an experiment: a namespace of jobs, which exists as soon as it is named."""
    resource: dict[str, Any] = {
        "id": path,
        "name": path.rpartition("/")[2],
        "type": f"{PROVIDER}/{kind}",
        "properties": {
            "creationTime": timestamp(created),
            "provisioningState": "succeeded",
            "provisioningStateTransitionTime": timestamp(created),
        },
    }
    if kind == "workspaces":
        resource |= {"location": "local", "tags": {}}
    return resource


def cluster_resource(path: str, created: datetime, health: Mapping[str, Any]) -> dict[str, Any]:
    """The one cluster that this node is: always one node, idle or running."""
    running = int(bool(health.get("running")))
    counts = {
        "idleNodeCount": 1 - running,
        "runningNodeCount": running,
        "preparingNodeCount": 0,
        "unusableNodeCount": 0,
        "leavingNodeCount": 0,
    }
    return {
        "id": path,
        "name": path.rpartition("/")[2],
        "type": f"{PROVIDER}/workspaces/clusters",
        "properties": {
            "vmSize": "local",
            "vmPriority": "dedicated",
            "scaleSettings": {"manual": {"targetNodeCount": 1}},
            "provisioningState": "succeeded",
            "creationTime": timestamp(created),
            "provisioningStateTransitionTime": timestamp(created),
            "allocationState": "steady",
            "allocationStateTransitionTime": timestamp(created),
            "currentNodeCount": 1,
            "nodeStateCounts": counts,
        },
    }


def file_resource(entry: FileEntry, download_url: str | None) -> dict[str, Any]:
    """One name of a job's output directory; a directory has neither a size nor a link."""
    modified = timestamp(entry.last_modified)
    if entry.is_directory:
        properties: dict[str, Any] = {"lastModified": modified}
        return {"name": entry.name, "fileType": "directory", "properties": properties}
    return {
        "name": entry.name,
        "fileType": "file",
        "downloadUrl": download_url,
        "properties": {"lastModified": modified, "contentLength": entry.size},
    }


def mount_resource(mount: MountStatus) -> dict[str, Any]:
    """One volume of /node/mounts."""
    return {
        "id": mount.id,
        "kind": mount.kind,
        "source": mount.source,
        "mountpoint": mount.mountpoint,
        "scope": mount.scope,
        "job": str(mount.job) if mount.job else None,
        "state": mount.state,
        "pid": mount.pid,
        "error": mount.error,
        "hint": mount.hint,
        "warnings": list(mount.warnings),
    }
