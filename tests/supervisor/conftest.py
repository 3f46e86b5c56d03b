"""A rig around one real supervisor process, run as root with the job as nobody."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

NOBODY = 65534
ROOT = Path(__file__).parents[2]
START = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); from agent.supervisor.main import main; main()"
)


def until(condition, *, seconds=20.0, what="the condition"):
    """Poll `condition` until it gives something true; its last failure is the message."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true in {seconds} s"
        time.sleep(0.01)


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] not in "ZX":
                    found.append(int(name))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Rig:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.far = root / "far"
        self.work = root / "work"
        self.socket = root / "control.sock"
        self.log = root / "supervisor.log"
        for directory in (self.far, self.work):
            directory.mkdir()
            os.chown(directory, NOBODY, NOBODY)
        self.process = None
        self.started = []
        self.until = until
        self.alive = alive
        self.children = children

    def spec(self, command="true", **changes):
        spec = {
            "version": 1,
            "jobId": str(uuid.uuid4()),
            "stateDir": str(self.state),
            "socket": str(self.socket),
            "phases": [
                {"name": "job", "command": command, "stdout": "stdout.txt", "stderr": "stderr.txt"}
            ],
            "shell": "/bin/bash",
            "environment": {"PATH": "/usr/bin:/bin"},
            "workingDirectory": str(self.work),
            "user": {"uid": NOBODY, "gid": NOBODY, "groups": [NOBODY]},
            "logDirectory": str(self.far),
            "maxWallClockSeconds": 120,
            "terminateGraceSeconds": 5,
            "drainTimeoutSeconds": 10,
            "cgroup": None,
            "spoolQuotaBytes": None,
        }
        return {**spec, **changes}

    def phases(self, *commands):
        names = [f"prep{at}" for at in range(len(commands) - 1)] + ["job"]
        return [
            {
                "name": name,
                "command": command,
                "stdout": f"stdout-{name}.txt",
                "stderr": f"stderr-{name}.txt",
            }
            for name, command in zip(names, commands, strict=True)
        ]

    def start(self, command="true", as_user=None, **changes):
        return self.start_with(json.dumps(self.spec(command, **changes)).encode(), as_user)

    def start_with(self, document, as_user=None):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", START],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                user=as_user,
                group=as_user,
                extra_groups=None if as_user is None else [],
            )
        self.started.append(self.process)
        self.process.stdin.write(document)
        self.process.stdin.close()
        return self.process

    def wait(self, seconds=30.0):
        """The last status, after the supervisor has exited with 0."""
        assert self.process.wait(seconds) == 0, self.log.read_text()
        status = self.status()
        assert status["state"] == "finished"
        return status

    def run(self, command="true", **changes):
        self.start(command, **changes)
        return self.wait()

    def status(self):
        path = self.state / "status.json"
        return json.loads(path.read_text()) if path.exists() else None

    def running(self):
        """Wait until the command runs (has passed its exec)."""

        def look():
            status = self.status()
            if not status or not status["command"]:
                return None
            pid = status["command"]["pid"]
            with contextlib.suppress(OSError):
                if "agent.supervisor" not in Path(f"/proc/{pid}/cmdline").read_text():
                    return status
            return None

        return until(look, what="the start of the command")

    def shipper(self):
        def look():
            for pid in children(self.process.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text() == "batchai-shipper\n":
                        return pid
            return None

        return until(look, what="a shipper")

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        until(self.socket.exists, what="the socket")
        try:
            client.connect(str(self.socket))
        except OSError:
            client.close()
            raise
        return client

    def request(self, op, **fields):
        with self.connect() as client:
            client.sendall(json.dumps({"version": 1, "op": op, **fields}).encode() + b"\n")
            with client.makefile("rb") as answers:
                return json.loads(answers.readline())

    def spool(self, name="stdout.txt"):
        path = self.state / "spool" / name
        return path.read_bytes() if path.exists() else b""

    def shipped(self, name="stdout.txt"):
        path = self.far / name
        return path.read_bytes() if path.exists() else b""

    def close(self):
        for process in self.started:
            status = self.status()
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
            if status and status["command"]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(status["command"]["pid"], signal.SIGKILL)


@pytest.fixture
def rig():
    if os.geteuid() != 0:
        pytest.skip("drops to another user: needs root")
    # not tmp_path: nobody must be able to enter all directories above
    root = Path(tempfile.mkdtemp(prefix="supervisor-"))
    root.chmod(0o755)
    made = Rig(root)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(root)
