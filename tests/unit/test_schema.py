"""Job documents: what real files have, and every way of getting one wrong."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ValidationFailed
from agent.schema import parse_cluster, parse_job, redacted

KEY = "c2VjcmV0c2VjcmV0c2VjcmV0"

#: As the recipes of Batch AI look (2018-05-01).
RECIPE = {
    "$schema": "https://example.invalid/schemas/2018-05-01/job.json",
    "properties": {
        "nodeCount": 1,
        "tensorFlowSettings": {
            "pythonScriptFilePath": "$AZ_BATCHAI_JOB_MOUNT_ROOT/scripts/mnist.py",
            "masterCommandLineArgs": "--data $AZ_BATCHAI_INPUT_DATASET",
        },
        "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/logs",
        "mountVolumes": {
            "azureFileShares": [
                {
                    "azureFileUrl": (
                        "https://<AZURE_BATCHAI_STORAGE_ACCOUNT>.file.core.windows.net/logs"
                    ),
                    "relativeMountPath": "logs",
                },
            ],
            "azureBlobFileSystems": [
                {
                    "accountName": "<AZURE_BATCHAI_STORAGE_ACCOUNT>",
                    "containerName": "scripts",
                    "relativeMountPath": "scripts",
                    "credentials": {"accountKey": KEY},
                }
            ],
        },
        "inputDirectories": [{"id": "DATASET", "path": "$AZ_BATCHAI_JOB_MOUNT_ROOT/scripts/mnist"}],
        "outputDirectories": [
            {"id": "MODEL", "pathPrefix": "$AZ_BATCHAI_JOB_MOUNT_ROOT/logs", "pathSuffix": "Models"}
        ],
        "secrets": [{"name": "TOKEN", "value": KEY}],
        "constraints": {"maxWallClockTime": "7.00:00:00"},
    },
}
KNOWN = {"<AZURE_BATCHAI_STORAGE_ACCOUNT>": "acct"}


def parse(document):
    return parse_job(document, known_placeholders=KNOWN)


def faults(document, parser=parse):
    with pytest.raises(ValidationFailed) as caught:
        parser(document)
    return [(fault.code, fault.target) for fault in caught.value.details]


def changed(*path, value=None, remove=False):
    document = copy.deepcopy(RECIPE)
    place = document["properties"]
    for part in path[:-1]:
        place = place[part]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


SHARE = ("mountVolumes", "azureFileShares", 0)
BLOB = ("mountVolumes", "azureBlobFileSystems", 0)


def test_a_recipe():
    spec = parse(RECIPE)
    share, blob = spec.mount_volumes.volumes
    assert (share.account, share.share, share.host) == (
        "acct",
        "logs",
        "acct.file.core.windows.net",
    )
    assert (blob.account, blob.container_name) == ("acct", "scripts")
    assert spec.tool_type == "tensorflow"
    assert spec.command_line() == (
        "python $AZ_BATCHAI_JOB_MOUNT_ROOT/scripts/mnist.py --data $AZ_BATCHAI_INPUT_DATASET"
    )
    assert spec.max_wall_clock_seconds == 7 * 86400


def test_the_bare_form_of_the_guide():
    assert parse(RECIPE["properties"]) == parse(RECIPE)


def test_null_is_absence():
    assert parse(changed("jobPreparation", value=None)) == parse(RECIPE)


def test_no_secret_comes_back():
    spec = parse(RECIPE)
    shown = json.dumps(redacted(spec))
    assert KEY not in shown
    assert KEY not in repr(spec)
    assert '"credentials": {}' in shown
    assert sorted(spec.secret_values()) == [KEY, KEY]
    assert redacted(spec)["mountVolumes"]["azureFileShares"][0]["accountName"] == "acct"


@pytest.mark.parametrize(
    ("toolkit", "command", "tool"),
    [
        ({"customToolkitSettings": {"commandLine": "a  b | c"}}, "a  b | c", "custom"),
        ({"customMpiSettings": {"commandLine": "x", "processCount": 1}}, "x", "mpi"),
        (
            {"pyTorchSettings": {"pythonScriptFilePath": "t.py", "communicationBackend": "Gloo"}},
            "python t.py",
            "pytorch",
        ),
        (
            {
                "chainerSettings": {
                    "pythonScriptFilePath": "t.py",
                    "pythonInterpreterPath": "python3",
                    "commandLineArgs": "-x",
                }
            },
            "python3 t.py -x",
            "chainer",
        ),
        ({"caffe2Settings": {"pythonScriptFilePath": "t.py"}}, "python t.py", "caffe2"),
        ({"horovodSettings": {"pythonScriptFilePath": "t.py"}}, "python t.py", "horovod"),
        (
            {"cntkSettings": {"languageType": "BrainScript", "configFilePath": "c"}},
            "cntk configFile=c",
            "cntk",
        ),
        ({"caffeSettings": {"configFilePath": "s"}}, "caffe train --solver=s", "caffe"),
    ],
)
def test_command_lines_of_the_toolkits(toolkit, command, tool):
    document = changed("tensorFlowSettings", remove=True)
    document["properties"].update(toolkit)
    spec = parse(document)
    assert (spec.command_line(), spec.tool_type) == (command, tool)


@pytest.mark.parametrize(
    ("document", "code", "target"),
    [
        (changed("nodCount", value=1), "UnknownField", "properties.nodCount"),
        (
            changed(*SHARE, "mode", value=1),
            "UnknownField",
            "properties.mountVolumes.azureFileShares[0].mode",
        ),
        (
            changed("stdOutErrPathPrefix", remove=True),
            "MissingField",
            "properties.stdOutErrPathPrefix",
        ),
        (changed("nodeCount", value="1"), "WrongType", "properties.nodeCount"),
        (changed("nodeCount", value=True), "WrongType", "properties.nodeCount"),
        (changed("mountVolumes", value=[]), "WrongType", "properties.mountVolumes"),
        (changed("nodeCount", value=2), "NotSupported", "properties.nodeCount"),
        (changed("containerSettings", value={}), "NotSupported", "properties.containerSettings"),
        (changed("tensorFlowSettings", remove=True), "MissingField", "properties"),
        (
            changed("customToolkitSettings", value={"commandLine": "x"}),
            "InvalidValue",
            "properties.tensorFlowSettings",
        ),
        (
            changed(*SHARE, "azureFileUrl", value="http://a.b/c"),
            "InvalidUrl",
            "properties.mountVolumes.azureFileShares[0].azureFileUrl",
        ),
        (
            changed(*SHARE, "azureFileUrl", value="https://acct.file.core.windows.net/"),
            "InvalidUrl",
            "properties.mountVolumes.azureFileShares[0].azureFileUrl",
        ),
        (
            changed(*SHARE, "azureFileUrl", value="https://acct.x:99999/logs"),
            "InvalidUrl",
            "properties.mountVolumes.azureFileShares[0].azureFileUrl",
        ),
        (
            changed(*SHARE, "fileMode", value="0888"),
            "InvalidValue",
            "properties.mountVolumes.azureFileShares[0].fileMode",
        ),
        (
            changed(*BLOB, "containerName", value="Upper"),
            "InvalidName",
            "properties.mountVolumes.azureBlobFileSystems[0].containerName",
        ),
        (
            changed(*BLOB, "accountName", value="<STORAGE_ACCOUNT_NAME>"),
            "InvalidName",
            "properties.mountVolumes.azureBlobFileSystems[0].accountName",
        ),
        (
            changed(*BLOB, "relativeMountPath", value="logs"),
            "DuplicateMountPath",
            "properties.mountVolumes.azureBlobFileSystems[0].relativeMountPath",
        ),
        (
            changed(*BLOB, "relativeMountPath", value="logs/"),
            "DuplicateMountPath",
            "properties.mountVolumes.azureBlobFileSystems[0].relativeMountPath",
        ),
        (
            changed(*BLOB, "relativeMountPath", value="logs/deep"),
            "NestedMountPath",
            "properties.mountVolumes.azureBlobFileSystems[0].relativeMountPath",
        ),
        (
            changed("inputDirectories", 0, "id", value="A-B"),
            "InvalidName",
            "properties.inputDirectories[0].id",
        ),
        (
            changed("environmentVariables", value=[{"name": "TOKEN", "value": "x"}]),
            "DuplicateName",
            "properties.secrets[0].name",
        ),
        (
            changed("environmentVariables", value=[{"name": "AZ_BATCHAI_X", "value": "x"}]),
            "InvalidName",
            "properties.environmentVariables[0].name",
        ),
        (
            changed("environmentVariables", value=[{"name": "A", "value": "x\0"}]),
            "InvalidValue",
            "properties.environmentVariables[0].value",
        ),
        (
            changed("secrets", 0, "value", remove=True),
            "MissingField",
            "properties.secrets[0].value",
        ),
        (
            changed("constraints", "maxWallClockTime", value="soon"),
            "InvalidValue",
            "properties.constraints.maxWallClockTime",
        ),
        (
            changed("outputDirectories", 0, "pathSuffix", value="../x"),
            "InvalidPath",
            "properties.outputDirectories[0].pathSuffix",
        ),
        (
            changed("mountVolumes", "fileServers", value=[{}]),
            "NotSupported",
            "properties.mountVolumes.fileServers",
        ),
    ],
)
def test_each_fault_has_its_code_and_place(document, code, target):
    assert (code, target) in faults(document)


@pytest.mark.parametrize(
    "path", ["", "/", "/abs", "..", "a/../b", "a/..", "./a", "a//b", "a\0b", "a\nb", "x" * 300]
)
def test_mount_paths_that_are_refused(path):
    target = "properties.mountVolumes.azureFileShares[0].relativeMountPath"
    assert ("InvalidPath", target) in faults(changed(*SHARE, "relativeMountPath", value=path))


def test_unfilled_placeholders():
    found = faults(RECIPE, lambda d: parse_job(d, known_placeholders={}))
    place = "properties.mountVolumes.azureBlobFileSystems[0].accountName"
    assert ("UnresolvedPlaceholder", place) in found


def test_every_fault_is_listed_at_once():
    document = changed("nodCount", value=1)
    document["properties"]["nodeCount"] = "x"
    document["properties"]["mountVolumes"]["azureFileShares"][0]["relativeMountPath"] = "scripts"
    codes = [code for code, _ in faults(document)]
    assert {"UnknownField", "WrongType", "DuplicateMountPath"} <= set(codes)


def test_a_likely_name_is_offered():
    with pytest.raises(ValidationFailed, match="did you mean 'nodeCount'"):
        parse(changed("nodeCoumt", value=1))


def test_no_value_of_a_credential_is_in_a_fault():
    document = changed(*BLOB, "credentials", value={"accountKey": [KEY], "other": KEY})
    with pytest.raises(ValidationFailed) as caught:
        parse(document)
    assert KEY not in str(caught.value) + repr(caught.value.details)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from([*RECIPE["properties"], "properties", "id", "x"]) | st.text(),
            children,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_whatever_json_is_given_nothing_but_faults_comes_out(document):
    for parser in (parse_job, parse_cluster):
        try:
            parser(document, known_placeholders=KNOWN)
        except ValidationFailed as error:
            assert error.details


@given(st.sampled_from(sorted(RECIPE["properties"])), json_values)
def test_whatever_stands_in_a_field_nothing_but_faults_comes_out(field, value):
    try:
        parse(changed(field, value=value))
    except ValidationFailed as error:
        assert error.details


def test_deep_and_huge_documents_are_refused():
    deep: object = 1
    for _ in range(50_000):
        deep = [deep]
    assert faults({"properties": deep})
    assert faults({"properties": {"inputDirectories": [1] * 200_000}})


@pytest.mark.parametrize(
    "document",
    [
        {"mountVolumes": RECIPE["properties"]["mountVolumes"]},
        {"properties": {"vmSize": "X", "mountVolumes": RECIPE["properties"]["mountVolumes"]}},
        {"properties": {"nodeSetup": {"mountVolumes": RECIPE["properties"]["mountVolumes"]}}},
    ],
)
def test_cluster_json(document):
    volumes = parse_cluster(document, known_placeholders=KNOWN)
    assert volumes.relative_mount_paths == ["logs", "scripts"]
