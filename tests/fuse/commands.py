"""``batchai-mount`` and mount(8)'s helpers as people call them: programs with an environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MOUNT = (sys.executable, "-I", "-m", "fuse.main")


class Commands:
    """Calls commands with all their directories below one."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("AZURE_")
        } | {"BATCHAI_MOUNT_RUN_DIR": f"{directory}/run", **environment}
        self.places = (
            f"--cache-dir={directory}/cache",
            f"--log-file={directory}/log",
        )

    def __call__(self, *words, feed="", code=0, timeout=90, program=MOUNT, **environment):
        """Run a command; its stdout and stderr as text."""
        done = subprocess.run(
            [*program, *map(os.fspath, words)],
            input=feed,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment | environment,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, f"exit {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def log(self) -> str:
        return (self.directory / "log").read_text()


def target(storage, container, below=""):
    """The URL of a container of local storage."""
    return f"{storage.blob_endpoint}/{container}{below}"
