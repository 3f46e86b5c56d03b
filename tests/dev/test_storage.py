"""Local storage: up, down, what survives, what is reported."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import Config
from agent.dev import azurite, ports, processes, samba, servers, storage
from agent.dev.state import load, save
from agent.dev.storage import DevStorageError
from agent.processes import ProcessIdentity

pytestmark = pytest.mark.integration


@pytest.fixture
def directory(short_path):
    # The leftovers fixture checks short_path after this one has stopped what runs there.
    place = short_path / "s"
    yield place
    storage.down(place)


def pids(found):
    return {server.name: server.pid for server in found.servers}


def kill_all(found):
    """End the servers as a crash of the machine would, children included."""
    for server in found.servers:
        leader = ProcessIdentity.of(server.pid)
        for identity in processes.members(leader, found.directory):
            os.kill(identity.pid, signal.SIGKILL)
        assert processes.wait_until(
            lambda leader=leader: not processes.members(leader, found.directory), 10
        )


def blobs(found):
    from azure.storage.blob import ContainerClient

    return ContainerClient(
        found.blob_endpoint,
        found.container,
        credential={"account_name": found.account, "account_key": found.key},
        retry_total=0,
    )


def test_up_serves_down_stops_up_again_has_the_data(directory):
    first = storage.up(directory)
    assert first.running
    with blobs(first) as container:
        container.upload_blob("a", b"text")
    (first.share_directory / "file").write_text("text")

    assert storage.down(directory) is True
    assert storage.down(directory) is False
    stopped = storage.status(directory)
    assert not stopped.running
    assert pids(stopped) == {"azurite": None, "samba": None}
    for server in stopped.servers:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0

    again = storage.up(directory)
    assert (again.key, again.blob_endpoint, again.file_endpoint) == (
        first.key,
        first.blob_endpoint,
        first.file_endpoint,
    )
    with blobs(again) as container:
        assert container.download_blob("a").readall() == b"text"


def test_up_twice_is_one(directory):
    first = storage.up(directory)
    assert storage.up(directory) == first


def test_concurrent_ups_are_one(directory):
    command = [sys.executable, "-m", "agent.cli.main", "dev", "up", "-o", "json", "-d", directory]
    with ThreadPoolExecutor(3) as pool:
        runs = list(
            pool.map(lambda _: subprocess.run(command, capture_output=True, check=True), range(3))
        )
    answers = [json.loads(run.stdout) for run in runs]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["running"]


def test_two_directories_do_not_meet(directory, short_path):
    other_directory = short_path / "o"
    try:
        one = storage.up(directory, services=["samba"])
        other = storage.up(other_directory, account="another", services=["samba"])
        assert one.key != other.key
        assert one.file_endpoint != other.file_endpoint
        storage.down(directory)
        assert pids(storage.status(other_directory))["samba"] == pids(other)["samba"]
    finally:
        storage.down(other_directory)


def test_one_server_can_be_away_and_come_back(directory):
    first = storage.up(directory)
    storage.down(directory, services=["samba"])
    halfway = storage.status(directory)
    assert [server.running for server in halfway.servers] == [True, False]
    back = storage.up(directory)
    assert pids(back)["azurite"] == pids(first)["azurite"]
    assert back.file_endpoint == first.file_endpoint


def test_the_key_is_kept_from_others_and_off_command_lines(directory):
    found = storage.up(directory)
    assert stat.S_IMODE(found.key_file.stat().st_mode) == 0o600
    assert found.key not in repr(found)
    for file in ("state.json", "agent.toml", "samba/smb.conf"):
        assert found.key not in (directory / file).read_text()
    for server in found.servers:
        command_line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert found.key.encode() not in command_line


def test_only_the_right_key_opens_the_share(directory):
    found = storage.up(directory, services=["samba"])
    port = int(found.file_endpoint.rpartition(":")[2])
    from smbprotocol.exceptions import LogonFailure, SMBException

    wrong = found.key[::-1]
    with pytest.raises(LogonFailure):
        samba.probe(port=port, account=found.account, key=wrong, share=found.share)
    with pytest.raises(SMBException, match="BAD_NETWORK_NAME"):
        samba.probe(port=port, account=found.account, key=found.key, share="other")


def test_the_share_is_like_azure_files(directory):
    found = storage.up(directory, services=["samba"])
    from smbprotocol.connection import Connection, Dialects
    from smbprotocol.session import Session

    host, port = found.file_endpoint.split(":")
    connection = Connection(uuid.uuid4(), host, int(port))
    connection.connect(timeout=10)
    try:
        assert connection.dialect == Dialects.SMB_3_1_1
        assert connection.max_read_size == connection.max_write_size == 1 << 20
        session = Session(connection, found.share_user, found.key)
        session.connect()
        assert session.encrypt_data
        session.disconnect()
    finally:
        connection.disconnect(close=False)


def test_listens_on_loopback_only(directory):
    found = storage.up(directory)
    ports = {f"{server.port:04X}" for server in found.servers}
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    ours = {address for address in listening if address.rpartition(":")[2] in ports}
    assert {address.rpartition(":")[0] for address in ours} == {"0100007F"}
    assert len(ours) == 2


def test_survives_servers_that_died(directory):
    first = storage.up(directory)
    kill_all(first)
    assert not storage.status(directory).running
    again = storage.up(directory)
    assert again.running
    assert again.blob_endpoint == first.blob_endpoint


def test_a_dead_server_leaves_no_children(directory):
    """Only smbd's first process is killed: its children go with `down`."""
    found = storage.up(directory, services=["samba"])
    leader = ProcessIdentity.of(pids(found)["samba"])
    before = processes.members(leader, directory)
    assert len(before) > 1
    os.kill(leader.pid, signal.SIGKILL)
    storage.down(directory)
    assert processes.members(leader, directory) == []
    assert not any(identity.is_alive() for identity in before)


