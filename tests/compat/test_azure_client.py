"""The real client, azure-mgmt-batchai 2.0.0, unchanged, against the API over TCP.

Warnings of these packages (retired in 2019) are theirs; everybody else's stay errors.
"""

import urllib.request
import warnings

import pytest
import trio

from agent.errors import Fault, ValidationFailed
from agent.jobs.service import JobError, JobKey
from tests.rest.conftest import TOKEN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from azure.mgmt.batchai import BatchAIManagementClient, models
    from msrest.authentication import BasicTokenAuthentication
    from msrestazure.azure_exceptions import CloudError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:msrest.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:msrestazure.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:azure.mgmt.*"),
    pytest.mark.filterwarnings("ignore:datetime.*utc.*:DeprecationWarning"),
]
PLACE = ("rg", "ws", "exp")
KEY = JobKey("ws", "exp", "job1")
PARAMETERS = models.JobCreateParameters(
    cluster=models.ResourceId(id="/subscriptions/x/clusters/any"),
    node_count=1,
    std_out_err_path_prefix="$AZ_BATCHAI_JOB_MOUNT_ROOT/share",
    mount_volumes=models.MountVolumes(
        azure_file_shares=[
            models.AzureFileShareReference(
                account_name="account",
                azure_file_url="https://account.file.core.windows.net/share",
                relative_mount_path="share",
                credentials=models.AzureStorageCredentialsInfo(account_key="c2VjcmV0"),
            )
        ]
    ),
    output_directories=[
        models.OutputDirectory(id="MODEL", path_prefix="$AZ_BATCHAI_JOB_MOUNT_ROOT/share")
    ],
    custom_toolkit_settings=models.CustomToolkitSettings(command_line="echo hi"),
)


async def call(function, *args, **kwargs):
    """A blocking call of the client, while the server runs here."""
    return await trio.to_thread.run_sync(lambda: function(*args, **kwargs))


@pytest.fixture
def azure(tcp_server):
    host, port = tcp_server.addresses.tcp
    credentials = BasicTokenAuthentication({"access_token": TOKEN})
    client = BatchAIManagementClient(credentials, "sub", base_url=f"http://{host}:{port}")
    client.config.connection.timeout = 20
    client.config.retry_policy.total_retries = 0
    client.config.long_running_operation_timeout = 0
    with trio.CancelScope(deadline=trio.current_time() + 60):
        yield client
    client.close()


async def test_create_and_get(azure, tcp_server):
    created = await call(lambda: azure.jobs.create(*PLACE, "job1", PARAMETERS).result())
    assert created.name == "job1"
    assert created.provisioning_state == "succeeded"
    got = await call(azure.jobs.get, *PLACE, "job1")
    assert got.execution_state == "queued"
    assert got.tool_type == "custom"
    assert got.creation_time.year == 2018
    assert got.mount_volumes.azure_file_shares[0].credentials.account_key is None
    assert got.job_output_directory_path_segment.endswith("-000000000001")
    sent = tcp_server.service.documents[KEY]
    assert sent["properties"]["stdOutErrPathPrefix"] == "$AZ_BATCHAI_JOB_MOUNT_ROOT/share"


async def test_failed_job(azure, tcp_server):
    await call(lambda: azure.jobs.create(*PLACE, "job1", PARAMETERS).result())
    tcp_server.service.end(KEY, 2, JobError("JobFailed", "non-zero", (("StdErr", "boom"),)))
    got = await call(azure.jobs.get, *PLACE, "job1")
    assert got.execution_state == "failed"
    assert got.execution_info.exit_code == 2
    assert got.execution_info.errors[0].details[0].value == "boom"
    assert got.execution_info.end_time.tzinfo is not None


async def test_list_pages(azure):
    for index in range(3):
        await call(lambda n=index: azure.jobs.create(*PLACE, f"j{n}", PARAMETERS).result())
    options = models.JobsListByExperimentOptions(max_results=2)
    jobs = await call(lambda: list(azure.jobs.list_by_experiment(*PLACE, options)))
    assert [job.name for job in jobs] == ["j0", "j1", "j2"]


