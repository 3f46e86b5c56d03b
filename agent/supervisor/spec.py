"""The document on stdin: parsed and checked before anything is touched."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

VERSION = 1
_SOCKET_PATH_MAX = 107  # sun_path of unix(7) less its NUL
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_T = TypeVar("_T")


class SpecError(ValueError):
    """The document cannot be used. Never quotes a value: values may be secrets."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


@dataclass(frozen=True, slots=True)
class Phase:
    """One command of the job, run to its end before the next one starts."""

    name: str
    command: str
    """Shell text, given to `Spec.shell` with -c."""
    stdout: str
    """File name in the spool and in the log directory."""
    stderr: str


@dataclass(frozen=True, slots=True)
class User:
    """Whom the commands and the shipper run as."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """What one supervisor has to do."""

    job_id: str
    state_directory: str
    socket: str
    phases: tuple[Phase, ...]
    """The last is the job, those before it prepare it."""
    shell: str
    environment: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...]
    """Names of variables whose values are masked wherever the supervisor quotes output."""
    working_directory: str
    user: User | None
    log_directory: str
    max_wall_clock_seconds: float | None
    terminate_grace_seconds: float
    drain_timeout_seconds: float
    cgroup: str | None
    spool_quota_bytes: int | None
    """For all streams of the job together."""

    def secret_values(self) -> tuple[str, ...]:
        """What must not be quoted, the longest first (one may hold another)."""
        values = {self.environment.get(name, "") for name in self.secrets} - {""}
        return tuple(sorted(values, key=len, reverse=True))


class _Reader:
    """Takes fields out of one JSON object; what is left over is a fault."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise SpecError(path or "document", "must be a JSON object")
        self._rest = dict(value)
        self._path = path

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str, check: Callable[[object, str], _T]) -> _T:
        if name not in self._rest:
            raise SpecError(self._at(name), "is missing")
        return check(self._rest.pop(name), self._at(name))

    def optional(self, name: str, check: Callable[[object, str], _T]) -> _T | None:
        value = self._rest.pop(name, None)
        return None if value is None else check(value, self._at(name))

    def done(self) -> None:
        if self._rest:
            raise SpecError(self._at(min(self._rest)), "is not a field of this version")


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise SpecError(path, "must be a string")
    if "\0" in value:
        raise SpecError(path, "must not hold a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SpecError(path, "is not valid Unicode (a lone surrogate)") from None
    return value


def _absolute(value: object, path: str) -> str:
    text = _text(value, path)
    if not text.startswith("/"):
        raise SpecError(path, "must be an absolute path")
    return text


def _socket(value: object, path: str) -> str:
    text = _absolute(value, path)
    if len(text.encode()) > _SOCKET_PATH_MAX:
        raise SpecError(path, f"must not be longer than {_SOCKET_PATH_MAX} bytes")
    return text


def _file_name(value: object, path: str) -> str:
    text = _text(value, path)
    if not _FILE_NAME.fullmatch(text) or text in {".", ".."}:
        raise SpecError(path, "must be a plain file name")
    return text


def _seconds(value: object, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(path, "must be a number of seconds")
    if not math.isfinite(value) or value < 0:
        raise SpecError(path, "must be finite and not negative")
    return float(value)


def _whole(value: object, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SpecError(path, "must be a whole number, not negative")
    return value


def _list(value: object, path: str) -> list[object]:
    if not isinstance(value, list):
        raise SpecError(path, "must be a list")
    return value


def _environment(value: object, path: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise SpecError(path, "must be a JSON object")
    for name, text in value.items():
        if not name or "=" in name:
            raise SpecError(path, "holds a name that is empty or has '=' in it")
        _text(name, path)
        _text(text, f"{path}.{name}")
    return value


def _user(value: object, path: str) -> User:
    reader = _Reader(value, path)
    uid, gid = reader.take("uid", _whole), reader.take("gid", _whole)
    groups = reader.optional("groups", _list) or []
    reader.done()
    checked = (_whole(group, f"{path}.groups[{at}]") for at, group in enumerate(groups))
    return User(uid=uid, gid=gid, groups=tuple(checked))


def _phase(value: object, path: str) -> Phase:
    reader = _Reader(value, path)
    phase = Phase(
        name=reader.take("name", _text),
        command=reader.take("command", _text),
        stdout=reader.take("stdout", _file_name),
        stderr=reader.take("stderr", _file_name),
    )
    reader.done()
    return phase


def _phases(value: object, path: str) -> tuple[Phase, ...]:
    phases = tuple(_phase(item, f"{path}[{at}]") for at, item in enumerate(_list(value, path)))
    if not phases:
        raise SpecError(path, "must name at least one command")
    names = [name for phase in phases for name in (phase.stdout, phase.stderr)]
    if len(set(names)) != len(names):
        raise SpecError(path, "two streams have the same file name")
    return phases


def parse_spec(document: bytes) -> Spec:
    """Check the document of one job.

    Raises:
        SpecError: with the JSON path of the first fault.
    """
    try:
        value = json.loads(document)
    except (ValueError, RecursionError) as error:
        # the decoder's message tells the position and quotes nothing
        raise SpecError("document", f"is not JSON ({error})") from None
    reader = _Reader(value, "")
    if reader.take("version", _whole) != VERSION:
        raise SpecError("version", f"this supervisor speaks version {VERSION}")
    grace = reader.optional("terminateGraceSeconds", _seconds)
    drain = reader.optional("drainTimeoutSeconds", _seconds)
    secrets = reader.optional("secrets", _list) or []
    spec = Spec(
        job_id=reader.take("jobId", _text),
        state_directory=reader.take("stateDir", _absolute),
        socket=reader.take("socket", _socket),
        phases=reader.take("phases", _phases),
        shell=reader.optional("shell", _absolute) or "/bin/bash",
        environment=reader.take("environment", _environment),
        secrets=tuple(_text(name, f"secrets[{at}]") for at, name in enumerate(secrets)),
        working_directory=reader.take("workingDirectory", _absolute),
        user=reader.optional("user", _user),
        log_directory=reader.take("logDirectory", _absolute),
        max_wall_clock_seconds=reader.optional("maxWallClockSeconds", _seconds),
        terminate_grace_seconds=10.0 if grace is None else grace,
        drain_timeout_seconds=60.0 if drain is None else drain,
        cgroup=reader.optional("cgroup", _absolute),
        spool_quota_bytes=reader.optional("spoolQuotaBytes", _whole),
    )
    reader.done()
    return spec
