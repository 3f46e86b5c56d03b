"""A mount behind a network that misbehaves, and one whose store is gone for good."""

from __future__ import annotations

import errno
import os
import random
import threading

import pytest

from tests.fuse.driving import driver, volume_spec
from tests.support import fault_proxy as faults
from tests.support.fault_proxy import FaultProxy
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

MIB = 1024 * 1024

PASSING = [
    faults.refuse(),
    faults.lose_answer(),
    faults.cut(0),
    faults.cut(20_000),
    faults.cut_request(5_000),
    faults.answer(429, "TooManyRequests", retry_after=0.1),
    faults.answer(500, "InternalError"),
    faults.answer(502),
    faults.answer(503, "ServerBusy", retry_after=0.1),
    faults.answer(504),
    faults.answer_after(500, "InternalError"),
    faults.declare(7),
    faults.declare(-7),
    faults.garbage(),
    faults.delay(0.05),
]


@pytest.fixture
def proxy(storage):
    with FaultProxy(storage.blob_endpoint) as running:
        yield running


@pytest.fixture
def spec(storage, blob_container, proxy):
    return {**volume_spec("blob", storage, blob_container, None), "endpoint": proxy.endpoint}


def write_and_change(path, dice):
    """A file of some size, changed in places; what it must hold."""
    expected = bytearray(dice.randbytes(dice.choice([0, 100, 70_000, 3 * MIB, 9 * MIB])))
    path.write_bytes(expected)
    for _ in range(2):
        with path.open("r+b") as file:
            at = dice.randrange(len(expected) + 1)
            piece = dice.randbytes(dice.randrange(1, 50_000))
            file.seek(at)
            file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            expected[at : at + len(piece)] = piece
    return bytes(expected)


def test_under_random_faults_every_byte_is_right_and_no_error_shows(proxy, spec, short_path):
    proxy.randomly(0.15, PASSING, seed=11)
    expected = {}

    def work(number, mounted):
        dice = random.Random(number)
        directory = mounted.path / f"d{number}"
        directory.mkdir()
        for index in range(4):
            path = directory / str(index)
            data = write_and_change(path, dice)
            assert path.read_bytes() == data
            if index == 3:
                renamed = directory / "renamed"
                path.rename(renamed)
                path = renamed
            expected[path.relative_to(mounted.path)] = data
        gone = directory / "gone"
        gone.write_bytes(b"x")
        gone.unlink()

    with driver(spec, short_path) as mounted:
        failures = []

        def guarded(number):
            try:
                work(number, mounted)
            except Exception as error:  # noqa: BLE001 - shown by the assertion below
                failures.append(error)

        workers = [threading.Thread(target=guarded, args=(number,)) for number in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures, (failures, mounted.log.read_text()[-3000:])
        stats = mounted.stats()
        assert stats["retries"] > 5
        assert stats["errors"] == 0, mounted.log.read_text()[-3000:]
    assert proxy.injected() > 10
    with driver(spec, short_path) as mounted:
        for path, data in expected.items():
            assert (mounted.path / path).read_bytes() == data
        for number in range(3):
            assert sorted(os.listdir(mounted.path / f"d{number}")) == ["0", "1", "2", "renamed"]


@pytest.mark.parametrize(
    ("fault", "number", "kind"),
    [
        (faults.answer(503, "ServerBusy"), errno.EIO, "throttled"),
        (faults.refuse(), errno.EIO, "connection"),
        (faults.stall(), errno.ETIMEDOUT, "timeout"),
        (faults.answer(403, "AuthorizationFailure"), errno.EACCES, "authentication"),
        (faults.answer(404, "ContainerNotFound"), errno.ENOENT, "missing"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_does_not_pass_shows_as_its_errno(proxy, spec, short_path, fault, number, kind):
    with driver(spec, short_path, retryDeadline=2, attributeTimeout=0) as mounted:
        proxy.always(fault)
        with pytest.raises(OSError) as caught:
            os.stat(mounted.path / "file")
        assert caught.value.errno == number
        proxy.clear()
        stats = mounted.stats()
        assert stats["errors"] == stats[f"errors_{kind}"] >= 1
        lines = [x for x in mounted.log.read_text().splitlines() if '"the store failed"' in x]
        assert len(lines) == stats["errors"]
        (mounted.path / "file").write_bytes(b"it is back")
        assert (mounted.path / "file").read_bytes() == b"it is back"


def test_a_stuck_store_keeps_nobody_from_what_needs_no_store(proxy, spec, short_path):
    with driver(spec, short_path, retryDeadline=4) as mounted:
        (mounted.path / "file").write_bytes(b"in memory")
        proxy.always(faults.stall_before())
        waiting = threading.Thread(target=(mounted.path / "missing").exists)
        waiting.start()
        eventually(lambda: proxy.injected("stall_before"))
        assert os.statvfs(mounted.path).f_bsize
        assert mounted.ask("status")["ok"]
        assert waiting.is_alive()
        proxy.clear()
        waiting.join(30)
