import json
import os
import pty
import re
import signal

import pytest
import trio

from agent.errors import Fault, ValidationFailed
from agent.jobs.service import JobError
from tests.rest.conftest import DOCUMENT, KEY, serving


@pytest.fixture
async def job(server):
    return await server.service.create(KEY, DOCUMENT)


@pytest.fixture
def job_file(tmp_path):
    path = tmp_path / "job.json"
    share = {
        "azureFileUrl": "https://acct.file.core.windows.net/s",
        "relativeMountPath": "s",
    }
    path.write_text(
        json.dumps({"$schema": "x", "properties": {"mountVolumes": {"azureFileShares": [share]}}})
    )
    return path


async def test_create_fills_what_az_filled(server, batchai, job_file):
    done = await batchai(
        "job", "create", "-n", "job1", "-f", str(job_file), "-o", "json",
        AZURE_BATCHAI_STORAGE_KEY="c2VjcmV0",
    )  # fmt: skip
    assert done.returncode == 0, done.err
    assert json.loads(done.out)["name"] == "job1"
    assert "c2VjcmV0" not in done.out
    sent = server.service.documents[KEY]
    assert sent["$schema"] == "x"
    assert sent["properties"]["cluster"]["id"].endswith("/workspaces/ws/clusters/node1")
    assert sent["properties"]["mountVolumes"]["azureFileShares"][0]["accountName"] == "acct"


async def test_create_without_a_name_and_from_stdin(server, batchai, job_file):
    done = await batchai("job", "create", "-f", str(job_file))
    assert done.returncode == 0, done.err
    assert re.match(r"Name +Tool +State", done.out)
    done = await batchai("job", "create", "-n", "j2", "-f", "-", stdin=job_file.read_bytes())
    assert done.returncode == 0, done.err
    names = sorted(key.job for key in server.service.jobs)
    assert names[0] == "j2"
    assert re.fullmatch(r"job-\d{8}-\d{6}", names[1])


async def test_refusal_lists_every_fault(server, batchai, job_file):
    server.service.refusal = ValidationFailed(
        [
            Fault("UnknownField", "no such field", "properties.x"),
            Fault("MissingField", "is required", "properties.y"),
        ],
        hint="read the guide",
    )
    done = await batchai("job", "create", "-n", "job1", "-f", str(job_file))
    assert done.returncode == 2
    lines = done.err.splitlines()
    assert lines[0].startswith("error: InvalidJob: ")
    assert lines[1:] == [
        "  properties.x: no such field [UnknownField]",
        "  properties.y: is required [MissingField]",
        "hint: read the guide",
    ]


async def test_key_on_the_command_line_is_warned_about(batchai, job_file):
    done = await batchai(
        "job", "create", "-n", "j", "-f", str(job_file), "--storage-account-key", "k"
    )
    assert done.returncode == 0
    assert "warning" in done.err


async def test_malformed_job_file(batchai, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text('{"a":\n  1,,}')
    done = await batchai("job", "create", "-f", str(path))
    assert done.returncode == 2
    assert "line 2 column 5" in done.err
    assert (await batchai("job", "create", "-f", str(tmp_path / "none"))).returncode == 2


async def test_list_and_show(server, batchai, job):
    error = JobError("JobFailed", "non-zero", (("StdErr", "line one\nline two"),))
    server.service.end(KEY, 2, error)
    listed = await batchai("job", "list")
    assert listed.out.splitlines()[1].split()[:4] == ["job1", "custom", "failed", "2"]
    assert json.loads((await batchai("job", "list", "-o", "json")).out)[0]["name"] == "job1"
    assert (await batchai("job", "list", "-o", "tsv")).out.startswith("job1\tcustom\tfailed\t2\t")
    shown = await batchai("job", "show", "-n", "job1")
    assert "JobFailed: non-zero\n  StdErr: line one\n    line two" in shown.out
    assert (await batchai("job", "list", "-w", "other", "-o", "json")).out == "[]\n"
    missing = await batchai("job", "show", "-n", "none")
    assert (missing.returncode, missing.err.splitlines()[0]) == (
        3,
        "error: JobNotFound: there is no job ws/exp/none",
    )


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (7, 7), (None, 6)])
async def test_wait_exits_as_the_job_did(server, batchai, job, code, expected):
    async with trio.open_nursery() as nursery:

        async def wait():
            done = await batchai("job", "wait", "-n", "job1", "-o", "json")
            assert done.returncode == expected
            assert json.loads(done.out)["name"] == "job1"
            assert "Job state: " in done.err

        nursery.start_soon(wait)
        await trio.sleep(0.2)
        server.service.update(KEY, execution_state="running")
        server.service.end(KEY, code)


