"""Credentials as pure objects: what is read from them, and when tokens are fetched."""

from __future__ import annotations

import json

import pytest
import trio
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError

from fuse.blob import credentials
from fuse.blob.credentials import (
    Anonymous,
    Keyring,
    SharedAccessSignature,
    SharedKey,
    Token,
    from_connection_string,
)
from fuse.blob.retrying import Failure
from fuse.blob.routes import Proxy, Route, endpoint_of
from fuse.errors import MountError
from fuse.spec import parse

KEY = "c2VjcmV0LW9mLXRoZS1hY2NvdW50"
SAS = "sv=2021-12-02&sp=rl&st=2026-01-01T00:00:00Z&se=2026-02-01T00:00:00Z&sr=c&sig=s%2Bg%3D"
JANUARY = 1768000000.0
MARCH = 1772500000.0


def document(credential, **changes):
    common = {"version": 1, "kind": "blob", "account": "acc", "container": "data"}
    return json.dumps({**common, "credential": credential, **changes})


@pytest.mark.parametrize(
    "credential",
    [
        {"accountKey": KEY},
        {"sasToken": SAS},
        {"connectionString": f"AccountName=acc;AccountKey={KEY}"},
        {"anonymous": True},
        {"identity": {"kind": "managed"}},
        {"identity": {"kind": "cli"}},
        {
            "identity": {
                "kind": "servicePrincipal",
                "clientId": "c",
                "tenantId": "t",
                "clientSecret": KEY,
            }
        },
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_credential_in_the_document(credential):
    spec = parse(document(credential, proxy=f"http://u:{KEY}@proxy"))
    assert KEY not in repr(spec)
    assert "sig=" not in repr(spec)


@pytest.mark.parametrize(
    ("credential", "said"),
    [
        ({}, "exactly one of accountKey, sasToken"),
        ({"accountKey": KEY, "sasToken": SAS}, "exactly one"),
        ({"anonymous": False}, "anonymous"),
        ({"password": KEY}, "password"),
        ({"identity": {"kind": "servicePrincipal", "clientId": "c"}}, "clientId and tenantId"),
        ({"identity": {"kind": "cli", "clientSecret": KEY}}, "not for kind cli"),
    ],
)
def test_what_is_no_credential_is_refused_without_a_word_of_it(credential, said):
    with pytest.raises(MountError, match=said) as caught:
        parse(document(credential))
    assert caught.value.code == "InvalidOption"
    assert KEY not in caught.value.message


def test_a_share_takes_a_key_only():
    changes = {"kind": "share", "share": "s", "endpoint": "h:445"}
    text = json.loads(document({"sasToken": SAS}, **changes))
    del text["container"]
    with pytest.raises(MountError, match="accountKey only"):
        parse(json.dumps(text))


@pytest.mark.parametrize("prefix", ["", "?", "https://acc.blob.core.windows.net/data?"])
def test_a_sas_is_a_part_of_the_url(prefix):
    sas = SharedAccessSignature(prefix + SAS, clock=lambda: JANUARY)
    assert sas.sign("GET", "/data/x", {}) == f"/data/x?{SAS}"
    assert sas.sign("PUT", "/data/x?comp=block", {}) == f"/data/x?comp=block&{SAS}"
    assert sas.read_only
    assert sas.fault() is None


def test_a_sas_out_of_its_time_says_so():
    assert "expired at 2026-02-01" in (SharedAccessSignature(SAS, lambda: MARCH).fault() or "")
    assert "not valid before" in (SharedAccessSignature(SAS, lambda: 0.0).fault() or "")


def test_what_can_be_written_with():
    assert not SharedAccessSignature("sp=rwdlac&sig=x").read_only
    assert not SharedAccessSignature("si=policy&sig=x").read_only
    assert Anonymous().read_only
    assert not SharedKey("acc", KEY).read_only


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SharedKey("acc", "not base64!"), "accountKey"),
        (lambda: SharedAccessSignature("sv=2021&sp=r"), "sasToken"),
        (lambda: from_connection_string("nonsense"), "connectionString"),
        (lambda: from_connection_string("AccountName=acc"), "neither"),
        (lambda: from_connection_string("AccountKey=x"), "malformed"),
    ],
)
def test_what_cannot_be_a_credential(make, said):
    with pytest.raises(MountError, match=said) as caught:
        make()
    assert caught.value.code == "InvalidOption"


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (f"AccountName=acc;AccountKey={KEY}", "https://acc.blob.core.windows.net"),
        (
            f"AccountName=acc;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn",
            "https://acc.blob.core.chinacloudapi.cn",
        ),
        (
            f"AccountName=acc;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10000/acc;",
            "http://127.0.0.1:10000/acc",
        ),
        (
            f"BlobEndpoint=https://acc.blob.core.windows.net;SharedAccessSignature={SAS}",
            "https://acc.blob.core.windows.net",
        ),
        ("UseDevelopmentStorage=true", "http://127.0.0.1:10000/devstoreaccount1"),
    ],
)
def test_connection_strings(text, endpoint):
    connected = from_connection_string(text)
    assert connected.endpoint == endpoint
    expected = SharedAccessSignature if "SharedAccess" in text else SharedKey
    assert isinstance(connected.credential, expected)


