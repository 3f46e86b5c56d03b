"""The environment of a job, and the directories that it names. Pure.

Variables may refer to one another in any order; each is worked out when somebody needs it.
"""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.errors import Fault, ValidationFailed
from agent.jobs.expansion import ExpansionError, expand, references
from agent.jobs.layout import JobLayout, OutputPath, locate
from agent.schema import JobSpec
from agent.schema.faults import GUESSES

#: Folder of stdout and stderr below the segment (storage guide).
STDOUTERR = "stdouterr"

#: Bytes of one ``NAME=value`` that a process can be started with, its NUL included:
#: MAX_ARG_STRLEN of execve(2).
ENTRY_LIMIT = 131_072

_TOO_LONG = f"the value is longer than the {ENTRY_LIMIT} bytes that a variable may have"

#: Bytes of all variables of a job. execve(2) takes a quarter of the stack's limit, 2 MiB as a rule,
#: for them and the command together.
TOTAL_LIMIT = 1024 * 1024

#: Variables that a likely name is looked for among.
_CANDIDATES = 2_000


@dataclass(frozen=True, slots=True)
class JobEnvironment:
    """What a job finds around it.

    Attributes:
        variables: The whole environment, secrets included.
        stdouterr_directory: Where stdout.txt and stderr.txt go.
        output_directories: By id.
        input_directories: By id; may lie anywhere.
    """

    variables: dict[str, str] = field(repr=False)
    stdouterr_directory: OutputPath
    output_directories: dict[str, OutputPath]
    input_directories: dict[str, str]


def build_environment(
    spec: JobSpec,
    layout: JobLayout,
    *,
    cluster_mount_root: str,
    cluster_mount_paths: list[str] | None = None,
    base: Mapping[str, str],
    gpu_count: int,
) -> JobEnvironment:
    """Work everything out.

    Args:
        spec: The job.
        layout: Its directories.
        cluster_mount_root: ``$AZ_BATCHAI_MOUNT_ROOT``.
        cluster_mount_paths: Relative mount paths of the cluster's volumes; None when not known:
            then anything below the cluster's root counts as a volume.
        base: ``PATH``, ``HOME`` and the like.
        gpu_count: GPUs of the node.

    Raises:
        ValidationFailed: With every reference that leads nowhere and every directory that lies
            outside all volumes.
    """
    resolver = _Resolver(base, spec.holds_key)
    resolver.give("AZ_BATCHAI_MOUNT_ROOT", cluster_mount_root)
    resolver.give("AZ_BATCHAI_JOB_MOUNT_ROOT", layout.mounts)
    resolver.give("AZ_BATCHAI_JOB_TEMP", layout.temp)
    resolver.give("AZ_BATCHAI_JOB_TEMP_DIR", layout.temp)
    resolver.give("AZ_BATCHAI_JOB_WORK_DIR", layout.work)
    resolver.give("AZ_BATCHAI_NUM_GPUS", str(gpu_count))
    resolver.give("AZ_BATCHAI_TASK_INDEX", "0")
    segment = layout.id.segment
    stdouterr = f"AZ_BATCHAI_{STDOUTERR.upper()}_DIR"
    resolver.define(
        stdouterr, spec.std_out_err_path_prefix, "stdOutErrPathPrefix", f"{segment}/{STDOUTERR}"
    )
    for index, directory in enumerate(spec.input_directories):
        resolver.define(
            f"AZ_BATCHAI_INPUT_{directory.id}", directory.path, f"inputDirectories[{index}].path"
        )
    for index, output in enumerate(spec.output_directories):
        suffix = f"{segment}/{output.path_suffix}" if output.path_suffix else segment
        place = f"outputDirectories[{index}].pathPrefix"
        resolver.define(f"AZ_BATCHAI_OUTPUT_{output.id}", output.path_prefix, place, suffix)
    for index, variable in enumerate(spec.environment_variables):
        resolver.define(variable.name, variable.value, f"environmentVariables[{index}].value")
    for index, secret in enumerate(spec.secrets):
        # A password may hold a dollar sign: secrets are taken as they are.
        value = secret.value.get_secret_value() if secret.value else ""
        resolver.give(secret.name, value)
        if not _fits(secret.name, value):
            target = f"properties.secrets[{index}].value"
            resolver.faults.append(Fault("InvalidValue", _TOO_LONG, target))
    variables = resolver.everything()

    volumes = [posixpath.join(layout.mounts, p) for p in spec.mount_volumes.relative_mount_paths]
    if cluster_mount_paths is None:
        volumes.append(cluster_mount_root)
    else:
        volumes += [posixpath.join(cluster_mount_root, p) for p in cluster_mount_paths]
    placer = _Placer(resolver.faults, layout, volumes)
    logs = placer.place(variables.get(stdouterr), "stdOutErrPathPrefix")
    outputs = {
        output.id: placer.place(
            variables.get(f"AZ_BATCHAI_OUTPUT_{output.id}"),
            f"outputDirectories[{index}].pathPrefix",
        )
        for index, output in enumerate(spec.output_directories)
    }
    for index, output in enumerate(spec.output_directories):
        found = outputs[output.id]
        if logs is not None and found is not None and _within(found.path, logs.path):
            message = f"the folder {STDOUTERR!r} is where stdout.txt goes; choose another suffix"
            target = f"properties.outputDirectories[{index}].pathSuffix"
            resolver.faults.append(Fault("InvalidPath", message, target))
    if resolver.faults or logs is None:
        raise ValidationFailed(resolver.faults)
    return JobEnvironment(
        variables=variables,
        stdouterr_directory=logs,
        output_directories={name: path for name, path in outputs.items() if path is not None},
        input_directories={
            directory.id: variables[f"AZ_BATCHAI_INPUT_{directory.id}"]
            for directory in spec.input_directories
        },
    )


