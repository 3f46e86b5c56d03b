"""The ``mountOptions`` of a job: what blobfuse users write, mapped to this driver's options.

What each option means is in :mod:`fuse.blob.blobfuse`. One that has no meaning here is accepted and
warned of; one that is not known is refused, with the name that was probably meant.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fuse.blob.blobfuse import KERNEL, LONG, SHORT, Option, Use
from fuse.errors import MountError
from fuse.options import MIB, MountOptions

T = TypeVar("T")

#: blobfuse's block, of which ``--block-cache-prefetch`` counts (MiB).
_BLOCK_MB = 16

#: Less memory than this would keep a reader from having two requests under way (bytes).
_LEAST_MEMORY = 16 * MIB

#: Seconds are believed for at most this long: a time-out must fit the kernel's field.
_LONGEST = 1e9

#: blobfuse's levels, and this driver's. Errors are logged whatever is asked for: they tell of data.
_LEVELS = {
    "LOG_OFF": "error",
    "LOG_CRIT": "error",
    "LOG_ERR": "error",
    "LOG_WARNING": "warning",
    "LOG_INFO": "info",
    "LOG_TRACE": "debug",
    "LOG_DEBUG": "debug",
}

_TRUE = {"true", "1", "yes", "t"}
_FALSE = {"false", "0", "no", "f"}


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a ``mountOptions`` string comes to.

    Attributes:
        options: The options of the mount with those of the string on top.
        subdirectory: The directory of the volume that is its root, "" for all of it.
        proxy: In place of the environment's; ``http://[user:password@]host[:port]``.
        log_level: ``debug``, ``info``, ``warning`` or ``error``; None: not asked for.
        flags: Flags of mount(2) for the kernel, as mount(8) writes them.
        without_meaning: The options that changed nothing, as written.
        warnings: What the person who wrote the string should know; a sentence each.
    """

    options: MountOptions
    subdirectory: str = ""
    proxy: str | None = field(default=None, repr=False)
    log_level: str | None = None
    flags: tuple[str, ...] = ()
    without_meaning: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def apply(
    text: str | None,
    options: MountOptions,
    *,
    container: str | None = None,
    endpoint: str | None = None,
) -> Mapped:
    """Apply a ``mountOptions`` string; of an option given twice the last one counts.

    Args:
        text: The string, quoted as a shell would have it.
        options: Of the mount so far.
        container: What is being mounted, to be compared with ``--container-name``.
        endpoint: Its address, to be compared with ``--use-https``.

    Raises:
        MountError: InvalidOption, naming the option and what would be right.
    """
    try:
        words = shlex.split(text or "")
    except ValueError as error:
        raise MountError("InvalidOption", f"mountOptions cannot be split: {error}") from None
    request = _Request(container, endpoint)
    position = 0
    while position < len(words):
        position += _take(words[position], words[position + 1 :], request)
    return request.on_top_of(options)


