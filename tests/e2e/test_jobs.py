"""Whole jobs: from job.json to the bytes on the share, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest
from azure.storage.blob import ContainerClient

from tests.support.kernel import mounts_below

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def container(agent, name):
    return ContainerClient(
        agent.storage.blob_endpoint,
        name,
        credential={"account_name": agent.storage.account, "account_key": agent.storage.key},
    )


def error_codes(properties):
    return [error["code"] for error in properties["executionInfo"]["errors"]]


def text_of(properties):
    return json.dumps(properties["executionInfo"]["errors"])


def test_a_job_with_everything_in_it(agent, name, blob_container):
    with container(agent, blob_container) as client:
        client.upload_blob("set/input.txt", b"from the container")
    document = agent.job(
        'cat "$AZ_BATCHAI_INPUT_DATA/input.txt" && echo " $GREETING $TOKEN"'
        ' && echo oops >&2 && echo model > "$AZ_BATCHAI_OUTPUT_MODEL/m.bin"'
        ' && echo blob > "$AZ_BATCHAI_OUTPUT_BLOB/b.bin" && id -un && pwd && env | sort',
        container=blob_container,
        inputDirectories=[{"id": "DATA", "path": "$AZ_BATCHAI_JOB_MOUNT_ROOT/data/set"}],
        outputDirectories=[
            {
                "id": "MODEL",
                "pathPrefix": f"$AZ_BATCHAI_JOB_MOUNT_ROOT/afs/{agent.folder}",
                "pathSuffix": "models",
            },
            {"id": "BLOB", "pathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/data/out"},
        ],
        environmentVariables=[{"name": "GREETING", "value": "hello-${WHO}"}],
        secrets=[{"name": "WHO", "value": "world"}, {"name": "TOKEN", "value": "pa$$word"}],
        jobPreparation={"commandLine": "echo prepared"},
    )
    agent.submit(name, document)
    code, properties = agent.wait(name)
    assert code == 0, agent.log.read_text()
    assert properties["executionState"] == "succeeded"
    assert properties["executionInfo"]["exitCode"] == 0
    segment = properties["jobOutputDirectoryPathSegment"]
    assert segment.split("/")[2:7:2] == ["workspaces", "experiments", "jobs"]
    lines = agent.on_share(properties, "stdouterr", "stdout.txt").read_text().splitlines()
    assert lines[0] == "from the container hello-world pa$$word"
    assert lines[1] == "batchai-job"
    assert lines[2].endswith("/wd")
    environment = dict(line.split("=", 1) for line in lines[3:] if "=" in line)
    root = environment["AZ_BATCHAI_JOB_MOUNT_ROOT"]
    assert environment["AZ_BATCHAI_INPUT_DATA"] == f"{root}/data/set"
    assert environment["AZ_BATCHAI_OUTPUT_BLOB"] == f"{root}/data/out/{segment}"
    assert environment["AZ_BATCHAI_NUM_GPUS"].isdigit()
    assert not [value for value in environment.values() if agent.storage.key in value]
    assert agent.on_share(properties, "stdouterr", "stderr.txt").read_text() == "oops\n"
    assert agent.on_share(properties, "stdouterr", "stdout-job_prep.txt").read_text() == (
        "prepared\n"
    )
    assert agent.on_share(properties, "models", "m.bin").read_text() == "model\n"
    with container(agent, blob_container) as client:
        assert client.download_blob(f"out/{segment}/b.bin").readall() == b"blob\n"
    # No secret in any answer, log or state file that others may read.
    shown = json.dumps(properties) + agent.log.read_text()
    assert agent.storage.key not in shown
    assert "pa$$word" not in shown
    # The files can be listed and read when nothing is mounted any more.
    assert not mounts_below(agent.directory)
    listed = json.loads(
        agent.run("job", "file", "list", "-j", name, "-d", "MODEL", "-o", "json").stdout
    )
    assert [entry["name"] for entry in listed] == ["m.bin"]
    streamed = agent.run("job", "file", "stream", "-j", name, "-d", "MODEL", "-f", "m.bin").stdout
    assert streamed == b"model\n"


def test_stdout_is_on_the_share_before_the_job_ends(agent, name, eventually):
    """The job waits for this test to have read its first line from the share."""
    marker = agent.storage.share_directory / agent.folder / "go-on"
    document = agent.job(
        "echo first line; "
        f'while [ ! -e "$AZ_BATCHAI_JOB_MOUNT_ROOT/afs/{agent.folder}/go-on" ]; '
        "do sleep 0.2; done; echo last line",
    )
    agent.submit(name, document)
    eventually(lambda: "jobOutputDirectoryPathSegment" in agent.show(name), deadline=20)
    stdout = agent.on_share(agent.show(name), "stdouterr", "stdout.txt")
    eventually(lambda: stdout.exists() and stdout.read_text() == "first line\n", deadline=40)
    assert agent.show(name)["executionState"] == "running"
    marker.write_text("")
    code, _ = agent.wait(name)
    assert code == 0
    assert stdout.read_text() == "first line\nlast line\n"


def test_lines_reach_the_share_within_a_second_or_two(agent, name, eventually):
    document = agent.job("for i in 1 2 3 4 5 6 7 8; do date +%s.%N; sleep 0.5; done")
    agent.submit(name, document)
    eventually(lambda: "jobOutputDirectoryPathSegment" in agent.show(name), deadline=20)
    stdout = agent.on_share(agent.show(name), "stdouterr", "stdout.txt")
    seen = {}

    def complete():
        for line in stdout.read_text().splitlines() if stdout.exists() else []:
            seen.setdefault(line, time.time())
        return len(seen) == 8

    eventually(complete, deadline=60)
    delays = sorted(arrived - float(line) for line, arrived in seen.items())
    assert delays[len(delays) // 2] < 2, delays  # on an idle machine 0.2 s; this one is shared
    assert agent.wait(name)[0] == 0


def test_stream_follows_to_the_last_byte_and_exits_with_the_job_s_code(agent, name):
    document = agent.job("for i in $(seq 2000); do echo line $i; done; sleep 1; printf end; exit 7")
    agent.submit(name, document)
    done = agent.run(
        "job", "file", "stream", "-j", name, "-f", "stdout.txt", "--exit-code", check=False
    )
    assert done.returncode == 7
    assert done.stdout == b"".join(b"line %d\n" % i for i in range(1, 2001)) + b"end"
    code, properties = agent.wait(name)
    assert code == 7
    assert properties["executionState"] == "failed"
    assert error_codes(properties) == ["JobFailed"]


def test_kill_9_of_the_agent_leaves_the_job_running(agent, name, eventually):
    marker = agent.storage.share_directory / agent.folder / "go-on"
    document = agent.job(
        "echo before; "
        f'while [ ! -e "$AZ_BATCHAI_JOB_MOUNT_ROOT/afs/{agent.folder}/go-on" ]; '
        "do sleep 0.2; done; echo after",
    )
    agent.submit(name, document)
    eventually(lambda: agent.show(name)["executionState"] == "running", deadline=30)
    stdout = agent.on_share(agent.show(name), "stdouterr", "stdout.txt")
    eventually(lambda: stdout.exists() and stdout.read_text() == "before\n", deadline=40)
    agent.kill()
    marker.write_text("")
    # Nobody but the supervisor and the driver is there, and the log still arrives.
    eventually(lambda: stdout.read_text() == "before\nafter\n", deadline=30)
    agent.start()
    code, properties = agent.wait(name)
    assert code == 0
    assert properties["executionState"] == "succeeded"


def test_kill_9_of_the_agent_while_the_job_goes_on(agent, name, eventually):
    agent.submit(name, agent.job("echo one; sleep 8; echo two"))
    stdout = agent.on_share(agent.show(name), "stdouterr", "stdout.txt")
    eventually(lambda: stdout.exists() and stdout.read_text() == "one\n", deadline=40)
    agent.kill()
    agent.start()
    assert agent.show(name)["executionState"] == "running"
    assert agent.wait(name)[0] == 0
    assert stdout.read_text() == "one\ntwo\n"


def test_terminate(agent, name, eventually):
    agent.submit(name, agent.job("echo started; sleep 1000 & sleep 1000; echo never"))
    stdout = agent.on_share(agent.show(name), "stdouterr", "stdout.txt")
    eventually(lambda: stdout.exists() and stdout.read_text() == "started\n", deadline=40)
    agent.run("job", "terminate", "-n", name, "-y")
    agent.eventually(lambda: agent.show(name)["executionState"] == "failed", deadline=60)
    assert stdout.read_text() == "started\n"
    assert not mounts_below(agent.directory)


@pytest.mark.parametrize(
    ("kind", "change", "code", "words"),
    [
        (
            "share",
            {"credentials": {"accountKey": "d3Jvbmcga2V5IHdyb25nIGtleQ=="}},
            "AZFMountError",
            "key",
        ),
        (
            "share",
            {"azureFileUrl": "https://devstoreaccount1.file.core.windows.net/not-there"},
            "AZFMountError",
            "not-there",
        ),
        (
            "blob",
            {"credentials": {"accountKey": "d3Jvbmcga2V5IHdyb25nIGtleQ=="}},
            "BFSMountError",
            "key",
        ),
        ("blob", {"containerName": "not-there"}, "BFSMountError", "not-there"),
    ],
    ids=["wrong key share", "no such share", "wrong key blob", "no such container"],
)
def test_a_volume_that_cannot_be_mounted(agent, name, blob_container, kind, change, code, words):
    document = agent.job("echo never", container=blob_container)
    volumes = document["properties"]["mountVolumes"]
    volumes["azureFileShares" if kind == "share" else "azureBlobFileSystems"][0].update(change)
    agent.submit(name, document)
    _, properties = agent.wait(name)
    assert properties["executionState"] == "failed"
    assert code in error_codes(properties)
    assert words in text_of(properties).lower()
    assert "Hint" in text_of(properties)
    assert "d3Jvbmcga2V5" not in text_of(properties) + agent.log.read_text()
    assert not mounts_below(agent.directory)


def test_a_server_that_is_down(idle_agent, name, blob_container):
    idle_agent.config.write_text(
        idle_agent.config.read_text()
        .replace(idle_agent.storage.blob_endpoint, "http://127.0.0.1:1/devstoreaccount1")
        .replace(idle_agent.storage.file_endpoint, "127.0.0.1:1")
    )
    idle_agent.start()
    idle_agent.submit(name, idle_agent.job("echo never", container=blob_container))
    _, properties = idle_agent.wait(name, timeout=90)
    assert sorted(error_codes(properties)) == ["AZFMountError", "BFSMountError"]
    assert not mounts_below(idle_agent.directory)


def test_a_command_that_does_not_exist(agent, name):
    agent.submit(name, agent.job("no-such-command --really"))
    code, properties = agent.wait(name)
    assert code == 127
    assert error_codes(properties) == ["JobFailed"]
    assert "no-such-command" in text_of(properties)


def test_a_job_that_is_refused_lists_every_fault_and_touches_nothing(agent, name):
    document = agent.job("x", container="data")
    document["properties"]["nodCount"] = 1
    document["properties"]["stdOutErrPathPrefix"] = 5
    document["properties"]["mountVolumes"]["azureBlobFileSystems"][0]["relativeMountPath"] = "../x"
    done = agent.submit(name, document, check=False)
    assert done.returncode == 2
    said = done.stderr.decode()
    for place in (
        "properties.nodCount",
        "properties.stdOutErrPathPrefix",
        "properties.mountVolumes.azureBlobFileSystems[0].relativeMountPath",
    ):
        assert place in said
    assert "Traceback" not in said
    assert json.loads(agent.run("job", "list", "-o", "json").stdout) == []


def test_unknown_variables_are_refused_when_the_job_is_submitted(agent, name):
    done = agent.submit(
        name, agent.job("x", stdOutErrPathPrefix="$AZ_BATCHAI_JOB_MOUNTROOT/afs"), check=False
    )
    assert done.returncode == 2
    assert b"did you mean $AZ_BATCHAI_JOB_MOUNT_ROOT" in done.stderr


def test_credentials_come_with_the_job(idle_agent, name):
    idle_agent.configure(accounts=False)
    idle_agent.start()
    document = idle_agent.job("echo paid by the key of the job")
    refused = idle_agent.submit(name, document, check=False)
    assert refused.returncode == 2
    assert b"MissingCredentials" in refused.stderr, refused.stderr
    share = document["properties"]["mountVolumes"]["azureFileShares"][0]
    share["credentials"] = {"accountKey": idle_agent.storage.key}
    idle_agent.submit(name, document)
    code, properties = idle_agent.wait(name)
    assert code == 0
    assert properties["mountVolumes"]["azureFileShares"][0]["credentials"] == {}
    assert idle_agent.storage.key not in json.dumps(properties) + idle_agent.log.read_text()


def test_cluster_volumes(idle_agent, name):
    cluster = idle_agent.directory / "cluster.json"
    volumes = idle_agent.job("x")["properties"]["mountVolumes"]
    cluster.write_text(json.dumps({"properties": {"nodeSetup": {"mountVolumes": volumes}}}))
    idle_agent.configure(extra=f'cluster_file = "{cluster}"')
    idle_agent.start()
    idle_agent.submit(
        name,
        {
            "customToolkitSettings": {"commandLine": 'echo "$AZ_BATCHAI_MOUNT_ROOT"'},
            "stdOutErrPathPrefix": f"$AZ_BATCHAI_MOUNT_ROOT/afs/{idle_agent.folder}",
        },
    )
    code, properties = idle_agent.wait(name)
    assert code == 0
    stdout = idle_agent.on_share(properties, "stdouterr", "stdout.txt")
    assert stdout.read_text() == f"{idle_agent.directory}/cluster\n"
    mounted = mounts_below(idle_agent.directory)
    assert [str(place) for place in mounted] == [f"{idle_agent.directory}/cluster/afs"]
    # Cluster volumes outlive the agent; the test takes them away as an operator would.
    idle_agent.run("job", "delete", "-n", name, "-y")
    idle_agent.stop()
    assert mounts_below(idle_agent.directory)
    subprocess.run(["umount", mounted[0]], check=True)
    idle_agent.configure()


@pytest.mark.parametrize(
    ("server", "code"), [("samba", "AZFMountError"), ("azurite", "BFSMountError")]
)
def test_a_server_that_hangs_ends_the_job_in_bounded_time(
    idle_agent, private_storage, name, server, code
):
    idle_agent.storage = private_storage
    (private_storage.share_directory / idle_agent.folder).mkdir(mode=0o777)
    idle_agent.configure()
    idle_agent.start()
    pids = [one.pid for one in private_storage.servers if one.name == server]
    # smbd serves each connection from a child, which is made by the parent that stands still.
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        idle_agent.submit(name, idle_agent.job("echo never", container=private_storage.container))
        _, properties = idle_agent.wait(name, timeout=100)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert code in error_codes(properties), text_of(properties)
    assert "ServerUnreachable" in text_of(properties)
    assert not mounts_below(idle_agent.directory)


def test_a_volume_s_server_goes_away_and_comes_back_while_the_job_writes(
    idle_agent, private_storage, name, eventually
):
    """The job never notices, and not a byte of its output is missing in the end."""
    from agent.dev import storage as dev

    idle_agent.storage = private_storage
    folder = private_storage.share_directory / idle_agent.folder
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    idle_agent.configure()
    config = idle_agent.config.read_text()
    idle_agent.config.write_text(config.replace("drain_timeout_s = 5", "drain_timeout_s = 60"))
    idle_agent.start()
    idle_agent.submit(name, idle_agent.job("for i in $(seq 40); do echo $i; sleep 0.25; done"))
    stdout = idle_agent.on_share(idle_agent.show(name), "stdouterr", "stdout.txt")
    eventually(lambda: stdout.exists() and stdout.read_text().startswith("1\n2\n"), deadline=40)
    dev.down(private_storage.directory, services=["samba"])
    lines = len(stdout.read_text().splitlines())
    eventually(
        lambda: (
            json.loads(idle_agent.run("job", "file", "list", "-j", name, "-o", "json").stdout)[0][
                "properties"
            ]["contentLength"]
            >= 0
        ),
        deadline=20,
    )
    dev.up(private_storage.directory, services=["samba"])
    code, properties = idle_agent.wait(name, timeout=100)
    assert code == 0, text_of(properties)
    logs = "".join(p.read_text() for p in idle_agent.directory.rglob("*.log"))
    assert properties["executionInfo"]["errors"] in ([], None), text_of(properties) + logs
    assert lines < 40
    assert stdout.read_text() == "".join(f"{i}\n" for i in range(1, 41))