async def test_refusals(azure, tcp_server):
    with pytest.raises(CloudError) as missing:
        await call(azure.jobs.get, *PLACE, "none")
    assert missing.value.status_code == 404
    assert missing.value.error.error == "JobNotFound"
    faults = [Fault("UnknownField", "no such field", "properties.x"), Fault("A", "b", "c")]
    tcp_server.service.refusal = ValidationFailed(faults, hint="read the guide")
    with pytest.raises(CloudError) as refused:
        await call(lambda: azure.jobs.create(*PLACE, "job1", PARAMETERS).result())
    assert refused.value.error.details[0].target == "properties.x"
    assert "read the guide" in str(refused.value)


async def test_terminate_is_polled_to_its_end(azure, tcp_server, monkeypatch):
    monkeypatch.setattr("agent.rest.arm.PATIENCE_S", 0.05)
    await call(lambda: azure.jobs.create(*PLACE, "job1", PARAMETERS).result())
    tcp_server.service.terminate_ends = False
    poller = await call(azure.jobs.terminate, *PLACE, "job1")
    assert not poller.done()
    tcp_server.service.end(KEY, None)
    await call(poller.result, 20)
    assert poller.done()
    got = await call(azure.jobs.get, *PLACE, "job1")
    assert got.execution_state == "failed"


@pytest.mark.parametrize("patience", [5.0, 0.05])
async def test_delete(azure, tcp_server, monkeypatch, patience):
    monkeypatch.setattr("agent.rest.arm.PATIENCE_S", patience)
    await call(lambda: azure.jobs.create(*PLACE, "job1", PARAMETERS).result())
    if patience < 1:
        tcp_server.service.delete_gate = trio.Event()
    poller = await call(azure.jobs.delete, *PLACE, "job1")
    if tcp_server.service.delete_gate is not None:
        assert not poller.done()
        tcp_server.service.delete_gate.set()
    await call(poller.result, 20)
    assert KEY not in tcp_server.service.jobs
    await call(lambda: azure.jobs.delete(*PLACE, "job1").result())  # nothing there: no error


async def test_output_files(azure, tcp_server):
    await call(lambda: azure.jobs.create(*PLACE, "job1", PARAMETERS).result())
    tcp_server.service.write(KEY, "stdout.txt", b"hello")
    options = models.JobsListOutputFilesOptions(
        outputdirectoryid="stdouterr", linkexpiryinminutes=10
    )
    files = await call(lambda: list(azure.jobs.list_output_files(*PLACE, "job1", options)))
    assert [(f.name, f.content_length, f.file_type) for f in files] == [("stdout.txt", 5, "file")]
    assert files[0].last_modified.year == 2018

    def fetch():
        with urllib.request.urlopen(files[0].download_url, timeout=20) as answer:
            return answer.read()

    assert await call(fetch) == b"hello"


async def test_namespaces_and_cluster(azure):
    workspace = await call(
        lambda: azure.workspaces.create(
            "rg", "w2", models.WorkspaceCreateParameters(location="eastus")
        ).result()
    )
    assert workspace.name == "w2"
    assert (await call(azure.workspaces.get, "rg", "ws")).provisioning_state == "succeeded"
    experiment = await call(lambda: azure.experiments.create("rg", "w2", "e2").result())
    assert experiment.name == "e2"
    assert (await call(azure.experiments.get, "rg", "ws", "exp")).name == "exp"
    assert [w.name for w in await call(lambda: list(azure.workspaces.list()))] == ["ws"]
    cluster = await call(azure.clusters.get, "rg", "ws", "node1")
    assert cluster.node_state_counts.running_node_count == 1
    assert cluster.allocation_state == "steady"
    with pytest.raises(CloudError) as refused:
        await call(lambda: azure.clusters.delete("rg", "ws", "node1").result())
    assert refused.value.error.error == "NotSupported"


async def test_wrong_token(tcp_server):
    host, port = tcp_server.addresses.tcp
    credentials = BasicTokenAuthentication({"access_token": "guess"})
    client = BatchAIManagementClient(credentials, "sub", base_url=f"http://{host}:{port}")
    with pytest.raises(CloudError) as refused:
        await call(client.jobs.get, *PLACE, "job1")
    client.close()
    assert refused.value.status_code == 401
