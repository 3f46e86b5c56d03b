"""A job as the journal keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.jobs.layout import JobId
from agent.jobs.lifecycle import Progress, Step
from agent.jobs.service import Job, JobKey, ProvisioningState


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Everything about a job but its secrets."""

    id: JobId
    properties: Mapping[str, Any]
    """Redacted, as the API returns them."""
    tool_type: str
    priority: int
    """Greater goes first."""
    created: datetime
    provisioning: ProvisioningState
    progress: Progress
    revision: int
    """Of the last event; no two events of a node have the same."""

    @property
    def key(self) -> JobKey:
        """The job's name."""
        return JobKey(self.id.workspace, self.id.experiment, self.id.job)

    def job(self) -> Job:
        """What the API gets to see."""
        progress = self.progress
        return Job(
            id=self.id,
            properties=self.properties,
            tool_type=self.tool_type,
            execution_state=progress.execution_state,
            provisioning_state=self.provisioning,
            creation_time=self.created,
            execution_state_transition_time=progress.transition_time,
            start_time=progress.start_time,
            end_time=progress.end_time,
            exit_code=progress.exit_code,
            errors=progress.errors,
            step=progress.step.value,
            revision=self.revision,
        )


def admissible(records: Iterable[JobRecord], max_running: int) -> list[JobRecord]:
    """The jobs whose turn it is: by priority, then by age.

    A job holds its place from admission until it has ended, clean-up included.
    """
    live = [record for record in records if not record.progress.ended]
    waiting = [record for record in live if record.progress.step is Step.QUEUED]
    places = max_running - (len(live) - len(waiting))
    waiting = [record for record in waiting if record.provisioning != "deleting"]
    waiting.sort(key=lambda record: (-record.priority, record.created, record.id.uuid))
    return waiting[: max(places, 0)]
