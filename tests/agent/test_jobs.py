"""Jobs from acceptance to deletion, with the real supervisor, without volumes."""

from __future__ import annotations

import os
import signal
from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from agent import processes
from agent.config import Config
from agent.errors import Conflict, NotFound, ValidationFailed
from agent.jobs import supervision
from agent.jobs.service import JobKey
from tests.agent.rig import KEY, Rig, agent_on, job_document


async def collect(rig: Rig, name: str = "stdout.txt", key: JobKey = KEY, **how: object) -> bytes:
    options = {"offset": 0, "follow": True, **how}
    stream = await rig.jobs.open_stream(key, "stdouterr", name, **options)  # type: ignore[arg-type]
    return b"".join([piece async for piece in stream])


async def test_a_job_that_is_well(rig: Rig) -> None:
    document = job_document(
        "echo hello; echo $WHO $PASS; pwd; echo oops >&2",
        environmentVariables=[{"name": "WHO", "value": "you-$AZ_BATCHAI_NUM_GPUS"}],
        secrets=[{"name": "PASS", "value": "p$ss-word"}],
    )
    job = await rig.jobs.create(KEY, document)
    assert job.execution_state in {"queued", "running"}
    assert job.properties["secrets"] == [{"name": "PASS"}]
    job = await rig.ended()
    assert (job.execution_state, job.exit_code, job.errors) == ("succeeded", 0, ())
    assert job.start_time is not None
    assert job.end_time is not None
    work = rig.config.node.jobs_root / "ws/exp/job-1/wd"
    assert await collect(rig) == f"hello\nyou-2 p$ss-word\n{work}\n".encode()
    assert await collect(rig, offset=6, follow=False) == (await collect(rig))[6:]
    assert await collect(rig, "stderr.txt") == b"oops\n"
    names = [entry.name for entry in await rig.jobs.list_files(KEY, "stdouterr", ".")]
    assert names == ["stderr.txt", "stdout.txt"]
    assert await rig.jobs.read_file(KEY, "stdouterr", "stdout.txt", 1, 4) == b"ello"
    assert work.is_dir()
    assert not (work.parent / "mounts").exists()
    steps = [step for _, _, step in await rig.store.events(job.id.uuid)]
    assert steps[0] == "queued"
    assert [s for s in steps if s != "drain"][1:] == [
        "validate", "secrets", "mount", "outputs", "run", "unmount", "clean", "ended",
    ]  # fmt: skip
    await rig.jobs.delete(KEY)
    assert not work.parent.exists()
    assert not (rig.config.node.state_dir / "jobs" / job.id.uuid).exists()
    with pytest.raises(NotFound):
        await rig.jobs.get(KEY)


async def test_failures_say_why(rig: Rig) -> None:
    await rig.jobs.create(KEY, job_document("echo last words >&2; exit 3"))
    job = await rig.ended()
    assert (job.execution_state, job.exit_code) == ("failed", 3)
    (error,) = job.errors
    assert error.code == "JobFailed"
    assert error.message.startswith("Job failed with non-zero exit code 3")
    assert ("StdErr", "last words") in error.details
    missing = JobKey("ws", "exp", "missing")
    await rig.jobs.create(missing, job_document("no-such-command --x"))
    job = await rig.ended(missing)
    assert job.exit_code == 127
    assert "did not find" in job.errors[0].message
    prepared = JobKey("ws", "exp", "prepared")
    preparation = {"jobPreparation": {"commandLine": "echo preparing; exit 4"}}
    await rig.jobs.create(prepared, job_document("echo never", **preparation))
    job = await rig.ended(prepared)
    assert (job.exit_code, job.errors[0].code) == (4, "JobPreparationFailed")
    assert await collect(rig, "stdout-job_prep.txt", prepared) == b"preparing\n"


