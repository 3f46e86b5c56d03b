"""What an earlier mount left behind, after kill -9, power loss, damage and races."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

import pytest
import trio

from fuse import journal as journal_module
from fuse import records, recovery
from fuse.cache import MemoryCache
from fuse.content import Content
from fuse.journal import LOCK, Journal, abandoned
from fuse.places import Places
from fuse.recovery import Leftover, kept, recover
from fuse.staging import Staging
from tests.fuse.memory_volume import MemoryVolume


async def no_room(content, size):
    """Nothing."""


def kill(journal):
    for entry in list(journal._entries):
        os.close(entry._log)
        os.close(entry.data)
        entry._log = entry.data = -1
    os.close(journal._lock)


@contextlib.asynccontextmanager
async def opened(volume, directory, initial=b"0123456789"):
    if "f" not in volume.files:
        volume.put("f", initial)
    journal = Journal(Places(directory, volume.identity))
    async with trio.open_nursery() as nursery:
        content = Content(
            volume, lambda: "f", volume.attributes("f"), MemoryCache(500), nursery, journal,
            Staging(volume, nursery), no_room,
        )  # fmt: skip
        yield content, journal
        nursery.cancel_scope.cancel()


# -- power loss ------------------------------------------------------------------------------------


async def test_writes_during_a_sync_are_synced_next_time(tmp_path, monkeypatch):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        synced = []

        async def to_disk(descriptor):
            synced.append(descriptor)
            if len(synced) == 1:
                await content.write(4, b"CD")  # comes while the disk is busy

        monkeypatch.setattr(journal_module, "_to_disk", to_disk)
        await journal.sync()
        await journal.sync()  # the second round has to speak of CD
        kill(journal)
    monkeypatch.setattr("fuse.leftover.boot_id", lambda: "another")
    await recover(volume, journal.places)
    assert volume.files["f"] == b"AB23CD6789"


async def test_a_rewrite_of_what_is_dirty_is_synced(tmp_path, monkeypatch):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        await journal.sync()
        await content.write(0, b"CD")  # says nothing new to the log
        synced = []

        async def to_disk(descriptor):
            synced.append(descriptor)

        monkeypatch.setattr(journal_module, "_to_disk", to_disk)
        await journal.sync()
        kill(journal)
    assert synced


async def test_a_truncation_that_reached_the_disk_before_its_record(tmp_path, monkeypatch):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"ABCDEFGH")
        await journal.sync()
        await content.truncate(2)  # ftruncate is in the file system's journal, the record is not
        kill(journal)
    monkeypatch.setattr("fuse.leftover.boot_id", lambda: "another")
    report = await recover(volume, journal.places)
    assert not report.waiting, "it would wait for ever"


async def test_an_orderly_end_outlives_a_reboot(tmp_path, monkeypatch):
    """Unmounted with exit code 4, then the machine is rebooted in good order."""
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        await journal.sync()
        content.close()
        journal.close()
    monkeypatch.setattr("fuse.leftover.boot_id", lambda: "another")
    await recover(volume, journal.places)
    assert volume.files["f"] == b"AB23456789" or kept(tmp_path), "deleted without a word"


async def test_what_is_not_believed_is_not_deleted(tmp_path, monkeypatch):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        kill(journal)
    monkeypatch.setattr("fuse.leftover.boot_id", lambda: "another")
    report = await recover(volume, journal.places)
    assert report.conflicts or kept(tmp_path), "it vanished, and nobody was told"


# -- damage ----------------------------------------------------------------------------------------


async def test_damage_in_the_middle_commits_nothing(tmp_path):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.truncate(0)
        await content.write(0, b"NEW CONTENT")
        kill(journal)
    (log_file,) = journal.places.journal.glob("*/*.log")
    log = bytearray(log_file.read_bytes())
    log[-1] ^= 1  # the write's record is whole, and wrong; the truncation's is right
    log_file.write_bytes(bytes(log))
    await recover(volume, journal.places)
    assert volume.files["f"] == b"0123456789", "the file was emptied, and the new content deleted"
    assert kept(tmp_path)


async def test_another_format_is_left_alone(tmp_path, monkeypatch):
    volume = MemoryVolume()
    monkeypatch.setattr(records, "VERSION", 9)
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        kill(journal)
    monkeypatch.setattr(records, "VERSION", 1)
    (log_file,) = journal.places.journal.glob("*/*.log")
    report = await recover(volume, journal.places)
    assert log_file.exists(), "the version that wrote it could have committed it"
    assert report.waiting


async def test_a_log_that_cannot_be_read_keeps_no_volume_from_mounting(tmp_path, monkeypatch):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        kill(journal)
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk"))
    )
    report = await recover(volume, journal.places)
    assert report.waiting


async def test_a_defect_in_a_commit_does_not_keep_the_volume_from_mounting(tmp_path, monkeypatch):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        kill(journal)

    async def commit(*_):
        raise ValueError("defect")

    monkeypatch.setattr(volume, "commit", commit)
    report = await recover(volume, journal.places)
    assert report.waiting


async def test_an_entry_of_another_volume_is_left_alone(tmp_path):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        kill(journal)
    other = MemoryVolume()
    other.put("f", b"0123456789")  # even the version is the same
    other.identity = "memory:other"
    place = Places(tmp_path, other.identity)
    place.journal.parent.mkdir(exist_ok=True)
    journal.places.journal.rename(place.journal)
    await recover(other, place)
    assert other.files["f"] == b"0123456789"


async def test_setting_aside_can_be_cut_off_at_any_step(tmp_path, monkeypatch):
    """A crash between the two renames of keep() must not part the data from its log."""
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        kill(journal)
    volume.put("f", b"theirs")
    real = Path.rename

    def rename(self, target):
        if self.suffix == ".log":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        await recover(volume, journal.places)
    monkeypatch.setattr(Path, "rename", real)
    await recover(volume, journal.places)
    (entry,) = kept(tmp_path)
    await recovery.export(Leftover(entry.log_file), tmp_path / "out", None)
    assert (tmp_path / "out").read_bytes()[:2] == b"AB"


async def test_what_was_cut_off_does_not_come_back(tmp_path):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.truncate(2)
        await content.write(6, b"AB")
        kill(journal)
    await recover(volume, journal.places)
    assert volume.files["f"] == b"01\0\0\0\0AB"


@pytest.mark.parametrize("left", [0, 3, None])
async def test_of_what_was_cut_short_the_rest_can_be_had(tmp_path, left):
    """A log can reach the disk before the data that it speaks of: power was lost between them."""
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(2, b"ABCDEF")
        kill(journal)
    (data_file,) = tmp_path.glob("journal/*/*/*.data")
    if left is None:
        data_file.unlink()
    else:
        os.truncate(data_file, 2 + left)
    await recover(volume, journal.places)
    (entry,) = kept(tmp_path)
    done = await recovery.export(Leftover(entry.log_file), tmp_path / "out", volume)
    known = b"01" + b"ABCDEF"[: left or 0].ljust(6, b"\0") + b"89"
    assert (tmp_path / "out").read_bytes() == known
    assert done.reason == "the data file is cut short"
    assert sum(end - start for start, end in done.known) == 4 + (left or 0)
    with pytest.raises(OSError, match="cut short"):
        await Leftover(entry.log_file).commit(volume)
    assert volume.files["f"] == b"0123456789"


# -- locks -----------------------------------------------------------------------------------------


async def test_a_lock_that_lost_its_name_is_no_lock(tmp_path, monkeypatch):
    """Its holder removed it between our open and our lock, and a third mount made it anew."""
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        kill(journal)
    real = fcntl.flock
    holders = []

    def flock(descriptor, how):
        if not holders:
            (journal.directory / LOCK).unlink()
            third = os.open(journal.directory / LOCK, os.O_RDWR | os.O_CREAT)
            holders.append(third)
            real(third, fcntl.LOCK_EX)
        return real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with abandoned(journal.places) as found:
        assert found == []
    os.close(holders[0])


async def test_private_directories_above_too(tmp_path):
    old = os.umask(0)
    try:
        Journal(Places(tmp_path / "cache", "memory:test")).close()
    finally:
        os.umask(old)
    for item in (tmp_path / "cache").rglob("*"):
        assert not item.stat().st_mode & 0o077, item


# -- unlink ----------------------------------------------------------------------------------------


async def test_writes_after_a_removal_that_failed_are_not_thrown_away(tmp_path):
    volume = MemoryVolume()
    async with opened(volume, tmp_path) as (content, journal):
        await content.write(0, b"AB")
        await content.localise()
        # The store refused the delete; the program goes on writing.
        await content.write(4, b"CD")
        kill(journal)
    volume.put("f", b"theirs")
    await recover(volume, journal.places)
    assert kept(tmp_path), "acknowledged, and deleted"
