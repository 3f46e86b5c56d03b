"""Documents made to exhaust the agent, or to have it tell a key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ValidationFailed
from agent.jobs.environment import ENTRY_LIMIT, TOTAL_LIMIT, build_environment
from agent.jobs.layout import JobId, JobLayout
from agent.schema import parse_cluster, parse_job, redacted
from agent.schema.parse import FAULT_LIMIT

PLACEHOLDER = "<AZURE_BATCHAI_STORAGE_KEY>"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1/K1SZFPTOtr+KBHBeksoGMGw=="
BASE = {
    "customToolkitSettings": {"commandLine": "true"},
    "stdOutErrPathPrefix": "$AZ_BATCHAI_JOB_TEMP",
}
SHARE = {"azureFileUrl": "https://acct.file.core.windows.net/share", "relativeMountPath": "a"}
LAYOUT = JobLayout(JobId("sub", "rg", "ws", "exp", "job", "0f0f"), "/jobs")


def parse(**properties):
    return parse_job({**BASE, **properties}, known_placeholders={PLACEHOLDER: KEY})


def build(spec):
    return build_environment(spec, LAYOUT, cluster_mount_root="/cluster", base={}, gpu_count=0)


def refused(work):
    with pytest.raises(ValidationFailed) as caught:
        work()
    # Every fault can be sent to somebody.
    json.dumps([(f.code, f.message, f.target) for f in caught.value.details], ensure_ascii=False)
    for fault in caught.value.details:
        f"{fault.message}{fault.target}".encode()
        assert len(fault.message) + len(fault.target or "") < 1500
    return caught.value.details


def shares(*changes):
    return {"azureFileShares": [{**SHARE, **change} for change in changes]}


def variables(*pairs):
    return [{"name": name, "value": value} for name, value in pairs]


def test_a_long_chain_of_references():
    chain = variables(*((f"A{i}", f"$A{i + 1}") for i in range(3000)), ("A3000", "end"))
    assert build(parse(environmentVariables=chain)).variables["A0"] == "end"


def test_a_long_circle_of_references():
    circle = variables(*((f"A{i}", f"$A{(i + 1) % 3000}") for i in range(3000)))
    faults = refused(lambda: build(parse(environmentVariables=circle)))
    assert [fault.code for fault in faults].count("CircularReference") == 1


def test_variables_that_double_one_another():
    laughs = variables(*((f"A{i}", f"$A{i + 1}$A{i + 1}") for i in range(60)), ("A60", "ha"))
    faults = refused(lambda: build(parse(environmentVariables=laughs)))
    assert any(str(ENTRY_LIMIT) in fault.message for fault in faults)


def test_more_variables_than_a_process_can_have():
    many = variables(("BIG", "x" * 100_000), *((f"A{i}", "$BIG") for i in range(2000)))
    faults = refused(lambda: build(parse(environmentVariables=many)))
    assert [str(TOTAL_LIMIT) in fault.message for fault in faults] == [True]


def test_a_secret_that_no_process_could_get():
    spec = parse(secrets=variables(("S", "x" * ENTRY_LIMIT)))
    assert refused(lambda: build(spec))[0].target == "properties.secrets[0].value"
    for value in ("nul\0", "lone \ud800"):
        faults = refused(lambda v=value: parse(secrets=variables(("S", v))))
        assert [fault.target for fault in faults] == ["secrets[0].value"]


def test_many_volumes_on_one_path():
    faults = refused(lambda: parse(mountVolumes=shares(*[{}] * 5000)))
    assert len(faults) == FAULT_LIMIT + 1
    assert faults[-1].code == "TooManyFaults"


@pytest.mark.parametrize("paths", [("a/b", "a"), ("a", "a/b"), ("a/b/c", "x", "a")])
def test_volumes_in_one_another_in_any_order(paths):
    volumes = shares(*({"relativeMountPath": path} for path in paths))
    assert [f.code for f in refused(lambda: parse(mountVolumes=volumes))] == ["NestedMountPath"]


def test_volumes_side_by_side():
    names = ("a/b", "a/c", "ab", "a b", "A")
    spec = parse(mountVolumes=shares(*({"relativeMountPath": name} for name in names)))
    assert spec.mount_volumes.relative_mount_paths == list(names)


def test_long_names_and_values_do_not_fill_the_answer():
    refused(lambda: parse(**{"k" * 500_000: 1}))
    refused(lambda: parse(mountVolumes=shares({"relativeMountPath": "/" + "x" * 500_000})))
    refused(lambda: parse(nodeCount=10**5000))


@pytest.mark.parametrize("document", [{"properties": BASE, "\ud800": 1}, {**BASE, "\udfff": 1}])
def test_lone_surrogates_in_names(document):
    refused(lambda: parse_job(document, known_placeholders={}))


@pytest.mark.parametrize(
    "url",
    [
        "http://acct.file.core.windows.net/share?sv=1&sig=hunter2",
        "https://acct.file.core.windows.net/share?sv=1&sig=hunter2",
        "http://user:hunter2@acct.file.core.windows.net/share",
        "https://u:p@hunter2@[/share",
    ],
)
def test_what_is_secret_in_a_url_is_not_repeated(url):
    assert "hunter2" not in str(refused(lambda: parse(mountVolumes=shares({"azureFileUrl": url}))))


def test_a_share_belongs_to_the_account_of_its_url():
    faults = refused(lambda: parse(mountVolumes=shares({"accountName": "other"})))
    assert "must agree" in faults[0].message
    elsewhere = {"accountName": "other", "azureFileUrl": "https://files.example.org/share"}
    assert parse(mountVolumes=shares(elsewhere)).mount_volumes.volumes[0].account == "other"


def test_the_key_is_filled_in_everywhere_and_shown_nowhere():
    spec = parse(
        customToolkitSettings={"commandLine": f"echo {PLACEHOLDER}"},
        environmentVariables=variables(("A", PLACEHOLDER)),
        mountVolumes=shares({"credentials": {"accountKey": PLACEHOLDER}}),
    )
    assert spec.command_line() == f"echo {KEY}"
    assert build(spec).variables["A"] == KEY
    assert KEY in spec.secret_values()
    shown = redacted(spec)
    assert KEY not in json.dumps(shown)
    assert shown["customToolkitSettings"]["commandLine"] == f"echo {PLACEHOLDER}"


@pytest.mark.parametrize("around", ["{}", "/{}", "../{}", "x/{}\n", "<{}>", "\0{}"])
@pytest.mark.parametrize(
    "properties",
    [
        lambda text: {"mountVolumes": shares({"relativeMountPath": text})},
        lambda text: {"mountVolumes": shares({"accountName": text})},
        lambda text: {"mountVolumes": shares({"azureFileUrl": text})},
        lambda text: {"mountVolumes": shares({"fileMode": text})},
        lambda text: {"inputDirectories": [{"id": text, "path": "x"}] * 2},
        lambda text: {"environmentVariables": variables((text, "x"), (text, "y"))},
        lambda text: {"constraints": {"maxWallClockTime": text}},
        lambda text: {"stdOutErrPathPrefix": f"${text}"},
        lambda text: {"stdOutErrPathPrefix": f"${{{text}}}"},
        lambda text: {"stdOutErrPathPrefix": text},
    ],
)
def test_no_fault_quotes_a_part_of_the_key(properties, around):
    try:
        build(parse(**properties(around.format(PLACEHOLDER))))
    except ValidationFailed as failed:
        said = f"{failed} {failed.details}"
        assert not any(KEY[i : i + 6] in said for i in range(len(KEY) - 6))


def test_no_fault_of_a_cluster_quotes_the_key():
    document = {"mountVolumes": shares({"accountName": PLACEHOLDER})}
    faults = refused(lambda: parse_cluster(document, known_placeholders={PLACEHOLDER: KEY}))
    assert KEY[:6] not in str(faults)


def test_a_cluster_s_faults_have_its_code():
    with pytest.raises(ValidationFailed) as caught:
        parse_cluster([], known_placeholders={})
    assert caught.value.code == "InvalidCluster"


anything = st.characters(codec=None)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(anything) | st.sampled_from([PLACEHOLDER]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*BASE, "properties", "id", "name"]) | st.text(anything),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)
fields = st.sampled_from(
    ["inputDirectories", "outputDirectories", "environmentVariables", "secrets", "mountVolumes"]
)


@given(fields, json_values)
def test_any_unicode_gives_faults_that_can_be_sent(field, value):
    for document in (value, {"properties": value}, {**BASE, field: value}, {field: value}):
        try:
            build(parse_job(document, known_placeholders={PLACEHOLDER: KEY}))
        except ValidationFailed as failed:
            assert failed.details
            for fault in failed.details:
                f"{fault.message}{fault.target}".encode()


references = st.lists(
    st.sampled_from(["$A", "${B}", "$C", "$D", "$$", "x", "$PATH", "$NOPE"]), max_size=4
).map("".join)


@given(st.lists(references, min_size=4, max_size=4))
def test_any_graph_of_references_ends(texts):
    try:
        found = build(parse(environmentVariables=variables(*zip("ABCD", texts, strict=True))))
    except ValidationFailed as failed:
        places = [fault.target for fault in failed.details]
        assert places
        assert len(places) == len(set(places)), "one fault a variable"
    else:
        assert set("ABCD") <= set(found.variables)
