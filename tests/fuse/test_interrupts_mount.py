"""A store that says nothing, and programs on the mount that are to end all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuse.driving import driver, volume_spec

pytestmark = pytest.mark.integration


@contextmanager
def silent(storage):
    [pid] = [server.pid for server in storage.servers if server.name == "azurite"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def mounted(private_storage, short_path):
    from azure.storage.blob import BlobServiceClient

    credential = {"account_name": private_storage.account, "account_key": private_storage.key}
    with BlobServiceClient(private_storage.blob_endpoint, credential=credential) as service:
        container = service.create_container("silence")
        container.upload_blob("directory/file", bytes(5_000_000))
    spec = volume_spec("blob", private_storage, "silence", None)
    with driver(spec, short_path, attributeTimeout=0) as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    "command",
    [
        ["cat", "directory/file"],
        ["ls", "directory"],
        ["stat", "directory/missing"],
        ["dd", "if=directory/file", "of=/dev/null", "bs=1M", "iflag=direct"],
    ],
    ids=lambda command: command[0],
)
def test_a_program_that_waits_for_a_silent_store_can_be_ended(
    mounted, private_storage, command, number, eventually
):
    # What the kernel knows already needs no answer: the wait is to be for the store.
    with (
        silent(private_storage),
        subprocess.Popen(
            command, cwd=mounted.path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as program,
    ):
        state = f"/proc/{program.pid}/syscall"
        eventually(lambda: program.poll() is not None or os.path.exists(state))
        program.send_signal(number)
        assert program.wait(20) != 0
    assert (mounted.path / "directory" / "file").stat().st_size == 5_000_000


WRITER = """
import os, sys
file = os.open("new", os.O_RDWR | os.O_CREAT)
os.write(file, b"kept")
print("written", flush=True)
sys.stdin.readline()
os.fsync(file)
"""


def test_an_fsync_can_be_interrupted_and_its_data_is_committed_later(
    mounted, private_storage, eventually
):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER],
        cwd=mounted.path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as program:
        assert program.stdout.readline() == b"written\n"
        with silent(private_storage):
            program.stdin.write(b"\n")
            program.stdin.flush()
            waits = Path(f"/proc/{program.pid}/wchan")
            eventually(lambda: "fuse" in waits.read_text() or "request" in waits.read_text())
            program.send_signal(signal.SIGINT)
            eventually(lambda: mounted.stats()["interrupted"] >= 1, 20)
        program.wait(60)
    eventually(lambda: (mounted.path / "new").read_bytes() == b"kept", 20)
    eventually(lambda: mounted.stats()["dirty_bytes"] == 0, 20)
