"""Parts that are small enough to share a file."""

from __future__ import annotations

import json
import os
import pwd
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from agent import cgroups, config, control, gpus, notify
from agent.blocking import Blocking
from agent.config import JobsConfig, resolve_user
from agent.errors import BatchError, Unavailable
from agent.jobs import beneath, outcome
from agent.jobs.layout import JobId
from agent.jobs.lifecycle import Progress, Step
from agent.jobs.records import JobRecord, admissible
from agent.jobs.service import JobError
from agent.mounts.volumes import volume_id
from agent.store import MIGRATIONS, Store
from agent.watch import watch

NOW = datetime(2018, 6, 1, tzinfo=UTC)


def record(name: str, *, priority: int = 0, age: int = 0, step: Step = Step.QUEUED) -> JobRecord:
    progress = replace(Progress.queued(NOW), step=step)
    created = NOW - timedelta(seconds=age)
    job = JobId("sub", "rg", "ws", "exp", name, f"uuid-{name}")
    return JobRecord(job, {"a": None}, "custom", priority, created, "succeeded", progress, 0)


def test_queue() -> None:
    old, new, high = record("a", age=9), record("b", age=1), record("c", priority=1)
    assert admissible([new, old, high], 1) == [high]
    assert admissible([new, old, high], 2) == [high, old]
    cleaning = record("d", step=Step.CLEAN)
    assert admissible([new, cleaning], 1) == []
    assert admissible([new, record("e", step=Step.ENDED)], 1) == [new]
    assert admissible([replace(new, provisioning="deleting")], 1) == []


async def test_store(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    store = Store(path)
    first = await store.insert(record("a"), "Created")
    errors = (JobError("X", "words", (("Info", "ä"),)),)
    progress = replace(first.progress, errors=errors, exit_code=3, end_time=NOW, fatal=True)
    changed = await store.update(replace(first, progress=progress), "Failed")
    assert changed.revision > first.revision
    second = await store.insert(record("b", age=5), "Created")
    store.close()
    assert path.stat().st_mode & 0o777 == 0o600
    store = Store(path)
    assert await store.load() == [second, changed]
    assert [event for _, event, _ in await store.events("uuid-a")] == ["Created", "Failed"]
    await store.delete("uuid-b")
    assert await store.events("uuid-b") == []
    third = await store.insert(record("b"), "Created")
    assert third.revision > second.revision, "never used again"
    store.close()


def test_store_of_a_newer_agent(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "j")) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(BatchError) as caught:
        Store(tmp_path / "j")
    assert caught.value.code == "JournalTooNew"
    (tmp_path / "k").write_bytes(b"no database" * 1000)
    with pytest.raises(BatchError) as caught:
        Store(tmp_path / "k")
    assert caught.value.code == "JournalDamaged"


def test_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[log]\nlevel = "error"\n[jobs]\nmax_running = 2\n[api]\nsocket_mode = 0o600\n')
    monkeypatch.setenv("BATCHAI_LOG__LEVEL", "warning")
    monkeypatch.setenv("BATCHAI_NODE__WORKSPACE", "mine")
    made = config.load(file, {"jobs": {"user": "me"}})
    assert (made.log.level, made.jobs.max_running, made.jobs.user) == ("warning", 2, "me")
    assert (made.node.workspace, made.api.socket_mode) == ("mine", 0o600)
    assert config.load(file, {"log": {"level": "debug"}}).log.level == "debug"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[nod]\n", "nod: there is no such setting"),
        ("[log]\nlevl = 1\n", "log.levl: there is no such setting"),
        ('[node]\nrun_dir = "relative"\n', "node.run_dir: must be an absolute path"),
        (f'[node]\nrun_dir = "/{"x" * 90}"\n', "it holds unix sockets"),
        ('[api]\ntcp = "0.0.0.0:1"\n', "tcp needs a token_file"),
        ('[[storage.accounts]]\nname = "NO"\n', "lower-case"),
        ('[[storage.accounts]]\nname = "abc"\nkey = "sekrit"\nkey_file = "/x"\n', "not both"),
        ('[[storage.accounts]]\nname = "abc"\nfile_endpoint = "host"\n', "host:port"),
        ("[log\n", "cannot read the configuration"),
    ],
)
def test_faults_of_the_configuration(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(BatchError) as caught:
        config.load(file)
    assert words in caught.value.message
    assert "sekrit" not in caught.value.message
    assert caught.value.exit_code == 2


def test_missing_configuration(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match="there is no configuration file"):
        config.load(tmp_path / "none.toml")


def test_users() -> None:
    with pytest.raises(BatchError) as caught:
        resolve_user(JobsConfig(user="no-such-user"))
    assert caught.value.code == "UnknownUser"
    with pytest.raises(BatchError) as caught:
        resolve_user(JobsConfig(user="root"))
    assert caught.value.code == "RootRefused"
    own = pwd.getpwuid(os.geteuid())
    user = resolve_user(JobsConfig(user=own.pw_name, allow_root=True))
    assert (user.uid, user.gid) == (own.pw_uid, own.pw_gid)
    assert own.pw_gid in user.groups


async def serve_once(path: Path, answer: bytes, task_status=trio.TASK_STATUS_IGNORED) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        wrapped = trio.socket.from_stdlib_socket(listener)
        task_status.started()
        connection, _ = await wrapped.accept()
        async with trio.SocketStream(connection) as stream:
            request = json.loads(await control.read_line(stream))
            assert request == {"version": 1, "op": "status"}
            await stream.send_all(answer)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (b'{"version":1,"ok":true,"result":{"x":1}}\n', {"x": 1}),
        (b'{"version":1,"ok":true}\n', {}),
        (b'{"ok":false,"error":{"code":"C","message":"m","hint":null}}\n', control.ControlError),
        (b"nonsense\n", control.ControlUnavailable),
        (b"", control.ControlUnavailable),
    ],
)
async def test_control(short_path: Path, answer: bytes, wanted) -> None:
    path = short_path / "s"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_once, path, answer)
        if isinstance(wanted, dict):
            assert await control.request(path, "status") == wanted
        else:
            with pytest.raises(wanted):
                await control.request(path, "status")


