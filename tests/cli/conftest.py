import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.rest.conftest import server, serving

__all__ = ["server", "serving"]


class Batchai:
    """Runs the real command in a process of its own, against the server of the test."""

    def __init__(self, socket, cwd):
        self.cwd = cwd
        self.environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("AZURE_", "BATCHAI_"))
        } | {"BATCHAI_SOCKET": str(socket), "COLUMNS": "100"}

    def command(self, *arguments):
        return [sys.executable, "-m", "agent.cli.main", *arguments]

    async def __call__(self, *arguments, stdin=b"", timeout=30, **environment):
        with trio.fail_after(timeout):
            done = await trio.run_process(
                self.command(*arguments),
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self.environment | environment,
                cwd=Path.cwd(),
            )
        done.out, done.err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in done.err, done.err
        return done

    def start(self, *arguments, **kwargs):
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=Path.cwd(),
            **kwargs,
        )


@pytest.fixture
def batchai(server, tmp_path):
    return Batchai(server.addresses.socket, tmp_path)
