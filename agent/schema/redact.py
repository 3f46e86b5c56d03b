"""A job as the API gives it back: without a single secret value."""

from __future__ import annotations

from typing import Any

from agent.schema.job import JobSpec


def redacted(spec: JobSpec) -> dict[str, Any]:
    """The ARM ``properties`` of a job; ``credentials`` are empty and secrets have names only.

    Batch AI's own answers had ``"credentials": {}``.
    """
    spec = spec.shown
    document = spec.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"secrets": {"__all__": {"value"}}}
    )
    for volumes in document.get("mountVolumes", {}).values():
        for volume in volumes:
            volume["credentials"] = {}
    for share, given in zip(
        document["mountVolumes"]["azureFileShares"],
        spec.mount_volumes.azure_file_shares,
        strict=True,
    ):
        share["accountName"] = given.account
    return document
