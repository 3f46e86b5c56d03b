"""Whole documents in the forms that Batch AI's recipes and the storage guide have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.jobs.environment import build_environment
from agent.jobs.layout import JobId, JobLayout
from agent.schema import parse_job, redacted

DATA = Path(__file__).parent / "data"
KEY = "c2VjcmV0c2VjcmV0c2VjcmV0"
KNOWN = {
    "<AZURE_BATCHAI_STORAGE_ACCOUNT>": "mystorage",
    "<AZURE_BATCHAI_STORAGE_KEY>": KEY,
}
LAYOUT = JobLayout(JobId("sub", "rg", "ws", "exp", "job", "0f0f"), "/jobs")
SEGMENT = LAYOUT.id.segment
MOUNTS = "/jobs/ws/exp/job/mounts"


def recipe(name):
    spec = parse_job(json.loads((DATA / f"{name}.json").read_text()), known_placeholders=KNOWN)
    return spec, build_environment(
        spec,
        LAYOUT,
        cluster_mount_root="/cluster",
        cluster_mount_paths=["external"],
        base={"PATH": "/usr/bin"},
        gpu_count=1,
    )


@pytest.mark.parametrize(
    ("name", "tool", "interpreter", "logs"),
    [
        ("tensorflow", "tensorflow", "python", f"{MOUNTS}/logs"),
        ("cntk", "cntk", "python", "/cluster/external"),
        ("pytorch", "pytorch", "python3", f"{MOUNTS}/external"),
        ("custom", "custom", "python", f"{MOUNTS}/output"),
    ],
)
def test_recipes(name, tool, interpreter, logs):
    spec, environment = recipe(name)
    assert spec.tool_type == tool
    assert spec.command_line().split()[0] == interpreter
    assert environment.stdouterr_directory.volume_root == logs
    assert environment.stdouterr_directory.path == f"{logs}/{SEGMENT}/stdouterr"
    assert KEY not in json.dumps(redacted(spec))
    # What the API gives back can be handed in again.
    again = redacted(spec)
    again.pop("secrets")
    assert parse_job({"properties": again}, known_placeholders={}).command_line() == (
        spec.command_line()
    )


def test_outputs_of_the_guide_s_example():
    spec, environment = recipe("custom")
    assert environment.variables["AZ_BATCHAI_OUTPUT_LOGS"] == f"{MOUNTS}/output/{SEGMENT}/logs"
    assert environment.output_directories["CHECKPOINTS"].relative == f"{SEGMENT}/checkpoints"
    assert environment.variables["TOKEN"] == "pa$$word"
    assert spec.job_preparation.command_line == "pip install --user keras"


def test_credentials_of_a_recipe():
    spec, _ = recipe("pytorch")
    (share,) = spec.mount_volumes.azure_file_shares
    assert share.credentials.account_key.get_secret_value() == KEY
    assert spec.max_wall_clock_seconds == 12 * 3600
    assert spec.cluster.id.endswith("/clusters/c")
