import pytest

from agent.cli.credentials import StorageAccount, fill, storage_account
from agent.errors import BatchError

URL = "https://acct.file.core.windows.net/share"


def job(*shares, containers=()):
    volumes = {"azureFileShares": list(shares), "azureBlobFileSystems": list(containers)}
    return {"properties": {"mountVolumes": volumes}}


def shares_of(document):
    return document["properties"]["mountVolumes"]["azureFileShares"]


def test_account_name_comes_from_the_url():
    document = job({"azureFileUrl": URL})
    (share,) = shares_of(fill(document, StorageAccount(None, "k")))
    assert share == {
        "azureFileUrl": URL,
        "accountName": "acct",
        "credentials": {"accountKey": "k"},
    }
    assert document == job({"azureFileUrl": URL})  # the given one is kept


def test_placeholders_are_replaced_everywhere():
    document = job(
        {
            "azureFileUrl": "https://<AZURE_BATCHAI_STORAGE_ACCOUNT>.file.core.windows.net/s",
            "credentials": {"accountKey": "<AZURE_BATCHAI_STORAGE_KEY>"},
        }
    )
    (share,) = shares_of(fill(document, StorageAccount("acct", "k")))
    assert share["azureFileUrl"] == "https://acct.file.core.windows.net/s"
    assert (share["accountName"], share["credentials"]) == ("acct", {"accountKey": "k"})


def test_what_is_unknown_is_left_to_the_agent():
    document = job({"azureFileUrl": URL, "credentials": {"accountKey": "<X>"}})
    (share,) = shares_of(fill(document, StorageAccount(None, None)))
    assert share["credentials"] == {"accountKey": "<X>"}
    for nonsense in ([], None, {"properties": 3}, {"mountVolumes": "x"}, job("x", {"a": 1})):
        fill(nonsense, StorageAccount("acct", "k"))


def test_a_key_goes_only_to_its_account():
    other = {"accountName": "other", "containerName": "c"}
    document = job({"azureFileUrl": URL}, containers=[other])
    with pytest.raises(BatchError, match="several storage accounts"):
        fill(document, StorageAccount(None, "k"))
    filled = fill(document, StorageAccount("acct", "k"))
    assert "credentials" in shares_of(filled)[0]
    assert filled["properties"]["mountVolumes"]["azureBlobFileSystems"] == [other]


def test_sources_of_the_key(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text("from-file\n")
    monkeypatch.setenv("AZURE_BATCHAI_STORAGE_KEY", "from-env")
    assert storage_account(None, None, None).key == "from-env"
    assert storage_account(None, None, file).key == "from-file"
    assert "from-file" not in repr(storage_account(None, None, file))
    with pytest.raises(BatchError, match="not both"):
        storage_account(None, "k", file)
    with pytest.raises(BatchError, match="cannot read"):
        storage_account(None, None, tmp_path / "none")