async def test_bad_documents_touch_nothing(rig: Rig) -> None:
    document = job_document("echo $HOME", extra=1, nodeCount="x", stdOutErrPathPrefix="$NOWHERE")
    with pytest.raises(ValidationFailed) as caught:
        await rig.jobs.create(KEY, document)
    assert len(caught.value.details) >= 2
    mounts = {
        "azureFileShares": [
            {"azureFileUrl": "https://nokey.file.core.windows.net/share", "relativeMountPath": "a"}
        ]
    }
    with pytest.raises(ValidationFailed) as caught:
        await rig.jobs.create(KEY, job_document("x", mountVolumes=mounts))
    assert [fault.code for fault in caught.value.details] == ["MissingCredentials"]
    assert not list((rig.config.node.state_dir / "jobs").iterdir())
    with pytest.raises(NotFound):
        await rig.jobs.get(KEY)


async def test_creation_is_idempotent(rig: Rig) -> None:
    document = job_document("sleep 0.1")
    first = await rig.jobs.create(KEY, document)
    assert (await rig.jobs.create(KEY, dict(document))).id == first.id
    with pytest.raises(Conflict):
        await rig.jobs.create(KEY, job_document("sleep 0.2"))
    await rig.ended()


async def test_queue_and_termination(rig: Rig) -> None:
    keys = [JobKey("ws", "exp", name) for name in ("one", "two", "three")]
    await rig.jobs.create(keys[0], job_document("echo up; sleep 600"))
    await rig.until(keys[0], lambda job: job.step == "run")
    await rig.jobs.create(keys[1], job_document("echo two"))
    await rig.jobs.create(keys[2], job_document("echo three", schedulingPriority="high"))
    assert (await rig.jobs.get(keys[1])).execution_state == "queued"
    assert rig.jobs.health()["queued"] == 2
    job = await rig.jobs.terminate(keys[0])
    assert job.execution_state == "terminating"
    job = await rig.ended(keys[0])
    assert job.execution_state == "failed"
    assert job.errors[0].code == "JobTerminated"
    two, three = await rig.ended(keys[1]), await rig.ended(keys[2])
    assert three.start_time is not None
    assert two.start_time is not None
    assert three.start_time < two.start_time
    assert await rig.jobs.terminate(keys[1]) == two


async def test_termination_of_a_queued_job(rig: Rig) -> None:
    other = JobKey("ws", "exp", "other")
    await rig.jobs.create(other, job_document("sleep 600"))
    await rig.until(other, lambda job: job.execution_state == "running")
    await rig.jobs.create(KEY, job_document("echo never"))
    job = await rig.jobs.terminate(KEY)
    assert job.execution_state == "failed"
    await rig.jobs.delete(other)


async def test_wall_clock(rig: Rig) -> None:
    limits = {"constraints": {"maxWallClockTime": "PT1S"}}
    await rig.jobs.create(KEY, job_document("sleep 600", **limits))
    job = await rig.ended()
    assert job.errors[0].code == "MaxWallClockTimeExceeded"


async def test_following_from_before_the_first_byte(rig: Rig) -> None:
    await rig.jobs.create(KEY, job_document("for i in 1 2 3; do echo $i; sleep 0.2; done"))
    seen: list[bytes] = []
    with trio.fail_after(20):
        stream = await rig.jobs.open_stream(KEY, "stdouterr", "stdout.txt", offset=0, follow=True)
        async for piece in stream:
            if not seen:
                assert not (await rig.jobs.get(KEY)).ended
            seen.append(piece)
    assert b"".join(seen) == b"1\n2\n3\n"
    assert (await rig.jobs.get(KEY)).ended


