"""Identities of real processes."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace

import pytest
import trio
import trio.testing

from agent import processes
from agent.processes import ProcessIdentity


def test_stat_with_an_evil_name() -> None:
    text = "42 (a) R (b) S 1 40 39 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 2 3"
    stat = processes.parse_stat(text)
    assert (stat.state, stat.parent, stat.group, stat.session) == ("S", 1, 40, 39)
    assert stat.start_time == 12345


def test_own_identity() -> None:
    identity = ProcessIdentity.of(os.getpid())
    assert identity.is_alive()
    assert ProcessIdentity.from_json(identity.to_json()) == identity
    assert not replace(identity, start_time=identity.start_time + 1).is_alive()
    assert not replace(identity, boot_id="another").is_alive()


@pytest.mark.parametrize("document", [{}, {"pid": 1, "startTime": 1, "bootId": "x"}, {"pid": "2"}])
def test_no_identity(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no process identity"):
        ProcessIdentity.from_json(document)


async def test_wait_for_one_that_is_no_child() -> None:
    # The shell's child is left to init (or to whoever reaps here), and is no child of ours.
    done = subprocess.run(
        ["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, check=True
    )
    identity = ProcessIdentity.of(int(done.stdout))
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(processes.wait_ended, identity)
            await trio.testing.wait_all_tasks_blocked()
            assert processes.send_signal(identity, signal.SIGTERM)
    assert not identity.is_alive()
    assert not processes.send_signal(identity, signal.SIGTERM)


async def test_kill_reaps_a_child() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    identity = ProcessIdentity.of(pid)
    assert await processes.kill(identity)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


async def test_remains_are_found_by_session_and_by_environment() -> None:
    marker = b"0b0e7e7c-remains-test"
    environment = {"AZ_BATCHAI_STDOUTERR_DIR": f"/x/{marker.decode()}/stdouterr"}
    one = os.posix_spawn("/bin/sleep", ["sleep", "60"], environment, setsid=True)
    two = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setsid=True)
    try:
        found = {identity.pid for identity in processes.find_remains(None, marker)}
        assert found == {one}
        found = {identity.pid for identity in processes.find_remains(two, marker)}
        assert found == {one, two}
    finally:
        for pid in (one, two):
            await processes.kill(ProcessIdentity.of(pid))


def test_child_environment_holds_nothing_of_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHAI_STORAGE__ACCOUNTS", "[secret]")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    environment = processes.child_environment()
    assert "HTTPS_PROXY" in environment
    assert not {"BATCHAI_STORAGE__ACCOUNTS", "NOTIFY_SOCKET"} & set(environment)
