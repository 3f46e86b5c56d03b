"""What a job comes to on this node: volumes, environment, directories, commands. Pure."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.config import Config, JobUser
from agent.errors import BatchError, Fault, ValidationFailed
from agent.jobs.environment import STDOUTERR, build_environment
from agent.jobs.layout import JobId, JobLayout, OutputPath
from agent.jobs.service import JobKey
from agent.mounts.volumes import CLUSTER, Volume, volume_id
from agent.schema import (
    AzureBlobFileSystem,
    AzureFileShare,
    JobSpec,
    MountVolumes,
    parse_cluster,
    parse_job,
    redacted,
)

__all__ = ["STDOUTERR", "JobPlan", "Planner", "cluster_volumes"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PRIORITIES = {"low": -1, "normal": 0, "high": 1}


@dataclass(frozen=True, slots=True)
class JobPlan:
    """Everything that the steps of a job need to know."""

    layout: JobLayout
    properties: Mapping[str, Any]
    """As the API returns them: no secrets."""
    tool_type: str
    priority: int
    command: str
    preparation: str | None
    environment: Mapping[str, str] = field(repr=False)
    secret_names: tuple[str, ...]
    """Variables whose values are secret."""
    volumes: tuple[Volume, ...]
    """The job's own, in the order in which they are mounted."""
    cluster_mount_root: str
    cluster: tuple[Volume, ...]
    stdouterr: OutputPath
    outputs: Mapping[str, OutputPath]
    max_wall_clock_s: float

    def phases(self) -> list[dict[str, str]]:
        """The supervisor's commands, in order."""
        phases = []
        if self.preparation is not None:
            phases.append(
                {
                    "name": "job_prep",
                    "command": self.preparation,
                    "stdout": "stdout-job_prep.txt",
                    "stderr": "stderr-job_prep.txt",
                }
            )
        main = {"name": "job", "command": self.command}
        return [*phases, {**main, "stdout": "stdout.txt", "stderr": "stderr.txt"}]

    def stream_names(self) -> set[str]:
        """File names of the standard streams."""
        return {phase[stream] for phase in self.phases() for stream in ("stdout", "stderr")}

    def output(self, directory_id: str) -> OutputPath | None:
        """An output directory by its id; ``stdouterr`` is that of the standard streams."""
        return self.stdouterr if directory_id == STDOUTERR else self.outputs.get(directory_id)

    def volume_at(self, root: str) -> Volume | None:
        """The volume that is mounted at a path; None for a directory of the node's own."""
        volumes = (*self.volumes, *self.cluster)
        return next((volume for volume in volumes if volume.mountpoint == root), None)

    def texts(self) -> list[str]:
        """Wherever the job can name a path: to find which of the cluster's volumes it uses."""
        commands = [self.command, self.preparation or ""]
        for name in ("$AZ_BATCHAI_MOUNT_ROOT", "${AZ_BATCHAI_MOUNT_ROOT}"):
            commands = [text.replace(name, self.cluster_mount_root) for text in commands]
        return [*self.environment.values(), *commands]


class Planner:
    """Works plans out, as this node is configured."""

    def __init__(
        self,
        config: Config,
        user: JobUser,
        *,
        gpu_count: int,
        cluster: tuple[Volume, ...] = (),
    ) -> None:
        self.gpu_count = gpu_count
        self._config = config
        self._user = user
        self._cluster = cluster

    def plan(self, job: JobId, document: object) -> JobPlan:
        """The plan of a job.

        Raises:
            ValidationFailed: Every fault of the document.
            BatchError: A configured key cannot be read.
        """
        spec = parse_job(document, known_placeholders=placeholders(self._config))
        layout = JobLayout(job, os.fspath(self._config.node.jobs_root))
        faults: list[Fault] = []
        volumes: tuple[Volume, ...] = ()
        try:
            volumes = self._volumes(spec, layout)
        except ValidationFailed as failed:
            faults += failed.details
        root = os.fspath(self._config.node.mount_root)
        try:
            environment = build_environment(
                spec,
                layout,
                cluster_mount_root=root,
                cluster_mount_paths=[posixpath.relpath(v.mountpoint, root) for v in self._cluster],
                base=self._base(),
                gpu_count=self.gpu_count,
            )
        except ValidationFailed as failed:
            raise ValidationFailed([*faults, *failed.details]) from None
        if faults:
            raise ValidationFailed(faults)
        return JobPlan(
            layout=layout,
            properties=redacted(spec),
            tool_type=spec.tool_type,
            priority=_PRIORITIES[spec.scheduling_priority],
            command=spec.command_line(),
            preparation=spec.job_preparation.command_line if spec.job_preparation else None,
            environment=environment.variables,
            secret_names=tuple(secret.name for secret in spec.secrets),
            volumes=volumes,
            cluster_mount_root=root,
            cluster=self._cluster,
            stdouterr=environment.stdouterr_directory,
            outputs=environment.output_directories,
            max_wall_clock_s=float(spec.max_wall_clock_seconds),
        )

    def secret_values(self, document: object) -> list[str]:
        """The values of a valid document that must never be shown."""
        try:
            spec = parse_job(document, known_placeholders=placeholders(self._config))
        except BatchError:
            return []  # it was valid once; what its values were cannot be told
        return spec.secret_values()

    def _volumes(self, spec: JobSpec, layout: JobLayout) -> tuple[Volume, ...]:
        job = layout.id
        return resolve_volumes(
            spec.mount_volumes,
            self._config,
            self._user,
            root=layout.mounts,
            owner=job.uuid,
            job=JobKey(job.workspace, job.experiment, job.job),
        )

    def _base(self) -> dict[str, str]:
        user = self._user
        return {
            "PATH": _PATH,
            "HOME": user.home,
            "USER": user.name,
            "LOGNAME": user.name,
            "SHELL": os.fspath(self._config.jobs.shell),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
        }


