"""Reading JSON documents field by field: what is taken, and how a fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuse import fields
from fuse.fields import Fault, Fields


def fault(read, value) -> Fault:
    with pytest.raises(Fault) as caught:
        read(value)
    return caught.value


@pytest.mark.parametrize(
    ("read", "value", "made"),
    [
        (fields.text(), "x", "x"),
        (fields.text(pattern="[a-z]+", least=2), "ab", "ab"),
        (fields.path, "/a/b", Path("/a/b")),
        (fields.flag, False, False),
        (fields.number(least=0, most=3), 3, 3),
        (fields.seconds(least=0), 2, 2.0),
        (fields.choice(("a", "b")), "b", "b"),
        (fields.choice((1,)), 1, 1),
        (fields.many(fields.text(), most=2), ["a", "b"], ["a", "b"]),
        (fields.parsed, b'{"a": 1}', {"a": 1}),
    ],
)
def test_what_is_taken(read, value, made):
    assert read(value) == made
    assert type(read(value)) is type(made)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (fields.text(), 1),
        (fields.text(least=1), ""),
        (fields.text(pattern="[a-z]+"), "a\n"),
        (fields.path, 1),
        (fields.flag, 1),
        (fields.flag, "true"),
        (fields.number(least=0), True),
        (fields.number(least=0), 1.0),
        (fields.number(least=0), -1),
        (fields.number(least=0, most=3), 4),
        (fields.seconds(least=0), True),
        (fields.seconds(least=0), "1"),
        (fields.seconds(least=0), float("nan")),
        (fields.seconds(least=0, most=1), float("inf")),
        (fields.choice(("a", "b")), "c"),
        (fields.choice((1,)), True),
        (fields.choice((True,)), 1),
        (fields.many(fields.text(), most=1), "a"),
        (fields.many(fields.text(), most=1), ["a", "b"]),
        (fields.record(lambda given: given.must("a", fields.text())), []),
        (fields.parsed, "{"),
        (fields.parsed, b"\xff"),
        (fields.parsed, "[" * 100_000),
    ],
)
def test_what_is_refused(read, value):
    assert fault(read, value).place == ()


def test_a_fault_is_named_by_its_place():
    inner = fields.record(lambda given: given.may("names", fields.many(fields.text(), most=9), []))
    outer = fields.record(lambda given: given.must("inner", inner))
    assert fault(outer, {}).place == ("inner",)
    assert fault(outer, {"inner": {"names": ["a", 1]}}).place == ("inner", "names", "1")
    assert fault(outer, {"inner": {"name": []}}).place == ("inner", "name")
    assert outer({"inner": {"names": ["a"]}}) == ["a"]


def test_null_is_absent():
    given = Fields({"a": None})
    assert given.may("a", fields.text(), "default") == "default"
    with pytest.raises(Fault, match="required"):
        given.must("a", fields.text())
    given.end()


def test_no_value_is_in_a_fault():
    for read in (
        fields.text(pattern="x"),
        fields.number(least=0),
        fields.choice(("a",)),
        fields.parsed,
    ):
        assert "hidden" not in str(fault(read, "hidden"))


def test_a_secret_is_not_shown():
    secret = fields.secret("hidden")
    assert "hidden" not in f"{secret} {secret!r}"
    assert secret.get_secret_value() == "hidden"
