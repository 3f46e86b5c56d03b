"""scripts/demo as a person runs it: to its end, into a failure, and interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = [str(ROOT / "scripts/demo"), "--no-setup"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


def mounts_below(directory: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(str(directory))]


def processes_of(directory: Path) -> list[str]:
    """Command lines of processes that name the directory, or work in it, or have it open."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            links = [os.readlink(process / "cwd")]
            links += [os.readlink(fd) for fd in (process / "fd").iterdir()]
        except OSError:
            continue
        if str(directory) in command or any(link.startswith(str(directory)) for link in links):
            found.append(command.replace("\0", " "))
    return found


@contextmanager
def nothing_left(directory: Path) -> Iterator[None]:
    yield
    assert mounts_below(directory) == []
    assert processes_of(directory) == []


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demo works: a short path (it holds unix sockets) that the job's user may pass."""
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def run_demo(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, "--directory", str(place), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_checkout_that_is_closed_to_the_jobs_user_runs_as_its_owner(tmp_path: Path) -> None:
    """Such as a clone below /root: nobody else can reach its interpreter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").symlink_to(sys.executable)
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import demo;"
        "demo.PYTHON = pathlib.Path(sys.argv[2]); demo.ROOT = demo.PYTHON.parent;"
        "print(demo.job_user(None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, ROOT / "scripts/lib", closed / "python"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "root", done.stderr


def changed_job(tmp_path: Path, old: str, new: str) -> Path:
    text = (ROOT / "examples/digits/job.json").read_text()
    assert old in text
    file = tmp_path / "changed.json"
    file.write_text(text.replace(old, new))
    return file


def test_a_model_is_trained_and_seen_live(place: Path) -> None:
    with nothing_left(place):
        done = run_demo(place)
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = re.search(r"test accuracy (\d\.\d+) on", done.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.95
    seen = re.search(r"\* on the share (\d+\.\d+) s after it was written", done.stdout)
    assert seen is not None
    assert float(seen[1]) < 10  # 0.1 s on an idle machine; this one may be busy
    # The share showed the first line while later ones were not yet printed.
    assert done.stdout.index("* on the share") < done.stdout.index("epoch 20/20")
    for name in ("stdout.txt", "stderr.txt", "model.joblib", "metrics.json"):
        assert name in done.stdout
    assert "no mount and no process is left" in done.stdout
    assert list(place.iterdir()) == []


def test_a_container_that_is_missing_is_named(place: Path, tmp_path: Path) -> None:
    job = changed_job(tmp_path, '"containerName": "data"', '"containerName": "absent"')
    with nothing_left(place):
        done = run_demo(place, "--images", "400", "--job", str(job))
    assert done.returncode == 1
    assert "failed at 'Follow its stdout'" in done.stderr
    assert "absent" in done.stderr
    assert "agent.log" in done.stderr


def test_a_job_that_is_refused_is_explained(place: Path, tmp_path: Path) -> None:
    job = changed_job(tmp_path, '"nodeCount": 1', '"nodeCount": 1, "nodeCuont": 1')
    with nothing_left(place):
        done = run_demo(place, "--images", "400", "--job", str(job))
    assert done.returncode == 1
    assert "failed at 'Submit the job'" in done.stderr
    assert "nodeCuont" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_the_job_runs(
    place: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "output"
    with nothing_left(place), output.open("wb") as file:
        process = subprocess.Popen(
            [*DEMO, "--directory", str(place), "--images", "400"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 90
        while b"epoch  1/20" not in output.read_bytes():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        assert mounts_below(place) != []
        process.send_signal(number)
        assert process.wait(60) == 130, output.read_text()
    assert "interrupted at 'Follow its stdout'" in output.read_text()