def test_endpoints_of_the_clouds():
    assert endpoint_of("a") == "https://a.blob.core.windows.net"
    assert endpoint_of("a", cloud="china") == "https://a.blob.core.chinacloudapi.cn"
    assert endpoint_of("a", suffix="storage.example") == "https://a.blob.storage.example"


def test_the_way_to_an_endpoint(monkeypatch, tmp_path):
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert Route.to("https://a.example").proxy is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:8080")
    monkeypatch.setenv("NO_PROXY", ".internal")
    assert Route.to("https://a.example").proxy == Proxy("proxy", 8080)
    assert Route.to("http://a.example").proxy is None
    assert Route.to("https://a.internal").proxy is None
    assert Route.to("https://127.0.0.1:1/a").proxy is None, "this machine needs none"
    given = Route.to("https://a.internal", proxy="http://u:p%40ss@other:1").proxy
    assert given == Proxy("other", 1, "u", "p@ss")
    assert "p@ss" not in repr(given)
    with pytest.raises(MountError, match="proxy") as caught:
        Route.to("https://a", proxy="https://u:hidden@other")
    assert "hidden" not in caught.value.message
    empty = tmp_path / "empty.pem"
    empty.touch()
    with pytest.raises(MountError, match="caBundle"):
        Route.to("https://a", ca_bundle=empty)


class Issuer:
    """Stands for an identity's client: hands out numbered tokens, or fails."""

    def __init__(self, clock, life=3600.0):
        self.clock = clock
        self.life = life
        self.asked = 0
        self.made = 0
        self.failing = False

    def __call__(self):
        self.made += 1
        return self

    def get_token(self, scope):
        assert scope == credentials.SCOPE
        self.asked += 1
        if self.failing:
            raise ClientAuthenticationError(message="AADSTS7000215: wrong secret")
        return AccessToken(f"token-{self.asked}", int(self.clock() + self.life))


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def shown(token):
    headers: dict[str, str] = {}
    token.sign("GET", "/b", headers)
    return headers["Authorization"]


async def test_many_requests_fetch_one_token(clock):
    issuer = Issuer(clock)
    token = Token("test", issuer, clock)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(token.ready)
    assert issuer.asked == 1
    assert shown(token) == "Bearer token-1"


async def test_a_token_is_renewed_ahead_of_its_end_and_kept_if_that_fails(clock):
    issuer = Issuer(clock)
    token = Token("test", issuer, clock)
    await token.ready()
    clock.now += 3600 - credentials.AHEAD + 1
    issuer.failing = True
    await token.ready()
    assert shown(token) == "Bearer token-1"
    await token.ready()
    assert issuer.asked == 2, "not with every request"
    issuer.failing = False
    clock.now += credentials.ISSUER_PAUSE
    await token.ready()
    assert shown(token) == "Bearer token-3"


async def test_without_a_token_nothing_is_sent(clock):
    issuer = Issuer(clock)
    issuer.failing = True
    with pytest.raises(Failure) as caught:
        await Token("service principal", issuer, clock).ready()
    assert isinstance(caught.value.error, PermissionError)
    assert not caught.value.again
    assert "service principal" in str(caught.value)


async def test_a_refused_token_is_replaced_once(clock):
    issuer = Issuer(clock)
    token = Token("test", issuer, clock)
    keyring = Keyring(token)
    await token.ready()
    assert await keyring.renewed_since(0)
    assert (shown(token), issuer.made) == ("Bearer token-2", 2)
    assert not await keyring.renewed_since(0), "a fresh one is not the token's fault"
    keyring.replace(SharedKey("acc", KEY))
    assert await keyring.renewed_since(0)
    assert not await keyring.renewed_since(1)
