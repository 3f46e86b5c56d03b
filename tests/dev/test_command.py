"""`batchai dev` as a person or a script uses it."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def batchai_dev(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "agent.cli.main", "dev", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_up_status_down(short_path):
    where = ("--directory", short_path)
    try:
        made = batchai_dev("up", *where, "-o", "json")
        assert made.returncode == 0, made.stderr
        document = json.loads(made.stdout)
        assert document["running"]
        key = (short_path / "key").read_text().strip()
        assert key not in made.stdout + made.stderr

        table = batchai_dev("status", *where)
        assert table.returncode == 0
        assert document["blobEndpoint"] in table.stdout
        assert document["fileEndpoint"] in table.stdout
    finally:
        stopped = batchai_dev("down", *where)
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    assert batchai_dev("down", *where).stdout == "nothing was running\n"
    assert batchai_dev("status", *where).returncode == 4


def test_mistakes_are_explained(short_path):
    for arguments, code, text in (
        (("status", "-d", short_path), 3, "batchai dev up"),
        (("up", "-d", short_path, "--account", "No"), 2, "3 to 24 lower-case"),
        (("up", "-d", short_path, "-o", "yaml"), 2, "yaml"),
    ):
        done = batchai_dev(*arguments)
        assert done.returncode == code
        assert text in done.stderr
        assert "Traceback" not in done.stderr
