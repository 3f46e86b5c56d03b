"""Mounting and unmounting, with a fake driver that can be as bad as one likes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from agent.config import Config
from agent.jobs.service import JobKey
from agent.mounts import kernel, mountinfo
from agent.mounts.driver import is_mounted
from agent.mounts.manager import remove_mountpoints
from agent.mounts.volumes import MountFailure, Volume
from agent.processes import ProcessIdentity
from tests.agent.rig import KEY, Rig, agent_on, job_document

pytestmark = pytest.mark.integration


def volume(rig: Rig, behaviour: str = "well", name: str = "0123456789ab") -> Volume:
    node = rig.config.node
    mountpoint = str(node.jobs_root / "ws/exp/job/mounts" / name)
    document = {
        "version": 1,
        "id": name,
        "kind": "share",
        "account": behaviour,
        "mountpoint": mountpoint,
        "runDir": str(node.run_dir / "mounts" / name),
    }
    (node.state_dir / "jobs" / "owner").mkdir(exist_ok=True)
    return Volume(name, "share", f"//{behaviour}/s", mountpoint, "owner", KEY, document)


def nothing_left(rig: Rig, one: Volume) -> None:
    assert not is_mounted(one.mountpoint)
    assert rig.mounts.of_owner("owner") == []
    assert not (rig.config.node.run_dir / "mounts" / one.id).exists()
    assert not (rig.config.node.run_dir / "drivers" / f"{one.id}.json").exists()
    assert rig.mounts.statuses() == []


async def test_mount_and_unmount(rig: Rig) -> None:
    one = volume(rig)
    await rig.mounts.mount(one)
    assert is_mounted(one.mountpoint)
    (status,) = rig.mounts.statuses()
    assert (status.state, status.scope, status.job) == ("mounted", "job", KEY)
    await rig.mounts.mount(one)
    assert rig.mounts.statuses() == [status], "the same driver"
    await rig.mounts.unmount(one.id)
    nothing_left(rig, one)
    await rig.mounts.unmount(one.id)
    remove_mountpoints(Path(one.mountpoint).parent)


@pytest.mark.parametrize(
    ("behaviour", "code", "words"),
    [
        ("refuses", "AuthenticationFailed", "the key is wrong"),
        ("dies", "MountFailed", "died before the volume was mounted"),
    ],
)
async def test_failures(rig: Rig, behaviour: str, code: str, words: str) -> None:
    one = volume(rig, behaviour)
    with pytest.raises(MountFailure) as caught:
        await rig.mounts.mount(one)
    assert caught.value.code == code
    assert words in caught.value.message
    if behaviour == "dies":
        assert "it died" in caught.value.log
    error = caught.value.job_error()
    assert error.code == "AZFMountError"
    assert words in error.message
    nothing_left(rig, one)


async def test_a_driver_that_hangs_at_start(node_config: Config) -> None:
    jobs = node_config.jobs.model_copy(update={"mount_timeout_s": 1})
    async with agent_on(node_config.model_copy(update={"jobs": jobs})) as rig:
        one = volume(rig, "hangs")
        with trio.fail_after(10), pytest.raises(MountFailure) as caught:
            await rig.mounts.mount(one)
        assert "within 1 s" in caught.value.message
        nothing_left(rig, one)


async def test_a_driver_that_will_not_unmount(node_config: Config) -> None:
    jobs = node_config.jobs.model_copy(update={"unmount_timeout_s": 1})
    async with agent_on(node_config.model_copy(update={"jobs": jobs})) as rig:
        one = volume(rig, "stuck")
        await rig.mounts.mount(one)
        with trio.fail_after(15), pytest.raises(MountFailure) as caught:
            await rig.mounts.unmount(one.id)
        assert caught.value.code == "DriverNotResponding"
        nothing_left(rig, one)


async def test_a_driver_that_loses_data(rig: Rig) -> None:
    one = volume(rig, "loses")
    await rig.mounts.mount(one)
    with pytest.raises(MountFailure) as caught:
        await rig.mounts.unmount(one.id)
    assert caught.value.unmount_error().code == "OutputNotCommitted"
    assert "a: full" in caught.value.message
    nothing_left(rig, one)


async def test_a_driver_that_is_killed(rig: Rig, eventually_async) -> None:
    one = volume(rig)
    await rig.mounts.mount(one)
    (status,) = rig.mounts.statuses()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    await eventually_async(lambda: rig.mounts.statuses()[0].state == "failed")
    assert rig.mounts.statuses()[0].pid is None
    # Mounted anew where the dead one still is (ENOTCONN).
    await rig.mounts.mount(one)
    assert rig.mounts.statuses()[0].state == "mounted"
    assert len(mountinfo.at(mountinfo.read(), one.mountpoint)) == 1
    await rig.mounts.unmount(one.id)
    nothing_left(rig, one)


async def test_adoption(node_config: Config) -> None:
    async with agent_on(node_config) as rig:
        one = volume(rig)
        await rig.mounts.mount(one)
        (before,) = rig.mounts.statuses()
    assert is_mounted(one.mountpoint)
    async with agent_on(node_config) as rig:
        # Its owner is no job of the journal: it is unmounted as an orphan.
        with trio.fail_after(10):
            while rig.mounts.statuses():
                await trio.sleep(0.05)
        nothing_left(rig, one)
    assert before.pid is not None
    with pytest.raises(ProcessLookupError):
        ProcessIdentity.of(before.pid)


async def test_foreign_data_below_mount_points_is_kept(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "m" / "a").mkdir(parents=True)
    (tmp_path / "m" / "a" / "file").touch()
    with pytest.raises(OSError, match="not empty"):
        remove_mountpoints(tmp_path / "m")
    one = volume(rig)
    await rig.mounts.mount(one)
    with pytest.raises(OSError, match="still mounted"):
        remove_mountpoints(Path(one.mountpoint).parent)
    assert kernel.clear(one.mountpoint) == 1
    await rig.mounts.unmount(one.id)
    nothing_left(rig, one)


def with_volumes(command: str, *accounts: str) -> dict:
    shares = [
        {
            "azureFileUrl": f"https://{account}.file.core.windows.net/share",
            "relativeMountPath": f"in/{account}",
            "credentials": {"accountKey": "a2V5"},
        }
        for account in accounts
    ]
    return job_document(command, mountVolumes={"azureFileShares": shares})


async def test_job_with_volumes(rig: Rig) -> None:
    command = (
        "for m in well1 well2; do"
        " grep -q $AZ_BATCHAI_JOB_MOUNT_ROOT/in/$m /proc/self/mountinfo || exit 9; done"
    )
    await rig.jobs.create(KEY, with_volumes(command, "well1", "well2"))
    job = await rig.ended()
    assert job.exit_code == 0, job.errors
    assert rig.jobs.mounts() == []
    assert mountinfo.below(mountinfo.read(), str(rig.config.node.jobs_root)) == []
    assert not (rig.config.node.jobs_root / "ws/exp/job-1/mounts").exists()


async def test_job_whose_volumes_fail(rig: Rig) -> None:
    await rig.jobs.create(KEY, with_volumes("echo never", "well", "refuses", "dies"))
    job = await rig.ended()
    assert job.execution_state == "failed"
    assert [error.code for error in job.errors] == ["AZFMountError"] * 2
    assert any("the key is wrong" in error.message for error in job.errors)
    assert rig.jobs.mounts() == []
    assert mountinfo.below(mountinfo.read(), str(rig.config.node.jobs_root)) == []


async def test_job_that_loses_data_fails(rig: Rig) -> None:
    await rig.jobs.create(KEY, with_volumes("echo well", "loses"))
    job = await rig.ended()
    assert (job.execution_state, job.exit_code) == ("failed", 0)
    assert job.errors[0].code == "OutputNotCommitted"


async def test_what_a_driver_warns_of_reaches_the_job_and_the_operator(rig: Rig) -> None:
    await rig.jobs.create(KEY, with_volumes("true", "warns"))
    await rig.ended()
    names = [entry.name for entry in await rig.jobs.list_files(KEY, "stdouterr", ".")]
    assert names == ["execution.log", "stderr.txt", "stdout.txt"]
    log = await rig.jobs.read_file(KEY, "stdouterr", "execution.log", 0, 1000)
    assert log.decode().endswith(" warning: //warns/share: --made-up changes nothing here\n")
    one = volume(rig, "warns")
    await rig.mounts.mount(one)
    await rig.jobs.ask_mounts()
    (status,) = rig.jobs.mounts()
    assert status.warnings == ("--made-up changes nothing here",)
    await rig.mounts.unmount(one.id)


async def test_a_driver_that_no_longer_answers_is_seen(rig: Rig) -> None:
    one = volume(rig)
    await rig.mounts.mount(one)
    (status,) = rig.mounts.statuses()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGSTOP)
    try:
        await rig.jobs.ask_mounts()
        (status,) = rig.jobs.mounts()
        assert status.error == "its driver does not answer"
    finally:
        os.kill(status.pid, signal.SIGCONT)
    await rig.jobs.ask_mounts()
    (status,) = rig.jobs.mounts()
    assert status.error is None
    await rig.mounts.unmount(one.id)


async def test_termination_while_mounting(rig: Rig) -> None:
    await rig.jobs.create(KEY, with_volumes("echo never", "hangs", "well"))
    await rig.until(KEY, lambda job: job.step == "mount")
    with trio.fail_after(9):
        await rig.jobs.terminate(KEY)
        job = await rig.ended()
    assert job.errors[0].code == "JobTerminated"
    assert rig.jobs.mounts() == []


@pytest.mark.parametrize("step", ["mount", "outputs", "run", "unmount"])
async def test_agent_dies_with_volumes(node_config: Config, step: str) -> None:
    async with agent_on(node_config) as rig:
        update = rig.store.update

        async def dying_update(record, event):
            written = await update(record, event)
            if record.progress.step == step:
                rig.stop()
                await trio.sleep_forever()
            return written

        rig.store.update = dying_update  # type: ignore[method-assign]
        await rig.jobs.create(KEY, with_volumes("echo well", "well"))
        await trio.sleep_forever()
    async with agent_on(node_config) as rig:
        job = await rig.ended()
        assert job.execution_state == "succeeded", job.errors
        assert rig.jobs.mounts() == []


async def test_agent_dies_while_a_driver_starts(node_config: Config) -> None:
    async with agent_on(node_config) as rig:
        await rig.jobs.create(KEY, with_volumes("echo well", "hangs"))
        with trio.fail_after(10):
            while not rig.mounts.statuses():
                await trio.sleep(0.02)
        (before,) = rig.mounts.statuses()
    async with agent_on(node_config) as rig:
        assert before.pid is not None
        await rig.jobs.terminate(JobKey(KEY.workspace, KEY.experiment, KEY.job))
        job = await rig.ended()
        assert job.execution_state == "failed"
        assert rig.jobs.mounts() == []
    assert replace(ProcessIdentity.of(os.getpid()), pid=before.pid).is_alive() is False