async def test_files_of_output_directories(rig: Rig) -> None:
    outputs = [{"id": "MODEL", "pathPrefix": "$AZ_BATCHAI_JOB_TEMP", "pathSuffix": "m/o"}]
    command = (
        "cd $AZ_BATCHAI_OUTPUT_MODEL; echo data > a; mkdir d; ln -s /etc/shadow link;"
        "ln -s / root; mkfifo pipe"
    )
    await rig.jobs.create(KEY, job_document(command, outputDirectories=outputs))
    job = await rig.ended()
    assert job.execution_state == "succeeded", job.errors
    entries = await rig.jobs.list_files(KEY, "MODEL", ".")
    assert [(e.name, e.is_directory, e.size) for e in entries] == [("a", False, 5), ("d", True, 0)]
    assert await rig.jobs.read_file(KEY, "MODEL", "a", 0, 100) == b"data\n"
    for path in ("link", "root/etc", "nothing"):
        with pytest.raises(NotFound):
            await rig.jobs.read_file(KEY, "MODEL", path, 0, 10)
    with pytest.raises(NotFound):
        await rig.jobs.list_files(KEY, "MODEL", "root")
    with pytest.raises(NotFound) as caught:
        await rig.jobs.list_files(KEY, "NOPE", ".")
    assert "MODEL" in (caught.value.hint or "")


async def test_the_agent_may_die_while_a_job_runs(node_config: Config, tmp_path: Path) -> None:
    go = tmp_path / "go"
    command = f"echo before; while [ ! -e {go} ]; do sleep 0.05; done; echo after; exit 5"
    async with agent_on(node_config) as rig:
        await rig.jobs.create(KEY, job_document(command))
        await rig.until(KEY, lambda job: job.step == "run")
    go.touch()
    async with agent_on(node_config) as rig:
        job = await rig.ended()
        assert (job.exit_code, job.execution_state) == (5, "failed")
        assert await collect(rig) == b"before\nafter\n"


@pytest.mark.parametrize("step", ["validate", "secrets", "mount", "outputs", "run", "clean"])
async def test_the_agent_may_die_at_any_step(
    node_config: Config, step: str, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    async with agent_on(node_config) as rig:
        update = rig.store.update

        async def dying_update(record, event):
            written = await update(record, event)
            if record.progress.step == step:
                rig.stop()
                await trio.sleep_forever()
            return written

        rig.store.update = dying_update  # type: ignore[method-assign]
        await rig.jobs.create(KEY, job_document(f"echo x >> {count}; echo done"))
        await trio.sleep_forever()
    async with agent_on(node_config) as rig:
        job = await rig.ended()
        assert job.execution_state == "succeeded", job.errors
        assert count.read_text() == "x\n"
        assert await collect(rig) == b"done\n"


async def test_the_agent_may_die_while_it_starts_the_supervisor(
    node_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with agent_on(node_config) as rig:
        write = supervision.write_json

        def dying_write(path: Path, document: dict) -> None:
            write(path, document)
            rig.stop()  # recorded, and never given its instructions

        monkeypatch.setattr(supervision, "write_json", dying_write)
        await rig.jobs.create(KEY, job_document("echo once"))
        await trio.sleep_forever()
    monkeypatch.undo()
    async with agent_on(node_config) as rig:
        job = await rig.ended()
        assert job.execution_state == "succeeded", job.errors
        assert await collect(rig) == b"once\n"


async def test_a_supervisor_that_dies(rig: Rig) -> None:
    await rig.jobs.create(KEY, job_document("setsid sleep 601 & echo up; sleep 602"))
    stream = await rig.jobs.open_stream(KEY, "stdouterr", "stdout.txt", offset=0, follow=True)
    async with aclosing(stream) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            assert piece == b"up\n"
            break
    job = await rig.jobs.get(KEY)
    paths = supervision.SupervisorPaths.of(
        job.id.uuid, state_dir=rig.config.node.state_dir, run_dir=rig.config.node.run_dir
    )
    sighting = supervision.look(paths)
    assert isinstance(sighting, supervision.Alive)
    os.kill(sighting.identity.pid, signal.SIGKILL)
    job = await rig.ended()
    assert (job.execution_state, job.errors[0].code) == ("failed", "SupervisorLost")
    assert processes.find_remains(None, job.id.uuid.encode()) == []
