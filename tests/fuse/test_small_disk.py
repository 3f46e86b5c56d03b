"""A cache disk, a real file system on a loop device, that several writers fill."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient, ContainerClient

from tests.fuse.driving import driver, volume_spec
from tests.support.fault_proxy import FaultProxy, answer

pytestmark = pytest.mark.integration


@pytest.fixture
def small_disk(short_path):
    """A real file system of 24 MiB on a loop device."""
    image, place = short_path / "image", short_path / "small"
    place.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    made = subprocess.run(
        ["mount", "-o", "loop", image, place], check=False, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no loop devices here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_many_writers_fill_the_cache_disk(storage, blob_container, short_path, small_disk):
    """Four files of 16 MiB through a cache disk of 24: none fails, and each is what was written."""
    spec = volume_spec("blob", storage, blob_container, None)
    data = {f"f{number}": os.urandom(1 << 20) for number in range(4)}
    failures = []

    def write(path: Path, block):
        try:
            with open(path, "wb", buffering=0) as file:
                for _ in range(16):
                    assert file.write(block) == len(block)
        except OSError as error:
            failures.append(error)

    with driver(spec, short_path, cacheDir=os.fspath(small_disk)) as mounted:
        threads = [
            threading.Thread(target=write, args=(mounted.path / name, block))
            for name, block in data.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(150)
        assert failures == []
        for name, block in data.items():
            assert (mounted.path / name).read_bytes() == block * 16


def test_writers_on_a_full_disk_over_a_store_that_refuses_then_recovers(
    storage, blob_container, short_path, small_disk
):
    spec = volume_spec("blob", storage, blob_container, None)
    block = os.urandom(1 << 18)
    acknowledged = {}

    def write(path, descriptor):
        written = 0
        with contextlib.suppress(OSError):
            while written < 64 << 20:
                written += os.write(descriptor, block[written % len(block) :])
        acknowledged[path] = written

    with FaultProxy(spec["endpoint"]) as proxy:
        changes = {"endpoint": proxy.endpoint, "cacheDir": os.fspath(small_disk)}
        with driver(spec, short_path, **changes) as mounted:
            opened = {
                name: os.open(mounted.path / name, os.O_RDWR | os.O_CREAT) for name in ("a", "b")
            }
            proxy.always(answer(403, "AuthorizationFailure"), method="PUT")
            threads = [threading.Thread(target=write, args=item) for item in opened.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(150)
            assert sum(acknowledged.values()) > 8 << 20
            proxy.clear()
            for descriptor in opened.values():
                os.fsync(descriptor)
                os.write(descriptor, b"and on")
                os.close(descriptor)
    credential = {"account_name": storage.account, "account_key": storage.key}
    with BlobServiceClient(storage.blob_endpoint, credential=credential) as service:
        for name, written in acknowledged.items():
            stored = service.get_container_client(blob_container).download_blob(name).readall()
            expected = (block * (written // len(block) + 1))[:written]
            assert stored[:written] == expected, json.dumps([name, len(stored), written])
            assert stored.endswith(b"and on")


def test_what_is_dirty_never_gives_way_to_what_is_read(
    storage, blob_container, short_path, small_disk, eventually
):
    """The driver would not notice, having its files open: the mount after a crash would."""
    spec = volume_spec("blob", storage, blob_container, None)
    dirty, large = os.urandom(4 << 20), os.urandom(48 << 20)
    url = f"{storage.blob_endpoint}/{blob_container}"
    changes = {"cacheDir": os.fspath(small_disk), "memoryBudget": 16 << 20}
    with ContainerClient.from_container_url(url, credential=storage.key) as client:
        client.upload_blob("large", large)
        client.upload_blob("f", b"old")
        with driver(spec, short_path, **changes) as mounted:
            file = os.open(mounted.path / "f", os.O_WRONLY)
            assert os.write(file, dirty) == len(dirty)

            def evicted():
                assert (mounted.path / "large").read_bytes() == large
                return mounted.stats()["disk_evicted_bytes"]

            eventually(evicted)
            mounted.process.kill()
            mounted.process.wait()
            with pytest.raises(OSError, match="not connected"):
                os.close(file)
        assert client.download_blob("f").readall() == b"old"
        with driver(spec, short_path, **changes):
            assert client.download_blob("f").readall() == dirty


def fill(place):
    """Leave no room at all."""
    with open(place / "filler", "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def test_unlinking_what_is_open_needs_no_room_on_the_disk(
    storage, blob_container, short_path, small_disk
):
    """As on a local disk: readers keep what was there, from memory."""
    spec = volume_spec("blob", storage, blob_container, None)
    data = {name: os.urandom(9 << 20) for name in ("gone", "replaced")}
    with driver(spec, short_path, cacheDir=os.fspath(small_disk)) as mounted:
        path = mounted.path
        for name, content in data.items():
            (path / name).write_bytes(content)
        (path / "other").write_bytes(b"other")
        with open(path / "gone", "rb") as gone, open(path / "replaced", "r+b") as replaced:
            fill(small_disk)
            os.unlink(path / "gone")
            os.rename(path / "other", path / "replaced")
            assert mounted.stats()["memory_lent_bytes"] == 18 << 20
            assert sorted(os.listdir(path)) == ["replaced"]
            assert gone.read() == data["gone"]
            assert replaced.read() == data["replaced"]
            assert (path / "replaced").read_bytes() == b"other"
        (small_disk / "filler").unlink()
    assert mounted.process.returncode == 0


def test_unlinking_succeeds_where_there_is_room_nowhere(
    storage, blob_container, short_path, small_disk
):
    spec = volume_spec("blob", storage, blob_container, None)
    data = os.urandom(40 << 20)
    url = f"{storage.blob_endpoint}/{blob_container}"
    changes = {"cacheDir": os.fspath(small_disk), "memoryBudget": 64 << 20}
    with (
        ContainerClient.from_container_url(url, credential=storage.key) as client,
        driver(spec, short_path, **changes) as mounted,
    ):
        client.upload_blob("f", data)
        with open(mounted.path / "f", "rb", buffering=0) as file:
            fill(small_disk)
            os.unlink(mounted.path / "f")
            assert mounted.stats()["memory_lent_bytes"] == 0
            with pytest.raises(OSError, match="Stale") as caught:
                os.pread(file.fileno(), 1 << 20, 30 << 20)
            assert caught.value.errno == errno.ESTALE
            assert "no room to keep" in mounted.log.read_text()
