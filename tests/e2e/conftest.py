"""A real agent over real storage, driven by the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

BATCHAI = Path(sys.executable).with_name("batchai")


class Agent:
    """A running agent and its command line."""

    def __init__(self, directory, storage, eventually):
        self.directory = directory
        self.storage = storage
        self.eventually = eventually
        self.config = directory / "agent.toml"
        self.log = directory / "agent.log"
        self.socket = directory / "run" / "agent.sock"
        self.process = None
        self.segment_root = None

    def configure(self, *, accounts=True, extra=""):
        text = f"""
[node]
mount_root = "{self.directory}/cluster"
jobs_root = "{self.directory}/jobs"
state_dir = "{self.directory}/state"
run_dir = "{self.directory}/run"
cache_dir = "{self.directory}/cache"
{extra}
[api]
socket = "{self.socket}"
[jobs]
user = "batchai-job"
max_running = 2
terminate_grace_s = 2
drain_timeout_s = 5

"""
        fragment = self.storage.agent_config()
        if not accounts:  # endpoints without the key: jobs bring it
            fragment = "\n".join(
                line for line in fragment.splitlines() if not line.startswith("key_file")
            )
        self.config.write_text(text + fragment)

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BATCHAI, "agent", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.eventually(lambda: self.run("job", "list", check=False).returncode == 0, deadline=30)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(30) == 0, self.log.read_text()
        self.process = None

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def run(self, *arguments, check=True, timeout=60, stdin=None, **kwargs):
        done = subprocess.run(
            [BATCHAI, *arguments],
            env={**os.environ, "BATCHAI_SOCKET": os.fspath(self.socket)},
            capture_output=True,
            timeout=timeout,
            check=False,
            input=stdin,
            **kwargs,
        )
        if check:
            assert done.returncode == 0, (done.stdout + done.stderr).decode() + self.log.read_text()
        return done

    def submit(self, name, document, check=True):
        return self.run(
            "job",
            "create",
            "-n",
            name,
            "-f",
            "-",
            "-o",
            "json",
            stdin=json.dumps(document).encode(),
            check=check,
        )

    def show(self, name):
        return json.loads(self.run("job", "show", "-n", name, "-o", "json").stdout)["properties"]

    def wait(self, name, timeout=60):
        done = self.run("job", "wait", "-n", name, check=False, timeout=timeout)
        return done.returncode, self.show(name)

    def on_share(self, properties, *path):
        """A file of the job as the server has it: what any other machine would see."""
        root = self.storage.share_directory / self.folder
        return root / properties["jobOutputDirectoryPathSegment"] / Path(*path)

    folder = ""

    def job(self, command, *, container=None, **properties):
        """A job with the share at `afs`, logs in a folder of the test's own."""
        volumes = {
            "azureFileShares": [
                {
                    "azureFileUrl": (
                        "https://<AZURE_BATCHAI_STORAGE_ACCOUNT>.file.core.windows.net/"
                        + self.storage.share
                    ),
                    "relativeMountPath": "afs",
                }
            ]
        }
        if container:
            volumes["azureBlobFileSystems"] = [
                {
                    "accountName": "<AZURE_BATCHAI_STORAGE_ACCOUNT>",
                    "containerName": container,
                    "relativeMountPath": "data",
                }
            ]
        return {
            "$schema": "https://example.invalid/2018-05-01/job.json",
            "properties": {
                "nodeCount": 1,
                "customToolkitSettings": {"commandLine": command},
                "stdOutErrPathPrefix": f"$AZ_BATCHAI_JOB_MOUNT_ROOT/afs/{self.folder}",
                "mountVolumes": volumes,
                **properties,
            },
        }


@pytest.fixture
def idle_agent(storage, short_path, share_folder, eventually):
    """An agent that has not been started."""
    short_path.chmod(0o755)  # the jobs' user walks through it
    agent = Agent(short_path, storage, eventually)
    agent.folder = share_folder
    (storage.share_directory / share_folder).chmod(0o777)
    agent.configure()
    yield agent
    if agent.process is None:  # a test that stopped it may have left a job to clean up
        with contextlib.suppress(AssertionError):
            agent.start()
    if agent.process is not None:
        for job in json.loads(agent.run("job", "list", "-o", "json").stdout):
            agent.run("job", "delete", "-n", job["name"], "-y", check=False)
        agent.eventually(
            lambda: not json.loads(agent.run("job", "list", "-o", "json").stdout), deadline=60
        )
        agent.stop()


@pytest.fixture
def agent(idle_agent):
    """A running agent with the account's key in its configuration."""
    idle_agent.start()
    return idle_agent


@pytest.fixture
def name():
    return f"j-{uuid.uuid4().hex[:8]}"
