"""The ``mountOptions`` of a job: what blobfuse users write, mapped to this driver's options.

Names are those of blobfuse v1's and v2's command lines. An option that has no meaning here (this
driver sizes its caches itself) is accepted and reported; one that neither knows is refused.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fuse.errors import MountError
from fuse.options import MountOptions

#: Options of blobfuse that change nothing here.
_WITHOUT_MEANING = {
    "use-https",
    "use-attr-cache",
    "file-cache-timeout-in-seconds",
    "tmp-path",
    "cache-size-mb",
    "log-level",
    "max-concurrency",
    "cache-on-list",
    "cache-poll-timeout-msec",
    "max-eviction",
    "high-disk-threshold",
    "low-disk-threshold",
    "upload-modified-only",
    "cancel-list-on-mount-seconds",
    "basic-remount-check",
    "background-download",
    "pre-mount-validate",
    "invalidate-on-sync",
    "streaming",
    "block-cache",
    "block-cache-block-size",
    "block-cache-pool-size",
    "block-cache-prefetch",
    "block-cache-parallelism",
    "block-cache-path",
    "block-cache-disk-size",
    "virtual-directory",
    "ignore-open-flags",
    "disable-writeback-cache",
    "lazy-write",
    "wait-for-mount",
    "log-type",
    "log-file-path",
    "foreground",
    "file-cache-timeout",
    "attr-cache-timeout",
    "empty-dir-check",
}

_KERNEL_WITHOUT_MEANING = {
    "allow_other",
    "allow_root",
    "big_writes",
    "max_read",
    "max_write",
    "fsname",
    "kernel_cache",
    "auto_cache",
    "nonempty",
    "negative_timeout",
    "default_permissions",
    "rw",
    "direct_io",
}


@dataclass(frozen=True, slots=True)
class Mapped:
    """Options after mapping, and the names of those that changed nothing."""

    options: MountOptions
    without_meaning: tuple[str, ...]


def apply(text: str | None, options: MountOptions) -> Mapped:
    """Apply a ``mountOptions`` string.

    Raises:
        MountError: InvalidOption, naming the option and what would be right.
    """
    try:
        words = shlex.split(text or "")
    except ValueError as error:
        raise MountError("InvalidOption", f"mountOptions cannot be split: {error}") from None
    ignored: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "-o":
            if position == len(words):
                raise MountError("InvalidOption", "mountOptions end with -o and nothing after it")
            word, position = f"-o{words[position]}", position + 1
        if word.startswith("-o"):
            for item in filter(None, word[2:].split(",")):
                options = _kernel_option(item, options, ignored)
            continue
        if not word.startswith("--"):
            raise MountError(
                "InvalidOption",
                f"mountOptions: '{word}' is no option",
                "options begin with - or --",
            )
        name, equals, value = word[2:].partition("=")
        if not equals and position < len(words) and not words[position].startswith("-"):
            value, position = words[position], position + 1
        options = _long_option(name, value, options, ignored)
    return Mapped(options, tuple(ignored))


def _kernel_option(item: str, options: MountOptions, ignored: list[str]) -> MountOptions:
    name, _, value = item.partition("=")
    if name == "ro":
        return replace(options, read_only=True)
    if name in {"attr_timeout", "entry_timeout"}:
        seconds = _value(name, value, float, "a number of seconds")
        if not 0 <= seconds < 1e9:
            raise MountError("InvalidOption", f"mountOptions: {name} must not be negative")
        return replace(options, attribute_timeout=seconds)
    if name == "umask":
        mask = _value(name, value, lambda text: int(text, 8), "an octal number")
        if not 0 <= mask <= 0o777:
            raise MountError("InvalidOption", "mountOptions: umask is 000 to 777")
        return replace(options, file_mode=0o777 & ~mask, directory_mode=0o777 & ~mask)
    if name in {"uid", "gid"}:
        number = _value(name, value, int, "a number")
        if number < 0:
            raise MountError("InvalidOption", f"mountOptions: {name} must not be negative")
        changed: dict[str, Any] = {name: number}
        return replace(options, **changed)
    if name not in _KERNEL_WITHOUT_MEANING:
        raise MountError("InvalidOption", f"mountOptions: '-o {name}' is not known")
    ignored.append(f"-o {name}")
    return options


def _long_option(name: str, value: str, options: MountOptions, ignored: list[str]) -> MountOptions:
    if name == "read-only":
        return replace(options, read_only=value.lower() not in {"false", "0"})
    if name not in _WITHOUT_MEANING:
        raise MountError("InvalidOption", f"mountOptions: '--{name}' is not known")
    ignored.append(f"--{name}")
    return options


def _value(name: str, text: str, convert: Callable[[str], Any], kind: str) -> Any:
    try:
        return convert(text)
    except ValueError:
        raise MountError("InvalidOption", f"mountOptions: {name}={text} is not {kind}") from None