def placeholders(config: Config) -> dict[str, str]:
    """What stands in job.json for the account that is configured as the default."""
    name = config.storage.default_account
    if name is None:
        return {}
    found = {"<AZURE_BATCHAI_STORAGE_ACCOUNT>": name}
    account = config.storage.account(name)
    key = account.read_key() if account else None
    if key is not None:
        found["<AZURE_BATCHAI_STORAGE_KEY>"] = key
    return found


def resolve_volumes(
    volumes: MountVolumes,
    config: Config,
    user: JobUser,
    *,
    root: str,
    owner: str,
    job: JobKey | None,
) -> tuple[Volume, ...]:
    """The drivers' instructions for all volumes of a job, or of the cluster.

    Raises:
        ValidationFailed: With every volume that nobody gave credentials for.
    """
    faults: list[Fault] = []
    found = []
    listings: list[tuple[str, Sequence[AzureFileShare | AzureBlobFileSystem]]] = [
        ("azureFileShares", volumes.azure_file_shares),
        ("azureBlobFileSystems", volumes.azure_blob_file_systems),
    ]
    for field_name, listed in listings:
        for index, volume in enumerate(listed):
            account = config.storage.account(volume.account)
            given = volume.credentials.account_key if volume.credentials else None
            key = given.get_secret_value() if given else account.read_key() if account else None
            if not key:
                faults.append(
                    Fault(
                        "MissingCredentials",
                        f"there is no key for the storage account {volume.account!r}: give "
                        "credentials.accountKey here, or configure the account on the node "
                        "([[storage.accounts]] in agent.toml)",
                        f"properties.mountVolumes.{field_name}[{index}].credentials",
                    )
                )
                continue
            mountpoint = posixpath.join(root, volume.relative_mount_path)
            document: dict[str, Any] = {
                "version": 1,
                "account": volume.account,
                "credential": {"accountKey": key},
                "mountpoint": mountpoint,
                "readOnly": False,
                "uid": user.uid,
                "gid": user.gid,
                "allowOther": os.geteuid() == 0,
            }
            if isinstance(volume, AzureFileShare):
                own = account.file_endpoint if account else None
                document |= {
                    "kind": "share",
                    "share": volume.share,
                    "endpoint": own or f"{volume.host}:{volume.port or 445}",
                    "fileMode": volume.file_mode,
                    "directoryMode": volume.directory_mode,
                    "mountOptions": None,
                }
                source = f"//{volume.account}/{volume.share}"
            else:
                own = account.blob_endpoint if account else None
                document |= {
                    "kind": "blob",
                    "container": volume.container_name,
                    "endpoint": own or f"https://{volume.account}.blob.core.windows.net",
                    "fileMode": "0777",
                    "directoryMode": "0777",
                    "mountOptions": volume.mount_options,
                }
                source = f"{volume.account}/{volume.container_name}"
            name = volume_id(owner, mountpoint, document)
            document |= {
                "id": name,
                "runDir": os.fspath(config.node.run_dir / "mounts" / name),
                "cacheDir": os.fspath(config.node.cache_dir),
            }
            kind = document["kind"]
            found.append(Volume(name, kind, source, mountpoint, owner, job, document))
    if faults:
        raise ValidationFailed(faults)
    return tuple(found)


def cluster_volumes(config: Config, user: JobUser) -> tuple[Volume, ...]:
    """The volumes of cluster.json.

    Raises:
        BatchError: The file cannot be read; ValidationFailed with every fault in it.
    """
    file = config.node.cluster_file
    if file is None:
        return ()
    try:
        document = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BatchError(
            "ClusterFileUnreadable",
            f"cannot read the cluster's volumes from {file}: {reason}",
            hint="check node.cluster_file in agent.toml",
            exit_code=2,
        ) from error
    volumes = parse_cluster(document, known_placeholders=placeholders(config))
    root = os.fspath(config.node.mount_root)
    return resolve_volumes(volumes, config, user, root=root, owner=CLUSTER, job=None)
