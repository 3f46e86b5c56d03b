"""Answers of List Blobs."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.blob import headers as properties
from fuse.blob.listing import parse
from fuse.volume import Kind

ANSWER = """<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ServiceEndpoint="https://a.blob.core.windows.net/" ContainerName="c">
<Prefix>d/</Prefix><MaxResults>5000</MaxResults><Delimiter>/</Delimiter><Blobs>
<Blob><Name>d/a &amp; b </Name><Properties>
<Creation-Time>Mon, 23 Nov 2026 03:00:45 GMT</Creation-Time>
<Last-Modified>Mon, 23 Nov 2026 03:00:46 GMT</Last-Modified><Etag>0x22A525B38F85E40</Etag>
<Content-Length>7</Content-Length><Content-Type>text/plain</Content-Type><Content-Encoding />
<Content-MD5>1B2M2Y8AsgTpgAmY7PhCfg==</Content-MD5><BlobType>BlockBlob</BlobType>
<AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred>
</Properties><Metadata><Project>x</Project><empty /></Metadata><OrMetadata /></Blob>
<Blob><Name Encoded="true">d%2Fodd%EF%BF%BE</Name><Properties><Etag>"0x1"</Etag>
<Content-Length>0</Content-Length><BlobType>AppendBlob</BlobType><AccessTier>Cool</AccessTier>
</Properties><Metadata><hdi_isfolder>true</hdi_isfolder></Metadata></Blob>
<BlobPrefix><Name>d/e/</Name></BlobPrefix>
</Blobs><NextMarker>2!92!bmV4dA--</NextMarker></EnumerationResults>"""


def test_an_answer_of_the_service():
    page = parse(ANSWER.encode())
    assert page.marker == "2!92!bmV4dA--"
    assert page.prefixes == ["d/e/"]
    file, directory = page.blobs
    assert (file.name, file.etag) == ("d/a & b ", '"0x22A525B38F85E40"')
    assert (file.attributes.size, file.attributes.version) == (7, file.etag)
    assert file.attributes.mtime_ns == 1795402846 * 10**9
    assert file.attributes.xattrs == (("user.empty", b""), ("user.project", b"x"))
    assert dict(file.attributes.headers)["content-type"] == "text/plain"
    assert "x-ms-access-tier" not in dict(file.attributes.headers), "it follows the account's"
    assert directory.name == "d/odd\ufffe"
    assert (directory.attributes.kind, directory.etag) == (Kind.DIRECTORY, '"0x1"')
    assert properties.blob_type(directory.attributes) == properties.APPEND


MANY = "<Content-Length>many</Content-Length>"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "<html>",
        "<a><Blobs><Blob/></Blobs></a>",
        f"<a><Blobs><Blob><Name>x</Name><Properties>{MANY}</Properties></Blob></Blobs></a>",
    ],
)
def test_what_is_no_listing_is_an_error_of_the_store(answer):
    with pytest.raises(OSError) as caught:
        parse(answer.encode())
    assert caught.value.errno == errno.EIO


PLAIN = (
    '\ufeff<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="c"><Blobs>'
    "<BlobPrefix><Name>a/</Name></BlobPrefix><BlobPrefix><Name>b/</Name></BlobPrefix>"
    "{blobs}<BlobPrefix><Name>z/</Name></BlobPrefix></Blobs>"
    "<NextMarker>next</NextMarker></EnumerationResults>"
)
TIMES = (
    "<Creation-Time>Mon, 23 Nov 2026 03:00:45 GMT</Creation-Time>"
    "<Last-Modified>Mon, 23 Nov 2026 03:00:46 GMT</Last-Modified>"
)
names = st.sampled_from(["f", "ä ö", "a &amp; b", "&#xD;", "x&lt;y"])
others = st.lists(
    st.sampled_from(
        [
            "<Content-Type>text/x&amp;y</Content-Type>",
            "<Content-MD5>1B2M2Y8AsgTpgAmY7PhCfg==</Content-MD5>",
            "<Content-MD5 />",
            "<BlobType>BlockBlob</BlobType>",
            "<BlobType>AppendBlob</BlobType>",
            "<AccessTier>Cool</AccessTier>",
            "<AccessTierInferred>true</AccessTierInferred>",
            "<Cache-Control>no &lt;Etag&gt;</Cache-Control>",
        ]
    ),
    unique_by=lambda element: element.strip("<").replace(" ", ">").partition(">")[0],
).map("".join)
ends = st.sampled_from(
    [
        "",
        "<Metadata />",
        "<Metadata></Metadata><OrMetadata />",
        "<Metadata><Etag>0x2</Etag><permissions>33188</permissions></Metadata>",
        "<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>",
    ]
)


@given(st.lists(st.tuples(names, st.integers(0, 9), others, ends), max_size=4), st.booleans())
def test_the_short_way_through_an_answer_finds_what_the_long_one_does(blobs, spaced):
    listed = "".join(
        f"<Blob><Name>{name}</Name><Properties>{TIMES}<Etag>0x1</Etag>"
        f"<Content-Length>{size}</Content-Length>{more}</Properties>{end}</Blob>"
        for name, size, more, end in blobs
    )
    document = PLAIN.format(blobs=listed)
    # Space between elements, and a comment, are not what the service writes.
    spaces = document.replace("><Blob>", ">\n<Blob>").replace("</Blobs>", "<!-- --></Blobs>")
    page = parse((spaces if spaced else document).encode())
    assert page == parse(spaces.encode())
    assert page.prefixes == ["a/", "b/", "z/"]
    assert (page.marker, len(page.blobs)) == ("next", len(blobs))


@pytest.mark.parametrize("cut", ["</Properties>", "</Blob>", "</Name>", "<Blobs>", "</Blobs>"])
def test_half_an_answer_is_an_error_of_the_store(cut):
    said = f"{TIMES}<Etag>1</Etag><Content-Length>1</Content-Length>"
    blob = f"<Blob><Name>x</Name><Properties>{said}"
    document = PLAIN.format(blobs=f"{blob}</Properties></Blob>")
    with pytest.raises(OSError):
        parse(document[: document.index(cut) + len(cut)].encode())
    if cut != "<Blobs>":
        with pytest.raises(OSError):
            parse(document.replace(cut, "", 1).encode())