@dataclass(frozen=True, slots=True)
class _Definition:
    text: str
    place: str
    below: str | None


class _Resolver:
    """Values of variables, each worked out once, after those that it refers to.

    Without recursion: a chain of references is as long as a user makes it.
    """

    def __init__(self, base: Mapping[str, str], holds_key: Callable[[str], bool]) -> None:
        self.faults: list[Fault] = []
        self._base = base
        self._holds_key = holds_key
        self._values: dict[str, str] = {}
        self._definitions: dict[str, _Definition] = {}
        self._under_way: dict[str, Iterator[str]] = {}  # variable → what it refers to and is left
        self._broken: set[str] = set()
        self._guesses = GUESSES
        self._size = 0

    def give(self, name: str, value: str) -> None:
        """A variable with a value that is taken as it is."""
        self._values[name] = value
        self._count(name, value)

    def define(self, name: str, text: str, place: str, below: str | None = None) -> None:
        """A variable with references in it; a directory ``below`` may be added to it."""
        self._definitions[name] = _Definition(text, place, below)

    def everything(self) -> dict[str, str]:
        """All variables; what cannot be worked out is in ``faults``."""
        for name in self._definitions:
            self._resolve(name)
            if self._size > TOTAL_LIMIT:
                message = f"all variables together have more than {TOTAL_LIMIT} bytes"
                self.faults.append(
                    Fault("InvalidValue", message, "properties.environmentVariables")
                )
                break
        return {**self._base, **self._values}

    def _resolve(self, name: str) -> None:
        """Work out ``name``, and first what it refers to."""
        self._begin(name)
        while self._under_way and self._size <= TOTAL_LIMIT:
            current, left = next(reversed(self._under_way.items()))
            needed = next(left, None)
            if needed is None:
                self._settle(current)
                del self._under_way[current]
            else:
                self._begin(needed)

    def _begin(self, name: str) -> None:
        settled = name in self._values or name in self._broken or name in self._under_way
        if not settled and name in self._definitions:
            self._under_way[name] = iter(references(self._definitions[name].text))

    def _settle(self, name: str) -> None:
        definition = self._definitions[name]
        length = 0

        def lookup(other: str) -> str:
            # Counted on the way: variables that double one another would fill the memory.
            nonlocal length
            found = self._lookup(other, name)
            length += len(found)
            if length > ENTRY_LIMIT:
                raise ExpansionError("InvalidValue", _TOO_LONG)
            return found

        try:
            value = expand(definition.text, lookup)
            if definition.below is not None:
                value = posixpath.join(value, definition.below)
            if not _fits(name, value):
                raise ExpansionError("InvalidValue", _TOO_LONG)
        except ExpansionError as error:
            self._broken.add(name)
            message = error.message
            if self._holds_key(definition.text):
                # A part of the key would be quoted as a variable's name.
                message = "the account's key has no place here; give it in accountKey"
            self.faults.append(Fault(error.code, message, f"properties.{definition.place}"))
        else:
            self._values[name] = value
            self._count(name, value)

    def _count(self, name: str, value: str) -> None:
        self._size += _size(name, value)

    def _lookup(self, name: str, wanted_by: str) -> str:
        if name in self._values:
            return self._values[name]
        if name == wanted_by and name in self._base:
            return self._base[name]  # PATH=/opt/bin:$PATH
        if name in self._under_way:
            names = list(self._under_way)
            circle = [*names[names.index(name) :], name]
            shown = circle if len(circle) <= 10 else [*circle[:5], "…", *circle[-4:]]
            message = f"the variables refer in a circle: {' -> '.join(shown)}"
            raise ExpansionError("CircularReference", message)
        if name in self._broken:
            message = f"${name} cannot be worked out (see its own fault)"
            raise ExpansionError("UnknownVariable", message)
        if name in self._base:
            return self._base[name]
        raise ExpansionError("UnknownVariable", self._unknown(name))

    def _unknown(self, name: str) -> str:
        known = [*self._values, *self._base, *self._definitions][:_CANDIDATES]
        close = None
        if self._guesses:  # the search is slow
            self._guesses -= 1
            close = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.6)
        hint = f"; did you mean ${close[0]}?" if close else "; write $$ for a dollar sign"
        return f"${name[:80]} is not known here{hint}"


class _Placer:
    """Finds the volume that a directory lies in."""

    def __init__(self, faults: list[Fault], layout: JobLayout, volumes: list[str]) -> None:
        self._faults = faults
        self._layout = layout
        self._volumes = volumes

    def place(self, path: str | None, place: str) -> OutputPath | None:
        """Where ``path`` lies; a fault when that is no volume and not the job's own directory."""
        if path is None:
            return None  # has its fault already
        found = locate(path, [*self._volumes, self._layout.temp])
        if found is None:
            shown = ", ".join(sorted(self._volumes)) or "none is mounted"
            message = (
                "this directory is on no volume, so nothing in it would outlive the job; begin it "
                f"with $AZ_BATCHAI_JOB_MOUNT_ROOT/<relativeMountPath> (volumes: {shown})"
            )
            self._faults.append(Fault("InvalidPath", message, f"properties.{place}"))
        return found


def _size(name: str, value: str) -> int:
    """Bytes of ``NAME=value`` and its NUL."""
    return len(name) + len(value.encode("utf-8", "surrogateescape")) + 2


def _fits(name: str, value: str) -> bool:
    return _size(name, value) <= ENTRY_LIMIT


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")
