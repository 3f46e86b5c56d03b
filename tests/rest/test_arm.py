import json

import pytest
import trio

from agent.errors import Fault, ValidationFailed
from agent.jobs.service import JobError, JobKey
from agent.rest.arm import canonical_path
from tests.rest.conftest import BASE, DOCUMENT, KEY, VERSION


async def put(client, name="job1", document=DOCUMENT):
    return await client.put(f"{BASE}/{name}", params=VERSION, json=document)


async def test_job_round_trip(server):
    client = server.client()
    created = await put(client)
    assert created.status_code == 200
    got = await client.get(f"{BASE}/job1", params=VERSION)
    assert got.json() == created.json()
    assert got.headers["x-batchai-revision"] == "1"
    assert got.headers["x-ms-request-id"]
    body = got.json()
    assert body["id"] == f"{BASE}/job1"
    assert body["type"] == "Microsoft.BatchAI/workspaces/experiments/jobs"
    assert body["properties"]["executionState"] == "queued"
    assert body["properties"]["executionInfo"] is None
    assert body["properties"]["creationTime"] == "2018-06-13T22:41:54.916000Z"
    segment = body["properties"]["jobOutputDirectoryPathSegment"]
    assert segment.startswith("sub/rg/workspaces/ws/experiments/exp/jobs/job1/")


async def test_ended_job_shows_its_errors(server):
    client = server.client()
    await put(client)
    error = JobError("JobFailed", "Job failed with non-zero exit code", (("StdErr", "boom"),))
    server.service.end(KEY, 2, error)
    info = (await client.get(f"{BASE}/job1", params=VERSION)).json()["properties"]["executionInfo"]
    assert info["exitCode"] == 2
    assert info["errors"][0]["details"] == [{"name": "StdErr", "value": "boom"}]


async def test_every_fault_of_a_refused_job_is_listed(server):
    server.service.refusal = ValidationFailed(
        [
            Fault("UnknownField", "no such field", "properties.x"),
            Fault("MissingField", "is required", "properties.y"),
        ],
        hint="see docs",
    )
    answer = await put(server.client())
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "InvalidJob"
    assert [d["target"] for d in error["details"]] == ["properties.x", "properties.y"]
    assert error["additionalInfo"] == [{"type": "Hint", "info": {"hint": "see docs"}}]


async def test_the_log_of_an_internal_error_shows_no_key(server, capsys):
    document = {"properties": {"secrets": [{"name": "A", "value": "hunter2hunter2"}]}}
    server.service.refusal = ZeroDivisionError("boom")
    await put(server.client(), document=document)
    out, err = capsys.readouterr()
    assert "ZeroDivisionError: boom" in out + err
    assert "hunter2" not in out + err


async def test_internal_errors_have_an_id_and_no_traceback(server):
    server.service.refusal = ZeroDivisionError("secret detail")
    answer = await put(server.client())
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text
    error = answer.json()["error"]
    assert error["additionalInfo"][-1]["info"]["errorId"] in error["message"]


async def test_an_error_in_a_group_is_still_the_error(server):
    fault = ValidationFailed([Fault("WrongType", "must be an object")])
    server.service.refusal = ExceptionGroup("nursery", [ExceptionGroup("inner", [fault])])
    assert (await put(server.client())).json()["error"]["code"] == "InvalidJob"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1,\n  "b": }', "line 2 column 8"),
        (b"", "empty"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": NaN}', "NaN"),
        (b"[" * 200_000, "deep"),
    ],
)
async def test_malformed_json_is_refused_with_its_place(server, content, words):
    answer = await server.client().put(f"{BASE}/job1", params=VERSION, content=content)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


async def test_byte_order_mark_is_no_mistake(server):
    content = b"\xef\xbb\xbf" + json.dumps(DOCUMENT).encode()
    answer = await server.client().put(f"{BASE}/job1", params=VERSION, content=content)
    assert answer.status_code == 200


