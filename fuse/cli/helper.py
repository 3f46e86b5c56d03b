"""``batchai-blob`` and ``batchai-share``: what mount(8) and mount.fuse3(8) call.

mount(8) runs ``/sbin/mount.fuse.batchai-blob SOURCE DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]``
where that exists, otherwise mount.fuse3, which runs ``batchai-blob SOURCE DIR [-o OPTIONS]`` from
PATH. Options are those of fstab(5), of blobfuse, and of ``batchai-mount blob`` with dashes left
away: ``credentials=FILE``, ``auth=managed``, ``cache_dir=DIR``.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from fuse import process
from fuse.cli import credentials, directories, document, launch, target
from fuse.cli.errors import report, usage, warn
from fuse.errors import MountError

# Exit codes of mount(8).
USAGE, SYSTEM, INTERNAL, FAILURE = 1, 2, 4, 32

#: Options with values of this helper's own; whatever else is the driver's or the kernel's.
_OWN = {
    "credentials": "file",
    "credential": "file",
    "credential_file": "file",
    "cred": "file",
    "auth": "auth",
    "client_id": "clientId",
    "tenant_id": "tenantId",
    "certificate": "certificatePath",
    "cache_dir": "cache_dir",
    "log_file": "log_file",
    "endpoint": "endpoint",
    "cloud": "cloud",
    "ca_bundle": "ca_bundle",
    "proxy": "proxy",
    "subdirectory": "subdirectory",
    "file_mode": "file_mode",
    "dir_mode": "directory_mode",
    "timeout": "timeout",
    "flush_timeout": "flush_timeout",
}

#: Options that would put a secret where everybody can read it.
_SECRETS = {"password", "pass", "key", "account_key", "accountkey", "sas", "sas_token"}

#: Options of fstab that stand for owners by name; a number is the driver's own option.
_NAMED = {"user_id": "uid", "group_id": "gid"}


@dataclass(frozen=True, slots=True)
class Call:
    """What mount(8) wants.

    Attributes:
        source: The first field of the line in fstab.
        directory: The second.
        own: Values of this helper's own options, by the names in _OWN.
        passed: What the driver is to make of the others: ``ro``, ``umask=027``, ...
        fake: Do everything but mount (``-f``).
        sloppy: Leave out options that are not known (``-s``).
        verbose: Say what is done (``-v``).
    """

    source: str
    directory: str
    own: dict[str, str] = field(default_factory=dict)
    passed: tuple[str, ...] = ()
    fake: bool = False
    sloppy: bool = False
    verbose: bool = False


def parse(arguments: Sequence[str]) -> Call:
    """Read the arguments in mount(8)'s order, or with options first.

    Raises:
        MountError: InvalidOption.
    """
    places: list[str] = []
    items: list[str] = []
    call = Call("", "")
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in {"-o", "-t", "-N"}:
            if not rest:
                raise usage(f"{word} needs a value")
            value = rest.pop(0)
            if word == "-o":
                items += split(value)
        elif word.startswith("-o"):
            items += split(word[2:])
        elif word.startswith("-") and len(word) > 1:
            for letter in word[1:]:
                call = _switched(call, letter)
        else:
            places.append(word)
    if len(places) != 2:
        raise usage("a source and a directory are wanted", "batchai-blob ACCOUNT/CONTAINER DIR")
    own, passed = _sorted(items)
    return replace(call, source=places[0], directory=places[1], own=own, passed=passed)


def split(text: str) -> list[str]:
    r"""The options of a comma-separated list; ``\,`` and ``"a,b"`` are no separators.

    (fstab writes a comma in a value so: libmount's rules, mount(8).)
    """
    items, current, quoted, escaped = [], "", False, False
    for character in text:
        if escaped:
            current, escaped = current + character, False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            items.append(current)
            current = ""
        else:
            current += character
    return [item for item in (*items, current) if item]


def _switched(call: Call, letter: str) -> Call:
    match letter:
        case "f":
            return replace(call, fake=True)
        case "s":
            return replace(call, sloppy=True)
        case "v":
            return replace(call, verbose=True)
        case "n" | "i" | "r" | "w":
            return call
    raise usage(f"-{letter} is not known")


def _sorted(items: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    own: dict[str, str] = {}
    passed: list[str] = []
    for item in items:
        name, equals, value = item.partition("=")
        plain = name.lower().replace("-", "_")
        if plain in _SECRETS:
            raise usage(
                f"the option {name} would show a secret to everybody",
                "put it into a file of mode 0600, and name that: credentials=FILE",
            )
        if plain in _OWN:
            if not value:
                raise usage(f"the option {name} needs a value")
            own[_OWN[plain]] = value
        elif name in {"uid", "gid"} and equals and not value.isdecimal():
            passed.append(f"{name}={_number(name, value)}")
        elif name != "setuid" and name not in _NAMED:
            passed.append(item)
    return own, tuple(passed)


def _number(name: str, value: str) -> int:
    try:
        return pwd.getpwnam(value).pw_uid if name == "uid" else grp.getgrnam(value).gr_gid
    except KeyError:
        raise usage(f"{name}={value}: there is no such account") from None


def blob() -> NoReturn:
    """Entry point of ``batchai-blob``."""
    main("blob", sys.argv[1:])


def share() -> NoReturn:
    """Entry point of ``batchai-share``."""
    main("share", sys.argv[1:])


def main(kind: target.Kind, arguments: Sequence[str]) -> NoReturn:
    """Mount, and exit with mount(8)'s codes."""
    process.prepare()
    try:
        mount(kind, parse(arguments))
    except MountError as error:
        report(error)
        sys.exit(USAGE if error.code == "InvalidOption" else FAILURE)
    except KeyboardInterrupt:
        sys.exit(8)
    except Exception as error:
        if os.environ.get("BATCHAI_DEBUG"):
            raise
        report(MountError("InternalError", f"{type(error).__name__}: {error}", "BATCHAI_DEBUG=1"))
        sys.exit(INTERNAL)
    process.end(0)


def mount(kind: target.Kind, call: Call) -> None:
    """Bring up what a call asks for.

    Raises:
        MountError: It cannot be done, and nothing is left behind.
    """
    own = call.own
    wanted = target.parse(kind, call.source)
    mountpoint = directories.resolved(Path(call.directory))
    found = credentials.find(
        wanted.account,
        auth=own.get("auth"),
        file=Path(own["file"]) if "file" in own else None,
        from_stdin=False,
        identity={name: own.get(name) for name in ("clientId", "tenantId", "certificatePath")},
    )
    if own.get("cloud") not in {None, *target.CLOUDS}:
        raise usage(f"cloud={own['cloud']} is none of {', '.join(target.CLOUDS)}")
    if "subdirectory" in own:
        wanted = replace(wanted, subdirectory=own["subdirectory"].strip("/"))
    options = document.Options(
        cache_directory=Path(own["cache_dir"]) if "cache_dir" in own else None,
        file_mode=own.get("file_mode", "0644"),
        directory_mode=own.get("directory_mode", "0755"),
        flush_timeout=_seconds(own, "flush_timeout"),
        cloud=own.get("cloud"),
        endpoint=own.get("endpoint"),
        mount_options=_joined(call),
        extra={
            name: own[key]
            for key, name in (("ca_bundle", "caBundle"), ("proxy", "proxy"))
            if key in own
        },
    )
    if call.fake:
        return
    instructions = document.make(wanted, mountpoint, found, options)
    log = Path(own["log_file"]) if "log_file" in own else directories.log_file(instructions["id"])
    timeout = _seconds(own, "timeout")
    answer = launch.start(instructions, log, timeout=60.0 if timeout is None else timeout)
    for warning in answer.get("warnings", []) if call.verbose else ():
        warn(warning)


def _joined(call: Call) -> str:
    """The options that the driver is to understand, each by itself so that commas stay."""
    from fuse.blob.blobfuse import KERNEL, LONG

    parts = []
    for item in call.passed:
        name, _, value = item.partition("=")
        dashed = name.replace("_", "-")
        if name in KERNEL or name.startswith(("x-", "X-", "comment")):
            parts.append(f"-o {shlex.quote(item)}")
        elif dashed in LONG:
            parts.append(f"--{dashed}={shlex.quote(value)}" if value else f"--{dashed}")
        elif not call.sloppy:
            parts.append(f"-o {shlex.quote(item)}")  # refused there, by name
    return " ".join(parts)


def _seconds(own: dict[str, str], name: str) -> float | None:
    if name not in own:
        return None
    try:
        value = float(own[name])
    except ValueError:
        value = -1
    if not 0 <= value < 1e6:
        raise usage(f"{name}={own[name]} is no number of seconds")
    return value
