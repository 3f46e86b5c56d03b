"""Mounts with every kind of credential that can be had here, and over every way to the store."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import socket
import threading
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import (
    AccountSasPermissions,
    BlobServiceClient,
    ContainerSasPermissions,
    ResourceTypes,
    generate_account_sas,
    generate_container_sas,
)

from tests.fuse.driving import DriverFailed, driver, volume_spec
from tests.support import fault_proxy as faults
from tests.support.certificates import self_signed
from tests.support.fake_identity import fake_identity
from tests.support.fault_proxy import FaultProxy
from tests.support.forward_proxy import ForwardProxy
from tests.support.token_azurite import azurite_with_tokens
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def spec(storage, blob_container):
    return volume_spec("blob", storage, blob_container, None)


def container_sas(storage, container, permissions="rwdlac", life=HOUR):
    return generate_container_sas(
        storage.account,
        container,
        account_key=storage.key,
        permission=ContainerSasPermissions.from_string(permissions),
        expiry=dt.datetime.now(dt.UTC) + life,
    )


def works(mounted):
    """Everything that a mount is for, once."""
    file = mounted.path / "file"
    file.write_bytes(b"x" * 100_000)
    os.rename(file, mounted.path / "renamed")
    assert os.listdir(mounted.path) == ["renamed"]
    assert (mounted.path / "renamed").read_bytes() == b"x" * 100_000
    os.unlink(mounted.path / "renamed")


def ask(mounted, operation, arguments):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(f"{mounted.spec['runDir']}/control.sock")
        request = {"version": 1, "op": operation, "args": arguments}
        connection.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(connection.makefile().readline())


@pytest.mark.parametrize("kind", ["container", "account", "string", "string-with-sas"])
def test_a_mount_with(kind, storage, blob_container, spec, short_path):
    account_sas = generate_account_sas(
        storage.account,
        storage.key,
        ResourceTypes(container=True, object=True),
        AccountSasPermissions.from_string("rwdlac"),
        dt.datetime.now(dt.UTC) + HOUR,
    )
    endpoint = storage.blob_endpoint
    credential = {
        "container": {"sasToken": "?" + container_sas(storage, blob_container)},
        "account": {"sasToken": account_sas},
        "string": {
            "connectionString": f"AccountName={storage.account};AccountKey={storage.key};"
            f"BlobEndpoint={endpoint}"
        },
        "string-with-sas": {
            "connectionString": f"BlobEndpoint={endpoint};SharedAccessSignature={account_sas}"
        },
    }[kind]
    if "string" in kind:
        del spec["endpoint"]
    with driver(spec, short_path, credential=credential) as mounted:
        works(mounted)
        log = mounted.log.read_text()
    assert storage.key not in log
    assert "sig=" not in log


def test_what_a_sas_cannot_write_is_mounted_read_only(storage, blob_container, spec, short_path):
    sas = container_sas(storage, blob_container, "rl")
    with driver(spec, short_path, credential={"sasToken": sas}) as mounted:
        with pytest.raises(OSError) as caught:
            (mounted.path / "new").touch()
        assert caught.value.errno == errno.EROFS
        assert "mounted read-only" in mounted.log.read_text()


def test_a_sas_that_may_only_read_need_not_list(storage, blob_container, spec, short_path):
    sas = container_sas(storage, blob_container, "r")
    with driver(spec, short_path, credential={"sasToken": sas}) as mounted:
        assert mounted.ask("status")["ok"]


@pytest.mark.parametrize(
    ("life", "said"), [(-HOUR, "the SAS expired at"), (HOUR, "check that it is meant for")]
)
def test_a_sas_that_is_refused(life, said, storage, blob_container, spec, short_path):
    sas = container_sas(storage, blob_container, life=life)
    if life > dt.timedelta(0):
        sas = sas.replace("sig=", "sig=AAAA")
    with (
        pytest.raises(DriverFailed) as caught,
        driver(spec, short_path, credential={"sasToken": sas}),
    ):
        pass
    assert caught.value.error["code"] == "AuthenticationFailed"
    assert said in caught.value.error["hint"]


def test_anonymous(storage, blob_container, spec, short_path):
    with BlobServiceClient(
        storage.blob_endpoint,
        credential={"account_name": storage.account, "account_key": storage.key},
    ) as service:
        container = service.get_container_client(blob_container)
        container.upload_blob("shown", b"to everybody")
        with (
            pytest.raises(DriverFailed) as caught,
            driver(spec, short_path, credential={"anonymous": True}),
        ):
            pass
        assert caught.value.error["code"] in {"ContainerNotFound", "AuthenticationFailed"}
        container.set_container_access_policy({}, public_access="container")
    with driver(spec, short_path, credential={"anonymous": True}) as mounted:
        assert (mounted.path / "shown").read_bytes() == b"to everybody"
        with pytest.raises(OSError) as failed:
            (mounted.path / "shown").write_bytes(b"")
        assert failed.value.errno == errno.EROFS


def test_a_credential_is_replaced_under_the_mount(storage, blob_container, spec, short_path):
    first = container_sas(storage, blob_container)
    second = container_sas(storage, blob_container, life=2 * HOUR)
    (short_path / "again").mkdir()
    with FaultProxy(storage.blob_endpoint) as proxy:
        spec["endpoint"] = proxy.endpoint
        with driver(spec, short_path, credential={"sasToken": first}) as mounted:
            (mounted.path / "file").write_bytes(b"by the first")
            revoked = first.rpartition("sig=")[2]
            proxy.always(faults.answer(403, "AuthenticationFailed"), match=revoked)
            with pytest.raises(PermissionError):
                (mounted.path / "other").write_bytes(b"refused")
            answer = ask(mounted, "credential", {"credential": {"sasToken": "sv=1&sig=AAAA"}})
            assert answer["error"]["code"] == "AuthenticationFailed"
            answer = ask(mounted, "credential", {"credential": {"sasToken": second}})
            assert answer["ok"], answer
            (mounted.path / "new").write_bytes(b"by the second")
            assert (mounted.path / "new").read_bytes() == b"by the second"
            assert "sig=" not in mounted.log.read_text()


def test_who_waits_between_two_tries_goes_on_with_the_new_one(
    storage, blob_container, spec, short_path
):
    first = container_sas(storage, blob_container)
    second = container_sas(storage, blob_container, life=2 * HOUR)
    with FaultProxy(storage.blob_endpoint) as proxy:
        spec["endpoint"] = proxy.endpoint
        with driver(spec, short_path, credential={"sasToken": first}) as mounted:
            proxy.always(faults.answer(503, "ServerBusy"), match=first.rpartition("sig=")[2])
            writer = threading.Thread(target=(mounted.path / "file").write_bytes, args=(b"data",))
            writer.start()
            eventually(lambda: proxy.injected() > 1)
            assert ask(mounted, "credential", {"credential": {"sasToken": second}})["ok"]
            writer.join(30)
            assert (mounted.path / "file").read_bytes() == b"data"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "args.credential: Field required"),
        ({"credential": {"accountKey": "c2VjcmV0", "sasToken": "c2VjcmV0"}}, "exactly one"),
        ({"credential": {"accountKey": "c2VjcmV0!"}}, "not base64"),
        (["c2VjcmV0"], "args"),
    ],
)
def test_arguments_of_the_operation_are_checked(arguments, said, spec, short_path):
    with driver(spec, short_path) as mounted:
        answer = ask(mounted, "credential", arguments)
        assert answer["error"]["code"] in {"InvalidArgument", "InvalidOption"}
        assert said in answer["error"]["message"]
        assert "c2VjcmV0" not in str(answer)
        assert ask(mounted, "status", {"x": 1})["error"]["code"] == "InvalidArgument"


# -- the way to the store ----------------------------------------------------------------------


def test_tls_with_an_authority_of_ones_own(storage, spec, short_path):
    server, _ = self_signed(short_path)
    with FaultProxy(storage.blob_endpoint, tls=server, host="localhost") as proxy:
        spec["endpoint"] = proxy.endpoint
        with pytest.raises(DriverFailed) as caught, driver(spec, short_path):
            pass
        assert caught.value.error["code"] == "ServerUnreachable"
        assert "certificate" in caught.value.error["message"]
        assert "caBundle" in caught.value.error["hint"]
        assert not proxy.requests
        bundle = os.fspath(short_path / "server.pem")
        with driver(spec, short_path, caBundle=bundle) as mounted:
            works(mounted)


def test_a_proxy_from_the_document_and_from_the_environment(storage, spec, short_path, monkeypatch):
    server, _ = self_signed(short_path)
    name = f"{storage.account}.blob.batchai.test"  # which only the proxy can resolve
    with ForwardProxy("s3cret/word", {name: "127.0.0.1"}) as proxy:
        address = f"http://who:s3cret%2Fword@{proxy.address}"
        with driver(spec, short_path, proxy=address) as mounted:
            works(mounted)
        assert proxy.requests
        assert all(" http://127.0.0.1" in line for line in proxy.requests)
        assert "s3cret" not in mounted.log.read_text()
        proxy.requests.clear()
        with FaultProxy(storage.blob_endpoint, tls=server, host="localhost") as tls:
            bundle = os.fspath(short_path / "server.pem")
            changes = {"endpoint": tls.endpoint, "caBundle": bundle, "proxy": address}
            with driver(spec, short_path, **changes) as mounted:
                works(mounted)
        assert all(line.startswith("CONNECT localhost:") for line in proxy.requests)
        proxy.requests.clear()
        monkeypatch.setenv("http_proxy", address)
        elsewhere = f"http://{name}:{urlsplit(storage.blob_endpoint).port}"
        with driver(spec, short_path, endpoint=elsewhere) as mounted:
            works(mounted)
        assert proxy.requests
        with pytest.raises(DriverFailed), driver(spec, short_path, proxy=f"who:no@{proxy.address}"):
            pass


def test_a_managed_identity(storage, spec, short_path, monkeypatch):
    self_signed(short_path)
    with (
        azurite_with_tokens(short_path, storage.account, storage.key) as endpoint,
        fake_identity() as fake,
    ):
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        changes = {
            "endpoint": endpoint,
            "container": "data",
            "caBundle": os.fspath(short_path / "server.pem"),
            "credential": {"identity": {"kind": "managed"}},
        }
        with driver(spec, short_path, **changes) as mounted:
            works(mounted)
        assert fake.asked == 1, "one token for all requests"


def test_an_identity_that_is_not_there(spec, short_path):
    credential = {"identity": {"kind": "workload"}}
    with pytest.raises(DriverFailed) as caught, driver(spec, short_path, credential=credential):
        pass
    assert caught.value.error["code"] == "AuthenticationFailed"
    assert "workload identity" in caught.value.error["message"]
