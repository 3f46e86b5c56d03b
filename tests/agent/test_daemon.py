"""The whole agent as a process, with real volumes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from agent.mounts import mountinfo

pytestmark = pytest.mark.integration

START = """
import sys, trio
from pathlib import Path
from agent import config, daemon
from agent.errors import BatchError
try:
    trio.run(daemon.run, config.load(Path(sys.argv[1])))
except BatchError as error:
    sys.exit(f"{error.code}: {error.message}")
"""


@pytest.fixture
def toml(short_path: Path, storage) -> Path:
    base = short_path
    cluster = base / "cluster.json"
    cluster.write_text(
        json.dumps(
            {
                "mountVolumes": {
                    "azureBlobFileSystems": [
                        {
                            "accountName": storage.account,
                            "containerName": storage.container,
                            "relativeMountPath": "shared/data",
                        }
                    ]
                }
            }
        )
    )
    file = base / "agent.toml"
    file.write_text(
        f"""
[node]
mount_root = "{base}/mounts"
jobs_root = "{base}/jobs"
state_dir = "{base}/state"
run_dir = "{base}/r"
cache_dir = "{base}/cache"
cluster_file = "{cluster}"
[api]
socket = "{base}/r/agent.sock"
[jobs]
user = "nobody"
{storage.agent_config()}
"""
    )
    return file


@contextmanager
def agent(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    address = file.parent / "r" / "agent.sock"
    with (file.parent / "agent.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-c", START, str(file)], stderr=log)
        try:
            wait(lambda: process.poll() is not None or answers(address))
            assert process.poll() is None, (file.parent / "agent.log").read_text()
            yield process
        finally:
            process.terminate()
            process.wait(20)


def wait(condition, deadline: float = 30) -> None:
    from tests.support.waiting import eventually

    eventually(condition, deadline)


def client(address: Path) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(address)), base_url="http://node", timeout=30
    )


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    with client(path) as api:
        return api.get("/node/health").status_code == 200


ROOT = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.BatchAI/workspaces/default/experiments/default/jobs"
)
VERSION = {"api-version": "2018-05-01"}


def job_document(storage, command: str) -> dict:
    return {
        "$schema": "x",
        "properties": {
            "nodeCount": 1,
            "cluster": {"id": "here"},
            "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/logs",
            "customToolkitSettings": {"commandLine": command},
            "mountVolumes": {
                "azureFileShares": [
                    {
                        "azureFileUrl": f"https://{storage.account}.file.core.windows.net/"
                        f"{storage.share}",
                        "relativeMountPath": "logs",
                    }
                ],
                "azureBlobFileSystems": [
                    {
                        "accountName": "<AZURE_BATCHAI_STORAGE_ACCOUNT>",
                        "containerName": storage.container,
                        "relativeMountPath": "data",
                    }
                ],
            },
            "outputDirectories": [
                {
                    "id": "MODEL",
                    "pathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/data",
                    "pathSuffix": "model",
                }
            ],
        },
    }


def show(address: Path) -> dict:
    with client(address) as api:
        answer = api.get(f"{ROOT}/j1", params=VERSION)
        assert answer.status_code == 200, answer.text
        return answer.json()["properties"]


def test_a_job_through_a_kill_of_the_agent(toml: Path, storage) -> None:
    base, address = toml.parent, toml.parent / "r" / "agent.sock"
    go = base / "go"
    base.chmod(0o755)
    command = (
        f"echo first; while [ ! -e {go} ]; do sleep 0.1; done;"
        'id -un; echo "model" > $AZ_BATCHAI_OUTPUT_MODEL/weights;'
        "echo shared > $AZ_BATCHAI_MOUNT_ROOT/shared/data/other; echo last"
    )
    with agent(toml) as process:
        with client(address) as api:
            answer = api.put(f"{ROOT}/j1", params=VERSION, json=job_document(storage, command))
            assert answer.status_code == 200, answer.text
        segment = show(address)["jobOutputDirectoryPathSegment"]
        log = storage.share_directory / segment / "stdouterr" / "stdout.txt"
        wait(lambda: log.exists() and log.read_text() == "first\n")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    go.touch()
    with agent(toml):
        wait(lambda: show(address)["executionState"] in {"succeeded", "failed"})
        job = show(address)
        assert job["executionState"] == "succeeded", job["executionInfo"]
        assert log.read_text() == "first\nnobody\nlast\n"
        with client(address) as api:
            params = VERSION | {"outputdirectoryid": "MODEL"}
            answer = api.post(f"{ROOT}/j1/listOutputFiles", params=params)
            (file,) = answer.json()["value"]
            assert (file["name"], file["properties"]["contentLength"]) == ("weights", 6)
            assert api.get(file["downloadUrl"]).content == b"model\n"
            text = "/node/workspaces/default/experiments/default/jobs/j1/files/stdouterr/stdout.txt"
            assert api.get(text).content == b"first\nnobody\nlast\n"
            mounts = api.get("/node/mounts").json()["value"]
            assert [(m["scope"], m["state"]) for m in mounts] == [("cluster", "mounted")]
            assert storage.key not in json.dumps(job)
            assert api.delete(f"{ROOT}/j1", params=VERSION).status_code in {200, 202}
        second = subprocess.run(
            [sys.executable, "-c", START, str(toml)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert second.returncode != 0
        assert "AgentAlreadyRunning" in second.stderr
    assert storage.key not in (base / "agent.log").read_text()
    # The cluster's volume outlives the agent, and goes when it is configured away.
    assert len(mountinfo.below(mountinfo.read(), str(base / "mounts"))) == 1
    toml.write_text(toml.read_text().replace("cluster_file", "#"))
    with agent(toml):
        assert mountinfo.below(mountinfo.read(), str(base / "mounts")) == []


def test_configurations_that_cannot_be(toml: Path) -> None:
    text = toml.read_text()
    for wrong, code in (
        (text.replace('"nobody"', '"no-such-user"'), "UnknownUser"),
        (text.replace('"nobody"', '"root"'), "RootRefused"),
        (text.replace("[jobs]", "[jobs]\nusr = 1"), "InvalidConfiguration"),
        (text.replace("cluster.json", "missing.json"), "ClusterFileUnreadable"),
    ):
        toml.write_text(wrong)
        done = subprocess.run(
            [sys.executable, "-c", START, str(toml)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 1, done
        assert code in done.stderr
        assert "Traceback" not in done.stderr
