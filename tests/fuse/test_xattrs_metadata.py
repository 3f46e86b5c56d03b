"""Extended attributes in blob metadata."""

from __future__ import annotations

import errno
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuse.blob import xattrs

full_names = st.builds(
    "{}{}".format,
    st.sampled_from(["user.", "user.", "trusted.", "security."]),
    st.sampled_from(["foo", "xattr_", "xattr_ov2a", "Permissions", "modtime", "a.b", "1st"])
    | st.text(min_size=1, max_size=12),
)
values = st.binary(max_size=40) | st.sampled_from([b"", b" x", b"x ", b"plain", b"two words"])
foreign = st.dictionaries(
    st.sampled_from(["foo", "Foo", "xattr_ov2a", "xattr_ovzwk4r", "owner-tool", "modtime"])
    | st.text(max_size=10),
    st.text(max_size=20),
    max_size=5,
)


@given(foreign, st.dictionaries(full_names, values | st.none(), max_size=5))
@example({"xattr_ovzwk4rom5xw6": "Zm9v"}, {"user.foo": b"bar"})
def test_what_is_set_reads_back_and_the_rest_stays(metadata, wanted):
    before = dict(xattrs.attributes(metadata))
    after = dict(xattrs.attributes(xattrs.changed(metadata, wanted.items())))
    expected = {name: value for name, value in before.items() if name not in wanted}
    expected |= {name: value for name, value in wanted.items() if value is not None}
    assert after == expected


@given(st.dictionaries(full_names, values, max_size=5))
def test_metadata_is_what_the_store_takes(wanted):
    kept = xattrs.changed({}, wanted.items())
    assert len({name.lower() for name in kept}) == len(kept) == len(wanted)
    for name, value in kept.items():
        assert re.fullmatch("[a-z_][a-z0-9_]*", name)
        assert value.isascii()
        assert value == value.strip()


def test_others_read_what_we_write_and_we_read_theirs():
    assert xattrs.changed({}, [("user.project", b"apollo 11")]) == {"project": "apollo 11"}
    assert xattrs.attributes({"Project": "x"}) == (("user.project", b"x"),)
    assert xattrs.changed({"Project": "x"}, [("user.project", b"y")]) == {"project": "y"}
    assert xattrs.changed({"Project": "x"}, [("user.project", None)]) == {}


def test_a_value_that_metadata_cannot_carry_takes_the_place_of_one_that_it_could():
    kept = xattrs.changed({"foo": "1"}, [("user.foo", b"\0\xff")])
    assert "foo" not in kept
    assert xattrs.attributes(kept) == (("user.foo", b"\0\xff"),)


def test_what_describes_the_file_is_no_attribute_and_stays():
    posix = {"hdi_isfolder": "true", "Permissions": "33188", "is_symlink": "true", "modtime": "5"}
    assert xattrs.attributes(posix) == ()
    kept = xattrs.changed(posix, [("user.permissions", b"mine"), ("user.modtime", None)])
    assert posix.items() <= kept.items()
    assert xattrs.attributes(kept) == (("user.permissions", b"mine"),)


@pytest.mark.parametrize("header", ["Ã©", "é"])
def test_a_value_is_the_same_from_a_header_and_from_a_listing(header):
    assert xattrs.attributes({"foo": header}) == (("user.foo", "é".encode()),)


def test_a_blob_holds_eight_kibibytes():
    fits = xattrs.changed({"a": "x"}, [("user.foo", b"y" * (8192 - 5))])
    with pytest.raises(OSError) as caught:
        xattrs.changed(fits, [("user.b", b"z")])
    assert caught.value.errno == errno.ENOSPC
