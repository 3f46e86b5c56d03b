"""The driver as the agent runs it: a program, its instructions on standard input."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path


class DriverFailed(Exception):
    def __init__(self, error, log):
        super().__init__(f"{error}\n{log}")
        self.error = error


class Mounted:
    """A running driver."""

    def __init__(self, process, spec, log):
        self.process = process
        self.path = Path(spec["mountpoint"])
        self.spec = spec
        self.log = log

    def ask(self, operation, version=1):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(f"{self.spec['runDir']}/control.sock")
            request = json.dumps({"version": version, "op": operation}) + "\n"
            connection.sendall(request.encode())
            return json.loads(connection.makefile().readline())

    def stats(self):
        return self.ask("stats")["result"]


def volume_spec(kind, storage, container, folder):
    """Instructions for a container, or for a folder of the share."""
    spec = {
        "version": 1,
        "id": "test",
        "kind": kind,
        "account": storage.account,
        "credential": {"accountKey": storage.key},
        "endpoint": storage.blob_endpoint if kind == "blob" else storage.file_endpoint,
    }
    if kind == "blob":
        spec["container"] = container
    else:
        spec["share"] = storage.share
    return spec


def call(command, spec):
    """One command of the program."""
    return subprocess.run(
        [sys.executable, "-I", "-m", "fuse.main", command],
        input=json.dumps(spec).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )


@contextlib.contextmanager
def driver(spec, directory, **changes):
    """Mount; unmount at the end by the control socket."""
    mountpoint = directory / "m"
    mountpoint.mkdir(exist_ok=True)
    spec = {
        **spec,
        "mountpoint": os.fspath(mountpoint),
        "runDir": os.fspath(directory / "r"),
        "cacheDir": os.fspath(directory / "c"),
        **changes,
    }
    log = directory / "driver.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "fuse.main", "run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    with process:
        try:
            process.stdin.write(json.dumps(spec).encode())
            process.stdin.close()
            answer = json.loads(process.stdout.readline())
            if answer["state"] != "mounted":
                assert process.wait(30) != 0
                raise DriverFailed(answer["error"], log.read_text())
            mounted = Mounted(process, spec, log)
            yield mounted
            if process.poll() is None:
                answer = mounted.ask("unmount")
                assert answer["ok"], answer
                assert process.wait(30) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
            subprocess.run(["umount", "-l", mountpoint], check=False, capture_output=True)
            # A driver that was killed leaves it behind, as it must.
            Path(spec["runDir"], "control.sock").unlink(missing_ok=True)
