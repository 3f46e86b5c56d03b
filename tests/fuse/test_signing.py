"""Shared Key: what we write is what the SDK writes."""

from __future__ import annotations

import base64

from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy
from hypothesis import given
from hypothesis import strategies as st

from fuse.blob.credentials import SharedKey
from fuse.blob.requests import Request, signed
from fuse.blob.signing import Signer

KEY = base64.b64encode(b"k" * 64).decode()

values = st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)
metadata = st.from_regex(r"x-ms-meta-[a-zA-Z0-9_]{1,12}", fullmatch=True)
headers = st.dictionaries(
    metadata
    | st.sampled_from(
        [
            "If-Match",
            "If-None-Match",
            "If-Modified-Since",
            "Content-MD5",
            "Content-Type",
            "Content-Encoding",
            "x-ms-blob-type",
            "x-ms-blob-content-type",
            "x-ms-blob-condition-appendpos",
            "x-ms-copy-source",
            "x-ms-range",
            "x-ms-content-crc64",
        ]
    ),
    values,
).filter(lambda found: len({name.lower() for name in found}) == len(found))
queries = st.sampled_from(
    [
        "",
        "comp=block&blockid=AAAAAAAA%2B%2F%3D%3D",
        "restype=container&comp=list&prefix=a%2Fb%20c&delimiter=%2F&marker=2%21x",
        "comp=copy&copyid=1-2-3",
    ]
)
paths = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=40)


def by_the_sdk(method, target, headers):
    request = HttpRequest(method, f"https://example{target}", headers=headers)
    policy = SharedKeyCredentialPolicy("account", KEY)
    policy.on_request(PipelineRequest(request, PipelineContext(None)))
    return request.headers["Authorization"]


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "DELETE"]),
    path=paths,
    query=queries,
    headers=headers,
    body=st.sampled_from([b"", b"12"]),
    base=st.sampled_from(["/data", "/account/data"]),
)
def test_requests_are_signed_as_the_sdk_signs_them(method, path, query, headers, body, base):
    request = Request(method=method, path=path, query=query, headers=headers, body=body)
    target, sent = signed(request, SharedKey("account", KEY), base, "an id")
    ours = sent.pop("Authorization")
    assert ours == by_the_sdk(method, target, sent)


@given(st.lists(metadata, max_size=8, unique_by=str.lower))
def test_an_underscore_comes_before_digits_and_letters(names):
    """As the service sorts: other orders of metadata are refused by it (HTTP 403)."""
    sent = dict.fromkeys(names, "x")
    assert Signer("account", KEY).authorization("PUT", "/c/b", sent) == by_the_sdk(
        "PUT", "/c/b", sent
    )
