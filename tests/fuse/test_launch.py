"""Forking a driver off: what its parent learns of how it went, and what is left of it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import types

import pytest

from fuse import program
from fuse.cli import launch
from fuse.errors import MountError


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logs" / "log"


def driver(monkeypatch, run):
    """Let ``run`` be the driver; its streams are descriptors 1 and 2, not the test runner's."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = open(descriptor, "w", encoding="utf-8", closefd=False)
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(program, "run", run)


def failure(log, timeout=30.0) -> MountError:
    """Why no driver comes up. Whatever it was, the process has ended, and nothing waits for it."""
    started = []

    def fork():
        started.append(forked := os.fork())
        return forked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "os", types.SimpleNamespace(**{**vars(os), "fork": fork}))
        with pytest.raises(MountError) as caught:
            launch.start({"id": "x"}, log, timeout=timeout)
    with pytest.raises(ChildProcessError):
        os.waitpid(started[0], os.WNOHANG)
    return caught.value


def test_what_the_driver_says_and_where_it_lives(monkeypatch, log):
    def run(instructions, say):
        print("not for the caller", file=sys.stderr, flush=True)
        say(
            {
                "state": "mounted",
                "told": json.loads(instructions),
                "pid": os.getpid(),
                "session": os.getsid(0),
                "directory": os.getcwd(),
                "files": {name: os.readlink(f"/proc/self/fd/{name}") for name in "02"},
                "open": len([name for name in os.listdir("/proc/self/fd") if int(name) > 2]),
            }
        )
        signal.pause()
        return 0, {}

    driver(monkeypatch, run)
    kept, other = os.pipe()
    os.set_inheritable(kept, True)
    answer = launch.start({"id": "x"}, log, timeout=30)
    try:
        assert answer["told"] == {"id": "x"}
        assert answer["session"] == answer["pid"] != os.getpid()
        assert answer["directory"] == "/"
        assert answer["files"] == {"0": os.devnull, "2": str(log)}
        assert answer["open"] == 1  # the directory that is being listed
    finally:
        os.close(kept)
        os.close(other)
        os.kill(answer["pid"], signal.SIGKILL)
        os.waitpid(answer["pid"], 0)
    assert log.read_text() == "not for the caller\n"
    assert log.stat().st_mode & 0o777 == 0o600


def test_secrets_are_taken_out_of_its_environment(monkeypatch, log):
    def run(instructions, say):
        say({"state": "mounted", "pid": os.getpid(), "key": "AZURE_STORAGE_KEY" in os.environ})
        return 0, {}

    driver(monkeypatch, run)
    monkeypatch.setenv("AZURE_STORAGE_KEY", "secret")
    answer = launch.start({}, log, timeout=30)
    os.waitpid(answer["pid"], 0)
    assert answer["key"] is False
    assert os.environ["AZURE_STORAGE_KEY"] == "secret"


def test_an_error_of_the_driver_is_the_command_s(monkeypatch, log):
    def run(instructions, say):
        error = MountError("ContainerNotFound", "there is none", "make it")
        say({"state": "failed", "error": error.as_dict()})
        return 1, {}

    driver(monkeypatch, run)
    error = failure(log)
    assert (error.code, error.message, error.hint) == (
        "ContainerNotFound",
        "there is none",
        "make it",
    )


def test_a_driver_that_dies_is_known_by_its_last_line(monkeypatch, log):
    def run(instructions, say):
        raise ZeroDivisionError("a defect")

    driver(monkeypatch, run)
    error = failure(log)
    assert error.code == "MountFailed"
    assert error.message.endswith("ZeroDivisionError: a defect")
    assert "Traceback" in log.read_text()


def test_a_driver_that_is_killed(monkeypatch, log):
    def run(instructions, say):
        os.kill(os.getpid(), signal.SIGKILL)

    driver(monkeypatch, run)
    assert "it wrote nothing" in failure(log).message


def test_a_driver_that_says_nothing_in_time_is_ended(monkeypatch, log):
    def run(instructions, say):
        time.sleep(60)

    driver(monkeypatch, run)
    monkeypatch.setattr(launch, "_GRACE", 0.2)
    assert failure(log, timeout=0.1).code == "ServerUnreachable"
