"""Prepared answers to List Blobs: our own client's parser reads them, page by page."""

from __future__ import annotations

import pytest

from bench.servers.listing import PAGE, Blob, answers, key
from fuse.blob.listing import parse


def walk(files, delimiter, prefix, *, full):
    """All pages, as a client asks for them."""
    marker, blobs, prefixes, pages = "", [], [], 0
    while True:
        page = parse(files[key(delimiter, prefix, marker, full=full)])
        blobs += page.blobs
        prefixes += page.prefixes
        pages += 1
        marker = page.marker
        if not marker:
            return blobs, prefixes, pages


def names_below(blobs, prefix):
    return [blob.name for blob in blobs if blob.name.startswith(prefix)]


BLOBS = [Blob(name, 7, 1_700_000_000) for name in ("a/x", "a/b/y", "a/b/z", "c", "d e&f/g")]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("prefix", ["", "a/", "a/b/", "d e&f/"])
def test_flat_listings_have_every_blob_below_a_prefix(prefix, full):
    files = dict(answers(BLOBS))
    blobs, prefixes, _ = walk(files, "", prefix, full=full)
    assert [blob.name for blob in blobs] == sorted(names_below(BLOBS, prefix))
    assert not prefixes


def test_listings_by_directories_stop_at_the_next_slash():
    files = dict(answers(BLOBS))
    blobs, prefixes, _ = walk(files, "/", "", full=True)
    assert ([blob.name for blob in blobs], prefixes) == (["c"], ["a/", "d e&f/"])
    blobs, prefixes, _ = walk(files, "/", "a/", full=False)
    assert ([blob.name for blob in blobs], prefixes) == (["a/x"], ["a/b/"])


def test_large_directories_come_in_pages():
    many = [Blob(f"d/{number:06}", number, 1_700_000_000) for number in range(2 * PAGE + 3)]
    files = dict(answers(many))
    for full, pages in ((True, 3), (False, 4)):
        blobs, _, found = walk(files, "/", "d/", full=full)
        assert [blob.name for blob in blobs] == [blob.name for blob in many]
        assert found == pages
    assert len(parse(files[key("", "", "", full=False)]).blobs) == 1


def test_versions_are_those_that_nginx_states():
    (blob,), _, _ = walk(dict(answers([Blob("n", 255, 16)])), "", "", full=True)
    assert blob.etag == '"10-ff"'
    assert blob.attributes.size == 255
    assert blob.attributes.mtime_ns == 16 * 10**9


def test_an_answer_lies_where_the_query_in_the_request_points():
    assert key("/", "a b/", "", full=True) == "full~%2F~a%20b%2F~"
