"""The scripts explain themselves and their failures; the lock files name no place."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def bash(text, **environment):
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text, "scripts/example"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("script", ["setup", "test", "lock"])
def test_help_is_the_head_of_the_script(script):
    done = bash(f"scripts/{script} --help")
    assert done.returncode == 0
    assert f"scripts/{script}" in done.stdout
    assert "set -e" not in done.stdout


@pytest.mark.parametrize("script", ["setup", "lock"])
def test_an_unknown_option_is_refused(script):
    done = bash(f"scripts/{script} --nonsense")
    assert done.returncode == 1
    assert "--nonsense" in done.stderr


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("write: No space left on device", "the disk is full"),
        ("Could not resolve host", "network"),
        ("npm error code ENOTFOUND", "network"),
        ("CERTIFICATE_VERIFY_FAILED", "PIP_CERT"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "lock file"),
        ("something else", "the log says more"),
    ],
)
def test_a_step_that_fails_shows_its_log_and_what_to_do(tmp_path, said, advice):
    done = bash(
        f"""
        root=$PWD; source scripts/lib/common.sh; log={tmp_path}/log; : >"$log"
        step "going well" echo fine
        breaks() {{ echo "{said}" >&2 && false && echo "went on"; }}
        step "breaking" breaks
        echo "not reached"
        """
    )
    assert done.returncode == 1
    assert "example: error: breaking: failed (exit status 1)" in done.stderr
    assert f"  | {said}" in done.stderr
    assert "fine" not in done.stderr
    assert advice in done.stderr
    assert "went on" not in done.stderr
    assert "not reached" not in done.stdout


def test_no_function_run_as_a_step_goes_on_after_a_failure():
    """`set -e` has no effect in them, so each of their lines must be chained."""
    text = (ROOT / "scripts/setup").read_text()
    for name in re.findall(r"step \"[^\"]*\" (\w+)$", text, re.MULTILINE):
        if name == "install_packages":  # keeps its statuses by hand: it has to clean up
            continue
        single = re.search(rf"^{name}\(\) \{{ (.*) \}}$", text, re.MULTILINE)
        if single:
            assert ";" not in single[1].rstrip(";")
            continue
        body = re.search(rf"^{name}\(\) \{{\n(.*?)\n\}}$", text, re.MULTILINE | re.DOTALL)
        lines = [line for line in body[1].splitlines() if not line.lstrip().startswith("#")]
        assert all(line.endswith(("&&", "\\")) for line in lines[:-1]), name


def test_lock_files_have_hashes_and_no_addresses():
    for name in ("requirements.lock", "scripts/lib/build.lock"):
        lines = (ROOT / name).read_text().splitlines()
        assert not [line for line in lines if "://" in line or line.startswith("-")]
        pins = [line for line in lines if not line.startswith(" ")]
        assert pins
        assert all(re.fullmatch(r"[a-z0-9.-]+==[^ ]+ \\", line) for line in pins)
    packages = json.loads((ROOT / "agent/dev/package-lock.json").read_text())["packages"]
    assert not [name for name, one in packages.items() if "resolved" in one]
    assert not [name for name, one in packages.items() if name and "integrity" not in one]
