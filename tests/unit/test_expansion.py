"""$VAR, ${VAR}, $$ and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.jobs.expansion import ExpansionError, expand, references

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
plain = st.text(st.characters(blacklist_characters="$"), max_size=10)


@given(st.lists(st.tuples(plain, names, st.text(max_size=8), st.booleans()), max_size=6), plain)
def test_text_between_references_is_kept_and_values_are_not_looked_at_again(parts, tail):
    values = {name: value for _, name, value, _ in parts}
    text = "".join(f"{before}${{{name}}}" for before, name, _, _ in parts) + tail
    wanted = "".join(before + values[name] for before, name, _, _ in parts) + tail
    assert expand(text, values.__getitem__) == wanted
    assert references(text) == [name for _, name, _, _ in parts]


@given(st.text(max_size=40))
def test_escaping_every_dollar_gives_the_text_back(text):
    def unexpected(name):
        raise AssertionError(name)

    assert expand(text.replace("$", "$$"), unexpected) == text


@pytest.mark.parametrize("text", ["costs $5", "a$", "$ x", "$-", "100$%"])
def test_a_dollar_before_no_name_stays(text):
    assert expand(text, {}.__getitem__) == text


@pytest.mark.parametrize("text", ["${}", "${a b}", "${1}", "${a-b}"])
def test_braces_need_a_name(text):
    with pytest.raises(ExpansionError):
        expand(text, lambda _name: "x")
