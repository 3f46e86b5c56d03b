"""A crash at every step: what was acknowledged is in the store after the next mount, or kept."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fuse import content as content_module
from fuse import journal as journal_module
from fuse.cache import MemoryCache
from fuse.content import Content
from fuse.journal import Journal, abandoned
from fuse.places import Places
from fuse.recovery import Leftover, export, kept, recover
from fuse.staging import Staging
from tests.fuse.memory_volume import MemoryVolume
from tests.fuse.test_content import no_room

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 300), st.binary(min_size=1, max_size=90)),
        st.tuples(st.just("truncate"), st.integers(0, 300), st.just(b"")),
        st.tuples(st.just("commit"), st.just(0), st.just(b"")),
    ),
    min_size=1,
    max_size=12,
)


class CrashError(BaseException):
    """The process ends here."""


class Disk:
    """A fake of the ``os`` module that ends the process at a call that changes the disk."""

    def __init__(self, crash_at, how):
        self.left = crash_at
        self.how = how

    def __getattr__(self, name):
        return getattr(os, name)

    def _step(self, action, *, half=None):
        self.left -= 1
        if self.left != 0:
            return action()
        if self.how == "half" and half is not None:
            half()
        elif self.how == "after":
            action()
        raise CrashError

    def pwrite(self, fd, data, offset):
        half = memoryview(data)[: len(data) // 2]
        return self._step(
            lambda: os.pwrite(fd, data, offset), half=lambda: os.pwrite(fd, half, offset)
        )

    def write(self, fd, data):
        return self._step(
            lambda: os.write(fd, data), half=lambda: os.write(fd, data[: len(data) // 2])
        )

    def ftruncate(self, fd, size):
        return self._step(lambda: os.ftruncate(fd, size))


def kill(journal):
    """What the kernel does for a process that is killed: descriptors are closed, nothing else."""
    for entry in list(journal._entries):
        os.close(entry._log)
        os.close(entry.data)
        entry._log = entry.data = -1
    if journal._lock >= 0:
        os.close(journal._lock)


def apply(model, step):
    name, offset, data = step
    if name == "write":
        model.extend(bytes(max(0, offset + len(data) - len(model))))
        model[offset : offset + len(data)] = data
    elif name == "truncate":
        del model[offset:]
        model.extend(bytes(offset - len(model)))


async def perform(content, step):
    name, offset, data = step
    if name == "write":
        await content.write(offset, data)
    elif name == "truncate":
        await content.truncate(offset)
    else:
        await content.commit()


def acceptable(found, before, step):
    """Whether ``found`` is what was acknowledged, but for the one step that was under way."""
    after = bytearray(before)
    apply(after, step)
    if found in {bytes(before), bytes(after)}:
        return True
    if step[0] != "write" or len(found) not in {len(before), len(after)}:
        return False
    # A write that was not acknowledged may be there in part, as on a local disk.
    start, end = step[1], step[1] + len(step[2])
    old = bytes(before).ljust(len(after), b"\0")
    return all(
        byte == old[i] or (start <= i < end and byte == after[i]) for i, byte in enumerate(found)
    )


@pytest.fixture(scope="module")
def scratch():
    directory = Path(tempfile.mkdtemp(prefix="j-"))
    yield directory
    shutil.rmtree(directory)


@given(
    initial=st.binary(max_size=200),
    operations=steps,
    crash_at=st.integers(1, 40),
    how=st.sampled_from(["before", "half", "after"]),
    commit_crash=st.integers(0, 6),
)
def test_a_crash_at_any_step_loses_nothing(
    scratch, initial, operations, crash_at, how, commit_crash
):
    directory = Path(tempfile.mkdtemp(dir=scratch))

    async def run():
        volume = MemoryVolume()
        base = volume.put("f", initial)
        model = bytearray(initial)
        places = Places(directory, volume.identity)
        journal = Journal(places)
        commits = commit_crash

        def crash_in_commit():
            nonlocal commits
            commits -= 1
            if commits == 0:
                raise CrashError

        volume.around_commit = crash_in_commit
        under_way = ("commit", 0, b"")
        async with trio.open_nursery() as nursery:
            content = Content(
                volume, lambda: "f", base, MemoryCache(500), nursery, journal,
                Staging(volume, nursery), no_room,
            )  # fmt: skip
            disk = Disk(crash_at, how)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(content_module, "os", disk)
                patch.setattr(journal_module, "os", disk)
                try:
                    for step in operations:
                        under_way = step
                        await perform(content, step)
                        apply(model, step)
                    under_way = ("commit", 0, b"")
                except CrashError:
                    pass
            kill(journal)
            nursery.cancel_scope.cancel()
        volume.around_commit = lambda: None
        report = await recover(volume, places)
        assert not report.conflicts
        assert not report.waiting
        assert acceptable(volume.files["f"], model, under_way), (volume.files["f"], bytes(model))
        assert not list(places.journal.glob("*")), "nothing is left behind"

    trio.run(run)


async def dirty(volume, directory, data=b"mine", offset=2):
    """A file with a write that a crash left behind."""
    places = Places(directory, volume.identity)
    journal = Journal(places)
    async with trio.open_nursery() as nursery:
        content = Content(
            volume, lambda: "f", volume.attributes("f"), MemoryCache(500), nursery, journal,
            Staging(volume, nursery), no_room,
        )  # fmt: skip
        await content.write(offset, data)
        kill(journal)
        nursery.cancel_scope.cancel()
    return places


async def test_a_conflict_is_kept_and_overwrites_nothing(tmp_path):
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    places = await dirty(volume, tmp_path)
    volume.put("f", b"theirs")
    report = await recover(volume, places)
    assert list(report.conflicts) == ["f"]
    assert volume.files["f"] == b"theirs"
    (entry,) = kept(tmp_path)
    assert (entry.path, entry.size, entry.dirty_bytes, entry.state) == ("f", 10, 4, "conflict")
    assert entry.volume == volume.identity
    leftover = Leftover(entry.log_file)
    exported = await export(leftover, tmp_path / "out", None)
    assert exported.known == [(2, 6)]
    assert exported.reason
    assert (tmp_path / "out").read_bytes() == b"\0\0mine\0\0\0\0"
    with pytest.raises(FileExistsError):
        await export(leftover, tmp_path / "out", None)
    again = await recover(volume, places)
    assert not again.conflicts
    leftover.discard()
    assert kept(tmp_path) == []


async def test_several_losers_of_one_path_are_all_kept(tmp_path):
    volume = MemoryVolume()
    for number in range(3):
        volume.put("f", b"0123456789")
        places = await dirty(volume, tmp_path, b"mine%d" % number)
        volume.put("f", b"theirs")
        await recover(volume, places)
    assert len(kept(tmp_path)) == 3


async def test_a_store_that_does_not_answer_loses_nothing(tmp_path):
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    places = await dirty(volume, tmp_path)
    volume.failing = OSError(errno.EIO, "down")
    report = await recover(volume, places)
    assert report.waiting == {"f": "down"}
    assert [entry.state for entry in kept(tmp_path)] == ["waiting"]
    volume.failing = None
    report = await recover(volume, places)
    assert report.committed == ["f"]
    assert volume.files["f"] == b"01mine6789"
    assert kept(tmp_path) == []


async def test_a_mount_that_may_not_write_leaves_it(tmp_path):
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    places = await dirty(volume, tmp_path)
    report = await recover(volume, places, read_only=True)
    assert list(report.waiting) == ["f"]
    assert (await recover(volume, places)).committed == ["f"]


async def test_a_living_mount_is_left_alone(tmp_path):
    volume = MemoryVolume()
    places = Places(tmp_path, volume.identity)
    journal = Journal(places)
    entry = journal.begin("f", volume.put("f", b"x"))
    with abandoned(places) as found:
        assert found == []
    directory = journal.directory
    entry.close()
    journal.close()
    with abandoned(places) as found:
        assert found == [directory], "its data is for the next mount"


async def test_an_empty_journal_leaves_nothing(tmp_path):
    places = Places(tmp_path, "memory:test")
    volume = MemoryVolume()
    journal = Journal(places)
    journal.begin("f", volume.put("f", b"x")).discard()
    journal.close()
    assert list(places.journal.iterdir()) == []


async def test_a_mount_that_writes_nothing_needs_no_space(tmp_path):
    Journal(Places(tmp_path / "nothing", "memory:test")).close()
    assert not (tmp_path / "nothing").exists()


async def test_a_damaged_entry_is_kept(tmp_path):
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    places = await dirty(volume, tmp_path)
    (log_file,) = places.journal.glob("*/*.log")
    log = log_file.read_bytes()
    log_file.write_bytes(bytes([log[0] ^ 0xFF]) + log[1:])
    report = await recover(volume, places)
    assert len(report.conflicts) == 1
    assert volume.files["f"] == b"0123456789"
    (entry,) = kept(tmp_path)
    assert entry.state == "damaged"
    assert entry.log_file.with_suffix(".data").exists()


async def test_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        volume = MemoryVolume()
        volume.put("f", b"x")
        places = await dirty(volume, tmp_path)
    finally:
        os.umask(old)
    for item in places.journal.rglob("*"):
        assert not item.stat().st_mode & 0o077, item


async def test_a_barrier_makes_it_outlive_a_power_loss(tmp_path, monkeypatch):
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    places = Places(tmp_path, volume.identity)
    journal = Journal(places)
    async with trio.open_nursery() as nursery:
        content = Content(
            volume, lambda: "f", volume.attributes("f"), MemoryCache(500), nursery, journal,
            Staging(volume, nursery), no_room,
        )  # fmt: skip
        await content.write(0, b"AB")
        await journal.sync()
        await content.write(4, b"CD")
        kill(journal)
        nursery.cancel_scope.cancel()
    monkeypatch.setattr("fuse.leftover.boot_id", lambda: "another")
    report = await recover(volume, places)
    assert report.committed == ["f"]
    assert volume.files["f"] == b"AB23456789"


async def test_what_another_mount_goes_on_with_outlives_a_power_loss(tmp_path, monkeypatch):
    """It was on the disk before, and the log that takes the old one's place is, too."""
    volume = MemoryVolume()
    volume.put("f", b"0123456789")
    places = await dirty(volume, tmp_path)
    journal = Journal(places)
    (directory,) = journal.take_over()
    (log_file,) = directory.glob("*.log")
    before = Leftover(log_file)
    journal.go_on(log_file, before.replay)
    kill(journal)
    journal._taken_over.close()
    monkeypatch.setattr("fuse.leftover.boot_id", lambda: "another")
    after = Leftover(log_file)
    assert after.dirty_ranges == before.dirty_ranges != []
    assert not after.damage
    assert not after.replay.doubtful
    assert (await recover(volume, places)).committed == ["f"]
