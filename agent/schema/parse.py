"""From a JSON document to a job, or to the list of everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agent.errors import Fault, ValidationFailed
from agent.schema.across import check_properties
from agent.schema.faults import path, translate
from agent.schema.job import JobSpec

#: Nesting of a document that is still read; Batch AI's own goes to 7.
DEPTH_LIMIT = 32

#: Strings, numbers, objects and arrays of a document together.
SIZE_LIMIT = 100_000

#: Faults of one document that are listed.
FAULT_LIMIT = 1_000

#: Keys beside ``properties`` in real files that say nothing to a node.
_IGNORED = {"$schema", "name", "type", "id", "location", "tags"}

_PLACEHOLDER = re.compile(r"<AZURE_BATCHAI_[A-Z_]+>")

_Model = TypeVar("_Model", bound=BaseModel)


def parse_job(document: object, *, known_placeholders: Mapping[str, str]) -> JobSpec:
    """Read a job, with ``properties`` as real files have it or bare as the guide's pieces are.

    Args:
        document: Decoded JSON.
        known_placeholders: ``<AZURE_BATCHAI_STORAGE_ACCOUNT>`` and the like → what stands for it.

    Raises:
        ValidationFailed: With every fault and its JSON path. Nothing else is raised, whatever the
            document is.
    """

    def parse(known: Mapping[str, str]) -> JobSpec:
        properties, prefix, faults = unwrap(document, known, code="InvalidJob", what="the job")
        faults += check_properties(properties, prefix)
        return validated(JobSpec, properties, prefix, faults, code="InvalidJob", what="the job")

    shown, spec = twice(parse, known_placeholders)
    if spec is shown:
        return spec
    return spec.filled(shown, (v for name, v in known_placeholders.items() if _is_secret(name)))


def twice(
    parse: Callable[[Mapping[str, str]], _Model], known: Mapping[str, str]
) -> tuple[_Model, _Model]:
    """What ``parse`` makes of a document without the keys among placeholders, and with them.

    A fault quotes what it is about, and a job is shown to whoever may list jobs. Neither may hold
    the node's key, wherever in the document somebody wrote its placeholder.

    Raises:
        ValidationFailed: Of the document as the user wrote it, or without any quotation.
    """
    shown = parse({name: name if _is_secret(name) else value for name, value in known.items()})
    if not any(_is_secret(name) for name in known):
        return shown, shown
    try:
        filled = parse(known)
    except ValidationFailed as failed:
        message = "this is not valid with the account's key in it; the key belongs in accountKey"
        faults = [Fault(fault.code, message, fault.target) for fault in failed.details]
        raise ValidationFailed(faults, code=failed.code) from None
    return shown, shown if filled == shown else filled


def _is_secret(placeholder: str) -> bool:
    return "KEY" in placeholder


def unwrap(
    document: object, known_placeholders: Mapping[str, str], *, code: str, what: str
) -> tuple[dict[str, Any], str, list[Fault]]:
    """The properties of a resource, where they were, and what is wrong around them.

    Raises:
        ValidationFailed: There is nothing in it to look at.
    """
    too_large = _excess(document)
    if too_large is not None:
        raise ValidationFailed([Fault("InvalidValue", too_large)], code=code, what=what)
    if not isinstance(document, dict):
        fault = Fault("WrongType", "this should be an object")
        raise ValidationFailed([fault], code=code, what=what)
    faults: list[Fault] = []
    replaced = _replace(document, known_placeholders, (), faults)
    if "properties" not in replaced:
        bare = {name: value for name, value in replaced.items() if name not in _IGNORED}
        return bare, "", faults
    for name in replaced:
        if name != "properties" and name not in _IGNORED:
            message = f"there is no field {name[:80]!r} here; does it belong under 'properties'?"
            faults.append(Fault("UnknownField", message, path((name,))))
    properties = replaced["properties"]
    if not isinstance(properties, dict):
        faults.append(Fault("WrongType", "this should be an object", "properties"))
        raise ValidationFailed(faults, code=code, what=what)
    return properties, "properties", faults


def validated(
    model: type[_Model],
    properties: dict[str, Any],
    prefix: str,
    faults: list[Fault],
    *,
    code: str,
    what: str,
) -> _Model:
    """The model of ``properties``, or everything that is wrong: ``faults`` and its own findings.

    Raises:
        ValidationFailed: There is any fault.
    """
    result = None
    try:
        result = model.model_validate(properties)
    except ValidationError as error:
        faults = [*translate(error, model, prefix), *faults]
    if len(faults) > FAULT_LIMIT:
        rest = f"{len(faults) - FAULT_LIMIT} more faults are not listed"
        faults = [*faults[:FAULT_LIMIT], Fault("TooManyFaults", rest)]
    if result is None or faults:
        raise ValidationFailed(faults, code=code, what=what)
    return result


def _replace(
    value: Any, known: Mapping[str, str], location: tuple[int | str, ...], faults: list[Fault]
) -> Any:
    """Fill placeholders in, and drop nulls: the SDKs write them for what is not given."""
    if isinstance(value, dict):
        return {
            str(name): _replace(item, known, (*location, str(name)), faults)
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_replace(item, known, (*location, i), faults) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name, replacement in known.items():
        value = value.replace(name, replacement)
    for left in sorted(set(_PLACEHOLDER.findall(value))):
        if left in known:
            continue  # a key, left for later
        option = left.strip("<>").lower().removeprefix("azure_batchai_").replace("_", "-")
        message = (
            f"nothing is known to put in place of {left}; give --{option}-name or configure it"
        )
        if "KEY" in left:
            message = f"nothing is known to put in place of {left}; give the account's key"
        faults.append(Fault("UnresolvedPlaceholder", message, path(location)))
    return value


def _excess(document: object) -> str | None:
    """Why a document is too large to look at; walks without recursion."""
    count = 0
    level: list[Any] = [document]
    for _depth in range(DEPTH_LIMIT):
        level = [child for value in level for child in _children(value)]
        count += len(level)
        if count > SIZE_LIMIT:
            return f"the document has more than {SIZE_LIMIT} values"
        if not level:
            return None
    return f"the document is nested more than {DEPTH_LIMIT} deep"


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
