"""The mountOptions of jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.blob.mount_options import apply
from fuse.errors import MountError
from fuse.options import MountOptions

PLAIN = MountOptions(mountpoint=Path("/m"), cache_directory=Path("/c"))


def test_the_service_s_default_options_are_taken():
    text = (
        "--use-https=true -o big_writes -o max_read=131072 -o max_write=131072 "
        "-o attr_timeout=240 -o fsname=blobfuse -o kernel_cache -o entry_timeout=240 "
        "-o negative_timeout=120 -o allow_other"
    )
    mapped = apply(text, PLAIN)
    assert mapped.options.attribute_timeout == 240
    assert "-o big_writes" in mapped.without_meaning


def test_what_has_a_meaning_is_applied():
    options = apply("-o ro,umask=027 -o uid=5 --tmp-path /x --log-level=LOG_WARNING", PLAIN).options
    assert (options.read_only, options.file_mode, options.uid) == (True, 0o750, 5)
    assert apply(None, PLAIN).options == PLAIN


@pytest.mark.parametrize(
    "text",
    [
        "--nonsense=1",
        "-o nonsense",
        "word",
        "-o",
        "-o attr_timeout=soon",
        "-o uid=-1",
        "'open",
        "-o umask=9",
        "-o attr_timeout=nan",
    ],
)
def test_what_is_wrong_is_refused_by_name(text):
    with pytest.raises(MountError) as caught:
        apply(text, PLAIN)
    assert caught.value.code == "InvalidOption"


@given(st.text(max_size=60))
def test_nothing_else_is_ever_raised(text):
    try:
        apply(text, PLAIN)
    except MountError as error:
        assert error.code == "InvalidOption"
