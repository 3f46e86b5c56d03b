"""``batchai-mount recover``: data that was written, and that the store does not have."""

# ruff: noqa: D301 (\b is an escape: click's mark for "leave these lines as they are")

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fuse.cli import directories, mounted
from fuse.cli.asking import ask
from fuse.cli.errors import refusing, usage
from fuse.cli.operating import complete_mountpoint
from fuse.cli.output import output_option, show, size
from fuse.errors import MountError

if TYPE_CHECKING:
    from fuse.recovery import Kept

#: What lies in a cache directory (fuse.places), as far as it tells one from any other directory.
_PARTS = ("journal", "recovery", "blocks", "intents")

#: Seconds that a driver may take to store what is kept.
_TIMEOUT = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class _Place:
    """What the command was pointed at: a mounted volume, or a cache directory with any volumes."""

    cache: Path
    mount: mounted.Mounted | None

    def entries(self) -> list[Kept]:
        from fuse.recovery import kept

        with refusing(f"cannot look into {self.cache}"):
            if not os.access(self.cache, os.R_OK | os.X_OK):
                raise PermissionError(13, os.strerror(13))
            found = kept(self.cache)
        identity = self.mount.state.get("identity") if self.mount else None
        return [entry for entry in found if identity is None or entry.volume == identity]


@click.command()
@click.argument("place", metavar="DIR|CACHE", type=Path, shell_complete=complete_mountpoint)
@click.argument("names", metavar="[ID|FILE]...", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="List what is kept; the default.")
@click.option("--commit", is_flag=True, help="Store it, if the files are what was written over.")
@click.option("--overwrite", is_flag=True, help="With --commit: replace what the store has now.")
@click.option("--export", type=click.Path(path_type=Path), metavar="PATH", help="Write it there.")
@click.option("--discard", is_flag=True, help="Delete it for good.")
@click.option("--yes", is_flag=True, help="With --discard: do not ask.")
@output_option
def recover(
    place: Path,
    names: tuple[str, ...],
    *,
    listing: bool,
    commit: bool,
    overwrite: bool,
    export: Path | None,
    discard: bool,
    yes: bool,
    output: str,
) -> None:
    """List, store, export or delete what was written and is not in the store.

    A mount that crashed leaves what it had not stored in its cache directory ("waiting"); the next
    mount of the volume stores it. What somebody else's change collided with is kept aside
    ("conflict") until a person decides. Entries are named by their ids or by the files' paths;
    without a name all are meant.

    \b
    Examples:
      batchai-mount recover /mnt/data
      batchai-mount recover /mnt/data results/run.log --export /tmp/run.log
      batchai-mount recover /mnt/data results/run.log --commit --overwrite
      batchai-mount recover /var/cache/batchai --discard
    """
    if sum((listing, commit, export is not None, discard)) > 1:
        raise usage("--list, --commit, --export and --discard exclude each other")
    if overwrite and not commit:
        raise usage("--overwrite goes with --commit")
    where = _place(place)
    if commit:
        _commit(where, names, overwrite=overwrite)
        return
    chosen = _chosen(where.entries(), names)
    if export is not None:
        _export(where, chosen, export)
    elif discard:
        _discard(chosen, yes=yes)
    else:
        heads = ("Id", "File", "Size", "Written", "When", "State", "Why")
        show([entry.as_dict() for entry in chosen], output, heads, [_row(e) for e in chosen])


def _place(path: Path) -> _Place:
    mountpoint = directories.resolved(path)
    for found in mounted.find_all():
        if found.mountpoint == mountpoint:
            cache = found.state.get("cacheDir")
            if cache is None:
                raise MountError(
                    "PermissionDenied",
                    f"the driver of {mountpoint} is not one of yours",
                    "ask as the user who mounted it, or name its cache directory",
                )
            return _Place(Path(cache), found)
    if not mountpoint.is_dir():
        raise MountError("NotFound", f"{path} is neither a mounted volume nor a cache directory")
    with refusing(f"cannot look into {path}"):
        strange = any(entry.name not in _PARTS for entry in mountpoint.iterdir())
    if strange and not any((mountpoint / name).is_dir() for name in _PARTS):
        raise usage(
            f"{path} is neither a mounted volume nor a cache directory",
            f"the default cache directory is {directories.cache_directory()}",
        )
    return _Place(mountpoint, None)


