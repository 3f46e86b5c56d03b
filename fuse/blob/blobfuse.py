"""The options of blobfuse, v1 and v2, as users write them, and what becomes of each here.

Sources: the command-line references of blobfuse 1.4 (``blobfuse --help``) and of blobfuse2
(``blobfuse2 mount --help``, ``blobfuse2 mountv1 --help``), the guide that maps one to the other,
and fuse(8), mount.fuse3(8) and mount(8) for what follows ``-o``.

Tables only; :mod:`fuse.blob.mount_options` reads them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Use(enum.Enum):
    """What an option is for here."""

    ALWAYS = "done here whether asked for or not, when its value is true"
    NEVER = "not done here; asking not to have it done is granted"
    NO_MEANING = "accepted, changes nothing, and a warning says so"
    REFUSED = "would be wrong to accept"

    FRESHNESS = "seconds for which names, attributes and content are believed"
    READ_ONLY = "no changes"
    WRITABLE = "changes, unless the volume is mounted read-only anyway"
    OTHERS = "other users may use the mount"
    MASK = "permission bits that files and directories do not get, octal"
    FILE_MASK = "the same for files"
    DIRECTORY_MASK = "the same for directories"
    UID = "owner of what the store knows no owner of"
    GID = "group of what the store knows no group of"
    SUBDIRECTORY = "the directory of the container that is mounted as the root"
    CONTAINER = "the container, which must be the one being mounted"
    HTTPS = "the endpoint must be, or must not be, an https one"
    LOG_LEVEL = "least severity that is logged"
    MEMORY_MB = "file data in memory, MiB"
    DISK_MB = "file data on the cache disk, MiB"
    PREFETCH = "blocks read ahead of a sequential reader"
    BLOCK_MB = "size of those blocks, MiB"
    DIRECT = "no caching of what the store may have changed"
    HTTP_PROXY = "the proxy in front of an http endpoint"
    HTTPS_PROXY = "the proxy in front of an https endpoint"
    FLAG = "a flag of mount(2), handed to the kernel"


@dataclass(frozen=True, slots=True)
class Option:
    """One option.

    Attributes:
        use: What it is for here.
        value: Whether a value must follow. Otherwise it is a switch, which ``=false`` turns off.
        why: For people: why it changes nothing, or what to do in its place.
    """

    use: Use
    value: bool = False
    why: str = ""


_SIZES_ITSELF = "this driver sizes it by what the readers do"
_EVICTION = "the cache makes room by itself, and keeps part of the disk free"
_RETRIES = "requests are tried again with growing pauses, under one deadline"
_CACHE_PLACE = "the cache directory is the node's: what a crashed mount left is looked for there"
_LOG_PLACE = "the log of this driver is the log of the mount"
_START = "the mount is up when the command returns, and is checked before"
_KERNEL = "the kernel and this driver settle it between them"
_IDENTITY = "credentials come with the volume"


def _switch(use: Use, why: str = "") -> Option:
    return Option(use, value=False, why=why)


def _valued(use: Use, why: str = "") -> Option:
    return Option(use, value=True, why=why)


def _nothing(why: str) -> Option:
    return Option(Use.NO_MEANING, value=False, why=why)


def _nothing_valued(why: str) -> Option:
    return Option(Use.NO_MEANING, value=True, why=why)


#: Options that begin with two dashes.
LONG: Mapping[str, Option] = {
    # what is mounted
    "container-name": _valued(Use.CONTAINER),
    "subdirectory": _valued(Use.SUBDIRECTORY),
    "virtual-directory": _switch(Use.ALWAYS, "directories without a marker are always shown"),
    "use-https": _switch(Use.HTTPS),
    "use-adls": _switch(Use.NEVER, "flat containers only; the blob endpoint serves others too"),
    "account-type": _nothing_valued("the blob endpoint is used whatever the account's type"),
    "read-only": _switch(Use.READ_ONLY),
    "allow-other": _switch(Use.OTHERS),
    "config-file": _valued(Use.REFUSED, "keys have no place in a file that options name"),
    "tmp-path": _nothing_valued(_CACHE_PLACE),
    # freshness
    "file-cache-timeout-in-seconds": _valued(Use.FRESHNESS),
    "file-cache-timeout": _valued(Use.FRESHNESS),
    "attr-cache-timeout": _valued(Use.FRESHNESS),
    "attr-timeout": _valued(Use.FRESHNESS),
    "entry-timeout": _valued(Use.FRESHNESS),
    "negative-timeout": _nothing_valued("that a name is missing is not remembered for long"),
    "use-attr-cache": _switch(Use.ALWAYS, "attributes are believed for the attribute time-out"),
    "cache-on-list": _switch(Use.ALWAYS, "a listing fills the attributes of what it lists"),
    "no-cache-on-list": _switch(Use.NEVER, "a listing fills the attributes of what it lists"),
    "direct-io": _switch(Use.DIRECT),
    "disable-kernel-cache": _switch(Use.DIRECT),
    "invalidate-on-sync": _switch(Use.ALWAYS, "a changed blob is seen at the next open"),
    "refresh-sec": _valued(Use.FRESHNESS),
    "kernel-list-cache-expiration-sec": _nothing_valued(_KERNEL),
    # sizes of caches, and what is read ahead
    "cache-size-mb": _valued(Use.DISK_MB),
    "block-cache": _switch(Use.ALWAYS, "files are always read and written in ranges"),
    "block-cache-block-size": _valued(Use.BLOCK_MB),
    "block-cache-pool-size": _valued(Use.MEMORY_MB),
    "block-cache-disk-size": _valued(Use.DISK_MB),
    "block-cache-prefetch": _valued(Use.PREFETCH),
    "block-cache-path": _nothing_valued(_CACHE_PLACE),
    "block-cache-disk-timeout": _nothing_valued(_EVICTION),
    "block-cache-parallelism": _nothing_valued(_SIZES_ITSELF),
    "block-cache-prefetch-on-open": _nothing(_SIZES_ITSELF),
    "block-cache-strong-consistency": _switch(
        Use.ALWAYS, "what is read back from the cache disk is always verified"
    ),
    "block-cache-write-consistency": _switch(Use.ALWAYS, "every commit is conditional"),
    "streaming": _switch(Use.ALWAYS, "files are always read in ranges"),
    "stream": _switch(Use.ALWAYS, "files are always read in ranges"),
    "stream-cache-mb": _valued(Use.MEMORY_MB),
    "block-size-mb": _valued(Use.BLOCK_MB),
    "max-blocks-per-file": _nothing_valued(_SIZES_ITSELF),
    "max-concurrency": _nothing_valued(_SIZES_ITSELF),
    "preload": _nothing("files are fetched when they are read"),
    "background-download": _switch(Use.ALWAYS, "opening a file waits for no content"),
    "high-disk-threshold": _nothing_valued(_EVICTION),
    "low-disk-threshold": _nothing_valued(_EVICTION),
    "max-eviction": _nothing_valued(_EVICTION),
    "hard-limit": _nothing(_EVICTION),
    "required-free-space-mb": _nothing_valued(_EVICTION),
    "cache-poll-timeout-msec": _nothing_valued(_EVICTION),
    "empty-dir-check": _switch(Use.NEVER, "the cache directory outlives mounts"),
    "cleanup-on-start": _switch(Use.NEVER, "the cache directory outlives mounts"),
    # writing
    "upload-modified-only": _switch(Use.ALWAYS, "what was not changed is not sent"),
    "sync-to-flush": _switch(Use.ALWAYS, "fsync is durable"),
    "ignore-sync": _switch(Use.NEVER, "fsync is durable"),
    "sync-noop": _switch(Use.NEVER, "fsync is durable"),
    "lazy-write": _switch(Use.NEVER, "a close that succeeds has stored the file"),
    "set-content-type": _nothing("a blob keeps the content type that it has"),
    "disable-writeback-cache": _switch(Use.ALWAYS, "the kernel passes every write on at once"),
    "ignore-open-flags": _switch(Use.NEVER, "O_APPEND and O_WRONLY mean what they say"),
    "validate-md5": _switch(Use.ALWAYS, "what is sent carries a checksum"),
    "update-md5": _switch(Use.ALWAYS, "what is sent carries a checksum"),
    # names and modes
    "no-symlinks": _switch(Use.NEVER, "symbolic links are kept"),
    "enable-symlinks": _switch(Use.ALWAYS, "symbolic links are kept"),
    "preserve-acl": _nothing("flat containers have no access control lists"),
    "honour-acl": _nothing("flat containers have no access control lists"),
    "filter": _valued(Use.REFUSED, "files cannot be hidden; mount a --subdirectory"),
    "restricted-characters-windows": _nothing("names are shown as they are"),
    # transport
    "http-proxy": _valued(Use.HTTP_PROXY),
    "https-proxy": _valued(Use.HTTPS_PROXY),
    "ca-cert-file": _nothing_valued("the node's own certificate authorities are believed"),
    "max-retry": _nothing_valued(_RETRIES),
    "max-retry-interval-in-seconds": _nothing_valued(_RETRIES),
    "retry-delay-factor": _nothing_valued(_RETRIES),
    "cancel-list-on-mount-seconds": _nothing_valued(_START),
    "disable-compression": _switch(Use.ALWAYS, "nothing is compressed on the way"),
    "cpk-enabled": _switch(Use.REFUSED, "keys of the customer's own are not spoken"),
    "debug-libcurl": _nothing("there is no libcurl here"),
    # program
    "log-level": _valued(Use.LOG_LEVEL),
    "log-type": _nothing_valued(_LOG_PLACE),
    "log-file-path": _nothing_valued(_LOG_PLACE),
    "foreground": _nothing("who starts the driver decides"),
    "wait-for-mount": _nothing_valued(_START),
    "pre-mount-validate": _switch(Use.ALWAYS, _START),
    "basic-remount-check": _switch(Use.ALWAYS, _START),
    "default-working-dir": _nothing_valued(_LOG_PLACE),
    "disable-version-check": _switch(Use.ALWAYS, "nobody is asked for newer versions"),
    "secure-config": _nothing(_IDENTITY),
    "passphrase": _valued(Use.REFUSED, "secrets have no place among options"),
    "dynamic-profile": _nothing("there is no profiler here"),
    "profiler-port": _nothing_valued("there is no profiler here"),
    "profiler-ip": _nothing_valued("there is no profiler here"),
    "enable-gen1": _switch(Use.NEVER, "Data Lake Gen1 is no more"),
    "max-fuse-threads": _nothing_valued(_KERNEL),
    "fuse-trace": _nothing(_LOG_PLACE),
    "extension": _valued(Use.REFUSED, "extensions of blobfuse cannot be loaded"),
    "network-share": _nothing("Windows only"),
}

#: Items after ``-o``; v2's configuration writes dashes where fuse(8) has underscores.
KERNEL: Mapping[str, Option] = {
    "ro": _switch(Use.READ_ONLY),
    "rw": _switch(Use.WRITABLE),
    "attr_timeout": _valued(Use.FRESHNESS),
    "entry_timeout": _valued(Use.FRESHNESS),
    "negative_timeout": _nothing_valued("that a name is missing is not remembered for long"),
    "allow_other": _switch(Use.OTHERS),
    "allow_root": _nothing("allow_other lets root in as well"),
    "default_permissions": _switch(Use.ALWAYS, "the kernel always checks permissions"),
    "umask": _valued(Use.MASK),
    "fmask": _valued(Use.FILE_MASK),
    "dmask": _valued(Use.DIRECTORY_MASK),
    "uid": _valued(Use.UID),
    "gid": _valued(Use.GID),
    "direct_io": _switch(Use.DIRECT),
    "nonempty": _switch(Use.ALWAYS, "a directory that is not empty can be mounted on"),
    "big_writes": _nothing(_KERNEL),
    "kernel_cache": _nothing(_KERNEL),
    "auto_cache": _nothing(_KERNEL),
    "ac_attr_timeout": _nothing_valued(_KERNEL),
    "max_read": _nothing_valued(_KERNEL),
    "max_write": _nothing_valued(_KERNEL),
    "max_readahead": _nothing_valued(_KERNEL),
    "max_background": _nothing_valued(_KERNEL),
    "congestion_threshold": _nothing_valued(_KERNEL),
    "max_threads": _nothing_valued(_KERNEL),
    "max_idle_threads": _nothing_valued(_KERNEL),
    "clone_fd": _nothing(_KERNEL),
    "async_read": _nothing(_KERNEL),
    "sync_read": _nothing(_KERNEL),
    "atomic_o_trunc": _nothing(_KERNEL),
    "writeback_cache": _nothing(_KERNEL),
    "splice_read": _nothing(_KERNEL),
    "splice_write": _nothing(_KERNEL),
    "splice_move": _nothing(_KERNEL),
    "hard_remove": _nothing(_KERNEL),
    "use_ino": _nothing(_KERNEL),
    "readdir_ino": _nothing(_KERNEL),
    "noforget": _nothing(_KERNEL),
    "remember": _nothing_valued(_KERNEL),
    "intr": _nothing(_KERNEL),
    "large_read": _nothing(_KERNEL),
    "blksize": _nothing_valued(_KERNEL),
    "fsname": _nothing_valued("the source is always account/container"),
    "subtype": _nothing_valued("the type is always fuse.batchai-blob or fuse.batchai-share"),
    "auto_unmount": _nothing("what a driver leaves is unmounted by who started it"),
    "debug": _nothing(_LOG_PLACE),
    # of mount(8) and fstab(5)
    "defaults": _switch(Use.ALWAYS),
    "auto": _switch(Use.ALWAYS),
    "noauto": _switch(Use.ALWAYS),
    "nofail": _switch(Use.ALWAYS),
    "_netdev": _switch(Use.ALWAYS),
    "user": _switch(Use.ALWAYS),
    "users": _switch(Use.ALWAYS),
    "owner": _switch(Use.ALWAYS),
    "group": _switch(Use.ALWAYS),
    "nouser": _switch(Use.ALWAYS),
    "async": _switch(Use.ALWAYS),
    "nosuid": _switch(Use.ALWAYS, "always"),
    "nodev": _switch(Use.ALWAYS, "always"),
    "suid": _nothing("set-user-id programs have no effect on this mount"),
    "dev": _nothing("there are no device files on this mount"),
    "exec": _switch(Use.ALWAYS),
    "noexec": _switch(Use.FLAG),
    "sync": _nothing("a close or fsync that succeeds has stored the file"),
    "dirsync": _switch(Use.ALWAYS, "names change at the store at once"),
    "noatime": _switch(Use.ALWAYS, "access times are not kept"),
    "nodiratime": _switch(Use.ALWAYS, "access times are not kept"),
    "relatime": _switch(Use.ALWAYS),
    "norelatime": _switch(Use.ALWAYS),
    "strictatime": _nothing("access times are not kept"),
    "atime": _nothing("access times are not kept"),
    "lazytime": _switch(Use.ALWAYS),
}

#: Options of one letter, without a value.
SHORT: Mapping[str, Option] = {
    "d": _nothing(_LOG_PLACE),
    "f": _nothing("who starts the driver decides"),
    "s": _nothing(_KERNEL),
}
