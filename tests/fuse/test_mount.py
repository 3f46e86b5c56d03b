"""Mounted volumes, blob and share alike, beside a local directory: same bytes, metadata, errno."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuse.driving import DriverFailed, call, driver, volume_spec

pytestmark = pytest.mark.integration

KINDS = ["blob", "share"]
MIB = 1024 * 1024


@pytest.fixture(params=KINDS)
def spec(request, storage, blob_container):
    return volume_spec(request.param, storage, blob_container, None)


@pytest.fixture
def mounted(spec, short_path):
    with driver(spec, short_path) as running:
        yield running


@pytest.fixture
def place(mounted):
    """A directory of the test's own in the mount (the share is shared by all tests)."""
    directory = mounted.path / uuid.uuid4().hex
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def test_files_and_directories(place):
    (place / "a").write_bytes(b"hello")
    assert (place / "a").read_bytes() == b"hello"
    (place / "d").mkdir()
    (place / "d" / "b").write_text("x" * 10_000)
    assert sorted(os.listdir(place)) == ["a", "d"]
    assert (place / "d" / "b").stat().st_size == 10_000
    os.rename(place / "a", place / "d" / "c")
    assert sorted(os.listdir(place / "d")) == ["b", "c"]
    os.rename(place / "d", place / "e")
    assert (place / "e" / "c").read_bytes() == b"hello"
    os.unlink(place / "e" / "c")
    assert os.listdir(place / "e") == ["b"]


def test_errnos_are_those_of_a_local_directory(place, tmp_path):
    def outcomes(root):
        (root / "file").write_bytes(b"1")
        (root / "full").mkdir()
        (root / "full" / "x").write_bytes(b"2")
        (root / "empty").mkdir()
        attempts = [
            (root / "missing").read_bytes,
            lambda: (root / "missing" / "deeper").write_bytes(b""),
            (root / "file" / "below").read_bytes,
            (root / "full").rmdir,
            (root / "file").rmdir,
            (root / "full").unlink,
            (root / "missing").unlink,
            (root / "missing").rmdir,
            (root / "empty").mkdir,
            (root / "file").mkdir,
            lambda: os.rename(root / "missing", root / "new"),
            lambda: os.rename(root / "file", root / "empty"),
            lambda: os.rename(root / "empty", root / "file"),
            lambda: os.rename(root / "empty", root / "full"),
            lambda: os.open(root / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
            lambda: os.open(root / "full", os.O_WRONLY),
            lambda: os.readlink(root / "file"),
            lambda: os.listdir(root / "file"),
            lambda: os.truncate(root / "full", 0),
            lambda: os.mkfifo(root / "fifo"),
            lambda: os.link(root / "file", root / "hard"),
            lambda: (root / ("n" * 300)).write_bytes(b""),
        ]
        found = []
        for attempt in attempts:
            try:
                attempt()
                found.append(None)
            except OSError as error:
                found.append(errno.errorcode[error.errno])
        return found

    ours = outcomes(place)
    local = outcomes(tmp_path)
    # What an object store has no place for is refused, as the manual pages say of such systems.
    assert ours[-3:-1] == ["EPERM", "EPERM"]
    local[-3:-1] = ours[-3:-1]
    # ext4 and ours may differ in which of two true reasons they name.
    assert ours == local


operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("pwrite"), st.integers(0, 3), st.integers(0, 9000), st.binary(min_size=1)
        ),
        st.tuples(st.just("append"), st.integers(0, 3), st.just(0), st.binary(min_size=1)),
        st.tuples(st.just("replace"), st.integers(0, 3), st.just(0), st.binary()),
        st.tuples(st.just("truncate"), st.integers(0, 3), st.integers(0, 9000), st.just(b"")),
        st.tuples(st.just("unlink"), st.integers(0, 3), st.just(0), st.just(b"")),
        st.tuples(st.just("rename"), st.integers(0, 3), st.integers(0, 3), st.just(b"")),
        st.tuples(st.just("read"), st.integers(0, 3), st.integers(0, 9000), st.just(b"")),
        st.tuples(st.just("list"), st.just(0), st.just(0), st.just(b"")),
        st.tuples(st.just("stat"), st.integers(0, 3), st.just(0), st.just(b"")),
    ),
    min_size=1,
    max_size=15,
)