def _chosen(entries: Sequence[Kept], names: Sequence[str]) -> list[Kept]:
    chosen: list[Kept] = []
    for name in names:
        found = [entry for entry in entries if name.lstrip("/") in {entry.id, entry.path}]
        if not found:
            raise MountError("NotFound", f"nothing is kept of {name}")
        chosen += [entry for entry in found if entry not in chosen]
    return chosen if names else list(entries)


def _commit(where: _Place, names: Sequence[str], *, overwrite: bool) -> None:
    mount = where.mount
    if mount is None or mount.directory is None or mount.status != "mounted":
        raise usage(
            "storing it takes the volume's credential, which its driver has",
            "mount the volume with this cache directory (which stores what waits by itself), "
            "and name the mount point",
        )
    chosen = _chosen(where.entries(), names)
    if not chosen:
        click.echo("nothing is kept", err=True)
        return
    arguments = {"ids": [entry.id for entry in chosen], "overwrite": overwrite}
    answer = ask(mount.directory, "restore", arguments, timeout=_TIMEOUT)
    paths = {entry.id: entry.path for entry in chosen}
    for identifier in answer["stored"]:
        click.echo(f"stored {paths[identifier]}")
    if answer["failed"]:
        failed = answer["failed"].items()
        listed = "; ".join(f"{paths.get(key, key)}: {reason}" for key, reason in failed)
        raise MountError(
            "NotCommitted",
            f"still kept: {listed}",
            "--export writes a copy; --commit --overwrite replaces what the store has",
        )


def _export(where: _Place, chosen: Sequence[Kept], target: Path) -> None:
    import trio

    from fuse.cli.base import DriversBase
    from fuse.recovery import Leftover, export

    served = where.mount.directory if where.mount and where.mount.status == "mounted" else None

    if len(chosen) != 1 and not target.is_dir():
        raise usage(f"{len(chosen)} entries do not fit into one file", "name a directory, or an ID")
    for entry in chosen:
        if entry.state == "damaged":
            raise usage(f"the log of {entry.id} is damaged", f"its bytes are in {entry.log_file}")
        place = _free(target / Path(entry.path).name) if target.is_dir() else target
        with refusing(f"cannot write {place}"):
            base = DriversBase(served, entry.id) if served else None
            done = trio.run(export, Leftover(entry.log_file), place, base)
        click.echo(f"wrote {entry.path} to {place}")
        missing = entry.size - sum(end - start for start, end in done.known)
        if missing:
            ranges = ", ".join(f"{start}-{end}" for start, end in done.known) or "none"
            click.echo(
                f"warning: {size(missing)} of it cannot be had, and are zeros in "
                f"{place} ({done.reason}); what is known (bytes): {ranges}",
                err=True,
            )
            if served is None:
                click.echo("hint: name the mount point, and the rest is fetched", err=True)


def _free(path: Path) -> Path:
    """The path, or with a number behind its name where that is taken."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        candidate, number = path.with_name(f"{path.name}.{number}"), number + 1
    return candidate


def _discard(chosen: Sequence[Kept], *, yes: bool) -> None:
    from fuse.recovery import held

    for entry in chosen:
        if not yes:
            click.confirm(f"delete {entry.path or entry.id} ({size(entry.size)})?", abort=True)
        with refusing(f"cannot delete {entry.id}"):
            if entry.state == "damaged":
                for suffix in (".log", ".data", ".json"):
                    entry.log_file.with_suffix(suffix).unlink(missing_ok=True)
            else:
                with held(entry) as leftover:
                    leftover.discard()
        click.echo(f"deleted {entry.path or entry.id}")


def _row(entry: Kept) -> tuple[Any, ...]:
    moment = dt.datetime.fromtimestamp(entry.when, dt.UTC).astimezone()
    when = moment.strftime("%Y-%m-%d %H:%M:%S")
    sizes = (size(entry.size), size(entry.dirty_bytes))
    return (entry.id, entry.path, *sizes, when, entry.state, entry.reason)