async def test_control_without_a_server(tmp_path: Path, short_path: Path) -> None:
    with pytest.raises(control.ControlUnavailable):
        await control.request(short_path / "none", "status")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "silent"))
        listener.listen()
        with pytest.raises(control.ControlUnavailable, match="no answer"):
            await control.request(short_path / "silent", "status", timeout_s=0.05)


async def test_blocking_calls_are_abandoned() -> None:
    import threading

    release = threading.Event()
    place = Blocking("the share", most=1)
    assert await place.run(lambda: 7) == 7
    with pytest.raises(Unavailable, match="did not answer within"):
        await place.run(release.wait, timeout_s=0.05)
    with pytest.raises(Unavailable):
        await place.run(lambda: 7, timeout_s=0.05)
    release.set()
    with trio.fail_after(5):
        assert await place.run(lambda: 7) == 7


async def test_watch(tmp_path: Path) -> None:
    with watch(tmp_path) as changes, trio.fail_after(5):
        (tmp_path / "a").write_text("x")
        await changes.wait(at_most_s=60)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: changes.wait(at_most_s=60))
            await trio.testing.wait_all_tasks_blocked()
            (tmp_path / "a").write_text("y")
    with watch(tmp_path / "missing") as changes:
        await changes.wait(at_most_s=0.01)


def test_beneath_follows_no_link(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (outside / "secret").write_text("s")
    (root / "link").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    for path in ("link/secret", "file"):
        with pytest.raises(OSError, match=r"symbolic|Not a directory"):
            beneath.read(str(root), path, 0, 10)
    with pytest.raises(OSError, match=r"symbolic|Not a directory"):
        beneath.create(str(root), "link/new", uid=0, gid=0)
    assert not (outside / "new").exists()
    for path in ("/etc", "../outside", "a/../../outside"):
        with pytest.raises(ValueError, match="must"):
            beneath.listing(str(root), path)
    beneath.create(str(root), "a/b/c", uid=os.geteuid(), gid=os.getegid())
    beneath.create(str(root), "a/b/c", uid=os.geteuid(), gid=os.getegid())
    assert [entry.name for entry in beneath.listing(str(root), "a/./b")] == ["c"]


def test_cgroups(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("12:cpu:/x\n0::/system.slice/batchai.service\n")
    assert cgroups.own(proc, tmp_path) is None
    (tmp_path / "cgroup.controllers").touch()
    assert cgroups.own(proc, tmp_path) is None, "not delegated"
    group = cgroups.create(tmp_path, "job-1")
    cgroups.remove(group)
    cgroups.remove(group)
    assert not group.exists()


def test_gpus(tmp_path: Path) -> None:
    assert gpus.count(tmp_path) == 0
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert gpus.count(tmp_path) == 2


def test_notify(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(short_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "n"))
        notify.notify("READY=1")
        assert receiver.recv(64) == b"READY=1"
    notify.notify("STOPPING=1")


def test_volume_ids_do_not_depend_on_the_key() -> None:
    one = volume_id("o", "/m", {"account": "a", "credential": {"accountKey": "x"}})
    assert one == volume_id("o", "/m", {"account": "a", "credential": {"accountKey": "y"}})
    assert one != volume_id("o", "/m", {"account": "b", "credential": {"accountKey": "x"}})
    assert len(one) == 12


def test_outcomes() -> None:
    well = {"exitCode": 0, "reason": None, "shortfallBytes": 0, "streams": [], "phase": "job"}
    assert outcome.of_status(well).errors == ()
    short = well | {"shortfallBytes": 9, "streams": [{"name": "stdout.txt", "error": "EIO"}]}
    assert outcome.of_status(short).errors == ()
    assert outcome.of_status(short).notes[0].code == "LogsIncomplete"
    assert "EIO" in outcome.of_status(short).notes[0].message
    killed = well | {"exitCode": 137, "signal": 9, "stderrTail": "bye"}
    (error,) = outcome.of_status(killed).errors
    assert (error.code, "SIGKILL" in error.message) == ("JobFailed", True)
    assert ("StdErr", "bye") in error.details
    for reason, code in (
        ("terminated", "JobTerminated"),
        ("wall-clock", "MaxWallClockTimeExceeded"),
        ("prep-failed", "JobPreparationFailed"),
        ("launch-failed", "JobFailed"),
    ):
        status = well | {"exitCode": 1, "reason": reason, "launchError": "no shell"}
        (error,) = outcome.of_status(status, max_wall_clock_s=60).errors
        assert error.code == code