def perform(root, step):
    name, which, number, data = step
    path = root / f"f{which}"
    try:
        if name == "pwrite":
            with open(path, "r+b") as file:
                file.seek(number)
                return file.write(data)
        if name == "append":
            with open(path, "ab") as file:
                return file.write(data)
        if name == "replace":
            return path.write_bytes(data)
        if name == "truncate":
            return os.truncate(path, number)
        if name == "unlink":
            return os.unlink(path)
        if name == "rename":
            return os.rename(path, root / f"f{number}")
        if name == "read":
            with open(path, "rb") as file:
                file.seek(number)
                return file.read()
        if name == "list":
            return sorted(os.listdir(root))
        found = os.stat(path)
        return found.st_size, stat.S_IFMT(found.st_mode)
    except OSError as error:
        return errno.errorcode[error.errno]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=operations)
def test_any_sequence_gives_what_a_local_directory_gives(place, tmp_path, steps):
    name = uuid.uuid4().hex
    ours, local = place / name, tmp_path / name
    ours.mkdir()
    local.mkdir()
    for step in steps:
        assert perform(ours, step) == perform(local, step), step
    for which in range(4):
        step = ("read", which, 0, b"")
        assert perform(ours, step) == perform(local, step)


def test_a_large_file_survives_a_remount(spec, short_path):
    name = uuid.uuid4().hex
    data = os.urandom(3 * MIB) * 8 + b"tail"
    with driver(spec, short_path) as first:
        (first.path / name).write_bytes(data)
    with driver(spec, short_path) as second:
        path = second.path / name
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
        with open(path, "r+b") as file:  # only what changed travels
            file.seek(20 * MIB)
            file.write(b"middle")
        assert second.stats()["bytes_sent"] < 10 * MIB
        changed = bytearray(data)
        changed[20 * MIB : 20 * MIB + 6] = b"middle"
        with open(path, "rb") as file:
            file.seek(19 * MIB)
            assert file.read(2 * MIB) == changed[19 * MIB : 21 * MIB]
    with driver(spec, short_path) as third:
        assert (third.path / name).read_bytes() == changed
        os.unlink(third.path / name)


def test_an_unlinked_open_file_lives_on(place):
    with open(place / "f", "w+b") as file:
        file.write(b"still here")
        file.flush()
        os.fsync(file.fileno())
        os.unlink(place / "f")
        assert not (place / "f").exists()
        file.seek(0)
        assert file.read() == b"still here"
        file.write(b" and growing")
        file.seek(0)
        assert file.read() == b"still here and growing"


def test_a_renamed_open_file_can_be_written_on(place):
    with open(place / "tmp", "wb") as file:
        file.write(b"one ")
        os.rename(place / "tmp", place / "final")
        file.write(b"two")
    assert (place / "final").read_bytes() == b"one two"
    assert os.listdir(place) == ["final"]


def test_a_reader_on_the_node_sees_what_a_writer_has_not_committed(place):
    with open(place / "log", "wb", buffering=0) as writer, open(place / "log", "rb") as reader:
        writer.write(b"line\n")
        assert reader.read() == b"line\n"
        writer.write(b"more\n")
        assert reader.read() == b"more\n"