def test_a_pid_that_is_somebody_elses_now_is_left_alone(directory):
    first = storage.up(directory)
    storage.down(directory)
    stranger = subprocess.Popen(["sleep", "100"], start_new_session=True)
    try:
        real = ProcessIdentity.of(stranger.pid)
        state = load(directory / "state.json")
        for name, identity in (
            ("azurite", replace(real, start_time=real.start_time - 1)),
            ("samba", replace(real, boot_id=str(uuid.uuid4()))),
        ):
            state = state.with_server(name, replace(state.servers[name], identity=identity))
        save(directory / "state.json", state)

        assert not storage.status(directory).running
        assert storage.up(directory).blob_endpoint == first.blob_endpoint
        storage.down(directory)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', '{"version": 1}'])
def test_survives_a_state_file_that_cannot_be_read(directory, text):
    directory.mkdir()
    (directory / "state.json").write_text(text)
    assert storage.down(directory) is False
    with pytest.raises(DevStorageError, match="no local storage"):
        storage.status(directory)


def test_a_port_that_was_taken_meanwhile_is_given_up(directory):
    first = storage.up(directory)
    storage.down(directory)
    with socket.create_server(("127.0.0.1", first.servers[0].port)):
        again = storage.up(directory)
        assert again.blob_endpoint != first.blob_endpoint
        assert again.file_endpoint == first.file_endpoint


@pytest.mark.parametrize("name", ["azurite", "samba"])
def test_a_port_that_is_lost_to_a_race_is_replaced(directory, monkeypatch, name):
    """Between the look at a port and the server's bind, somebody else takes it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        real, asked = ports.free_port, []

        def racing():
            asked.append(None)
            return port if len(asked) == 1 else real()

        monkeypatch.setattr(ports, "free_port", racing)
        found = storage.up(directory, services=[name])
    server = next(server for server in found.servers if server.name == name)
    assert server.running
    assert server.port != port


@pytest.mark.parametrize("name", ["azurite", "samba"])
def test_a_server_that_fails_is_explained_and_the_other_stopped(directory, monkeypatch, name):
    broken = ["/bin/sh", "-c", f"echo {name} is broken >&2; exit 3"]
    if name == "azurite":
        monkeypatch.setattr(azurite, "find", lambda: broken)
    else:
        monkeypatch.setattr(samba, "command", lambda *_: broken)
    with pytest.raises(DevStorageError) as caught:
        storage.up(directory)
    assert f"{name} did not start: it has ended (exit status 3)" in caught.value.message
    assert f"| {name} is broken" in caught.value.message
    assert str(directory / "logs" / f"{name}.log") in caught.value.hint
    assert pids(storage.status(directory)) == {"azurite": None, "samba": None}


def test_a_server_that_never_gets_ready_is_given_up(directory, monkeypatch):
    monkeypatch.setattr(azurite, "find", lambda: ["/bin/sh", "-c", "exec sleep 100"])
    with pytest.raises(
        DevStorageError, match="azurite did not start: it was not ready in time: it does not listen"
    ):
        storage.up(directory, timeout=1)
    assert not storage.status(directory).servers[0].running


def test_a_server_that_ignores_term_is_killed(directory, monkeypatch):
    monkeypatch.setattr(azurite, "find", lambda: ["/bin/sh", "-c", "trap '' TERM; sleep 100"])
    monkeypatch.setattr(servers, "TERM_SECONDS", 0.3)
    with pytest.raises(DevStorageError, match="not ready in time"):
        storage.up(directory, services=["azurite"], timeout=1)
    assert not storage.status(directory).servers[0].running


def test_missing_programs_are_named(directory, monkeypatch):
    monkeypatch.setattr(azurite, "find", lambda: None)
    with pytest.raises(DevStorageError, match="Azurite") as caught:
        storage.up(directory)
    assert "scripts/setup" in caught.value.hint


@pytest.mark.parametrize("account", ["ab", "Upper", "x" * 25, "a-b", ""])
def test_names_that_no_account_can_have_are_refused(directory, account):
    with pytest.raises(DevStorageError) as caught:
        storage.up(directory, account=account)
    assert caught.value.exit_code == 2
    assert not directory.exists()


def test_another_account_needs_another_directory(directory):
    storage.up(directory, account="mine", services=["samba"])
    assert storage.up(directory, services=["samba"]).account == "mine"
    with pytest.raises(DevStorageError, match="holds the account 'mine'"):
        storage.up(directory, account="yours")


@pytest.mark.parametrize("name", ["x" * 90, "per%cent", 'quo"te'])
def test_directories_that_samba_could_not_use_are_refused(short_path, name):
    with pytest.raises(DevStorageError) as caught:
        storage.up(short_path / name)
    assert caught.value.exit_code == 2


def test_the_longest_directory_works(short_path):
    most = 107 - samba.LONGEST_SOCKET
    place = short_path / ("x" * (most - len(str(short_path)) - 1))
    assert len(str(place)) == most
    try:
        assert pids(storage.up(place, services=["samba"]))["samba"]
    finally:
        storage.down(place)


def test_an_agent_can_be_configured_with_it(directory):
    found = storage.up(directory)
    import tomllib

    config = Config(**tomllib.loads(found.config_file.read_text()))
    account = config.storage.account(config.storage.default_account)
    assert account.name == found.account
    assert account.read_key() == found.key
    assert account.blob_endpoint == found.blob_endpoint
    assert account.file_endpoint == found.file_endpoint
