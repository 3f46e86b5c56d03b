"""What is left behind, set aside or waits, as the next mount and the people before it see it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import subprocess
import sys

import pytest
from azure.storage.blob import ContainerClient

from fuse import records
from fuse.places import Places
from tests.fuse.driving import driver, volume_spec
from tests.support.fault_proxy import FaultProxy, answer

pytestmark = pytest.mark.integration

REFUSED = answer(403, "AuthorizationFailure")
BUSY = answer(503, "ServerBusy", retry_after=1)


@pytest.fixture
def spec(storage, blob_container):
    return volume_spec("blob", storage, blob_container, None)


@pytest.fixture
def blobs(storage, blob_container):
    url = f"{storage.blob_endpoint}/{blob_container}"
    with ContainerClient.from_container_url(url, credential=storage.key) as client:
        yield client


def put(blobs, name, data):
    blobs.upload_blob(name, data, overwrite=True)


def get(blobs, name):
    return blobs.download_blob(name).readall()


def kill(mounted, *descriptors):
    os.kill(mounted.process.pid, signal.SIGKILL)
    mounted.process.wait()
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    subprocess.run(["umount", "-l", mounted.path], check=True)


@contextlib.contextmanager
def crashed(spec, place, data, name="f", **changes):
    """A file with a write that no fsync followed before the driver was killed."""
    with driver(spec, place, **changes) as mounted:
        descriptor = os.open(mounted.path / name, os.O_RDWR | os.O_CREAT)
        os.pwrite(descriptor, data, 0)
        kill(mounted, descriptor)
    yield


HOLDER = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(file, b"not yet")
print("written", flush=True)
sys.stdin.read()
os.write(file, b", but now")
os.close(file)
"""


@contextlib.contextmanager
def holding(path):
    """A program with a file open. (Not this one: its children's copies of the file get closed.)"""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout.readline() == b"written\n"
        yield program


def recovery(mounted):
    return mounted.ask("recovery")["result"]["entries"]


def test_a_conflict_at_replay_is_kept_and_told(spec, blobs, short_path):
    with crashed(spec, short_path, b"mine"):
        put(blobs, "f", b"theirs")
    with driver(spec, short_path) as mounted:
        assert (mounted.path / "f").read_bytes() == b"theirs"
        (entry,) = recovery(mounted)
        assert (entry["path"], entry["state"], entry["size"]) == ("f", "conflict", 4)
        status = mounted.ask("status")["result"]
        assert status["recovery"] == {"committed": 0, "conflicts": 1, "waiting": 0}
        assert any("batchai-mount recover" in warning for warning in status["warnings"])
    assert get(blobs, "f") == b"theirs"


def test_a_damaged_log_is_kept(spec, blobs, short_path):
    put(blobs, "f", b"0123456789")
    with crashed(spec, short_path, b"mine"):
        (log_file,) = (short_path / "c" / "journal").glob("*/*/*.log")
        damaged = bytearray(log_file.read_bytes())
        damaged[-1] ^= 0x10
        log_file.write_bytes(bytes(damaged))
    with driver(spec, short_path) as mounted:
        assert (mounted.path / "f").read_bytes() == b"0123456789"
        (entry,) = recovery(mounted)
        assert "damaged" in entry["reason"]


def test_a_read_only_mount_leaves_it_to_the_next(spec, blobs, short_path):
    with crashed(spec, short_path, b"mine"):
        pass
    with driver(spec, short_path, readOnly=True) as mounted:
        assert mounted.ask("status")["result"]["recovery"]["waiting"] == 1
    assert get(blobs, "f") == b""
    with driver(spec, short_path) as mounted:
        assert mounted.ask("status")["result"]["recovery"]["committed"] == 1
    assert get(blobs, "f") == b"mine"


def test_two_mounts_of_a_container_share_a_cache_directory(spec, blobs, short_path):
    places = [short_path / name for name in "ab"]
    for place in places:
        place.mkdir()
    cache = {"cacheDir": os.fspath(short_path / "c")}
    with driver(spec, places[0], **cache) as living, holding(living.path / "alive") as holder:
        with crashed(spec, places[1], b"left", "dead", **cache):
            pass
        with driver(spec, places[1], **cache) as mounted:
            assert mounted.ask("status")["result"]["recovery"]["committed"] == 1
            assert (mounted.path / "dead").read_bytes() == b"left"
            assert (mounted.path / "alive").read_bytes() == b"", "not its to commit"
        holder.stdin.close()
        assert holder.wait(30) == 0
    assert get(blobs, "alive") == b"not yet, but now"


def test_what_the_store_refuses_waits_for_the_next_mount(spec, blobs, short_path):
    with FaultProxy(spec["endpoint"]) as proxy:
        spec["endpoint"] = proxy.endpoint
        with driver(spec, short_path) as mounted:
            descriptor = os.open(mounted.path / "f", os.O_RDWR | os.O_CREAT)
            os.write(descriptor, b"mine")
            proxy.always(REFUSED, method="PUT")
            with pytest.raises(PermissionError):
                os.close(descriptor)
            assert (mounted.path / "f").read_bytes() == b"mine", "those on this node see it"
            answered = mounted.ask("unmount")
            assert answered["error"]["code"] == "NotCommitted"
            assert "batchai-mount recover" in answered["error"]["hint"]
            assert mounted.process.wait(30) == 4
        proxy.clear()
        with driver(spec, short_path) as mounted:
            assert (mounted.path / "f").read_bytes() == b"mine"
    assert get(blobs, "f") == b"mine"


