"""Toolkit settings, and the command line that each stands for on one node.

Paths and arguments go into the command as the user wrote them: the shell expands the variables in
them, as it does in a command line of the user's own.
"""

from __future__ import annotations

from typing import Annotated, Protocol, Self

from pydantic import AfterValidator, Field, model_validator

from agent.schema.base import Model, NonEmpty, Text, refuse

DEFAULT_INTERPRETER = "python"


def _one_process(value: int) -> int:
    if value != 1:
        refuse(
            "NotSupported",
            "this node starts one process for a job; start more from the command, such as "
            "with mpirun or torchrun",
        )
    return value


OneProcess = Annotated[int, AfterValidator(_one_process)]


class Toolkit(Protocol):
    """What every toolkit's settings can say."""

    def command(self) -> str:
        """The command line, for the shell."""
        ...


class CustomToolkit(Model):
    """A command line of the user's own."""

    command_line: NonEmpty

    def command(self) -> str:
        """As it is."""
        return self.command_line


class CustomMpi(Model):
    """A command that an MPI runtime would start on every node: here on one, once."""

    command_line: NonEmpty
    process_count: OneProcess | None = None

    def command(self) -> str:
        """As it is: an MPI program started alone is a world of one."""
        return self.command_line


class PythonScript(Model):
    """Chainer, Horovod, Caffe2: an interpreter, a script, arguments."""

    python_script_file_path: NonEmpty
    python_interpreter_path: NonEmpty | None = None
    command_line_args: Text | None = None
    process_count: OneProcess | None = None

    def command(self) -> str:
        """``interpreter script arguments``."""
        return _join(
            self.python_interpreter_path or DEFAULT_INTERPRETER,
            self.python_script_file_path,
            self.command_line_args,
        )


class PyTorch(PythonScript):
    """PyTorch; the back end matters between nodes only."""

    communication_backend: Text | None = None


class TensorFlow(Model):
    """TensorFlow with a master alone; workers and parameter servers need more nodes than this."""

    python_script_file_path: NonEmpty
    python_interpreter_path: NonEmpty | None = None
    master_command_line_args: Text | None = None
    worker_command_line_args: Text | None = None
    parameter_server_command_line_args: Text | None = None
    worker_count: int | None = Field(default=None, ge=0)
    parameter_server_count: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _single(self) -> TensorFlow:
        if (self.worker_count or 0) > 1 or self.parameter_server_count:
            refuse("NotSupported", "this node runs a TensorFlow master alone, without workers")
        return self

    def command(self) -> str:
        """``interpreter script arguments`` of the master."""
        return _join(
            self.python_interpreter_path or DEFAULT_INTERPRETER,
            self.python_script_file_path,
            self.master_command_line_args,
        )


class ScriptOrConfiguration(Model):
    """What CNTK and Caffe have in common: a Python script, or a configuration of their own."""

    config_file_path: NonEmpty | None = None
    python_script_file_path: NonEmpty | None = None
    python_interpreter_path: NonEmpty | None = None
    command_line_args: Text | None = None
    process_count: OneProcess | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.config_file_path is None) == (self.python_script_file_path is None):
            refuse("InvalidValue", "give configFilePath or pythonScriptFilePath, one of the two")
        return self

    def command(self) -> str:
        """``python script``, or the toolkit's own program with its configuration."""
        if self.python_script_file_path is None:
            return _join(f"{self._program()}{self.config_file_path}", self.command_line_args)
        interpreter = self.python_interpreter_path or DEFAULT_INTERPRETER
        return _join(interpreter, self.python_script_file_path, self.command_line_args)

    def _program(self) -> str:
        """What stands before the path of the configuration."""
        raise NotImplementedError


class Cntk(ScriptOrConfiguration):
    """CNTK: a Python script, or a BrainScript configuration."""

    language_type: Text | None = None

    def _program(self) -> str:
        return "cntk configFile="


class Caffe(ScriptOrConfiguration):
    """Caffe: a Python script, or a solver's configuration."""

    def _program(self) -> str:
        return "caffe train --solver="


#: Field of the job → ``toolType`` that Batch AI reads back.
TOOL_TYPES = {
    "customToolkitSettings": "custom",
    "customMpiSettings": "mpi",
    "cntkSettings": "cntk",
    "pyTorchSettings": "pytorch",
    "tensorFlowSettings": "tensorflow",
    "caffeSettings": "caffe",
    "caffe2Settings": "caffe2",
    "chainerSettings": "chainer",
    "horovodSettings": "horovod",
}


def _join(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)
