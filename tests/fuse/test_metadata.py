"""POSIX attributes in blob metadata."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fuse.blob import metadata
from fuse.volume import Changes, Kind

optional = st.none() | st.integers(0, 2**31)


@given(mode=st.none() | st.integers(0, 0o7777), uid=optional, gid=optional, mtime=optional)
def test_what_is_set_reads_back(mode, uid, gid, mtime):
    kept = metadata.changed(
        {"owner-tool": "keep me"}.items(), Changes(mode, uid, gid, mtime), rewritten=False
    )
    assert kept["owner-tool"] == "keep me"
    found = metadata.attributes(size=3, etag="e", last_modified=None, metadata=kept)
    assert (found.mode, found.uid, found.gid) == (mode, uid, gid)
    assert found.mtime_ns == (mtime or 0)
    assert found.kind is Kind.FILE


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=30), max_size=5))
def test_whatever_others_wrote_is_survived(strange):
    metadata.attributes(size=1, etag="e", last_modified=None, metadata=strange)


def test_new_content_ends_an_explicit_modification_time():
    assert "modtime" not in metadata.changed({"ModTime": "5"}.items(), Changes(), rewritten=True)


def test_markers_of_blobfuse_and_azcopy():
    for name in ("hdi_isfolder", "Hdi_IsFolder"):
        found = metadata.attributes(size=0, etag="e", last_modified=None, metadata={name: "true"})
        assert found.kind is Kind.DIRECTORY
    found = metadata.attributes(
        size=4, etag="e", last_modified=None, metadata={"is_symlink": "true"}
    )
    assert (found.kind, found.size) == (Kind.SYMLINK, 4)


def test_a_marker_with_content_is_a_file_and_its_bytes_stay_in_reach():
    found = metadata.attributes(
        size=9, etag="e", last_modified=None, metadata={"hdi_isfolder": "true"}
    )
    assert (found.kind, found.size, found.version) == (Kind.FILE, 9, '"e"')


def test_extended_attributes_travel_with_the_rest():
    kept = metadata.changed(
        {"team": "a", "bin": "x"}.items(),
        Changes(mode=0o600, xattrs=(("user.bin", None), ("user.team", b"b"), ("user.Z", b"\0"))),
        rewritten=True,
    )
    assert kept["team"] == "b"
    found = metadata.attributes(size=0, etag="e", last_modified=None, metadata=kept)
    assert (found.mode, found.xattrs) == (0o600, (("user.Z", b"\0"), ("user.team", b"b")))


def test_a_modification_time_is_kept_where_the_store_will_forget_it():
    def found(size=1, kind="BlockBlob", **known):
        headers = (("x-ms-blob-type", kind),)
        made = metadata.attributes(
            size=size, etag="e", last_modified=None, metadata=known, headers=headers
        )
        return metadata.modified(made.changed(mtime_ns=7))

    assert found(team="x") == {"team": "x", "modtime": "7"}
    assert found(ModTime="5") == {"ModTime": "5"}
    assert found(big="x" * 8185) == {"big": "x" * 8185}, "a blob has no room for it"
    # Others append without a word about metadata: the store's own time tells when.
    assert found(kind="AppendBlob") == {}
