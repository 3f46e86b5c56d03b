"""A job's properties (Batch AI 2018-05-01, JobBaseProperties)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr, SecretStr
from pydantic.alias_generators import to_camel

from agent.schema import toolkits
from agent.schema.base import (
    Identifier,
    Model,
    NonEmpty,
    OptionalRelativePath,
    SecretText,
    Text,
    VariableName,
    quoted,
    refuse,
)
from agent.schema.mounts import MountVolumes

_ISO = re.compile(
    r"P(?:(?P<weeks>\d{1,6})W)?(?:(?P<days>\d{1,6})D)?"
    r"(?:T(?:(?P<hours>\d{1,8})H)?(?:(?P<minutes>\d{1,8})M)?(?:(?P<seconds>\d{1,9})(?:\.\d+)?S)?)?",
    re.ASCII,
)
_NET = re.compile(
    r"(?:(?P<days>\d{1,6})\.)?(?P<hours>\d{1,2}):(?P<minutes>\d{2}):(?P<seconds>\d{2})(?:\.\d+)?",
    re.ASCII,
)
_UNITS = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


def duration_seconds(value: str) -> int:
    """Seconds of an ISO 8601 duration (``P7D``, ``PT30M``) or of ``7.00:00:00``."""
    match = _ISO.fullmatch(value) or _NET.fullmatch(value)
    seconds = 0
    if match is not None:
        parts = match.groupdict(default="0")
        seconds = sum(_UNITS[name] * int(number) for name, number in parts.items())
    if seconds <= 0:
        refuse(
            "InvalidValue",
            f"{quoted(value)} is no duration; write it like P7D, PT30M or 7.00:00:00",
        )
    return seconds


def _duration(value: str) -> str:
    duration_seconds(value)
    return value


def _one_node(value: int) -> int:
    if value != 1:
        refuse("NotSupported", "this node runs jobs of one node; use nodeCount 1")
    return value


def _created(value: bool) -> bool:  # noqa: FBT001 -- pydantic calls it
    if not value:
        refuse("NotSupported", "this node always makes output directories; leave createNew out")
    return value


def _no_containers(_value: Any) -> NoReturn:
    refuse("NotSupported", "this node cannot run a job in a container; leave containerSettings out")


def _no_reference(_value: Any) -> NoReturn:
    refuse("NotSupported", "this node cannot read Key Vault; give value")


class ResourceId(Model):
    """A reference to another resource."""

    id: NonEmpty


class InputDirectory(Model):
    """Becomes ``AZ_BATCHAI_INPUT_<id>``."""

    id: Identifier
    path: NonEmpty


class OutputDirectory(Model):
    """Becomes ``AZ_BATCHAI_OUTPUT_<id>``; the directory is made before the job starts.

    ``type`` is of older API versions, and changes nothing.
    """

    id: Identifier
    path_prefix: NonEmpty
    path_suffix: OptionalRelativePath | None = None
    type: Text | None = None
    create_new: Annotated[bool, AfterValidator(_created)] | None = None


class EnvironmentVariable(Model):
    """A variable of the job's environment."""

    name: VariableName
    value: Text


class Secret(Model):
    """A variable whose value is never shown."""

    name: VariableName
    value: SecretText | None = None
    value_secret_reference: Annotated[dict[str, Any] | None, AfterValidator(_no_reference)] = None


class JobPreparation(Model):
    """A command to run before the job's own."""

    command_line: NonEmpty


class Constraints(Model):
    """Limits."""

    max_wall_clock_time: Annotated[str, AfterValidator(_duration)] = "P7D"


class JobSpec(Model):
    """What a user asks for; see the specification of ``JobBaseProperties`` for each field."""

    # ``pyTorchSettings`` and the like are camel case already.
    model_config = ConfigDict(alias_generator=to_camel)

    scheduling_priority: Literal["low", "normal", "high"] = "normal"
    cluster: ResourceId | None = None
    mount_volumes: MountVolumes = Field(default_factory=MountVolumes)
    node_count: Annotated[int, AfterValidator(_one_node)] = 1
    container_settings: Annotated[Any, AfterValidator(_no_containers)] = None
    custom_toolkit_settings: toolkits.CustomToolkit | None = None
    custom_mpi_settings: toolkits.CustomMpi | None = None
    cntk_settings: toolkits.Cntk | None = None
    py_torch_settings: toolkits.PyTorch | None = None
    tensor_flow_settings: toolkits.TensorFlow | None = None
    caffe_settings: toolkits.Caffe | None = None
    caffe2_settings: toolkits.PythonScript | None = Field(default=None, alias="caffe2Settings")
    chainer_settings: toolkits.PythonScript | None = None
    horovod_settings: toolkits.PythonScript | None = None
    job_preparation: JobPreparation | None = None
    std_out_err_path_prefix: NonEmpty
    input_directories: list[InputDirectory] = Field(default_factory=list)
    output_directories: list[OutputDirectory] = Field(default_factory=list)
    environment_variables: list[EnvironmentVariable] = Field(default_factory=list)
    secrets: list[Secret] = Field(default_factory=list)
    constraints: Constraints = Field(default_factory=Constraints)

    # The job before the account's key was put in place of its placeholder, and that key.
    _shown: JobSpec | None = PrivateAttr(default=None)
    _filled: tuple[SecretStr, ...] = PrivateAttr(default=())

    def filled(self, shown: JobSpec, keys: Iterable[str]) -> JobSpec:
        """This job, knowing what it looked like before ``keys`` were filled in."""
        self._shown = shown
        self._filled = tuple(SecretStr(key) for key in keys)
        return self

    @property
    def shown(self) -> JobSpec:
        """The job as it may be shown: with placeholders where a key was filled in."""
        return self._shown or self

    def holds_key(self, text: str) -> bool:
        """Whether a key that was filled in is in ``text``."""
        return any(key.get_secret_value() in text for key in self._filled)

    def _toolkit(self) -> tuple[str, toolkits.Toolkit]:
        for name, field in type(self).model_fields.items():
            settings = getattr(self, name)
            if field.alias in toolkits.TOOL_TYPES and settings is not None:
                return field.alias, settings
        raise AssertionError("parse_job refuses a job without a toolkit")

    @property
    def tool_type(self) -> str:
        """``custom``, ``pytorch``, ... as Batch AI reads it back."""
        return toolkits.TOOL_TYPES[self._toolkit()[0]]

    def command_line(self) -> str:
        """The job's command, for the shell."""
        return self._toolkit()[1].command()

    @property
    def max_wall_clock_seconds(self) -> int:
        """Seconds that the job may run."""
        return duration_seconds(self.constraints.max_wall_clock_time)

    def secret_values(self) -> list[str]:
        """Every value in the document that must never be shown."""
        found = [secret.value for secret in self.secrets]
        credentials = (volume.credentials for volume in self.mount_volumes.volumes)
        found.extend(given.account_key for given in credentials if given is not None)
        found.extend(self._filled)
        values = (value.get_secret_value() for value in found if value is not None)
        return [value for value in values if value]
