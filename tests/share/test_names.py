"""Names and symbolic links: what Linux allows survives the way to the server and back."""

import errno

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuse.share import symlinks
from fuse.share.names import from_server, server_path, to_server

FORBIDDEN = set('\\/:*?"<>|') | {chr(code) for code in range(0x20)}

names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in {".", ".."})


@given(names)
@example('a:b?c*d<e>f|g"h\\i')
@example("trailing. ")
@example("...")
@example(" ")
@example("CON.")
@example("\x01tab\t")
def test_round_trip(name):
    if any("\uf001" <= character <= "\uf029" for character in name):
        return  # may be refused: see below
    there = to_server(name)
    assert not FORBIDDEN.intersection(there)
    assert there[-1] not in " ."
    assert from_server(there) == name


@given(names.filter(lambda name: not FORBIDDEN.intersection(name) and name[-1] not in " ."))
def test_every_name_on_the_server_can_be_opened(name):
    assert to_server(from_server(name)) == name


def test_the_kernels_characters():
    # SFM_* in the kernel's fs/smb/client/cifs_unicode.h
    assert to_server('":*?<>|\\x.') == "\uf020\uf022\uf021\uf025\uf023\uf024\uf027\uf026x\uf029"
    assert to_server("a. ") == "a.\uf028"
    assert to_server(".hidden") == ".hidden"


def test_paths():
    assert server_path("") == ""
    assert server_path("a/b c/d:") == "a\\b c\\d\uf022"


@pytest.mark.parametrize("name", ["a\uf022b", "\uf001", "end\uf029"])
def test_stand_ins_are_refused_as_themselves(name):
    with pytest.raises(OSError) as raised:
        to_server(name)
    assert raised.value.errno == errno.EINVAL


def test_too_long():
    assert to_server("x" * 255)
    with pytest.raises(OSError) as raised:
        to_server("x" * 256)
    assert raised.value.errno == errno.ENAMETOOLONG


@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=250))
def test_symlink_round_trip(target):
    try:
        target.encode()
    except UnicodeEncodeError:
        return
    content = symlinks.encode(target)
    assert len(content) == symlinks.FILE_SIZE
    assert symlinks.decode(content) == target


def test_symlink_as_the_kernel_writes_it():
    # md5 of "target"; layout of format_mfsymlink in fs/smb/client/link.c
    content = b"XSym\n0006\n42aefbae01d2dfd981f7da7d823d689e\ntarget\n".ljust(1067)
    assert symlinks.encode("target") == content
    assert len(symlinks.encode("x" * 1024)) == 1067
    with pytest.raises(OSError) as raised:
        symlinks.encode("x" * 1025)
    assert raised.value.errno == errno.ENAMETOOLONG


@given(st.binary(max_size=1067))
def test_other_files_are_no_symlinks(content):
    assert symlinks.decode(content) is None
    assert symlinks.decode(content.ljust(1067)) is None
    assert symlinks.decode(b"XSym\n" + content[:1062].ljust(1062)) is None
