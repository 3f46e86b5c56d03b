"""Intents on disk."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.intents import Intents

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5
)
details = st.dictionaries(
    st.text().filter(lambda key: key not in {"kind", "format"}), json_values, max_size=4
)


def leftovers(intents):
    found = []
    for intent in intents.left_behind():
        with intent:
            found.append((intent.kind, intent.details))
    return found


def test_what_nobody_works_on_is_found(tmp_path):
    intents = Intents(tmp_path / "a" / "b")
    assert leftovers(intents) == []
    intent = intents.begin("rename", {"source": "x"})
    assert leftovers(intents) == [], "it is alive"
    intent.note(phase="deleting")
    intent.close()
    assert leftovers(intents) == [("rename", {"source": "x", "phase": "deleting"})]
    for found in intents.left_behind():
        found.end()
    assert leftovers(intents) == []


def test_what_has_ended_is_gone(tmp_path):
    intents = Intents(tmp_path)
    intents.begin("rename", {}).end()
    assert os.listdir(tmp_path) == []


def test_nobody_else_may_read_them(tmp_path):
    old = os.umask(0)
    try:
        intent = Intents(tmp_path / "i").begin("rename", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE(intent.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(intent.path.parent.stat().st_mode) == 0o700
    intent.end()


@given(details, st.lists(details, max_size=3), st.data())
def test_whatever_is_cut_off_was_not_acknowledged(tmp_path_factory, first, notes, data):
    """A crash at any byte: what was on disk before it counts, and nothing of what was not."""
    intents = Intents(tmp_path_factory.mktemp("intents"))
    intent = intents.begin("test", first)
    sizes, states = [intent.path.stat().st_size], [dict(first)]
    for note in notes:
        intent.note(**{f"n{key}": value for key, value in note.items()})
        sizes.append(intent.path.stat().st_size)
        states.append(dict(intent.details))
    intent.close()
    cut = data.draw(st.integers(0, sizes[-1]))
    os.truncate(intent.path, cut)
    expected = [state for size, state in zip(sizes, states, strict=True) if size <= cut]
    assert leftovers(intents) == ([("test", expected[-1])] if expected else [])


@pytest.mark.parametrize(
    "content", [b'{"format": 2, "kind": "x"}\n', b"\0\0\n{}\n", b"[]\n", b'{"format": 1}\n']
)
def test_what_is_not_understood_is_left_alone(tmp_path, content):
    path = tmp_path / "x.intent"
    path.write_bytes(content)
    assert leftovers(Intents(tmp_path)) == []
    assert path.read_bytes() == content


def test_a_full_disk_leaves_no_half_intent(tmp_path, monkeypatch):
    intents = Intents(tmp_path)
    intent = intents.begin("rename", {"source": "x"})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        intent.note(phase="deleting")
    with pytest.raises(OSError, match="No space"):
        intents.begin("rename", {})
    monkeypatch.undo()
    intent.close()
    assert leftovers(intents) == [("rename", {"source": "x"})]
