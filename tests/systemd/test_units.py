"""The units, users, directories and configuration that scripts/install puts on a node."""

from __future__ import annotations

import configparser
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from agent import config

ROOT = Path(__file__).resolve().parents[2]
UNIT = "batchai-agent.service"
HOST_UNITS = Path("/lib/systemd/system")

# Each of these gives a service a mount namespace of its own (systemd.exec(5)).
OWN_NAMESPACE = {
    "PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateUsers", "ProtectSystem", "ProtectHome",
    "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups",
    "ProtectProc", "ProcSubset", "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths",
    "ExecPaths",
    "NoExecPaths", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "RootDirectory",
    "RootImage", "DynamicUser", "MountImages", "ExtensionImages", "ExtensionDirectories",
}  # fmt: skip


def install(root: Path) -> str:
    done = subprocess.run(
        [ROOT / "scripts/install", "--root", root, "--no-python"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory with everything installed but Python itself."""
    root = tmp_path_factory.mktemp("node")
    install(root)
    return root


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    """The [Service] section; of a repeated key the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "systemd" / UNIT)
    return dict(parser["Service"])


def test_systemd_accepts_the_unit(node: Path) -> None:
    for unit in HOST_UNITS.iterdir():  # what ours orders itself by
        target = node / "usr/lib/systemd/system" / unit.name
        if unit.is_file() and not target.exists():
            target.write_bytes(unit.read_bytes())
    program = node / "opt/batchai/venv/bin/batchai"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={node}", UNIT],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    # Unknown keys and values are only warned of.
    assert [line for line in done.stderr.splitlines() if "batchai" in line] == []


def test_stopping_the_agent_spares_jobs_and_mounts(service: dict[str, str]) -> None:
    assert service["Type"] == "notify"
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"
    assert service["Restart"] == "always"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert service["OOMPolicy"] == "continue"


def test_mounts_are_seen_outside_the_service(service: dict[str, str]) -> None:
    assert OWN_NAMESPACE.isdisjoint(service)
    assert service["MountFlags"] == "shared"


def test_no_core_file_holds_a_key(service: dict[str, str]) -> None:
    assert service["LimitCORE"] == "0"


def test_users_and_directories_exist(node: Path) -> None:
    users = dict(
        line.split(":", 1) for line in (node / "etc/passwd").read_text().splitlines() if line
    )
    uid = int(users["batchai-job"].split(":")[1])
    groups = [line.split(":")[0] for line in (node / "etc/group").read_text().splitlines()]
    assert "batchai" in groups
    owners_and_modes = {
        "etc/batchai/keys": (0, 0o700),
        "run/batchai": (0, 0o755),
        "var/lib/batchai": (0, 0o711),
        "var/lib/batchai-job": (uid, 0o700),
        "var/cache/batchai": (0, 0o700),
        "mnt/batch/tasks/shared/LS_root/mounts": (0, 0o755),
        "mnt/batch/tasks/shared/LS_root/jobs": (0, 0o711),
    }
    for path, expected in owners_and_modes.items():
        status = (node / path).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == expected, path


def test_the_directories_are_the_configured_ones(node: Path) -> None:
    defaults = config.NodeConfig()
    for path in (
        defaults.mount_root,
        defaults.jobs_root,
        defaults.state_dir,
        defaults.run_dir,
        defaults.cache_dir,
    ):
        assert (node / path.relative_to("/")).is_dir()


def test_commands_are_linked(node: Path) -> None:
    for command in ("batchai", "batchai-mount"):
        link = node / "usr/local/bin" / command
        assert os.readlink(link) == f"/opt/batchai/venv/bin/{command}"


def test_installing_again_changes_nothing_and_keeps_the_configuration(tmp_path: Path) -> None:
    install(tmp_path)
    configured = tmp_path / "etc/batchai/agent.toml"
    configured.write_text('[log]\nlevel = "debug"\n')
    assert "wrote" not in install(tmp_path)
    assert configured.read_text() == '[log]\nlevel = "debug"\n'


def test_the_installed_configuration_says_what_the_defaults_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("BATCHAI_")]:
        monkeypatch.delenv(name)
    shipped = ROOT / "systemd/agent.toml"
    defaults = config.load(shipped)
    assert defaults.api.socket_group == "batchai"
    # Uncommented, every value in there that is no example equals the built-in default.
    lines = shipped.read_text().splitlines()
    start = lines.index("[storage]")
    shown = [
        line.removeprefix("# ")
        for line in lines[:start]
        if line.startswith("[")
        or (" = " in line and not line.startswith(("# tcp", "# token", "# cluster_file")))
    ]
    uncommented = tmp_path / "agent.toml"
    uncommented.write_text("\n".join(shown) + "\n")
    assert config.load(uncommented).model_dump() == defaults.model_dump()


def test_vagrant_accepts_the_machines(tmp_path: Path) -> None:
    assert shutil.which("vagrant"), "vagrant is missing: scripts/setup installs it"
    environment = os.environ | {
        "VAGRANT_HOME": str(tmp_path / "home"),
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "machines"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "BATCHAI_BOX": "any/box",
    }
    done = subprocess.run(
        ["vagrant", "validate"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
