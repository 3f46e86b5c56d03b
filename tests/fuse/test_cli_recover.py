"""``batchai-mount recover``, with data that a crash and another writer left behind."""

from __future__ import annotations

import json
import os
import signal

import pytest
from azure.storage.blob import BlobServiceClient

from tests.fuse.commands import Commands, target
from tests.support.kernel import mounts_below

pytestmark = pytest.mark.integration


@pytest.fixture
def commands(short_path):
    made = Commands(short_path)
    yield made
    print((short_path / "log").read_text()[-3000:] if (short_path / "log").exists() else "no log")
    for mountpoint in reversed(mounts_below(short_path)):
        made("unmount", "--force", mountpoint)


@pytest.fixture
def volume(commands, short_path, storage, blob_container):
    """A mounted container: mount and crash it at will."""

    class Volume:
        path = short_path / "m"

        def mount(self, *more):
            url = target(storage, blob_container)
            words = ("blob", url, self.path, *commands.places, "--key-stdin", *more)
            done = commands(*words, feed=storage.key)
            shown = json.loads(commands("show", self.path, "--output", "json").stdout)
            self.pid = shown["pid"]
            return done

        def crash(self):
            os.kill(self.pid, signal.SIGKILL)
            commands("unmount", "--force", self.path)

        def write_and_crash(self, name, text):
            """Have text written and not closed; closing it later fails, as it must."""
            with pytest.raises(OSError), open(self.path / name, "w", buffering=1) as file:  # noqa: PT012
                file.write(text)
                self.crash()

        def entries(self, place=None):
            place = place or commands.directory / "cache"
            return json.loads(commands("recover", place, "--output", "json").stdout)

    Volume.path.mkdir()
    return Volume()


@pytest.fixture
def container(storage, blob_container):
    credential = {"account_name": storage.account, "account_key": storage.key}
    with BlobServiceClient(storage.blob_endpoint, credential=credential) as service:
        yield service.get_container_client(blob_container)


@pytest.fixture
def conflict(volume, container):
    """``results.txt`` was being rewritten when the driver died; then somebody else replaced it."""
    volume.mount()
    (volume.path / "results.txt").write_text("first")
    volume.write_and_crash("results.txt", "mine, unsaved\n")
    container.upload_blob("results.txt", b"theirs", overwrite=True)
    return volume


def test_what_waits_is_listed_and_stored_by_the_next_mount(commands, volume, container):
    volume.mount()
    volume.write_and_crash("log", "line 1\n")
    [entry] = volume.entries()
    assert (entry["path"], entry["state"], entry["dirty_bytes"]) == ("log", "waiting", 7)
    said = commands("recover", commands.directory / "cache", "--commit", code=2).stderr
    assert "mount the volume" in said
    volume.mount()
    assert volume.entries() == []
    assert container.download_blob("log").readall() == b"line 1\n"


def test_a_conflict_is_told_listed_exported_and_stored_on_demand(
    commands, conflict, container, short_path
):
    assert "kept" in conflict.mount().stderr
    assert (conflict.path / "results.txt").read_text() == "theirs"
    [entry] = conflict.entries(conflict.path)
    assert (entry["path"], entry["state"]) == ("results.txt", "conflict")
    assert "results.txt" in commands("recover", conflict.path, "--list").stdout
    assert "kept" in json.dumps(
        json.loads(commands("show", conflict.path, "--output", "json").stdout)["warnings"]
    )

    copy = short_path / "copy"
    commands("recover", conflict.path, entry["id"], "--export", copy)
    assert copy.read_text() == "mine, unsaved\n"
    assert copy.stat().st_mode & 0o077 == 0
    commands("recover", conflict.path, "--export", copy, code=1)  # never written over
    commands("recover", conflict.path, "results.txt", "--export", short_path)
    assert (short_path / "results.txt").read_text() == "mine, unsaved\n"

    said = commands("recover", conflict.path, "--commit", code=4).stderr
    assert "--overwrite" in said
    assert container.download_blob("results.txt").readall() == b"theirs"
    commands("recover", conflict.path, "results.txt", "--commit", "--overwrite")
    assert container.download_blob("results.txt").readall() == b"mine, unsaved\n"
    assert conflict.entries() == []


def test_a_conflict_is_discarded_when_that_is_confirmed(commands, conflict, container):
    conflict.mount()
    cache = commands.directory / "cache"
    commands("recover", cache, "--discard", feed="n\n", code=130)
    assert len(conflict.entries()) == 1
    commands("recover", cache, "--discard", feed="y\n")
    assert conflict.entries() == []
    assert container.download_blob("results.txt").readall() == b"theirs"


def test_an_export_fetches_what_was_written_over(commands, volume, container, short_path):
    volume.mount()
    (volume.path / "log").write_bytes(b"0123456789" * 1000)
    with pytest.raises(OSError), open(volume.path / "log", "r+b", buffering=0) as file:  # noqa: PT012
        file.write(b"mine")
        file.seek(10_005)
        file.write(b"more")
        volume.crash()
    whole = b"mine" + (b"0123456789" * 1000)[4:] + bytes(5) + b"more"

    alone = commands("recover", commands.directory / "cache", "--export", short_path / "alone")
    assert "zeros" in alone.stderr
    assert "name the mount point" in alone.stderr
    known = (short_path / "alone").read_bytes()
    assert len(known) == len(whole)
    assert known[:4] + known[-4:] == b"minemore"

    volume.mount("--read-only")  # which leaves what waits to the next
    done = commands("recover", volume.path, "log", "--export", short_path / "fetched")
    assert "zeros" not in done.stderr
    assert (short_path / "fetched").read_bytes() == whole

    container.upload_blob("log", b"theirs", overwrite=True)  # and now that version is gone
    gone = commands("recover", volume.path, "log", "--export", short_path / "gone")
    assert "zeros" in gone.stderr
    assert (short_path / "gone").read_bytes() == known


def test_what_is_no_place_to_recover_from_is_refused(commands, short_path):
    commands("recover", short_path / "absent", code=3)
    commands("recover", "/usr", code=2)
    (short_path / "empty").mkdir()
    commands("recover", short_path / "empty", "--commit", "--discard", code=2)
    assert commands("recover", short_path / "empty", "--output", "json").stdout == "[]\n"
