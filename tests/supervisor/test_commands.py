"""Commands: how they start, end, and are ended. Real processes, as root, dropping to nobody."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from agent.supervisor.processes import look_up


def test_success(rig):
    status = rig.run("echo out; echo err >&2")
    assert (status["exitCode"], status["signal"], status["reason"]) == (0, None, None)
    assert rig.shipped() == rig.spool() == b"out\n"
    assert rig.shipped("stderr.txt") == b"err\n"
    assert status["shortfallBytes"] == 0
    assert status["stderrTail"] == ""
    assert [s["shipped"] for s in status["streams"]] == [4, 4]
    assert status["startedAt"] <= status["endedAt"]
    assert not rig.socket.exists()
    assert (rig.far / "stdout.txt").stat().st_uid == 65534


def test_the_command_finds_an_orderly_world(rig):
    status = rig.run(
        "set -e; id -u; id -g; id -G; pwd; umask;"
        "readlink /proc/self/fd/0; ls /proc/self/fd | wc -l;"
        "grep -E '^Sig(Blk|Ign)' /proc/self/status; ps -o sid= -p $$ | tr -d ' '; echo $$; echo $A",
        environment={"PATH": "/usr/bin:/bin", "A": "value"},
    )
    assert status["exitCode"] == 0
    lines = rig.shipped().decode().split("\n")
    assert lines[:3] == ["65534"] * 3
    assert lines[3:6] == [str(rig.work), "0022", "/dev/null"]
    assert lines[6] == "4"  # 0, 1, 2, and the directory that ls reads
    assert lines[7:9] == ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"]
    assert lines[9] == lines[10]
    assert lines[11] == "value"


def test_failure_quotes_stderr(rig):
    status = rig.run("head -c 5000 /dev/zero | tr '\\0' x >&2; echo; echo why >&2; exit 7")
    assert status["exitCode"] == 7
    assert len(status["stderrTail"]) == 2048
    assert status["stderrTail"].endswith("xxxwhy\n")


def test_death_by_signal(rig):
    status = rig.run("kill -SEGV $$")
    assert (status["exitCode"], status["signal"]) == (139, signal.SIGSEGV)
    assert status["reason"] is None


def test_phases_in_order(rig):
    phases = rig.phases("echo one > file; echo prep", "cat file")
    status = rig.run(phases=phases)
    assert status["phase"] == "job"
    assert rig.shipped("stdout-prep0.txt") == b"prep\n"
    assert rig.shipped("stdout-job.txt") == b"one\n"


def test_failed_preparation_stops_the_job(rig):
    status = rig.run(phases=rig.phases("echo no >&2; exit 3", "echo never"))
    assert (status["phase"], status["exitCode"]) == ("prep0", 3)
    assert (status["reason"], status["stderrTail"]) == ("prep-failed", "no\n")
    assert rig.shipped("stdout-job.txt") == b""
    assert (rig.far / "stdout-job.txt").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workingDirectory": "/nowhere"}, "working directory /nowhere: No such file or directory"),
        ({"shell": "/bin/nosh"}, "shell /bin/nosh: No such file or directory (ENOENT)"),
        ({"workingDirectory": "/root"}, "Permission denied"),
        ({"cgroup": "/sys/fs/cgroup/nowhere"}, "cannot enter the cgroup"),
    ],
)
def test_launch_failures_in_words(rig, changes, words):
    if changes.get("workingDirectory") == "/root" and Path("/root").stat().st_mode & 0o001:
        pytest.skip("everybody may enter /root here")
    status = rig.run("true", **changes)
    assert (status["reason"], status["exitCode"]) == ("launch-failed", None)
    assert words in status["launchError"]


def test_a_command_too_long(rig):
    status = rig.run(": " + "x" * (200 << 10))
    assert status["reason"] == "launch-failed"
    assert "too long" in status["launchError"]


def test_daemons_are_killed_with_the_command(rig):
    status = rig.run(
        "echo first; (setsid bash -c 'trap \"\" TERM; echo $BASHPID > daemon; sleep 1000') & "
        "while [ ! -s daemon ]; do sleep 0.01; done; ( ( sleep 1000 & echo $! > orphan ) ) ; exit 0"
    )
    assert status["exitCode"] == 0
    for name in ("daemon", "orphan"):
        assert not rig.alive(int((rig.work / name).read_text()))
    assert rig.shipped() == b"first\n"


def test_output_of_a_background_child_is_kept_to_its_end(rig):
    # the child holds the pipe and writes on while and after the shell ends
    rig.run("(while :; do echo tick; done) & sleep 0.2; exit 0")
    assert rig.shipped() == rig.spool()
    assert rig.spool().startswith(b"tick\n")


def test_terminate_kills_who_ignores_term(rig):
    rig.start("trap '' TERM; touch ready; while :; do sleep 0.05; done", terminateGraceSeconds=60)
    rig.until((rig.work / "ready").exists)
    reply = rig.request("terminate", graceSeconds=0.2)
    assert reply["ok"]
    assert reply["result"]["reason"] == "terminated"
    status = rig.wait()
    assert (status["exitCode"], status["signal"], status["reason"]) == (137, 9, "terminated")


def test_grace_belongs_to_all_of_the_job(rig):
    """The shell dies of TERM at once; the program below it may still save its work."""
    program = (
        "import signal,time,sys\n"
        "def end(*_): time.sleep(0.3); open('saved','w').close(); print('saved'); sys.exit(0)\n"
        "signal.signal(15, end); open('ready','w').close()\n"
        "while True: time.sleep(1)\n"
    )
    (rig.work / "program.py").write_text(program)
    rig.start(f"{sys.executable} program.py; true")
    rig.until((rig.work / "ready").exists)
    rig.request("terminate")
    status = rig.wait()
    assert status["reason"] == "terminated"
    assert status["signal"] == signal.SIGTERM
    assert (rig.work / "saved").exists()
    assert rig.shipped() == b"saved\n"


def test_sigterm_to_the_supervisor_is_terminate(rig):
    process = rig.start("exec sleep 1000")
    rig.running()
    process.terminate()
    status = rig.wait()
    assert (status["exitCode"], status["reason"]) == (143, "terminated")


def test_terminate_in_preparation(rig):
    rig.start(
        phases=rig.phases("trap 'exit 0' TERM; touch ready; sleep 1000 & wait", "touch never")
    )
    rig.until((rig.work / "ready").exists)
    rig.request("terminate")
    status = rig.wait()
    assert (status["phase"], status["reason"]) == ("prep0", "terminated")
    assert not (rig.work / "never").exists()


def test_terminate_while_draining_cuts_the_wait(rig):
    rig.far.rmdir()
    rig.start("echo x", drainTimeoutSeconds=1000)
    rig.until(lambda: (rig.status() or {}).get("state") == "draining")
    rig.request("terminate", graceSeconds=0)
    status = rig.wait()
    assert (status["exitCode"], status["reason"], status["shortfallBytes"]) == (0, None, 2)


def test_wall_clock(rig):
    status = rig.run("sleep 1000", maxWallClockSeconds=0.3)
    assert (status["reason"], status["signal"]) == ("wall-clock", signal.SIGTERM)


def test_stopped_job_can_be_terminated(rig):
    rig.start("kill -STOP $$; echo woken")
    pid = rig.running()["command"]["pid"]
    rig.until(lambda: look_up(pid).state == "T")
    rig.request("terminate")
    assert rig.wait()["signal"] == signal.SIGTERM


def test_a_killed_supervisor_takes_the_command_and_leaves_its_status(rig):
    process = rig.start("echo $$ > pid; echo before; exec sleep 1000")
    status = rig.running()
    rig.until(lambda: rig.shipped() == b"before\n")
    shipper = rig.shipper()
    process.kill()
    process.wait()
    command = status["command"]
    rig.until(lambda: not rig.alive(command["pid"]), what="the end of the command")
    rig.until(lambda: not rig.alive(shipper), what="the end of the shipper")
    left = rig.status()
    assert left["state"] == "running"
    assert left["command"] == command
    assert left["pid"] == process.pid
    assert command["bootId"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_job_is_not_run_twice(rig):
    document = json.dumps(rig.spec("echo x >> ran; echo x")).encode()
    rig.start_with(document)
    rig.wait()
    assert rig.start_with(document).wait(20) == 4
    assert (rig.work / "ran").read_text() == "x\n"
    assert rig.spool() == b"x\n"
    assert "job.already-run" in rig.log.read_text()


def test_two_supervisors_of_one_job(rig):
    first = rig.start("sleep 1000")
    rig.running()
    assert rig.start().wait(20) == 4
    assert first.poll() is None
    rig.request("terminate")
    assert first.wait(20) == 0


def test_a_spec_that_cannot_be_used(rig):
    assert rig.start_with(b'{"version": 1, "environment": {"K": ["hunter2"]}}').wait(20) == 2
    record = json.loads(rig.log.read_text())
    assert (record["event"], record["path"]) == ("spec.refused", "jobId")
    assert not rig.state.exists()


def test_secrets_are_only_in_the_job(rig):
    secret = f"hunter-{uuid.uuid4()}"
    rig.start(
        'touch ready; while [ ! -e go ]; do sleep 0.01; done; echo "${KEY}x" >&2; exit 1',
        environment={"PATH": "/usr/bin:/bin", "KEY": secret},
        secrets=["KEY"],
    )
    rig.until((rig.work / "ready").exists)
    for pid in (rig.process.pid, rig.shipper()):
        assert secret not in Path(f"/proc/{pid}/cmdline").read_text()
        assert secret not in Path(f"/proc/{pid}/environ").read_text()
        # no core file, no ptrace by the job's user: the kernel gives such processes to root
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0
    assert secret not in json.dumps(rig.request("status"))
    (rig.work / "go").touch()
    status = rig.wait()
    assert status["stderrTail"] == "***x\n"
    assert rig.shipped("stderr.txt").decode() == f"{secret}x\n"  # what the job prints is its own
    assert secret not in (rig.state / "status.json").read_text()
    assert secret not in rig.log.read_text()


def test_control_survives_garbage_and_slow_clients(rig):
    rig.start("sleep 1000")
    rig.running()
    assert rig.socket.stat().st_mode & 0o777 == 0o600
    for garbage in (b"\0\xff\n", b"{}\n", b"[1]\n", b'{"version":9,"op":"status"}\n'):
        with rig.connect() as client, client.makefile("rb") as answers:
            client.sendall(garbage)
            assert json.loads(answers.readline())["ok"] is False
            client.sendall(b'{"version":1,"op":"status"}\n')  # the connection is still good
            assert json.loads(answers.readline())["ok"] is True
    with rig.connect() as endless:
        with pytest.raises(OSError):  # noqa: PT012 - somewhere in it we are cut off
            for _ in range(100):
                endless.sendall(b"x" * 65536)
    slow = rig.connect()
    slow.setblocking(False)
    with pytest.raises(BlockingIOError):  # noqa: PT012
        while True:  # asks, and never reads an answer
            slow.send(b'{"version":1,"op":"status"}\n' * 100)
    crowd = [rig.connect() for _ in range(50)]
    for client in crowd:
        client.close()
    assert rig.request("terminate", graceSeconds="soon")["error"]["code"] == "InvalidArgument"
    assert rig.request("status")["result"]["state"] == "running"
    slow.close()
    rig.request("terminate")
    rig.wait()


CGROUP = next(
    (
        p
        for p in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
        if (p / "cgroup.procs").exists()
    ),
    None,
)


@pytest.fixture
def cgroup():
    if CGROUP is None or not os.access(CGROUP, os.W_OK):
        pytest.skip("no cgroup v2 to write to")
    path = CGROUP / f"supervisor-test-{uuid.uuid4().hex[:8]}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    yield path
    path.rmdir()


def test_cgroup_is_entered_and_killed(rig, cgroup):
    rig.start(
        "grep ^0:: /proc/self/cgroup; setsid sleep 1000 & trap '' TERM;"
        "touch ready; sleep 1000 & wait",
        cgroup=str(cgroup),
    )
    rig.until((rig.work / "ready").exists)
    rig.request("terminate", graceSeconds=0)
    assert rig.wait()["signal"] == signal.SIGKILL
    assert cgroup.name.encode() in rig.shipped()
    assert (cgroup / "cgroup.procs").read_text() == ""


def test_it_imports_little():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import agent.supervisor.main;"
        "print(*sorted(sys.modules))"
    )
    root = str(Path(__file__).parents[2])
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], check=True, capture_output=True, text=True
    )
    modules = set(output.stdout.split())
    ours = {name for name in modules if name.split(".")[0] == "agent"}
    assert all(name.startswith("agent.supervisor") for name in ours - {"agent"})
    assert not modules & {"asyncio", "subprocess", "threading", "pathlib", "tempfile", "logging"}
    assert {name.split(".")[0] for name in modules} - {"agent"} <= sys.stdlib_module_names | {
        "__main__"
    }
    assert len(modules) < 110


def test_a_missing_socket_directory_is_told(rig):
    assert rig.start("touch never", socket=str(rig.root / "no" / "s.sock")).wait(20) == 1
    assert "supervisor.failed" in rig.log.read_text()
    assert not (rig.work / "never").exists()
    shutil.rmtree(rig.state)
