"""What is to be mounted where: the instructions of one driver."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.jobs.service import JobError, JobKey

Kind = Literal["blob", "share"]

CLUSTER = "cluster"
"""The owner of volumes that belong to no job."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume, ready to be mounted."""

    id: str
    """12 hexadecimal digits, the same every time for the same volume of the same owner."""
    kind: Kind
    source: str
    """In words for people: ``account/container``, ``//account/share``."""
    mountpoint: str
    owner: str
    """Uuid of the job, or ``cluster``."""
    job: JobKey | None
    document: Mapping[str, Any] = field(repr=False)
    """The driver's instructions, which hold the credential."""


def volume_id(owner: str, mountpoint: str, document: Mapping[str, Any]) -> str:
    """The name of a volume: of what is mounted and how, whatever its credential is."""
    public = {k: v for k, v in document.items() if k != "credential"}
    text = json.dumps([owner, mountpoint, public], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class MountFailure(Exception):  # noqa: N818 (reads as what it is)
    """A volume did not come up, or did not go down as it should.

    Attributes:
        kind: Of the volume.
        source: The volume, in words.
        code: The driver's word for it.
        message: The cause in words.
        hint: What to do.
        log: The last lines of the driver's log.
    """

    def __init__(
        self,
        kind: Kind,
        source: str,
        code: str,
        message: str,
        hint: str | None = None,
        log: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.source = source
        self.code = code
        self.message = message
        self.hint = hint
        self.log = log

    def job_error(self) -> JobError:
        """As Batch AI named it, but with the cause."""
        code, what = {
            "share": ("AZFMountError", "Unable to mount Azure File share"),
            "blob": ("BFSMountError", "Unable to mount Azure Blob container"),
        }[self.kind]
        return JobError(code, f"{what} {self.source}: {self.message}", self._details())

    def unmount_error(self) -> JobError:
        """When its data did not all reach the store."""
        message = f"Not all that the job wrote to {self.source} is stored there: {self.message}"
        return JobError("OutputNotCommitted", message, self._details())

    def _details(self) -> tuple[tuple[str, str], ...]:
        details = [("Info", self.message), ("Code", self.code), ("Volume", self.source)]
        if self.hint:
            details.append(("Hint", self.hint))
        if self.log:
            details.append(("Log", self.log))
        return tuple(details)