async def test_body_over_the_limit(server):
    async def chunks():
        for _ in range(40):
            yield b"x" * 65536

    client = server.client()
    for content in (b"x" * 2_000_000, chunks()):
        answer = await client.put(f"{BASE}/job1", params=VERSION, content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "RequestBodyTooLarge"


@pytest.mark.parametrize(
    ("method", "url", "status", "code"),
    [
        ("GET", f"{BASE}/job1", 400, "MissingApiVersionParameter"),
        ("GET", f"{BASE}/job1?api-version=2017-09-01-preview", 400, "InvalidApiVersionParameter"),
        ("GET", f"{BASE}/none?api-version=2018-05-01", 404, "JobNotFound"),
        ("GET", f"{BASE}/bad%20name?api-version=2018-05-01", 400, "InvalidResourceName"),
        ("GET", "/nowhere", 404, "ResourceNotFound"),
        ("POST", f"{BASE}/job1?api-version=2018-05-01", 405, "NotSupported"),
        ("GET", f"{BASE}?api-version=2018-05-01&maxresults=0", 400, "InvalidQueryParameter"),
        ("GET", f"{BASE}?api-version=2018-05-01&$skiptoken=%21", 400, "InvalidSkipToken"),
        (
            "GET",
            f"{BASE.replace('/rg/', '/other/')}?api-version=2018-05-01",
            404,
            "ResourceGroupNotFound",
        ),
        (
            "GET",
            f"{BASE.replace('/sub/', '/other/')}?api-version=2018-05-01",
            404,
            "SubscriptionNotFound",
        ),
    ],
)
async def test_refusals_are_arm_errors(server, method, url, status, code):
    answer = await server.client().request(method, url)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_keywords_of_paths_are_compared_without_case(server):
    client = server.client()
    await put(client)
    lower = (await client.get(f"{BASE.lower()}/job1", params=VERSION)).json()
    assert lower["name"] == "job1"
    assert canonical_path("/SUBSCRIPTIONS/s/resourcegroups/JOBS/providers/microsoft.batchai") == (
        "/subscriptions/s/resourceGroups/JOBS/providers/Microsoft.BatchAI"
    )


async def test_list_in_pages(server):
    client = server.client()
    for index in range(5):
        await put(client, f"j{index}")
    url, names = f"{BASE}?api-version=2018-05-01&maxresults=2", []
    while url:
        body = (await client.get(url)).json()
        assert len(body["value"]) <= 2
        names += [job["name"] for job in body["value"]]
        url = body.get("nextLink")
    assert names == [f"j{index}" for index in range(5)]


async def test_delete_that_takes_long_is_polled(server, monkeypatch):
    monkeypatch.setattr("agent.rest.arm.PATIENCE_S", 0.05)
    client = server.client()
    await put(client)
    server.service.delete_gate = trio.Event()
    first = await client.delete(f"{BASE}/job1", params=VERSION)
    assert first.status_code == 202
    again = await client.delete(f"{BASE}/job1", params=VERSION)  # joins, does not start another
    assert again.status_code == 202
    assert (await client.get(first.headers["location"])).status_code == 202
    server.service.delete_gate.set()
    with trio.fail_after(5):
        while (await client.get(first.headers["location"])).status_code == 202:
            pass
    assert (await client.delete(f"{BASE}/job1", params=VERSION)).status_code == 204


async def test_a_deletion_that_an_agent_did_not_survive_is_said_to_be_lost(server):
    from agent.rest.operations import OperationId

    client = server.client()
    await put(client)
    operation = OperationId("delete", KEY).encode()
    place = "/subscriptions/sub/providers/Microsoft.BatchAI/locations/local/operationresults"
    answer = await client.get(f"{place}/{operation}", params=VERSION)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "OperationInterrupted")
    assert (await client.get(f"{place}/zzz", params=VERSION)).status_code == 404


async def test_terminate_ends_with_the_job(server, monkeypatch):
    monkeypatch.setattr("agent.rest.arm.PATIENCE_S", 0.05)
    client = server.client()
    await put(client)
    server.service.terminate_ends = False
    answer = await client.post(f"{BASE}/job1/terminate", params=VERSION)
    assert answer.status_code == 202
    server.service.end(KEY, None)
    with trio.fail_after(5):
        while (await client.get(answer.headers["location"])).status_code == 202:
            pass
    # A job that has ended is left as it is.
    assert (await client.post(f"{BASE}/job1/terminate", params=VERSION)).status_code == 200


async def test_namespaces_exist_by_being_named(server):
    client = server.client()
    group = BASE.partition("/workspaces")[0]
    for path in ("workspaces/new", "workspaces/new/experiments/e"):
        for method in ("PUT", "GET"):
            answer = await client.request(method, f"{group}/{path}", params=VERSION, json={})
            assert answer.json()["properties"]["provisioningState"] == "succeeded"
            assert answer.json()["id"] == f"{group}/{path}"
    cluster = await client.get(f"{group}/workspaces/ws/clusters/any", params=VERSION)
    assert cluster.json()["properties"]["nodeStateCounts"]["runningNodeCount"] == 1
    refused = await client.delete(f"{group}/workspaces/ws", params=VERSION)
    assert refused.status_code == 405


async def test_output_files(server):
    client = server.client()
    await put(client)
    server.service.write(KEY, "stdout.txt", b"hello")
    server.service.write(KEY, "a b/x#y.bin", b"\0\1", directory="MODEL")
    query = VERSION | {"outputdirectoryid": "stdouterr", "directory": "."}
    answer = await client.post(f"{BASE}/job1/listOutputFiles", params=query)
    (file,) = answer.json()["value"]
    assert file["properties"]["contentLength"] == 5
    assert (await client.get(file["downloadUrl"])).content == b"hello"
    query = VERSION | {"outputdirectoryid": "MODEL", "directory": "./a b"}
    (file,) = (await client.post(f"{BASE}/job1/listOutputFiles", params=query)).json()["value"]
    assert (await client.get(file["downloadUrl"])).content == b"\0\1"
    query = VERSION | {"outputdirectoryid": "MODEL"}
    (entry,) = (await client.post(f"{BASE}/job1/listOutputFiles", params=query)).json()["value"]
    assert entry["fileType"] == "directory"
    assert "downloadUrl" not in entry
    query = VERSION | {"outputdirectoryid": "MODEL", "directory": "../../etc"}
    assert (await client.post(f"{BASE}/job1/listOutputFiles", params=query)).status_code == 400


async def test_another_workspace_is_another_namespace(server):
    client = server.client()
    await put(client)
    assert JobKey("ws", "exp", "job1") in server.service.jobs
    other = BASE.replace("/ws/", "/w2/")
    assert (await client.get(other, params=VERSION)).json()["value"] == []