@pytest.mark.parametrize("fault", [REFUSED, BUSY], ids=["refused", "busy"])
def test_what_cannot_be_committed_before_the_mount_is_ready_is_committed_later(
    spec, blobs, short_path, eventually, fault
):
    put(blobs, "d/old", b"0123456789")
    with driver(spec, short_path) as mounted:
        names = ("d/old", "d/new")
        held = [os.open(mounted.path / name, os.O_RDWR | os.O_CREAT) for name in names]
        for descriptor in held:
            os.pwrite(descriptor, b"mine", 3)
        kill(mounted, *held)
    with FaultProxy(spec["endpoint"]) as proxy:
        spec["endpoint"] = proxy.endpoint
        # The same volume by another endpoint, for the journal.
        (place,) = (short_path / "c" / "journal").iterdir()
        identity = f"blob:{proxy.endpoint}/{spec['container']}"
        log_files = list(place.glob("*/*.log"))
        for log_file in log_files:
            state = records.replay(log_file.read_bytes(), boot=None)
            state.header = dataclasses.replace(state.header, identity=identity)
            log_file.write_bytes(records.rewritten(state, state.header.boot))
        place.rename(Places(short_path / "c", identity).journal)
        proxy.always(fault, method="PUT")
        with driver(spec, short_path, retryDeadline=600) as mounted:
            held = []
            status = mounted.ask("status")["result"]
            assert status["recovery"] == {"committed": 0, "conflicts": 0, "waiting": 2}
            assert any("still not stored" in warning for warning in status["warnings"])
            assert (mounted.path / "d/old").read_bytes() == b"012mine789"
            assert (mounted.path / "d/new").read_bytes() == bytes(3) + b"mine"
            assert sorted(os.listdir(mounted.path / "d")) == ["new", "old"]
            # Written to again, and the driver is killed again.
            if fault is REFUSED:  # a write waits for a commit that is under way
                held = [os.open(mounted.path / "d/old", os.O_RDWR | os.O_APPEND)]
                os.write(held[0], b", and more")
            kill(mounted, *held)
        with driver(spec, short_path) as mounted:
            assert mounted.ask("status")["result"]["recovery"]["waiting"] == 2
            proxy.clear()
            done = {"committed": 2, "conflicts": 0, "waiting": 0}
            eventually(lambda: mounted.ask("status")["result"]["recovery"] == done)
            assert mounted.ask("status")["result"]["warnings"] == []
        assert not list((short_path / "c" / "journal").glob("*/*/*.*"))
    more = b", and more" if fault is REFUSED else b""
    assert get(blobs, "d/old") == b"012mine789" + more
    assert get(blobs, "d/new") == bytes(3) + b"mine"


def test_what_failed_is_tried_again_in_the_background(spec, blobs, short_path, eventually):
    with FaultProxy(spec["endpoint"]) as proxy:
        spec["endpoint"] = proxy.endpoint
        with driver(spec, short_path) as mounted:
            with open(mounted.path / "f", "wb", buffering=0) as file:
                file.write(b"mine")
                proxy.always(REFUSED, method="PUT")
                with pytest.raises(PermissionError):
                    os.fsync(file)
                proxy.clear()
                eventually(lambda: get(blobs, "f") == b"mine")


def test_a_conflict_is_told_once_and_gives_way(spec, blobs, short_path):
    put(blobs, "f", b"0123456789")
    with driver(spec, short_path) as mounted:
        one, other = (os.open(mounted.path / "f", os.O_RDWR) for _ in range(2))
        os.pwrite(one, b"A", 0)
        os.pwrite(other, b"B", 4)
        put(blobs, "f", b"theirs")
        for descriptor in (one, other):
            with pytest.raises(OSError, match="Stale") as told:
                os.fsync(descriptor)
            assert told.value.errno == errno.ESTALE
            os.close(descriptor)
        assert (mounted.path / "f").read_bytes() == b"theirs"
        (mounted.path / "f").write_bytes(b"later")
        (entry,) = recovery(mounted)
        assert entry["dirty_bytes"] == 2
    assert get(blobs, "f") == b"later"


@pytest.fixture
def small_cache(short_path):
    place = short_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_cache_disk_stores_early(spec, blobs, short_path, small_cache):
    data = os.urandom(1 << 20)
    with driver(spec, short_path, cacheDir=os.fspath(small_cache)) as mounted:
        with open(mounted.path / "f", "wb", buffering=0) as file:
            for _ in range(20):
                assert file.write(data) == len(data)
        assert (mounted.path / "f").read_bytes() == data * 20
    assert get(blobs, "f") == data * 20


def test_a_full_cache_disk_under_a_store_that_refuses(spec, blobs, short_path, small_cache):
    chunk = os.urandom(1 << 18)
    with FaultProxy(spec["endpoint"]) as proxy:
        spec["endpoint"] = proxy.endpoint
        with driver(spec, short_path, cacheDir=os.fspath(small_cache)) as mounted:
            with open(mounted.path / "f", "w+b", buffering=0) as file:
                proxy.always(REFUSED, method="PUT")
                written = 0
                with pytest.raises(OSError, match="No space left") as full:  # noqa: PT012
                    while written < 16 << 20:
                        written += file.write(chunk[: len(chunk) - written % len(chunk)])
                assert full.value.errno == errno.ENOSPC
                assert written >= 3 << 20
                expected = (chunk * (written // len(chunk) + 1))[:written]
                file.seek(0)
                read = b"".join(iter(lambda: file.read(1 << 20), b""))
                assert read[:written] == expected, "what was acknowledged can be read"
                proxy.clear()
                os.fsync(file)
    assert get(blobs, "f")[:written] == expected