@dataclass(slots=True)
class _Request:
    """What has been asked for so far."""

    container: str | None
    endpoint: str | None
    freshness: dict[str, float] = field(default_factory=dict)
    changes: dict[str, int | bool] = field(default_factory=dict)
    flags: dict[str, None] = field(default_factory=dict)
    prefetch: int | None = None
    block_mb: int = _BLOCK_MB
    subdirectory: str = ""
    proxies: dict[Use, str] = field(default_factory=dict)
    log_level: str | None = None
    ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def plain_http(self) -> bool:
        return self.endpoint is not None and self.endpoint.startswith("http:")

    def warn(self, written: str, why: str) -> None:
        self.ignored.append(written)
        self.warnings.append(f"mount option {written} changes nothing: {why}")

    def on_top_of(self, options: MountOptions) -> Mapped:
        changes: dict[str, float | bool] = dict(self.changes)
        if options.read_only:
            changes.pop("read_only", None)  # -o rw does not open what is closed
        if self.freshness:
            # Whatever was named, nobody is to see things older than he asked for.
            changes["attribute_timeout"] = min(self.freshness.values())
        if self.prefetch is not None:
            budget = int(changes.get("memory_budget", options.memory_budget))
            changes["read_ahead_limit"] = min(self.prefetch * self.block_mb * MIB, budget // 2)
        return Mapped(
            replace(options, **changes),  # type: ignore[arg-type]
            self.subdirectory,
            self.proxies.get(Use.HTTP_PROXY if self.plain_http else Use.HTTPS_PROXY),
            self.log_level,
            tuple(self.flags),
            tuple(self.ignored),
            tuple(self.warnings),
        )


def _take(word: str, rest: list[str], request: _Request) -> int:
    """Apply the option that ``word`` begins; returns how many words it took."""
    if word in {"-o", "--o"}:
        if not rest:
            raise _fault("mountOptions end with -o and nothing after it")
        _kernel_list(rest[0], request)
        return 2
    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        if name == "o":
            _kernel_list(value, request)
            return 1
        option = _known(name, f"--{name}", LONG, "--")
        taken = 1
        if not equals and rest and _is_value(option, rest[0]):
            value, equals, taken = rest[0], "=", 2
        _apply(option, name, f"--{name}", value if equals else None, request)
        return taken
    if word.startswith("-o"):
        _kernel_list(word[2:].removeprefix("="), request)
        return 1
    if word.startswith("-") and len(word) > 1:
        for letter in word[1:]:
            option = _known(letter, f"-{letter}", SHORT, "-")
            _apply(option, letter, f"-{letter}", None, request)
        return 1
    raise _fault(f"'{word}' is no option", "options begin with - or --")


def _is_value(option: Option, word: str) -> bool:
    if option.value:
        return not word.startswith("--")
    return word.lower() in _TRUE | _FALSE


def _kernel_list(text: str, request: _Request) -> None:
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if name.startswith(("x-", "X-", "comment")):
            continue  # for mount(8), systemd and people
        spelt = name if name in KERNEL else name.replace("-", "_")
        option = _known(spelt, f"-o {name}", KERNEL, "-o ")
        _apply(option, spelt, f"-o {name}", value if equals else None, request)


def _known(name: str, written: str, table: Mapping[str, Option], prefix: str) -> Option:
    if name in table:
        return table[name]
    import difflib  # for a mistake only

    everything = {
        **{f"--{other}": other for other in LONG},
        **{f"-o {other}": other for other in KERNEL},
    }
    exact = [full for full, other in everything.items() if other.replace("-", "_") == _plain(name)]
    close = difflib.get_close_matches(name, table, n=1, cutoff=0.7)
    meant = exact[0] if exact else f"{prefix}{close[0]}" if close else None
    hint = f"did you mean {meant}?" if meant else "see docs/mount.md for those that are"
    raise _fault(f"'{written}' is not known", hint)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _apply(option: Option, name: str, written: str, value: str | None, request: _Request) -> None:
    if option.use is Use.NO_MEANING:
        request.warn(written, option.why)
    elif option.use is Use.REFUSED:
        if not option.value and value is not None and not _switch(written, value):
            return
        raise _fault(f"{written} cannot be had", option.why)
    elif option.value:
        if not value:
            raise _fault(f"{written} needs a value")
        _VALUED[option.use](written, name, value, request)
    else:
        on = value is None or _switch(written, value)
        _switched(option, name, written, on, request)


def _switched(option: Option, name: str, written: str, on: bool, request: _Request) -> None:  # noqa: FBT001
    use = option.use
    if use is Use.READ_ONLY:
        request.changes["read_only"] = on
    elif use is Use.WRITABLE:
        request.changes["read_only"] = not on
    elif use is Use.OTHERS:
        request.changes["allow_other"] = on
    elif use is Use.FLAG and on:
        request.flags[name] = None
    elif use is Use.DIRECT and on:
        request.freshness[name] = 0.0
        request.warnings.append(
            f"mount option {written}: the store is asked at every open; file data still pass "
            "through the kernel's page cache, which mmap needs"
        )
    elif use is Use.HTTPS:
        _check_https(written, on, request)
    elif on is (use is Use.NEVER):
        request.warn(written if on else f"{written}=false", option.why)


def _check_https(written: str, on: bool, request: _Request) -> None:  # noqa: FBT001
    if request.endpoint is not None and request.endpoint.startswith("https:") is not on:
        request.warn(
            written if on else f"{written}=false",
            f"the endpoint's address decides, and says {request.endpoint.partition(':')[0]}",
        )


# -- options with a value -------------------------------------------------------------------------


def _freshness(written: str, name: str, value: str, request: _Request) -> None:
    seconds = _converted(written, value, float, "a number of seconds")
    if not 0 <= seconds < _LONGEST:
        raise _fault(f"{written} is 0 or more seconds, not {value}")
    request.freshness[name] = seconds


def _masks(*targets: str) -> Callable[[str, str, str, _Request], None]:
    def apply_mask(written: str, name: str, value: str, request: _Request) -> None:
        del name
        mask = _converted(written, value, lambda text: int(text, 8), "an octal number")
        if not 0 <= mask <= 0o777:
            raise _fault(f"{written} is 000 to 777, not {value}")
        for target in targets:
            request.changes[target] = 0o777 & ~mask

    return apply_mask


def _owner(written: str, name: str, value: str, request: _Request) -> None:
    request.changes[name] = _count(written, value)


def _subdirectory(written: str, name: str, value: str, request: _Request) -> None:
    del name
    path = value.strip("/")
    if {"", ".", ".."} & set(path.split("/")):
        raise _fault(f"{written} is a path below the container's root, not {value}")
    request.subdirectory = path


def _container(written: str, name: str, value: str, request: _Request) -> None:
    del name
    if request.container is not None and value != request.container:
        raise _fault(
            f"{written}={value} is not the container that is being mounted, {request.container}",
            "leave the option out",
        )


def _proxy(use: Use) -> Callable[[str, str, str, _Request], None]:
    def take_proxy(written: str, name: str, value: str, request: _Request) -> None:
        del written, name
        request.proxies[use] = value.rstrip("/")  # checked where it is used

    return take_proxy


def _log_level(written: str, name: str, value: str, request: _Request) -> None:
    del name
    level = _LEVELS.get(value.upper())
    if level is None:
        raise _fault(f"{written} is one of {', '.join(_LEVELS)}, not {value}")
    request.log_level = level


def _memory(written: str, name: str, value: str, request: _Request) -> None:
    del name
    size = _megabytes(written, value)
    if 0 < size < _LEAST_MEMORY:
        request.warnings.append(f"mount option {written}={value}: {_LEAST_MEMORY // MIB} are taken")
    if size:  # 0 is blobfuse's "as you like"
        request.changes["memory_budget"] = max(size, _LEAST_MEMORY)


def _disk(written: str, name: str, value: str, request: _Request) -> None:
    del name
    size = _megabytes(written, value)
    if size:
        request.changes["disk_budget"] = size


def _prefetch(written: str, name: str, value: str, request: _Request) -> None:
    del name
    request.prefetch = _count(written, value)


def _block(written: str, name: str, value: str, request: _Request) -> None:
    del name
    request.block_mb = _megabytes(written, value) // MIB or 1


_VALUED: Mapping[Use, Callable[[str, str, str, _Request], None]] = {
    Use.FRESHNESS: _freshness,
    Use.MASK: _masks("file_mode", "directory_mode"),
    Use.FILE_MASK: _masks("file_mode"),
    Use.DIRECTORY_MASK: _masks("directory_mode"),
    Use.UID: _owner,
    Use.GID: _owner,
    Use.SUBDIRECTORY: _subdirectory,
    Use.CONTAINER: _container,
    Use.LOG_LEVEL: _log_level,
    Use.HTTP_PROXY: _proxy(Use.HTTP_PROXY),
    Use.HTTPS_PROXY: _proxy(Use.HTTPS_PROXY),
    Use.MEMORY_MB: _memory,
    Use.DISK_MB: _disk,
    Use.PREFETCH: _prefetch,
    Use.BLOCK_MB: _block,
}


def _switch(written: str, value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise _fault(f"{written} is true or false, not {value}")


def _count(written: str, value: str) -> int:
    number = _converted(written, value, int, "a number")
    if not 0 <= number < 1 << 32:
        raise _fault(f"{written} is 0 to {(1 << 32) - 1}, not {value}")
    return number


def _megabytes(written: str, value: str) -> int:
    number = _converted(written, value, float, "a number of MiB")
    if not 0 <= number < 1 << 32:
        raise _fault(f"{written} is a number of MiB, not {value}")
    return int(number * MIB)


def _converted(written: str, text: str, convert: Callable[[str], T], kind: str) -> T:
    try:
        return convert(text)
    except ValueError:
        raise _fault(f"{written}={text} is not {kind}") from None


def _fault(message: str, hint: str | None = None) -> MountError:
    return MountError("InvalidOption", f"mountOptions: {message}", hint)
