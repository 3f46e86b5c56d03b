"""The benchmark itself, with next to no data: that it runs, and that it sees wrong bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench import data, limits, programs, readers, usage
from bench.contenders import Mounted, Peer
from bench.data import TINY
from bench.errors import BenchError
from bench.rows import Value
from bench.servers import Service
from bench.trials import check_again, check_digests, read
from bench.workbench import Workbench
from tests.bench.example import ROW

pytestmark = pytest.mark.integration


@pytest.fixture
def workbench(short_path):
    with Workbench(short_path, TINY) as made:
        yield made


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_row_from_the_command_to_the_json(short_path):
    result = short_path / "rows.json"
    peer = f"linked={sys.executable} -c 'raise SystemExit(3)' {{dir}}"
    done = bench(
        "read/1 reader, cold [static]",
        "--tiny",
        "--json",
        str(result),
        "--peer",
        peer,
        "--work",
        str(short_path),
    )
    # The peer fails, which is told, and takes nobody else along.
    assert done.returncode == 1, done.stdout + done.stderr
    assert "linked: failed" in done.stdout
    rows = json.loads(result.read_text())
    assert [row["row"] for row in rows] == [
        "random 4 KiB, 1 reader, cold: p50",
        "random 4 KiB, 1 reader, cold: peak RSS",
    ]
    row = rows[0]
    assert set(row["peers"]) == {"rclone plain", "rclone full"}
    assert set(row["limits"]) == {"null driver", "bare request"}
    assert row["ours"]["median"] > 0
    assert row["ours"]["requests"] >= 1
    assert row["ours"]["peak_rss"] > 1 << 20
    assert row["met"] in {True, False}
    assert str(short_path) not in Path("/proc/mounts").read_text()
    assert [path.name for path in short_path.iterdir()] == ["rows.json"]


def test_what_there_is_can_be_listed_without_doing_it():
    done = bench("--list", "read/first")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "read/first bytes of files of 1 GiB, cold [static]",
        "read/first bytes of files of 1 GiB, cold [static+tls]",
    ]


def test_an_unknown_suite_is_refused():
    assert bench("writing").returncode == 2


@pytest.mark.parametrize("text", ["x", "=mount {dir}", "name=mount there"])
def test_a_peer_is_a_name_and_a_command_with_a_directory(text):
    with pytest.raises(ValueError, match="NAME=COMMAND"):
        Peer.parse(text)


def test_rows_of_earlier_runs_are_shown_together(tmp_path):
    one, other, both = (tmp_path / name for name in ("one.json", "other.json", "both.json"))
    one.write_text(json.dumps([ROW.as_dict()]))
    other.write_text(json.dumps([replace(ROW, suite="write", ours=Value((500.0,))).as_dict()]))
    done = bench("--from", str(one), "--from", str(other), "--json", str(both), "--strict")
    assert done.returncode == 2  # one target is missed
    assert [line.partition(";")[0] for line in done.stdout.splitlines()] == [
        "sequential [static]: 1,000 (900–1,200) MB/s",
        "sequential [static]: 500 (500–500) MB/s",
    ]
    assert [row["suite"] for row in json.loads(both.read_text())] == ["read", "write"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"suite": "read"}]', '["ours"]'])
def test_what_has_no_rows_is_refused(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    done = bench("--from", str(path))
    assert done.returncode == 2
    assert "has no rows" in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_are_measured_or_read(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("[]")
    done = bench("read", "--from", str(path))
    assert done.returncode == 2
    assert "nothing is measured" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_what_was_measured_before_an_interruption_is_kept(short_path, number, code):
    result = short_path / "rows.json"
    arguments = ("--tiny", "--json", str(result), "--work", str(short_path))
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "read/files of 16 ", "read/files of 256 ", *arguments],
        env=programs.environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "files of 256 KiB" in line:
                process.send_signal(number)
        assert process.wait(60) == code, process.stderr.read()
    assert any(line.startswith("files of 16 KiB, 4 readers, cold [static]:") for line in lines)
    found = {row["row"] for row in json.loads(result.read_text())}
    assert "files of 16 KiB, 4 readers, cold" in found
    assert not any("256" in row for row in found)
    assert str(short_path) not in Path("/proc/mounts").read_text()
    assert [path.name for path in short_path.iterdir()] == ["rows.json"]


def test_a_peer_may_go_into_the_background(workbench):
    """batchai-mount itself, as somebody else's program."""
    workbench.published("one", lambda root: (root / "a").write_bytes(b"abc"))
    program = programs.SCRIPTS / "batchai-mount"
    peer = Peer.parse(
        f"other={program} blob {{endpoint}}/{{container}} {{dir}} --auth anonymous --ro"
        " --cache-dir {cache}/c --log-file {cache}/log"
    )
    with (
        workbench.place() as place,
        peer.mounted(workbench.service("static"), "one", place) as mounted,
    ):
        assert (mounted.path / "a").read_bytes() == b"abc"
        assert len(mounted.pids) == 1
        assert b"batchai-mount" in Path(f"/proc/{mounted.pids[0]}/cmdline").read_bytes()


