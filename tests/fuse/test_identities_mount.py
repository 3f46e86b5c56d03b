"""Mounts with tokens: every kind of identity fetches them from where it really would."""

from __future__ import annotations

import json
import os
import subprocess

import jwt
import pytest
from cryptography import x509

from tests.fuse.commands import Commands
from tests.fuse.driving import DriverFailed, driver, volume_spec
from tests.support.certificates import self_signed
from tests.support.fake_identity import (
    ASSERTION,
    CLIENT,
    TENANT,
    fake_authority,
    fake_az,
    fake_identity,
    fake_token,
)
from tests.support.forward_proxy import ForwardProxy
from tests.support.kernel import mounts_below
from tests.support.token_azurite import azurite_with_tokens
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

SECRET = "a-secret-of-the-principal"

#: Addresses of Azure Government.
SOVEREIGN = "devstoreaccount1.blob.core.usgovcloudapi.net"
SOVEREIGN_AUTHORITY = "login.microsoftonline.us"


@pytest.fixture
def tls(short_path):
    """For this machine's servers; certificate and key are in ``server.pem``."""
    return self_signed(short_path, SOVEREIGN, SOVEREIGN_AUTHORITY)[0]


@pytest.fixture
def store(storage, short_path, tls):
    """The endpoint of an account that takes tokens."""
    with azurite_with_tokens(short_path, storage.account, storage.key) as endpoint:
        yield endpoint


@pytest.fixture
def authority(tls):
    with fake_authority(tls) as fake:
        yield fake


@pytest.fixture
def spec(storage, store, short_path):
    return {
        **volume_spec("blob", storage, "data", None),
        "endpoint": store,
        "caBundle": os.fspath(short_path / "server.pem"),
    }


@pytest.fixture
def commands(short_path):
    made = Commands(short_path)
    yield made
    for mountpoint in reversed(mounts_below(short_path)):
        made("unmount", "--force", mountpoint)


def identity(kind, authority, **more):
    named = {"clientId": CLIENT, "tenantId": TENANT, "authority": authority.url}
    return {"identity": {"kind": kind, **named, **more}}


def works(path):
    (path / "file").write_bytes(b"x" * 100_000)
    os.rename(path / "file", path / "renamed")
    assert os.listdir(path) == ["renamed"]
    assert (path / "renamed").read_bytes() == b"x" * 100_000
    os.unlink(path / "renamed")


def secret_is(expected):
    def judge(body):
        return None if body.get("client_secret") == expected else "AADSTS7000215: invalid secret"

    return judge


def signed_by(pem):
    """Judge an assertion by the certificate in a file (RFC 7523 section 3)."""
    key = x509.load_pem_x509_certificate(pem.read_bytes()).public_key()

    def judge(body):
        try:
            claims = jwt.decode(
                body["client_assertion"],
                key,
                algorithms=["RS256", "PS256"],
                options={"verify_aud": False},
            )
        except jwt.InvalidTokenError as error:
            return f"AADSTS700027: {error}"
        same = claims["iss"] == claims["sub"] == CLIENT and TENANT in claims["aud"]
        return None if same and body["client_assertion_type"] == ASSERTION else "AADSTS700021"

    return judge


def test_a_service_principal_with_a_secret(spec, authority, short_path):
    authority.judge = secret_is(SECRET)
    credential = identity("servicePrincipal", authority, clientSecret=SECRET)
    with driver(spec, short_path, credential=credential) as mounted:
        works(mounted.path)
        log = mounted.log.read_text()
    assert len(authority.asked) == 1, "one token for all requests"
    assert SECRET not in log


def test_a_secret_that_is_wrong(spec, authority, short_path):
    authority.judge = secret_is(SECRET)
    credential = identity("servicePrincipal", authority, clientSecret="another")
    with (
        pytest.raises(DriverFailed) as caught,
        driver(spec, short_path, credential=credential),
    ):
        pass
    assert caught.value.error["code"] == "AuthenticationFailed"
    assert "AADSTS7000215" in caught.value.error["message"]
    assert "another" not in str(caught.value)


@pytest.mark.parametrize("password", [None, "of-the-file"])
def test_a_service_principal_with_a_certificate(password, spec, authority, short_path):
    pem = short_path / "principal.pem"
    principal_certificate(pem, password)
    authority.judge = signed_by(pem)
    more = {"certificatePath": os.fspath(pem)}
    if password:
        more["certificatePassword"] = password
    credential = identity("servicePrincipal", authority, **more)
    with driver(spec, short_path, credential=credential) as mounted:
        works(mounted.path)
    assert len(authority.asked) == 1


