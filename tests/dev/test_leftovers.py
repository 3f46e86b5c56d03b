"""The check for leftovers finds them: without this, its silence would mean nothing."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from agent.processes import ProcessIdentity
from tests.support import leftovers
from tests.support.kernel import mounts_below

pytestmark = pytest.mark.integration


def test_nothing_is_nothing(short_path):
    assert not leftovers.find([short_path])


def test_a_mount_is_found_and_taken_away(short_path):
    point = short_path / "with blank"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    assert leftovers.find([short_path]).mounts == (str(point),)
    leftovers.clean([short_path])
    assert mounts_below(short_path) == []


def test_processes_are_found_and_ended(short_path):
    by_directory = subprocess.Popen(["sleep", "100"], cwd=short_path)
    elsewhere = subprocess.Popen(["sleep", "100"])
    try:
        identity = ProcessIdentity.of(elsewhere.pid)
        (short_path / "deep").mkdir()
        (short_path / "deep/status.json").write_text(
            json.dumps({"version": 1, "command": identity.to_json()})
        )
        found = leftovers.find([short_path])
        assert {one.pid for one in found.processes} == {by_directory.pid, elsewhere.pid}
        assert f"process {elsewhere.pid}: sleep 100" in found.describe()
        leftovers.clean([short_path])
    finally:
        for process in (by_directory, elsewhere):
            process.kill()
    assert by_directory.wait() == elsewhere.wait() == -signal.SIGKILL
    assert not leftovers.find([short_path])


def test_sockets_are_found_and_removed(short_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "control.sock"))
    assert leftovers.find([short_path]).sockets == (short_path / "control.sock",)
    leftovers.clean([short_path])
    assert not leftovers.find([short_path])


def test_the_fixture_fails_a_test_that_leaves_something(short_path):
    """Run in a pytest of its own, with this project's conftest.

    Its `--confcutdir` keeps it from looking at the neighbours of its directory, whose mounts may be
    dead.
    """
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    case = short_path / "test_case.py"
    case.write_text(
        "import socket\n"
        "import pytest\n"
        "pytestmark = pytest.mark.integration\n"
        "def test_leaves(short_path):\n"
        "    with socket.socket(socket.AF_UNIX) as one:\n"
        "        one.bind(str(short_path / 'left.sock'))\n"
        "def test_skips():\n"
        "    pytest.skip('no server here')\n"
        "def test_is_fine(short_path):\n"
        "    pass\n"
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.conftest",
            "--rootdir", root, "-c", f"{root}/pyproject.toml",
            "--confcutdir", str(short_path), str(case),
        ],
        cwd=root,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert "left behind" in done.stdout
    assert "left.sock" in done.stdout
    assert "must not be skipped" in done.stdout
    assert "2 passed, 1 failed, 1 error" in done.stdout or (
        "1 failed, 2 passed, 1 error" in done.stdout
    )
