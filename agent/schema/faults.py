"""Faults in words: pydantic's findings, with JSON paths and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from agent.errors import Fault

_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "float_type": "a number",
    "string_unicode": "Unicode text, without lone surrogates",
}


#: Unknown names of one document that a likely one is looked for: the search is slow.
GUESSES = 20


def path(location: Sequence[int | str], prefix: str = "") -> str:
    """``("mountVolumes", "azureFileShares", 0)`` → ``mountVolumes.azureFileShares[0]``."""
    text = prefix
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # Names are a user's: of any length, and with lone surrogates that no answer can hold.
            name = part[:80].encode("utf-8", "backslashreplace").decode()
            text += f".{name}" if text else name
    return text


def translate(error: ValidationError, model: type[BaseModel], prefix: str) -> Iterator[Fault]:
    """Each of pydantic's findings as a fault; input values stay out, they may be keys."""
    guesses = GUESSES
    for item in error.errors(include_url=False, include_input=False, include_context=True):
        location = tuple(part for part in item["loc"])
        target = path(location, prefix)
        kind = item["type"]
        if kind == "extra_forbidden":
            name = str(location[-1])
            known = _field_names(model, location[:-1]) if guesses else []
            guesses = max(0, guesses - 1)
            yield Fault("UnknownField", _unknown(name, known), target)
        elif kind == "missing":
            yield Fault("MissingField", f"{location[-1]} is missing", target)
        elif kind in _TYPES:
            yield Fault("WrongType", f"this should be {_TYPES[kind]}", target)
        elif kind[:1].isupper():  # our own checks
            yield Fault(kind, item["msg"], target)
        elif kind in {"string_too_short", "too_short"}:
            yield Fault("InvalidValue", "this must not be empty", target)
        elif kind == "literal_error":
            yield Fault("InvalidValue", f"this should be {item['ctx']['expected']}", target)
        else:
            yield Fault("InvalidValue", item["msg"], target)


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.6)
    message = f"there is no field {name[:80]!r} here"
    return f"{message}; did you mean {close[0]!r}?" if close else message


def _field_names(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Fields of the object at ``location``, found along the models' annotations."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        fields = getattr(current, "model_fields", {})
        found = next((field for field in fields.values() if field.alias == part), None)
        current = _model_in(found.annotation) if found is not None else None
        if current is None:
            return []
    return [field.alias or "" for field in current.model_fields.values()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if m is not None), None)