def test_concurrent_appends_all_arrive(place):
    script = 'for i in $(seq 50); do echo "$1 $i" >> "$2"; done'
    writers = [
        subprocess.Popen(["sh", "-c", script, "sh", str(number), place / "log"])
        for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = (place / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{n} {i}" for n in range(4) for i in range(1, 51))


def test_names_that_are_hard_on_others(place):
    names = ["with space", "per%cent", "uni-\N{SNOWMAN}", "quo'te\"s", "a+b&c=d#e", "x" * 200]
    for name in names:
        (place / name).write_text(name)
    assert sorted(os.listdir(place)) == sorted(names)
    for name in names:
        assert (place / name).read_text() == name
        os.rename(place / name, place / f"{name[:100]}.2")
    assert sorted(os.listdir(place)) == sorted(f"{name[:100]}.2" for name in names)


def test_times_are_kept(place):
    (place / "f").write_bytes(b"x")
    os.utime(place / "f", (1_600_000_000, 1_600_000_000))
    assert (place / "f").stat().st_mtime == 1_600_000_000


def test_symbolic_links(place):
    (place / "target").write_bytes(b"t")
    os.symlink("target", place / "link")
    assert os.readlink(place / "link") == "target"
    assert (place / "link").read_bytes() == b"t"
    assert (place / "link").is_symlink()
    os.unlink(place / "link")
    assert (place / "target").exists()


def test_read_only(spec, short_path):
    with driver(spec, short_path, readOnly=True) as mounted, pytest.raises(OSError) as caught:
        (mounted.path / "x").write_bytes(b"")
    assert caught.value.errno == errno.EROFS


def test_a_wrong_key(spec, short_path):
    wrong = {**spec, "credential": {"accountKey": "d3Jvbmcga2V5"}}
    with pytest.raises(DriverFailed) as caught, driver(wrong, short_path):
        pass
    assert caught.value.error["code"] == "AuthenticationFailed"
    assert caught.value.error["hint"]
    assert "d3Jvbmcga2V5" not in str(caught.value)


def test_no_such_container_or_share(spec, short_path):
    wrong = dict(spec)
    wrong["container" if spec["kind"] == "blob" else "share"] = "nothing-here"
    with pytest.raises(DriverFailed) as caught, driver(wrong, short_path):
        pass
    assert caught.value.error["code"] in {"ContainerNotFound", "ShareNotFound"}
    assert "nothing-here" in caught.value.error["message"]


def test_nobody_listens(spec, short_path):
    endpoint = "http://127.0.0.1:1/x" if spec["kind"] == "blob" else "127.0.0.1:1"
    with (
        pytest.raises(DriverFailed) as caught,
        driver({**spec, "endpoint": endpoint}, short_path),
    ):
        pass
    assert caught.value.error["code"] == "ServerUnreachable"


def test_wrong_instructions_are_refused_before_anything_is_touched(spec, short_path):
    for change in ({"nonsense": 1}, {"version": 2}, {"uid": -1}, {"mountpoint": "relative"}):
        with pytest.raises(DriverFailed) as caught, driver(spec, short_path, **change):
            pass
        assert caught.value.error["code"] == "InvalidOption"
        assert spec["credential"]["accountKey"] not in str(caught.value)


def test_control_protocol(mounted):
    assert mounted.ask("status")["result"]["pid"] == mounted.process.pid
    assert mounted.ask("status", version=99)["error"]["code"] == "UnsupportedVersion"
    assert mounted.ask("nonsense")["error"]["code"] == "UnknownOperation"
    assert os.stat(f"{mounted.spec['runDir']}/control.sock").st_mode & 0o077 == 0


def test_read_ahead_of_the_kernel_is_raised(mounted):
    device = os.stat(mounted.path).st_dev
    name = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    with open(name, encoding="ascii") as file:
        assert int(file.read()) == 4096


def test_no_key_in_argv_environment_or_log(mounted):
    key = mounted.spec["credential"]["accountKey"].encode()
    for name in ("cmdline", "environ"):
        with open(f"/proc/{mounted.process.pid}/{name}", "rb") as file:
            assert key not in file.read()
    assert key not in mounted.log.read_bytes()


def test_sigterm_commits_and_unmounts(spec, short_path):
    name = uuid.uuid4().hex
    with contextlib.ExitStack() as stack:
        mounted = stack.enter_context(driver(spec, short_path))
        descriptor = os.open(mounted.path / name, os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, b"not yet closed")
        mounted.process.send_signal(signal.SIGTERM)
        assert mounted.process.wait(30) == 0
        with contextlib.suppress(OSError):  # the file system is gone
            os.close(descriptor)
    with driver(spec, short_path) as again:
        assert (again.path / name).read_bytes() == b"not yet closed"
        os.unlink(again.path / name)


def test_list_and_read_without_a_mount(spec, mounted, place):
    (place / "f").write_bytes(b"0123456789")
    relative = place.name
    listed = call("ls", {**spec, "path": relative})
    assert b'"name": "f"' in listed.stdout
    found = call("cat", {**spec, "path": f"{relative}/f", "offset": 2, "length": 3})
    assert found.stdout == b"234"
    assert call("cat", {**spec, "path": f"{relative}/missing"}).returncode == 3


def test_a_second_epoch_costs_no_request(place, mounted):
    (place / "data").write_bytes(os.urandom(2 * MIB))
    (place / "data").read_bytes()
    before = mounted.stats()["bytes_received"]
    (place / "data").read_bytes()
    assert mounted.stats()["bytes_received"] == before


def test_going_through_a_directory_again_costs_one_listing_and_not_a_request_a_file(
    spec, short_path
):
    with driver(spec, short_path, attributeTimeout=0.2) as mounted:
        place = mounted.path / uuid.uuid4().hex
        place.mkdir()
        for number in range(100):
            (place / f"{number}").write_bytes(b"x")
        for name in sorted(os.listdir(place)):
            (place / name).read_bytes()
        before = mounted.stats()["requests"]
        for _ in range(3):
            for number in range(100):
                assert (place / f"{number}").read_bytes() == b"x"
        spent = mounted.stats()["requests"] - before
        shutil.rmtree(place)
    assert spent < 200, f"{spent} requests for 300 reads"


def test_opening_many_names_without_listing_costs_a_request_a_file(spec, short_path):
    """A loader that knows its names from an index never lists the directory."""
    name = uuid.uuid4().hex
    with driver(spec, short_path) as first:
        (first.path / name).mkdir()
        for number in range(100):
            (first.path / name / f"{number}").write_bytes(b"x" * 100)
    with driver(spec, short_path) as second:
        before = second.stats()["requests"]
        for number in range(100):
            assert (second.path / name / f"{number}").read_bytes() == b"x" * 100
        spent = second.stats()["requests"] - before
        # What is removed is gone at once, whatever a listing said before.
        (second.path / name / "50").unlink()
        assert not (second.path / name / "50").exists()
        assert not (second.path / name / "not-there").exists()
        shutil.rmtree(second.path / name)
    if spec["kind"] == "blob":
        assert spent < 140, f"{spent} requests for 100 files"


def test_statistics_say_what_reading_cost(storage, blob_container, short_path):
    spec = volume_spec("blob", storage, blob_container, None)
    with driver(spec, short_path) as mounted:
        (mounted.path / "f").write_bytes(bytes(3 * MIB))
    with driver(spec, short_path) as mounted:
        for _ in range(2):
            with (mounted.path / "f").open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                assert file.read() == bytes(3 * MIB)
                window = mounted.stats()["read_ahead_window_bytes"]
        assert window > 0
        stats = mounted.stats()
        assert stats["memory_hits"] >= 1, "the second time"
        assert 0 < stats["memory_hit_rate"] < 1
        assert stats["read_wait_count"] >= 1
        assert 0 < stats["read_wait_p50_ms"] <= stats["read_wait_p99_ms"]
        assert 0 < stats["first_byte_p50_ms"] <= stats["first_byte_p99_ms"]
        assert stats["first_byte_count"] <= stats["requests"]
        assert stats["dominant"] in {"processor", "store", "transfer", "idle"}