def test_a_workload_identity(spec, authority, short_path):
    federated = short_path / "federated"
    federated.write_text(fake_token())

    def judge(body):
        same = body.get("client_assertion") == federated.read_text()
        return None if same and body.get("client_assertion_type") == ASSERTION else "AADSTS700211"

    authority.judge = judge
    credential = identity("workload", authority, tokenFile=os.fspath(federated))
    with driver(spec, short_path, credential=credential) as mounted:
        works(mounted.path)
    assert len(authority.asked) == 1


def test_az_login(spec, short_path, monkeypatch):
    fake_az(short_path)
    monkeypatch.setenv("PATH", f"{short_path}:{os.environ['PATH']}")
    credential = {"identity": {"kind": "cli", "tenantId": TENANT}}
    with (
        pytest.raises(DriverFailed) as caught,
        driver(spec, short_path, credential=credential),
    ):
        pass
    assert caught.value.error["code"] == "AuthenticationFailed"
    assert "az login" in caught.value.error["message"]
    refused = len((short_path / "az.log").read_text().splitlines())
    (short_path / "logged-in").write_text("3600")
    with driver(spec, short_path, credential=credential) as mounted:
        works(mounted.path)
    calls = [json.loads(line) for line in (short_path / "az.log").read_text().splitlines()]
    assert len(calls) == refused + 1, "one token for all requests"
    assert {"https://storage.azure.com", TENANT} <= set(calls[-1])


def test_the_default_is_the_first_that_is_there(spec, authority, short_path, monkeypatch):
    authority.judge = secret_is(SECRET)
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    credential = {"identity": {"kind": "default", "authority": authority.url}}
    with driver(spec, short_path, credential=credential) as mounted:
        works(mounted.path)
    assert len(authority.asked) == 1


def test_a_token_is_renewed_before_its_end(spec, authority, short_path):
    """While a mount is used; nobody waits for it or sees an error."""
    authority.lives = [60.0]  # of which the last five minutes are for the renewal
    credential = identity("servicePrincipal", authority, clientSecret=SECRET)
    with driver(spec, short_path, credential=credential, attributeTimeout=0) as mounted:
        (mounted.path / "file").write_bytes(b"x")

        def renewed():
            assert (mounted.path / "file").read_bytes() == b"x"
            os.stat(mounted.path / "file")
            return len(authority.asked) > 1

        eventually(renewed, deadline=60)
        assert mounted.stats()["errors"] == 0


def test_an_issuer_that_fails_early_is_asked_again_and_disturbs_nobody(spec, authority, short_path):
    authority.lives = [120.0]
    credential = identity("servicePrincipal", authority, clientSecret=SECRET)
    with driver(spec, short_path, credential=credential, attributeTimeout=0) as mounted:
        authority.judge = lambda _body: "AADSTS90033: a transient error has occurred"
        for number in range(20):
            (mounted.path / f"{number}").write_bytes(b"x")
        assert len(os.listdir(mounted.path)) == 20


def test_the_authority_is_reached_through_the_proxy(spec, authority, short_path):
    credential = identity("servicePrincipal", authority, clientSecret=SECRET)
    with ForwardProxy() as proxy:
        changes = {"credential": credential, "proxy": f"http://{proxy.address}"}
        with driver(spec, short_path, **changes) as mounted:
            works(mounted.path)
        port = authority.url.rpartition(":")[2]
        assert any(line.startswith(f"CONNECT localhost:{port} ") for line in proxy.requests)


def test_a_managed_identity_is_never_asked_through_a_proxy(spec, short_path, monkeypatch):
    with fake_identity() as fake, ForwardProxy() as proxy:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://{proxy.address}")
        monkeypatch.delenv("no_proxy", raising=False)
        credential = {"identity": {"kind": "managed"}}
        with driver(spec, short_path, credential=credential) as mounted:
            works(mounted.path)
        assert not proxy.requests
        assert fake.asked == 1


# -- by the command line ---------------------------------------------------------------------------


