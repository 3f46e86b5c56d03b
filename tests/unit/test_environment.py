"""The environment of jobs, as the storage guide shows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ValidationFailed
from agent.jobs.environment import build_environment
from agent.jobs.layout import JobId, JobLayout, locate
from agent.schema import parse_job

IDENTITY = JobId("sub", "rg", "ws", "exp", "train", "0f0f")
LAYOUT = JobLayout(IDENTITY, "/jobs")
BASE = {"PATH": "/usr/bin:/bin", "HOME": "/home/job"}


def job(**properties):
    return parse_job(
        {
            "customToolkitSettings": {"commandLine": "true"},
            "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/outputs",
            "mountVolumes": {
                "azureFileShares": [
                    {
                        "azureFileUrl": "https://acct.file.core.windows.net/share",
                        "relativeMountPath": "outputs",
                    }
                ],
                "azureBlobFileSystems": [
                    {"accountName": "acct", "containerName": "data", "relativeMountPath": "data"}
                ],
            },
            **properties,
        },
        known_placeholders={},
    )


def environment(spec, **kwargs):
    return build_environment(
        spec, LAYOUT, cluster_mount_root="/cluster", base=BASE, gpu_count=2, **kwargs
    )


def faults(spec, **kwargs):
    with pytest.raises(ValidationFailed) as caught:
        environment(spec, **kwargs)
    return [(fault.code, fault.target) for fault in caught.value.details]


def variables(*pairs):
    return [{"name": name, "value": value} for name, value in pairs]


def test_the_guide_s_segment_and_paths():
    found = environment(
        job(
            inputDirectories=[
                {"id": "SCRIPT", "path": "$AZ_BATCHAI_JOB_MOUNT_ROOT/scripts/train.py"}
            ],
            outputDirectories=[
                {
                    "id": "MODEL",
                    "pathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/outputs",
                    "pathSuffix": "checkpoints",
                },
                {"id": "BARE", "pathPrefix": "${AZ_BATCHAI_JOB_MOUNT_ROOT}/data/below"},
            ],
        )
    )
    segment = "sub/rg/workspaces/ws/experiments/exp/jobs/train/0f0f"
    root = "/jobs/ws/exp/train"
    assert IDENTITY.segment == segment
    assert found.variables == {
        **BASE,
        "AZ_BATCHAI_MOUNT_ROOT": "/cluster",
        "AZ_BATCHAI_JOB_MOUNT_ROOT": f"{root}/mounts",
        "AZ_BATCHAI_JOB_TEMP": f"{root}/tmp",
        "AZ_BATCHAI_JOB_TEMP_DIR": f"{root}/tmp",
        "AZ_BATCHAI_JOB_WORK_DIR": f"{root}/wd",
        "AZ_BATCHAI_NUM_GPUS": "2",
        "AZ_BATCHAI_TASK_INDEX": "0",
        "AZ_BATCHAI_INPUT_SCRIPT": f"{root}/mounts/scripts/train.py",
        "AZ_BATCHAI_OUTPUT_MODEL": f"{root}/mounts/outputs/{segment}/checkpoints",
        "AZ_BATCHAI_OUTPUT_BARE": f"{root}/mounts/data/below/{segment}",
        "AZ_BATCHAI_STDOUTERR_DIR": f"{root}/mounts/outputs/{segment}/stdouterr",
    }
    assert found.stdouterr_directory.volume_root == f"{root}/mounts/outputs"
    assert found.stdouterr_directory.relative == f"{segment}/stdouterr"
    assert found.output_directories["BARE"].relative == f"below/{segment}"


def test_variables_refer_to_one_another_in_any_order():
    spec = job(
        environmentVariables=variables(
            ("A", "${B}/a"), ("B", "$AZ_BATCHAI_INPUT_X"), ("PATH", "/opt:$PATH")
        ),
        inputDirectories=[{"id": "X", "path": "$C/x"}],
        secrets=[{"name": "C", "value": "/se$cret"}],
    )
    found = environment(spec).variables
    assert found["A"] == "/se$cret/x/a"
    assert found["PATH"] == "/opt:/usr/bin:/bin"
    assert found["C"] == "/se$cret"


def test_every_fault_is_listed():
    spec = job(
        stdOutErrPathPrefix="$AZ_BATCHAI_JOB_MOUNT_ROT/outputs",
        inputDirectories=[{"id": "X", "path": "$NOPE"}],
        environmentVariables=variables(("A", "$B"), ("B", "$A"), ("D", "$AZ_BATCHAI_INPUT_X")),
    )
    found = faults(spec)
    assert ("UnknownVariable", "properties.stdOutErrPathPrefix") in found
    assert ("UnknownVariable", "properties.inputDirectories[0].path") in found
    assert ("UnknownVariable", "properties.environmentVariables[2].value") in found
    assert any(code == "CircularReference" for code, _ in found)


def test_an_unknown_name_gets_the_likely_one():
    with pytest.raises(ValidationFailed, match=r"did you mean \$AZ_BATCHAI_JOB_MOUNT_ROOT"):
        environment(job(stdOutErrPathPrefix="$AZ_BATCHAI_JOB_MOUNTROOT/outputs"))


@pytest.mark.parametrize(
    "prefix",
    [
        "/etc",
        "relative",
        "$AZ_BATCHAI_JOB_MOUNT_ROOT",
        "$AZ_BATCHAI_JOB_MOUNT_ROOT/elsewhere",
        "$AZ_BATCHAI_JOB_MOUNT_ROOT/outputs/../../wd",
        "$AZ_BATCHAI_JOB_MOUNT_ROOT/outputsX",
    ],
)
def test_outputs_must_lie_on_a_volume(prefix):
    assert faults(job(stdOutErrPathPrefix=prefix)) == [
        ("InvalidPath", "properties.stdOutErrPathPrefix")
    ]


def test_volumes_of_the_cluster_count_and_only_those_there_are():
    spec = job(stdOutErrPathPrefix="$AZ_BATCHAI_MOUNT_ROOT/autoafs")
    found = environment(spec, cluster_mount_paths=["autoafs"])
    assert found.stdouterr_directory.volume_root == "/cluster/autoafs"
    assert faults(spec, cluster_mount_paths=["other"])
    assert environment(spec).stdouterr_directory.volume_root == "/cluster"


def test_the_folder_of_the_logs_is_taken():
    spec = job(
        outputDirectories=[
            {
                "id": "O",
                "pathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/outputs",
                "pathSuffix": "stdouterr/x",
            }
        ]
    )
    assert faults(spec) == [("InvalidPath", "properties.outputDirectories[0].pathSuffix")]


def test_the_job_s_temporary_directory_is_a_place_too():
    spec = job(stdOutErrPathPrefix="$AZ_BATCHAI_JOB_TEMP_DIR")
    assert environment(spec).stdouterr_directory.volume_root == "/jobs/ws/exp/train/tmp"


def test_secrets_are_not_shown_by_repr():
    spec = job(secrets=[{"name": "TOKEN", "value": "hunter2hunter2"}])
    assert "hunter2" not in repr(environment(spec))
    assert "hunter2" not in repr(spec)


@given(st.text(st.sampled_from("ab./"), max_size=20))
def test_what_is_located_never_leaves_its_root(path):
    found = locate(f"/a/{path}", ["/a", "/a/b"])
    if found is not None:
        assert ".." not in found.relative.split("/")
        assert found.path.rstrip("/").startswith(found.volume_root)
