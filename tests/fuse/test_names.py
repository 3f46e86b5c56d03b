"""Names of blobs as paths, and back."""

from __future__ import annotations

import errno

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuse.blob import names

# Pieces that escapes are made of, so that look-alikes are tried often.
pieces = st.sampled_from(
    ["_$empty$", "_$dot$", "_$raw$", "_$directory$", "_$long-0123456789abcdef$", "_$x5c$", "$x5c$"]
) | st.sampled_from(
    ["_$x5f$", "$x5f$", "_$x41$", "x5f", "_", "$", ".", "\\", "\x01", "\n", "\ufffe", "a", "é"]
)
component = st.lists(pieces | st.text(max_size=3), max_size=8).map("".join)
blob_component = component.filter(lambda text: "/" not in text and "\0" not in text)
path_component = blob_component.filter(lambda text: text not in {"", ".", ".."})


def is_plain(text):
    """Whether a path may have this component, as far as the kernel is concerned."""
    return bool(text) and text not in {".", ".."} and "/" not in text and "\0" not in text


@given(blob_component)
@example("_$empty$")
@example("_$raw$")
@example(".._$raw$")
@example("x_$directory$")
@example("x_$directory$_$raw$")
@example("_$x5f$$x5c$")
def test_every_blob_has_a_path_that_leads_back(name):
    shown = names.path_component(name)
    assert is_plain(shown)
    assert names.blob_component(shown) == name


@given(st.lists(blob_component, max_size=4).map("/".join))
def test_so_do_names_of_several_components(name):
    shown = "/".join(names.path_component(part) for part in name.split("/"))
    assert all(map(is_plain, shown.split("/")))
    assert names.blob_name(shown) == name


@given(path_component)
@example("_$raw$")
@example(".._$raw$")
def test_what_may_be_made_reads_back_under_its_name(path):
    try:
        names.check_new(path)
    except OSError as error:
        assert error.errno == errno.EINVAL
        return
    stored = names.blob_name(path)
    assert names.path_component(stored) == path
    assert not any(letter in "\\\ufffe\uffff" or ord(letter) < 0x20 for letter in stored)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
@example("100% sure?.txt")
@example("a+b#c&d=e;f:g")
@example("trailing. . .")
@example("e\u0301")
@example("\u00e9")
def test_nearly_every_name_is_its_own_path(name):
    if is_plain(name) and "_$" not in name and not set(name) & set("\\\ufffe\uffff"):
        assert names.path_component(name) == name
        assert names.blob_name(name) == name


def test_names_no_path_can_say():
    shown = [names.path_component(part) for part in ["", ".", ".."]]
    assert shown == ["_$empty$", "_$dot$", "_$dotdot$"]
    assert names.blob_name("a/_$empty$/b") == "a//b"
    assert names.has_dots("a/../b")
    assert not names.has_dots("a/..b")


def test_what_the_store_cannot_carry_is_escaped_in_the_blob():
    assert names.blob_name("back\\slash") == "back_$x5c$slash"
    assert names.blob_name("two\nlines") == "two_$x0a$lines"
    assert names.path_component("back_$x5c$slash") == "back\\slash"
    assert names.path_component("two\nlines") == "two\nlines_$raw$"


def test_long_names_are_shortened_and_told_apart():
    one, other = "\u4e00" * 1024, "\u4e00" * 1023 + "x"
    short = names.path_component(one)
    assert len(short.encode()) < 255
    assert short != names.path_component(other)
    with pytest.raises(names.ShortenedError):
        names.blob_name(f"a/{short}/b")
    # One that only looks so is literal.
    assert names.blob_component(names.path_component(short)) == short
    assert names.path_component("n" * 1024) == "n" * 1024


def test_a_directory_beside_a_file_of_its_name():
    alias = names.directory_alias("both")
    assert names.is_directory_alias(alias)
    assert names.blob_name(f"{alias}/x") == "both/x"
    assert names.path_component(alias) != alias


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("_$empty$", errno.EINVAL),
        ("a/_$dotdot$", errno.EINVAL),
        ("a/_$dotdot$/b", errno.EINVAL),
        ("a_$directory$", errno.EINVAL),
        ("tab\t_$raw$", errno.EINVAL),
        ("_$long-0123456789abcdef$", errno.EINVAL),
        ("x" * 1025, errno.ENAMETOOLONG),
        ("/".join("s" * 255), errno.ENAMETOOLONG),
        ("\U0001f600" * 513, errno.ENAMETOOLONG),
        ("_$long-0123456789abcdef$/x", errno.ENAMETOOLONG),
    ],
)
def test_names_that_cannot_be_made(path, expected):
    with pytest.raises(OSError) as caught:
        names.check_new(path)
    assert caught.value.errno == expected


@pytest.mark.parametrize("path", ["x" * 1024, "/".join("s" * 254), "a/_$empty$/b", "_$x41$", "a_"])
def test_names_that_can(path):
    names.check_new(path)
