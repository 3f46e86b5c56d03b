"""Checks across fields.

They work on the raw document, so that they also find what is wrong in one that has other faults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.errors import Fault
from agent.schema.base import PATH_LIMIT, quoted
from agent.schema.faults import path
from agent.schema.toolkits import TOOL_TYPES

#: Volume lists of ``mountVolumes``, in the order in which they are mounted.
_VOLUME_LISTS = ("azureFileShares", "azureBlobFileSystems", "fileServers", "unmanagedFileSystems")


def check_volumes(volumes: Any, prefix: str) -> Iterator[Fault]:
    """No two volumes on one path, none below another."""
    exact: dict[str, str] = {}
    above: dict[str, tuple[str, str]] = {}  # directory → a volume below it, and its place
    if not isinstance(volumes, dict):
        return
    for name in _VOLUME_LISTS:
        for index, volume in _objects(volumes.get(name)):
            relative = volume.get("relativeMountPath")
            if not isinstance(relative, str) or len(relative) > PATH_LIMIT:
                continue
            mount = relative.strip("/")
            if not mount:
                continue
            target = path((name, index, "relativeMountPath"), prefix)
            if mount in exact:
                message = f"{quoted(mount)} is the mount path of {exact[mount]} too"
                yield Fault("DuplicateMountPath", f"{message}; give each volume its own", target)
                continue
            parents = [mount[:end] for end, character in enumerate(mount) if character == "/"]
            around = next((parent for parent in parents if parent in exact), None)
            other = (around, exact[around]) if around is not None else above.get(mount)
            if other is not None:
                message = f"{quoted(mount)} and {quoted(other[0])} ({other[1]}) lie in one another"
                yield Fault("NestedMountPath", f"{message}; mount them side by side", target)
            exact[mount] = target
            for parent in parents:
                above.setdefault(parent, (mount, target))


def check_properties(properties: Mapping[str, Any], prefix: str) -> Iterator[Fault]:
    """Exactly one toolkit; names and ids that do not collide."""
    present = [name for name in TOOL_TYPES if properties.get(name) is not None]
    if not present:
        known = ", ".join(sorted(TOOL_TYPES))
        yield Fault("MissingField", f"no toolkit is given; give one of {known}", prefix or None)
    for extra in present[1:]:
        message = f"{present[0]} is given too; a job has exactly one toolkit"
        yield Fault("InvalidValue", message, path((extra,), prefix))
    for name in ("inputDirectories", "outputDirectories"):
        yield from _unique(properties, prefix, [name], "id", "id")
    yield from _unique(properties, prefix, ["environmentVariables", "secrets"], "name", "variable")
    for index, secret in _objects(properties.get("secrets")):
        if secret.get("value") is None and secret.get("valueSecretReference") is None:
            target = path(("secrets", index, "value"), prefix)
            yield Fault("MissingField", "value is missing", target)
    yield from check_volumes(properties.get("mountVolumes"), path(("mountVolumes",), prefix))


def _unique(
    properties: Mapping[str, Any], prefix: str, lists: list[str], key: str, what: str
) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for name in lists:
        for index, item in _objects(properties.get(name)):
            value = item.get(key)
            if not isinstance(value, str):
                continue
            target = path((name, index, key), prefix)
            if value in seen:
                message = f"the {what} {quoted(value)} is given twice, first at {seen[value]}"
                yield Fault("DuplicateName", message, target)
            seen.setdefault(value, target)


def _objects(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                yield index, item
