"""``batchai-mount`` by hand, against real Azurite and the real kernel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fuse.commands import MOUNT, Commands, target
from tests.fuse.driving import call, volume_spec
from tests.support.kernel import mounts_below

pytestmark = pytest.mark.integration


@pytest.fixture
def commands(short_path):
    made = Commands(short_path)
    yield made
    for mountpoint in reversed(mounts_below(short_path)):
        made("unmount", "--force", mountpoint)


@pytest.fixture
def mountpoint(short_path):
    place = short_path / "m"
    place.mkdir()
    return place


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def test_a_container_is_mounted_looked_at_flushed_and_unmounted(
    commands, mountpoint, storage, blob_container
):
    done = commands(
        "blob",
        target(storage, blob_container),
        mountpoint,
        *commands.places,
        "-o",
        "attr_timeout=0",
        AZURE_STORAGE_KEY=storage.key,
    )
    assert done.stdout == ""
    (mountpoint / "a").write_text("hello")

    [listed] = [
        one
        for one in json.loads(commands("list", "--output", "json").stdout)
        if one["mountpoint"] == str(mountpoint)
    ]
    assert listed["status"] == "mounted"
    assert listed["source"] == f"{storage.account}/{blob_container}"
    assert str(mountpoint) in commands("list").stdout
    # The key is in nobody's arguments or environment.
    assert storage.key.encode() not in environment(listed["pid"])
    assert storage.key.encode() not in Path(f"/proc/{listed['pid']}/cmdline").read_bytes()

    shown = json.loads(commands("show", mountpoint, "--output", "json").stdout)
    assert shown["cacheDir"] == f"{commands.directory}/cache"
    assert shown["tuned"] == {"read_ahead": True, "max_background": True}
    stats = json.loads(commands("stats", mountpoint, "--output", "json").stdout)
    assert stats["requests"] > 0
    assert "requests" in commands("stats", mountpoint).stdout
    commands("flush", mountpoint)

    commands("unmount", mountpoint)
    assert not os.path.ismount(mountpoint)
    assert commands("list", "--output", "json").stdout.find(str(mountpoint)) == -1
    commands("show", mountpoint, code=3)
    assert storage.key not in commands.log()
    assert os.stat(commands.directory / "log").st_mode & 0o077 == 0


def test_a_second_mount_of_a_directory_is_refused_in_one_line(
    commands, mountpoint, storage, blob_container
):
    words = ("blob", target(storage, blob_container), mountpoint, *commands.places)
    commands(*words, AZURE_STORAGE_KEY=storage.key)
    said = commands(*words, AZURE_STORAGE_KEY=storage.key, code=1).stderr
    assert said.splitlines()[0].startswith("error: MountFailed: something is mounted")
    (mountpoint / "still").write_text("works")
    commands("stats", mountpoint)


@pytest.mark.parametrize(
    ("change", "code", "error"),
    [
        ({"container": "absent-container"}, 3, "ContainerNotFound"),
        ({"key": "QUJD" * 22}, 5, "AuthenticationFailed"),
        ({"below": "/absent"}, 2, "InvalidOption"),
        ({"option": "nonsense"}, 2, "InvalidOption"),
        ({"directory": "absent"}, 2, "InvalidOption"),
    ],
)
def test_what_fails_says_so_and_leaves_nothing(
    commands, mountpoint, storage, blob_container, change, code, error
):
    url = target(storage, change.get("container", blob_container), change.get("below", ""))
    done = commands(
        "blob",
        url,
        mountpoint / change.get("directory", ""),
        *commands.places,
        *(("-o", change["option"]) if "option" in change else ()),
        AZURE_STORAGE_KEY=change.get("key", storage.key),
        code=code,
    )
    assert done.stderr.startswith(f"error: {error}: ")
    assert change.get("key", storage.key) not in done.stderr
    assert mounts_below(mountpoint) == []


def test_a_directory_of_a_container_is_all_that_is_seen(
    commands, mountpoint, storage, blob_container
):
    words = (*commands.places, "--key-stdin")
    commands("blob", target(storage, blob_container), mountpoint, *words, feed=storage.key)
    (mountpoint / "sub dir").mkdir()
    (mountpoint / "sub dir" / "inside").write_text("1")
    (mountpoint / "outside").write_text("2")
    commands("unmount", mountpoint)

    below = target(storage, blob_container, "/sub dir")
    commands("blob", below, mountpoint, *words, feed=storage.key)
    assert os.listdir(mountpoint) == ["inside"]
    (mountpoint / "new").write_text("3")
    os.rename(mountpoint / "new", mountpoint / "newer")
    assert sorted(os.listdir(mountpoint)) == ["inside", "newer"]
    shown = json.loads(commands("show", mountpoint, "--output", "json").stdout)
    assert shown["source"] == f"{storage.account}/{blob_container}/sub dir"
    commands("unmount", mountpoint)

    commands("blob", target(storage, blob_container), mountpoint, *words, feed=storage.key)
    assert (mountpoint / "sub dir" / "newer").read_text() == "3"
    commands("unmount", mountpoint)


def test_in_the_foreground_ctrl_c_unmounts(commands, mountpoint, storage, blob_container):
    process = subprocess.Popen(
        [*MOUNT, "blob", target(storage, blob_container), mountpoint, "-f", *commands.places],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=commands.environment | {"AZURE_STORAGE_KEY": storage.key},
    )
    with process:
        for line in process.stderr:
            if line.startswith("mounted"):
                break
        assert storage.key.encode() not in environment(process.pid)
        (mountpoint / "a").write_text("kept")
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert mounts_below(mountpoint) == []


def test_the_driver_outlives_its_terminal(commands, mountpoint, storage, blob_container):
    words = [*MOUNT, "blob", target(storage, blob_container), mountpoint, *commands.places]
    # A session of its own, with a terminal that hangs up when its leader ends.
    subprocess.run(
        ["script", "--quiet", "--return", "--command", subprocess.list2cmdline(words), "/dev/null"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=commands.environment | {"AZURE_STORAGE_KEY": storage.key},
        check=True,
        timeout=60,
    )
    (mountpoint / "a").write_text("still there")
    commands("unmount", mountpoint)


def test_a_dead_driver_s_mount_is_shown_and_taken_off(
    commands, mountpoint, storage, blob_container, eventually
):
    words = ("blob", target(storage, blob_container), mountpoint, *commands.places)
    commands(*words, AZURE_STORAGE_KEY=storage.key)
    listed = json.loads(commands("list", "--output", "json").stdout)
    [pid] = [one["pid"] for one in listed if one["mountpoint"] == str(mountpoint)]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "dead" in commands("list").stdout)
    said = commands("stats", mountpoint, code=1).stderr
    assert "has died" in said
    assert "hint:" in said
    assert "had died" in commands("unmount", mountpoint).stderr
    assert mounts_below(mountpoint) == []
    assert str(mountpoint) not in commands("list").stdout
    commands(*words, AZURE_STORAGE_KEY=storage.key)
    commands("unmount", mountpoint)


def test_a_driver_that_hangs_is_forced_off(
    commands, mountpoint, storage, blob_container, eventually
):
    """Stopped, it answers nobody: neither the reader nor the command may hang with it."""
    words = ("blob", target(storage, blob_container), mountpoint, *commands.places)
    commands(*words, AZURE_STORAGE_KEY=storage.key)
    listed = json.loads(commands("list", "--output", "json").stdout)
    [pid] = [one["pid"] for one in listed if one["mountpoint"] == str(mountpoint)]
    os.kill(pid, signal.SIGSTOP)
    reader = subprocess.Popen(["stat", mountpoint / "x"], stderr=subprocess.PIPE)
    with reader:
        eventually(lambda: _sleeps_in_fuse(reader.pid))
        done = commands("unmount", "--force", mountpoint)
        assert "recover" in done.stderr
        assert reader.wait(10) != 0
    assert mounts_below(mountpoint) == []
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that init has yet to reap is none."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _sleeps_in_fuse(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return (
            "request_wait" in Path(f"/proc/{pid}/wchan").read_text()
            or "D" in (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        )
    return False


def test_credential_files_are_taken_when_they_are_private(
    commands, mountpoint, storage, blob_container
):
    file = commands.directory / "connection.cfg"
    file.write_text(
        f"accountName {storage.account}\naccountKey {storage.key}\n"
        f"containerName {blob_container}\nauthType Key\n"
    )
    words = ("blob", target(storage, blob_container), mountpoint, *commands.places)
    file.chmod(0o644)
    said = commands(*words, "--credential-file", file, code=2).stderr
    assert "chmod 600" in said
    assert storage.key not in said
    file.chmod(0o600)
    commands(*words, "--credential-file", file, "--ro")
    with pytest.raises(OSError, match="Read-only"):
        (mountpoint / "a").touch()
    commands("unmount", mountpoint)


def test_a_share_is_mounted(commands, mountpoint, storage, share_folder):
    address = f"//{storage.file_endpoint}/{storage.share}/{share_folder}"
    # The account of local storage is not a part of its server's name.
    commands(
        "share",
        address,
        mountpoint,
        *commands.places,
        "--key-stdin",
        feed=storage.key,
        AZURE_STORAGE_ACCOUNT=storage.account,
    )
    (mountpoint / "a").write_text("hello")
    commands("unmount", mountpoint)


def test_options_reach_the_driver_the_kernel_and_the_person(
    commands, mountpoint, storage, blob_container
):
    """Warnings at the mount and later; a flag of mount(2); a level of the log."""
    done = commands(
        "blob",
        target(storage, blob_container),
        mountpoint,
        *commands.places,
        "--mount-options",
        "-o big_writes,noexec --file-cache-timeout=0 --log-level=LOG_ERR --max-concurrency=5",
        AZURE_STORAGE_KEY=storage.key,
    )
    assert [line.split(" changes")[0] for line in done.stderr.splitlines()] == [
        "warning: mount option -o big_writes",
        "warning: mount option --max-concurrency",
    ]
    shown = json.loads(commands("show", mountpoint, "--output", "json").stdout)
    assert len(shown["warnings"]) == 2
    assert "big_writes" in commands("show", mountpoint).stderr
    (mountpoint / "program").write_text("#!/bin/sh\n")
    (mountpoint / "program").chmod(0o755)
    with pytest.raises(PermissionError):
        subprocess.run([mountpoint / "program"], check=True)
    assert commands.log() == ""


def test_the_credential_is_replaced_while_mounted(commands, mountpoint, storage, blob_container):
    words = ("blob", target(storage, blob_container), mountpoint, *commands.places)
    commands(*words, AZURE_STORAGE_KEY=storage.key)
    wrong = "QUJD" * 22
    said = commands("credential", mountpoint, "--key-stdin", feed=wrong, code=5).stderr
    assert said.startswith("error: AuthenticationFailed")
    assert wrong not in said
    commands("credential", mountpoint, "--key-stdin", feed=storage.key)
    (mountpoint / "a").write_text("still works")


def test_ls_and_cat_see_what_a_mount_with_these_options_shows(storage, blob_container):
    from azure.storage.blob import BlobServiceClient

    credential = {"account_name": storage.account, "account_key": storage.key}
    with BlobServiceClient(storage.blob_endpoint, credential=credential) as service:
        service.get_blob_client(blob_container, "in/a").upload_blob(b"hello")
    spec = volume_spec("blob", storage, blob_container, "") | {"mountOptions": "--subdirectory in"}
    entries = json.loads(call("ls", spec).stdout)["entries"]
    assert [entry["name"] for entry in entries] == ["a"]
    assert call("cat", spec | {"path": "a"}).stdout == b"hello"
