"""Volumes by mount(8), from fstab, and by users without privileges."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fuse.cli.helper import parse, split
from fuse.errors import MountError
from tests.fuse.commands import MOUNT, Commands, target

BLOB = (sys.executable, "-I", "-c", "from fuse.cli.helper import blob; blob()")


# -- arguments ------------------------------------------------------------------------------------


def test_arguments_in_mount_s_order_and_in_fuse_s():
    call = parse(["a/c", "/m", "-s", "-v", "-o", "rw,_netdev,credentials=/f", "-t", "fuse.x"])
    assert (call.source, call.directory, call.sloppy, call.verbose) == ("a/c", "/m", True, True)
    assert call.own == {"file": "/f"}
    assert call.passed == ("rw", "_netdev")
    other = parse(["-o", "ro", "a/c", "/m", "-ouid=5", "-nf"])
    assert (other.passed, other.fake) == (("ro", "uid=5"), True)


def test_a_comma_in_a_value_is_quoted_as_in_fstab():
    assert split(r'ro,"x-a=1,2",b\,c,,d') == ["ro", "x-a=1,2", "b,c", "d"]


def test_names_of_accounts_become_numbers():
    assert parse(["a/c", "/m", "-o", "uid=root,gid=root"]).passed == ("uid=0", "gid=0")


@pytest.mark.parametrize(
    "words",
    [
        ["a/c"],
        ["a/c", "/m", "x"],
        ["a/c", "/m", "-o"],
        ["a/c", "/m", "-q"],
        ["a/c", "/m", "-o", "uid=no-such-user"],
        ["a/c", "/m", "-o", "credentials="],
        ["a/c", "/m", "-o", "password=secret"],
        ["a/c", "/m", "-o", "account_key=secret"],
    ],
)
def test_what_is_wrong_is_refused_without_showing_secrets(words):
    with pytest.raises(MountError) as caught:
        parse(words)
    assert caught.value.code == "InvalidOption"
    assert "secret" not in caught.value.message.replace("a secret", "")


# -- with the kernel ------------------------------------------------------------------------------


class Namespace:
    """A mount namespace of the test's own, with what an installation would have put into place.

    The helper lies in /usr/local/bin, where mount.fuse3(8) looks for it; everybody may open
    /dev/fuse, as udev has it. Nothing of that is seen outside.
    """

    def __init__(self, directory: Path) -> None:
        helper = directory / "batchai-blob"
        helper.write_text(
            f"#!{sys.executable} -I\nfrom fuse.cli.helper import blob\n\nblob()\n", "utf-8"
        )
        helper.chmod(0o755)
        device = directory / "fuse"
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(10, 229))
        device.chmod(0o666)
        script = (
            "mount -t tmpfs tmpfs /usr/local/bin && cp $1 /usr/local/bin && "
            "mount --bind $2 /dev/fuse && echo up && exec cat"
        )
        self.holder = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
                os.fspath(helper),
                os.fspath(device),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout.readline() == b"up\n"
        self.enter = ("nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", "--wdns=/", "--")

    def seen(self, path: Path) -> Path:
        """A path as it is seen in the namespace."""
        return Path(f"/proc/{self.holder.pid}/root{path}")

    def mounts(self, below: Path) -> list[str]:
        """Mount points in the namespace."""
        lines = Path(f"/proc/{self.holder.pid}/mountinfo").read_text().splitlines()
        points = [line.split(" ")[4].replace(r"\040", " ") for line in lines]
        return [point for point in points if point.startswith(str(below))]

    def end(self) -> None:
        self.holder.communicate(timeout=10)


@pytest.fixture
def namespace(short_path):
    made = Namespace(short_path)
    yield made
    commands = Commands(short_path)
    for left in made.mounts(short_path):
        if "fuse" not in Path(left).name:
            commands("unmount", "--force", left, program=(*made.enter, *MOUNT))
    made.end()


@pytest.fixture
def commands(short_path, namespace):
    made = Commands(short_path)

    def call(*words, program=MOUNT, **rest):
        return made(*words, program=(*namespace.enter, *program), **rest)

    call.directory = short_path
    return call


@pytest.fixture
def mountpoint(short_path):
    place = short_path / "m m"
    place.mkdir()
    return place


@pytest.fixture
def credentials(short_path, storage):
    file = short_path / "credentials"
    file.write_text(f"accountName {storage.account}\naccountKey {storage.key}\n")
    file.chmod(0o600)
    return file


def options(commands, storage, credentials, *more):
    return ",".join(
        (
            f"credentials={credentials}",
            f"endpoint={storage.blob_endpoint}",
            f"cache_dir={commands.directory}/cache",
            f"log_file={commands.directory}/log",
            *more,
        )
    )


@pytest.mark.integration
def test_mount_and_umount(
    commands, namespace, mountpoint, credentials, storage, blob_container, eventually
):
    source = f"{storage.account}/{blob_container}"
    given = options(commands, storage, credentials, "umask=027", "attr_timeout=0", "uid=12")
    words = ("-t", "fuse.batchai-blob", source, mountpoint, "-o", given)
    commands(*words, program=["mount"])
    (namespace.seen(mountpoint) / "a").write_text("hello")
    found = os.stat(namespace.seen(mountpoint))
    assert (found.st_mode & 0o777, found.st_uid) == (0o750, 12)
    said = commands(*words, program=["mount"], code=32).stderr
    assert "mounted" in said
    commands(mountpoint, program=["umount"])
    assert namespace.mounts(mountpoint) == []
    eventually(lambda: str(mountpoint) not in commands("list").stdout)
    commands(*words, program=["mount"])
    assert (namespace.seen(mountpoint) / "a").read_text() == "hello"
    commands("unmount", mountpoint)


@pytest.mark.integration
def test_fstab(commands, namespace, mountpoint, credentials, storage, blob_container, eventually):
    given = options(
        commands, storage, credentials, "_netdev", "nofail", "ro", "x-systemd.automount", "user"
    )
    fstab = commands.directory / "fstab"
    place = os.fspath(mountpoint).replace(" ", r"\040")
    source = f"{storage.account}/{blob_container}"
    fstab.write_text(f"{source} {place} fuse.batchai-blob {given} 0 0\n")
    commands("-a", "-T", fstab, program=["mount"])
    [listed] = [line for line in commands("list").stdout.splitlines() if str(mountpoint) in line]
    assert source in listed
    with pytest.raises(OSError, match="Read-only"):
        (namespace.seen(mountpoint) / "a").touch()
    commands("-a", "-T", fstab, program=["mount"])  # what is mounted already is left alone
    assert len(namespace.mounts(mountpoint)) == 1
    commands(mountpoint, program=["umount"])
    eventually(lambda: str(mountpoint) not in commands("list").stdout)


@pytest.mark.integration
@pytest.mark.parametrize("sloppy", [False, True])
def test_an_unknown_option_is_refused_unless_sloppy(
    commands, namespace, mountpoint, credentials, storage, blob_container, sloppy
):
    given = options(commands, storage, credentials, "nonsense=1")
    words = [f"{storage.account}/{blob_container}", mountpoint, "-o", given]
    done = commands(*words, *(["-s"] if sloppy else []), program=BLOB, code=0 if sloppy else 1)
    assert ("nonsense" in done.stderr) is not sloppy
    assert len(namespace.mounts(mountpoint)) == sloppy


@pytest.mark.integration
def test_fake_mounts_nothing(commands, namespace, mountpoint, credentials, storage, blob_container):
    given = options(commands, storage, credentials)
    commands(f"{storage.account}/{blob_container}", mountpoint, "-fo", given, program=BLOB, code=1)
    commands(f"{storage.account}/{blob_container}", mountpoint, "-f", "-o", given, program=BLOB)
    assert namespace.mounts(mountpoint) == []


@pytest.mark.integration
def test_a_user_mounts_for_himself_through_fusermount3(
    short_path, namespace, storage, blob_container, eventually
):
    """As nobody: no rights but those that the set-user-id program gives."""
    user = (*namespace.enter, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    home = short_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    short_path.chmod(0o755)
    commands = Commands(short_path, HOME=os.fspath(home))
    for variable in ("BATCHAI_MOUNT_RUN_DIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        commands.environment.pop(variable, None)
    mountpoint = home / "m"
    subprocess.run([*user, "mkdir", mountpoint], check=True)
    words = ("blob", target(storage, blob_container), mountpoint)
    program = (*user, *MOUNT)
    if "user_allow_other" not in Path("/etc/fuse.conf").read_text().split("\n"):
        refused = commands(
            *words, "--allow-other", program=program, code=2, AZURE_STORAGE_KEY=storage.key
        )
        assert "fuse.conf" in refused.stderr
    commands(*words, program=program, AZURE_STORAGE_KEY=storage.key)
    script = 'echo hello > "$1/a" && cat "$1/a" && stat -c %u "$1/a"'
    done = subprocess.run(
        [*user, "sh", "-c", script, "sh", mountpoint], capture_output=True, text=True, check=True
    )
    assert done.stdout == "hello\n65534\n"
    shown = commands("show", mountpoint, program=program)
    assert "only root can raise" in shown.stderr
    assert os.fspath(home / ".cache" / "batchai") in shown.stdout
    commands("unmount", mountpoint, program=program)
    assert namespace.mounts(home) == []
    assert (home / ".local" / "state" / "batchai").stat().st_uid == 65534
    commands(*words, program=program, AZURE_STORAGE_KEY=storage.key)
    subprocess.run([*user, "fusermount3", "-u", mountpoint], check=True, timeout=30)
    assert namespace.mounts(home) == []
    eventually(lambda: os.fspath(mountpoint) not in commands("list", program=program).stdout)


@pytest.mark.integration
def test_a_user_who_may_not_open_the_device_is_told_so(short_path, storage, blob_container):
    """Where udev did not open it to all, as in many containers."""
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    short_path.chmod(0o777)
    script = (
        'mount -t tmpfs tmpfs "$0" && mknod -m 600 "$0/fuse" c 10 229 && '
        'mount --bind "$0/fuse" /dev/fuse && exec "$@"'
    )
    closed = ("unshare", "--mount", "sh", "-c", script, os.fspath(short_path / "d"))
    (short_path / "d").mkdir()
    (short_path / "m").mkdir(mode=0o777)
    commands = Commands(short_path, HOME=os.fspath(short_path))
    said = commands(
        "blob",
        target(storage, blob_container),
        short_path / "m",
        program=(*closed, *user, *MOUNT),
        code=5,
        AZURE_STORAGE_KEY=storage.key,
    ).stderr
    assert said.startswith("error: PermissionDenied: /dev/fuse")
