"""What all models share, and the checks of single values.

A check raises :class:`pydantic_core.PydanticCustomError` with our fault code as its type, so that
pydantic lists it beside its own findings.
"""

from __future__ import annotations

import re
from typing import Annotated, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

#: A name that a shell and the environment can hold (POSIX.1-2017, 8.1).
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: Names that only the agent sets.
RESERVED_PREFIX = "AZ_BATCHAI_"

#: Characters of a relative path.
PATH_LIMIT = 1024

_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER = re.compile(r"\$root|\$web|\$logs|(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_SHARE = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_MODE = re.compile(r"0?[0-7]{3}")


def refuse(code: str, message: str) -> NoReturn:
    """Report a fault of the value at hand; braces in ``message`` are text."""
    raise PydanticCustomError(code, "{words}", {"words": message})  # type: ignore[arg-type,unused-ignore]


def quoted(value: str) -> str:
    """A user's text in a message: escaped, and cut where it would bury the message."""
    return repr(value) if len(value) <= 120 else f"{value[:120]!r}…"


class Model(BaseModel):
    """Camel-case JSON, no unknown fields, no silent conversions, no changes afterwards."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=False,
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
    )


def relative_path(value: str) -> str:
    """Check a path below a root that it must not leave; returns it without a trailing slash."""
    if not value.strip("/") and not value.startswith("/"):
        refuse("InvalidPath", "the path is empty; give a name such as 'data'")
    if value.startswith("/"):
        refuse(
            "InvalidPath", f"{quoted(value)} is absolute; give a path relative to the mount root"
        )
    if "\0" in value or any(ord(character) < 32 for character in value):
        refuse("InvalidPath", "the path holds a control character")
    parts = value.rstrip("/").split("/")
    if ".." in parts:
        refuse("InvalidPath", f"{quoted(value)} leads out of the mount root; leave '..' out")
    if "." in parts or "" in parts:
        refuse("InvalidPath", f"{quoted(value)} has an empty or '.' component; write it plainly")
    if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts):
        refuse("InvalidPath", "a component of the path is longer than 255 bytes")
    if len(value) > PATH_LIMIT:
        refuse("InvalidPath", f"the path is longer than {PATH_LIMIT} characters")
    _no_surrogates(value, "InvalidPath")
    return "/".join(parts)


def optional_relative_path(value: str) -> str:
    """The same where nothing is allowed too."""
    return relative_path(value) if value else value


def identifier(value: str) -> str:
    """Check the id of a directory: it becomes part of an environment variable's name."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", value):
        refuse(
            "InvalidName",
            f"{quoted(value)} cannot be part of a variable's name; use letters, digits and _",
        )
    return value


def variable_name(value: str) -> str:
    """Check the name of a variable that the user sets."""
    if not ENVIRONMENT_NAME.fullmatch(value):
        refuse(
            "InvalidName",
            f"{quoted(value)} is no environment variable's name; use letters, digits and _, "
            "not beginning with a digit",
        )
    if value.startswith(RESERVED_PREFIX):
        refuse(
            "InvalidName", f"{quoted(value)} is reserved: {RESERVED_PREFIX}* is set by the agent"
        )
    return value


def text(value: str) -> str:
    """Check text that goes into the environment or a command line."""
    if "\0" in value:
        refuse("InvalidValue", "the text holds a NUL character")
    _no_surrogates(value, "InvalidValue")
    return value


def secret_text(value: SecretStr) -> SecretStr:
    """The same of text that no message may show."""
    text(value.get_secret_value())
    return value


def account_name(value: str) -> str:
    """Check a storage account's name (3 to 24 lower-case letters and digits)."""
    if not _ACCOUNT.fullmatch(value):
        refuse(
            "InvalidName",
            f"{quoted(value)} is no storage account's name: 3 to 24 lower-case letters and digits",
        )
    return value


def container_name(value: str) -> str:
    """Check a container's name ("Naming and referencing containers, blobs, and metadata")."""
    if not _CONTAINER.fullmatch(value):
        refuse(
            "InvalidName",
            f"{quoted(value)} is no container's name: 3 to 63 lower-case letters, digits and "
            "single '-'",
        )
    return value


def is_share_name(value: str) -> bool:
    """Whether a share can have this name ("Naming and referencing shares, ...")."""
    return bool(_SHARE.fullmatch(value))


def octal_mode(value: str) -> str:
    """Check permission bits such as 0777."""
    if not _MODE.fullmatch(value):
        refuse("InvalidValue", f"{quoted(value)} is no octal mode; write it like 0777")
    return value


def _no_surrogates(value: str, code: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(code, "the text holds a lone surrogate, which is no Unicode text")


NonEmpty = Annotated[str, Field(min_length=1), AfterValidator(text)]
Text = Annotated[str, AfterValidator(text)]
SecretText = Annotated[SecretStr, AfterValidator(secret_text)]
RelativePath = Annotated[str, AfterValidator(relative_path)]
OptionalRelativePath = Annotated[str, AfterValidator(optional_relative_path)]
Identifier = Annotated[str, AfterValidator(identifier)]
VariableName = Annotated[str, AfterValidator(variable_name)]
AccountName = Annotated[str, AfterValidator(account_name)]
ContainerName = Annotated[str, AfterValidator(container_name)]
OctalMode = Annotated[str, AfterValidator(octal_mode)]
