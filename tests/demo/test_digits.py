"""The example job: its data, its training script, its job.json."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DIGITS = Path(__file__).resolve().parents[2] / "examples/digits"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"digits_{name}", DIGITS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images in a local directory, as they lie in the container."""
    top = tmp_path_factory.mktemp("container")
    for name, content in module("prepare").images():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top / "digits"


def test_every_image_is_there_once(data: Path) -> None:
    images = list(data.glob("*/*/*.png"))
    assert len(images) == 1797
    assert len({path.name for path in images}) == 1797
    assert {path.parent.name for path in images} == {str(digit) for digit in range(10)}


def test_every_digit_is_tested_as_often_as_it_is_common(data: Path) -> None:
    for digit in range(10):
        test = len(list((data / "test" / str(digit)).iterdir()))
        train = len(list((data / "train" / str(digit)).iterdir()))
        assert test == -(-(test + train) // 5)


def train(data: Path, model: Path, *, workers: int, epochs: int) -> list[str]:
    command = [sys.executable, DIGITS / "train.py", "--data", data, "--model", model]
    command += ["--workers", str(workers), "--epochs", str(epochs)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_training_does_not_depend_on_the_number_of_workers(data: Path, tmp_path: Path) -> None:
    history = []
    for workers in (1, 3):
        model = tmp_path / str(workers)
        lines = train(data, model, workers=workers, epochs=2)
        assert len([line for line in lines if line.startswith("epoch")]) == 2
        assert (model / "model.joblib").stat().st_size > 0
        history.append(json.loads((model / "metrics.json").read_text())["epochs"])
    assert history[0] == history[1]


def test_missing_data_is_said_in_words(tmp_path: Path) -> None:
    command = [sys.executable, DIGITS / "train.py", "--data", tmp_path, "--model", tmp_path / "m"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no images in" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_key_is_never_taken_from_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, DIGITS / "prepare.py", "--help"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "--key" not in done.stdout


def test_the_agent_accepts_job_json() -> None:
    from agent.schema import parse_job

    job = parse_job(
        json.loads((DIGITS / "job.json").read_text()),
        known_placeholders={"<AZURE_BATCHAI_STORAGE_ACCOUNT>": "devstoreaccount1"},
    )
    assert "train.py" in job.command_line()