async def test_terminate_and_delete(server, batchai, job):
    assert (await batchai("job", "terminate", "-n", "job1")).returncode == 0
    assert server.service.jobs[KEY].ended
    assert (await batchai("job", "delete", "-n", "job1", "-y")).returncode == 0
    assert not server.service.jobs
    assert (await batchai("job", "delete", "-n", "job1", "-y")).returncode == 3


async def test_delete_that_takes_long(server, batchai, job, monkeypatch):
    monkeypatch.setattr("agent.rest.arm.PATIENCE_S", 0.05)
    server.service.delete_gate = trio.Event()
    async with trio.open_nursery() as nursery:

        async def delete():
            assert (await batchai("job", "delete", "-n", "job1")).returncode == 0

        nursery.start_soon(delete)
        while server.service.jobs[KEY].provisioning_state != "deleting":
            await trio.sleep(0.01)
        server.service.delete_gate.set()
    assert not server.service.jobs


async def test_file_list(server, batchai, job):
    server.service.write(KEY, "stdout.txt", b"12345")
    server.service.write(KEY, "evil\x1b[2J.txt", b"")
    done = await batchai("job", "file", "list", "-j", "job1")
    assert "\x1b" not in done.out
    assert any(line.split()[:3] == ["stdout.txt", "file", "5"] for line in done.out.splitlines())
    missing = await batchai("job", "file", "list", "-j", "job1", "-d", "NONE")
    assert missing.returncode == 3


async def test_stream_to_the_last_byte(server, batchai, job):
    tail = b"\xff\x00 no text \xf0\x9f"
    with trio.fail_after(30):
        process = batchai.start(
            "job", "file", "stream", "-j", "job1", "-f", "stdout.txt", "--exit-code"
        )
        notice = await trio.to_thread.run_sync(process.stderr.readline)
        assert notice.decode() == (
            'The file "stdout.txt" not found. Waiting for the job to generate it.\n'
        )
        server.service.write(KEY, "stdout.txt", b"epoch 1\n")
        # seen before the job ended:
        assert await trio.to_thread.run_sync(process.stdout.readline) == b"epoch 1\n"
        server.service.write(KEY, "stdout.txt", tail)
        server.service.end(KEY, 3)
        out, err = await trio.to_thread.run_sync(process.communicate)
    assert (out, err, process.returncode) == (tail, b"", 3)


async def test_stream_of_a_file_that_will_never_be(server, batchai, job):
    server.service.end(KEY)
    done = await batchai("job", "file", "stream", "-j", "job1", "-f", "none.txt")
    assert done.returncode == 3
    assert 'The file "none.txt" not found for the completed job.' in done.err


async def test_stream_survives_a_restart_of_the_agent(tmp_path, batchai, server):
    service = server.service
    await service.create(KEY, DOCUMENT)
    service.write(KEY, "stdout.txt", b"one\n")
    with trio.fail_after(30):
        process = batchai.start("job", "file", "stream", "-j", "job1", "-f", "stdout.txt")
        assert await trio.to_thread.run_sync(process.stdout.readline) == b"one\n"
        server.stop()
        await server.stopped.wait()
        notice = await trio.to_thread.run_sync(process.stderr.readline)
        assert b"waiting for the agent" in notice
        service.write(KEY, "stdout.txt", b"two\n")
        async with serving(tmp_path, service=service):
            assert await trio.to_thread.run_sync(process.stdout.readline) == b"two\n"
            service.end(KEY)
            out, _ = await trio.to_thread.run_sync(process.communicate)
    assert (out, process.returncode) == (b"", 0)


