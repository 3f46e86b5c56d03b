"""The tree of names, and the numbers that outlive them."""

from __future__ import annotations

import errno

import pytest

from fuse.inodes import InodeTable
from fuse.volume import Attributes, Kind

DIRECTORY = Attributes(Kind.DIRECTORY)
FILE = Attributes(Kind.FILE, version="v1")


@pytest.fixture
def table():
    return InodeTable(DIRECTORY)


def remembered(table, parent, name, attributes=FILE):
    node = table.remember(parent, name, attributes, 0.0)
    node.lookups += 1
    return node


def test_a_forgotten_number_is_stale(table):
    node = remembered(table, table.root, "f")
    table.forget(node.number, 1)
    with pytest.raises(OSError) as caught:
        table.get(node.number)
    assert caught.value.errno == errno.ESTALE
    table.forget(node.number, 1)  # the kernel may say so late


def test_a_directory_lives_as_long_as_what_is_in_it(table):
    directory = remembered(table, table.root, "d", DIRECTORY)
    file = remembered(table, directory, "f")
    table.forget(directory.number, 1)
    assert file.path() == "d/f"
    table.forget(file.number, 1)
    assert len(table) == 1


def test_a_superseded_file_keeps_its_path_and_gives_up_its_name(table):
    old = remembered(table, table.root, "f")
    table.supersede(old)
    new = remembered(table, table.root, "f")
    assert old.number != new.number
    assert (old.linked, new.linked) == (False, True)
    assert old.path() == new.path() == "f"
    table.forget(old.number, 1)
    assert table.root.children == {"f": new}


def test_another_kind_of_thing_gets_another_number(table):
    old = remembered(table, table.root, "x", DIRECTORY)
    new = remembered(table, table.root, "x", FILE)
    assert old.number != new.number
    assert not old.linked


def test_an_unlinked_file_has_no_path(table):
    node = remembered(table, table.root, "f")
    table.detach(node)
    with pytest.raises(OSError) as caught:
        node.path()
    assert caught.value.errno == errno.ESTALE


def test_nothing_is_made_in_a_removed_directory(table):
    node = remembered(table, table.root, "d", DIRECTORY)
    table.detach(node)
    with pytest.raises(FileNotFoundError):
        node.child_path("f")


def test_a_rename_takes_along_what_is_below_and_replaces_what_is_there(table):
    one = remembered(table, table.root, "one", DIRECTORY)
    other = remembered(table, table.root, "other", DIRECTORY)
    file = remembered(table, one, "f")
    table.move(one, table.root, "other")
    assert file.path() == "other/f"
    assert not other.linked


def test_names_change_places(table):
    one = remembered(table, table.root, "one", DIRECTORY)
    deep = remembered(table, one, "deep")
    other = remembered(table, table.root, "other")
    table.exchange(deep, other)
    assert (deep.path(), other.path()) == ("other", "one/deep")


def test_what_changes_a_version_here_is_local_meanwhile(table):
    node = remembered(table, table.root, "f")
    with node.changing():
        assert node.is_local
        table.remember(table.root, "f", Attributes(Kind.FILE, version="v2"), 9.0)
    assert node.attributes.version == "v1"
    assert not node.is_local