def test_a_principal_by_hand_and_replaced_under_the_mount(commands, store, authority, short_path):
    """First by its secret, then by its certificate, then as az knows it; all while mounted."""
    mountpoint = short_path / "m"
    mountpoint.mkdir()
    authority.judge = secret_is(SECRET)
    tenant = {"AZURE_TENANT_ID": TENANT, "AZURE_AUTHORITY_HOST": authority.url}
    fake_az(short_path)
    (short_path / "logged-in").write_text("3600")
    path = f"{short_path}:{os.environ['PATH']}"
    commands(
        *("blob", f"{store}/data", mountpoint, *commands.places),
        *("--auth", "service-principal", "--client-id", CLIENT),
        *("--ca-bundle", short_path / "server.pem"),
        **tenant,
        AZURE_CLIENT_SECRET=SECRET,
        PATH=path,
    )
    works(mountpoint)
    assert len(authority.asked) == 1

    principal = ("--auth", "service-principal", "--client-id", CLIENT)
    wrong = commands(
        "credential", mountpoint, *principal, **tenant, AZURE_CLIENT_SECRET="another", code=5
    )
    assert "AADSTS7000215" in wrong.stderr
    works(mountpoint)  # by the first one

    pem = short_path / "principal.pem"
    principal_certificate(pem, "of-the-file")
    authority.judge = signed_by(pem)
    commands(
        *("credential", mountpoint, *principal, "--certificate", pem),
        **tenant,
        AZURE_CLIENT_CERTIFICATE_PASSWORD="of-the-file",
    )
    works(mountpoint)
    assert "client_assertion" in authority.asked[-1]

    federated = short_path / "federated"
    federated.write_text(fake_token())
    authority.judge = lambda body: (
        None if body.get("client_assertion") == federated.read_text() else "AADSTS700211"
    )
    commands(
        *("credential", mountpoint, "--auth", "workload", "--client-id", CLIENT),
        **tenant,
        AZURE_FEDERATED_TOKEN_FILE=os.fspath(federated),
    )
    works(mountpoint)

    before = len(authority.asked)
    commands("credential", mountpoint, "--auth", "cli")
    works(mountpoint)
    assert len(authority.asked) == before
    assert (short_path / "az.log").exists()
    assert SECRET not in commands.log()
    assert "of-the-file" not in commands.log()


@pytest.mark.parametrize("how", ["cloud", "url", "connection string", "principal"])
def test_a_sovereign_cloud_by_hand_through_a_proxy(
    how, commands, store, authority, storage, short_path
):
    """Names that only the proxy can resolve: what is asked for is seen there."""
    mountpoint = short_path / "m"
    mountpoint.mkdir()
    authority.judge = secret_is(SECRET)
    port = authority.url.rpartition(":")[2]
    authority.url = f"https://{SOVEREIGN_AUTHORITY}"
    named = {
        SOVEREIGN: store.removeprefix("https://")
        .partition("/")[0]
        .replace("localhost", "127.0.0.1"),
        SOVEREIGN_AUTHORITY: f"127.0.0.1:{port}",
    }
    target, cloud = "devstoreaccount1/data", ("--cloud", "usgov")
    environment = {"AZURE_STORAGE_KEY": storage.key}
    if how == "url":
        target, cloud = f"https://{SOVEREIGN}/data", ()
    if how == "connection string":
        cloud = ()
        text = f"AccountName={storage.account};AccountKey={storage.key}"
        suffix = "DefaultEndpointsProtocol=https;EndpointSuffix=core.usgovcloudapi.net"
        environment = {"AZURE_STORAGE_CONNECTION_STRING": f"{suffix};{text}"}
    if how == "principal":
        cloud = ("--auth", "service-principal", "--client-id", CLIENT, "--tenant-id", TENANT)
        target = f"https://{SOVEREIGN}/data"
        environment = {"AZURE_CLIENT_SECRET": SECRET}
    with ForwardProxy(names=named) as proxy:
        commands(
            *("blob", target, mountpoint, *commands.places, *cloud),
            *("--ca-bundle", short_path / "server.pem", "--proxy", f"http://{proxy.address}"),
            **environment,
        )
        works(mountpoint)
        commands("unmount", mountpoint)
        asked = {line.split()[1] for line in proxy.requests}
    assert f"{SOVEREIGN}:443" in asked
    assert (f"{SOVEREIGN_AUTHORITY}:443" in asked) == (how == "principal")
    assert storage.key not in commands.log()


def test_a_proxys_password_is_taken_from_the_environment_alone(
    commands, store, storage, short_path
):
    mountpoint = short_path / "m"
    mountpoint.mkdir()
    address = store.removeprefix("https://").partition("/")[0].replace("localhost", "127.0.0.1")
    with ForwardProxy("s3cret", {SOVEREIGN: address}) as proxy:
        words = (
            *("blob", f"https://{SOVEREIGN}/data", mountpoint, *commands.places),
            *("--ca-bundle", short_path / "server.pem"),
        )
        url = f"http://who:s3cret@{proxy.address}"
        key = {"AZURE_STORAGE_KEY": storage.key}
        refused = commands(*words, "--proxy", url, **key, code=2)
        assert "s3cret" not in refused.stderr
        assert "HTTPS_PROXY" in refused.stderr
        commands(*words, HTTPS_PROXY=url, **key)
        works(mountpoint)
        assert proxy.requests
    assert "s3cret" not in commands.log()


def principal_certificate(pem, password):
    """An RSA key and its certificate, as `az ad sp create-for-rbac` writes them."""
    key, certificate = pem.with_suffix(".key"), pem.with_suffix(".crt")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=principal", "-days", "2"]
        + (["-passout", f"pass:{password}"] if password else ["-nodes"])
        + ["-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    pem.write_bytes(key.read_bytes() + certificate.read_bytes())
    pem.chmod(0o600)