async def test_stream_is_quiet_when_its_reader_leaves(server, batchai, job):
    server.service.write(KEY, "stdout.txt", b"one\n")
    with trio.fail_after(30):
        process = batchai.start("job", "file", "stream", "-j", "job1", "-f", "stdout.txt")
        assert await trio.to_thread.run_sync(process.stdout.readline) == b"one\n"
        process.stdout.close()  # no further byte is written: it must notice all the same
        err = await trio.to_thread.run_sync(process.stderr.read)
        assert await trio.to_thread.run_sync(process.wait) == 141
        process.stderr.close()
    assert err == b""


STREAM = ("job", "file", "stream", "-j", "job1", "-f", "stdout.txt")


@pytest.mark.parametrize("command", [("job", "wait", "-n", "job1"), STREAM])
async def test_interrupt(server, batchai, job, command):
    server.service.write(KEY, "stdout.txt", b"one\n")
    with trio.fail_after(30):
        process = batchai.start(*command)
        pipe = process.stdout if "stream" in command else process.stderr
        await trio.to_thread.run_sync(pipe.readline)
        process.send_signal(signal.SIGINT)
        _, err = await trio.to_thread.run_sync(process.communicate)
    assert process.returncode == 130
    assert err.strip() == b""


async def test_no_agent(batchai, tmp_path):
    done = await batchai("job", "list", "--socket", str(tmp_path / "none.sock"))
    assert done.returncode == 5
    first, second = done.err.splitlines()
    assert first.startswith("error: AgentUnreachable: the agent is not running")
    assert second.startswith("hint: start it")


async def test_node(batchai):
    health = json.loads((await batchai("node", "health", "-o", "json")).out)
    assert health["defaults"]["experiment"] == "exp"
    assert "defaults.workspace" in (await batchai("node", "health")).out
    mounts = await batchai("node", "mounts")
    assert "wrong key" in mounts.out
    assert "check the key" in mounts.err


async def test_usage_errors(batchai):
    for arguments in (("job", "show"), ("nonsense",), ("job", "list", "-o", "xml")):
        assert (await batchai(*arguments)).returncode == 2


async def test_table_on_a_terminal(server, batchai, job):
    master, slave = pty.openpty()
    process = await trio.lowlevel.open_process(
        batchai.command("job", "list"), stdout=slave, env=batchai.environment | {"TERM": "xterm"}
    )
    await process.wait()
    os.close(slave)
    assert b"job1" in os.read(master, 65536)
    os.close(master)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion(batchai, job, shell):
    assert "_BATCHAI_COMPLETE" in (await batchai("completion", shell)).out
    done = await batchai(
        _BATCHAI_COMPLETE="bash_complete", COMP_WORDS="batchai job show -n j", COMP_CWORD="4"
    )
    assert done.out == "plain,job1\n"


HEAVY = ("httpx", "rich", "pydantic", "trio", "starlette", "azure")


async def test_listing_is_quick_to_start(batchai, job):
    import sys

    code = (
        "import sys; from agent.cli.main import main\n"
        "try: main(['job', 'list', '-o', 'json'])\n"
        "except SystemExit: pass\n"
        f"sys.exit(str([name for name in {HEAVY!r} if name in sys.modules] or ''))"
    )
    done = await trio.run_process(
        [sys.executable, "-c", code], env=batchai.environment, capture_stdout=True, check=False,
        capture_stderr=True,
    )  # fmt: skip
    assert done.stderr.decode().strip() == ""