def test_wrong_bytes_are_seen(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    data.write_noise(good, 1 << 20)
    shutil.copy(good, bad)
    with bad.open("r+b") as file:
        file.seek(1 << 19)
        file.write(b"?!?!")
    check_again([good], [data.digest(good)], "good")
    with pytest.raises(BenchError, match="wrong bytes"):
        check_again([bad], [data.digest(good)], "bad")
    expected = [data.digest(good, offset=1 << 19, size=4096)]
    done = read(Mounted(tmp_path), [readers.pieces(bad, [1 << 19], 4096)], work=1)
    with pytest.raises(BenchError, match="wrong bytes"):
        check_digests(done.reports, expected, "bad")


def test_memory_is_watched_while_something_runs(eventually):
    with usage.watched_memory([os.getpid()]) as seen:
        eventually(lambda: len(seen) >= 2)
    assert all(size > 1 << 20 for _, size in seen)
    assert [seconds for seconds, _ in seen] == sorted(seconds for seconds, _ in seen)
    with usage.watched_memory([]) as nothing:
        pass
    assert nothing == []


def test_files_of_each_size_have_a_row_with_its_memory(short_path):
    result = short_path / "rows.json"
    arguments = ("--tiny", "--json", str(result), "--work", str(short_path))
    done = bench("read/files of 16 KiB, 4 readers, cold [static]", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    rate, memory = json.loads(result.read_text())
    assert rate["row"] == "files of 16 KiB, 4 readers, cold"
    assert set(rate["limits"]) == {"null driver", "bare client"}
    assert len(memory["timelines"]["ours"]) >= 1


@pytest.mark.parametrize(("name", "counts"), [("fusermount3", False), ("driver", True)])
def test_who_only_mounts_for_others_serves_nothing(tmp_path, name, counts):
    program = tmp_path / name
    shutil.copy(shutil.which("sleep"), program)
    device = os.open("/dev/fuse", os.O_RDWR)
    try:
        process = subprocess.Popen(
            [program, "60"], env={"MARK": os.fspath(tmp_path)}, pass_fds=[device]
        )
    finally:
        os.close(device)
    try:
        found = usage.fuse_servers(f"MARK={tmp_path}")
        assert found == ([process.pid] if counts else [])
    finally:
        process.kill()
        process.wait()


def test_cpu_time_is_that_of_the_process_and_fine():
    before = usage.cpu_seconds([os.getpid()])
    own = time.process_time()
    while time.process_time() < own + 0.002:
        pass
    used = usage.cpu_seconds([os.getpid()]) - before
    assert used >= 0.002
    assert usage.cpu_seconds([2**22 + 1]) == 0  # beyond the kernel's largest pid


def test_a_reader_that_fails_says_why(tmp_path):
    with pytest.raises(BenchError, match="No such file"):
        readers.run([readers.whole([tmp_path / "absent"])])


@pytest.mark.parametrize("name", ["static", "static+tls", "static+5ms", "static+tls+5ms"])
def test_the_static_server_answers_and_counts(workbench, name):
    def build(root):
        (root / "d").mkdir()
        data.write_noise(root / "d" / "noise", 100_000)

    workbench.published("noise", build)
    service = workbench.service(name)
    assert service.name == name
    before = service.traffic()
    found = limits.fetch(service, "noise", limits.parts("d/noise", 100_000, 30_000), connections=2)
    assert found.bytes == 100_000
    if name.endswith("+5ms"):
        assert found.median_latency >= 0.005
    traffic = service.traffic() - before
    assert traffic.requests == 4 + 2  # two open the connections
    assert 100_000 < traffic.wire_bytes < 110_000
    assert traffic.listings == 0


def test_the_static_server_has_no_blob_where_a_directory_is(workbench):
    workbench.published("tree", lambda root: (root / "d").mkdir())
    with pytest.raises(BenchError, match="HTTP 404"):
        limits.fetch(workbench.service("static"), "tree", [("d", 0, 1)], connections=1)


def test_an_unknown_service_is_refused(workbench):
    with pytest.raises(BenchError, match="no service"):
        workbench.service("elsewhere")


def test_a_place_leaves_nothing_behind(workbench):
    with workbench.place() as place:
        (place / "cache").mkdir()
    assert not place.exists()


def test_the_services_token_is_not_shown():
    service = Service("s", "http://h/a", "a", "sig=secret", None, lambda: None, list)
    assert "secret" not in repr(replace(service, name=os.fspath(Path("t"))))
