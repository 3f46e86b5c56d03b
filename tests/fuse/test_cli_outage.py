"""Ways out of a mount whose store has stopped answering."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.fuse.commands import Commands, target
from tests.support.kernel import mounts_below

pytestmark = pytest.mark.integration


@pytest.fixture
def commands(short_path):
    made = Commands(short_path)
    yield made
    for mountpoint in reversed(mounts_below(short_path)):
        made("unmount", "--force", mountpoint)


@pytest.fixture
def volume(commands, short_path, private_storage):
    """A mounted container of a store that a test may stop."""
    from azure.storage.blob import BlobServiceClient

    storage = private_storage
    credential = {"account_name": storage.account, "account_key": storage.key}
    with BlobServiceClient(storage.blob_endpoint, credential=credential) as service:
        service.create_container("outage")

    class Volume:
        path = short_path / "m"

        def mount(self, *more):
            words = ("blob", target(storage, "outage"), self.path, *commands.places, *more)
            commands(*words, AZURE_STORAGE_KEY=storage.key)
            shown = json.loads(commands("show", self.path, "--output", "json").stdout)
            self.pid = shown["pid"]

        @contextmanager
        def silent_store(self):
            [pid] = [server.pid for server in storage.servers if server.name == "azurite"]
            os.kill(pid, signal.SIGSTOP)
            try:
                yield
            finally:
                os.kill(pid, signal.SIGCONT)

    Volume.path.mkdir()
    return Volume()


HOLD = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY)
os.write(file, b"newer!")
print("written", flush=True)
sys.stdin.read()
"""


@contextmanager
def unsaved(path):
    """A process that has written to a file, and has not closed it.

    Not this one: whatever it starts would inherit the file, and wait when it closes it.
    """
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout.readline() == b"written\n"
        try:
            yield
        finally:
            process.kill()


def ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_an_unmount_is_bounded_and_keeps_what_is_not_stored(commands, volume):
    volume.mount("--flush-timeout", "1")
    (volume.path / "before").write_text("stored")
    with volume.silent_store(), unsaved(volume.path / "before"):
        stats = json.loads(commands("stats", volume.path, "--output", "json").stdout)
        assert stats["dirty_bytes"] == 6
        said = commands("unmount", volume.path, code=4).stderr
        assert "storing: 6 B left" in said
        assert "NotCommitted" in said
        assert "batchai-mount recover" in said
        assert mounts_below(volume.path) == []
    volume.mount()
    assert (volume.path / "before").read_text() == "newer!"
    commands("unmount", volume.path)


def test_a_second_sigterm_ends_at_once_and_keeps_what_is_not_stored(volume, eventually):
    volume.mount("--flush-timeout", "600")
    (volume.path / "a").write_text("stored")
    with volume.silent_store(), unsaved(volume.path / "a"):
        os.kill(volume.pid, signal.SIGTERM)
        eventually(lambda: "stopping" in (volume.path.parent / "log").read_text())
        assert not ended(volume.pid)
        os.kill(volume.pid, signal.SIGTERM)
        eventually(lambda: ended(volume.pid), deadline=30)
        if mounts_below(volume.path):
            subprocess.run(["umount", "-l", volume.path], check=True)
    volume.mount()
    assert (volume.path / "a").read_text() == "newer!"
