"""Values, targets and rows: what counts as reached, and what JSON says."""

from __future__ import annotations

import json

import pytest

from bench.rows import Costs, Row, Target, Value, at_least, at_most, value_of


def row(ours, *, peers=None, limits=None, targets=(), better="higher"):
    def values(numbers):
        return {name: Value((number,)) for name, number in (numbers or {}).items()}

    return Row(
        suite="s",
        row="r",
        server="static",
        unit="MB/s",
        better=better,
        cost_unit="GiB",
        ours=None if ours is None else Value((ours,)),
        peers=values(peers),
        limits=values(limits),
        targets=targets,
    )


def test_a_value_is_the_median_of_its_samples_with_the_extremes_beside_it():
    value = Value((5.0, 1.0, 2.0))
    assert (value.median, value.spread) == (2.0, (1.0, 5.0))


def test_costs_are_medians_of_the_rounds_that_know_them():
    value = Value((1.0, 1.0, 1.0), (Costs(requests=4), Costs(), Costs(requests=8)))
    assert value.cost("requests") == 6
    assert value.cost("cpu_driver") is None


def test_no_samples_make_no_value():
    assert value_of([]) is None


@pytest.mark.parametrize(("ours", "met"), [(250.0, True), (249.0, False)])
def test_the_better_mode_of_a_peer_counts(ours, met):
    found = row(
        ours,
        peers={"rclone plain": 100.0, "rclone full": 90.0, "other": 9000.0},
        targets=(at_least(2.5, "rclone"),),
    )
    assert found.met is met
    assert found.ratios == {"rclone": ours / 100}


@pytest.mark.parametrize(("ours", "met"), [(3.0, True), (3.1, False)])
def test_where_less_is_better_the_smallest_one_counts(ours, met):
    found = row(
        ours,
        limits={"bare a": 2.0, "bare b": 7.0},
        targets=(at_most(1.5, "bare"),),
        better="lower",
    )
    assert found.met is met


def test_an_exact_name_goes_before_names_that_begin_with_it():
    limits = {"bare request": 10.0, "bare request, many": 1.0}
    found = row(15.0, limits=limits, targets=(at_most(2, "bare request"),), better="lower")
    assert found.met is True


@pytest.mark.parametrize(("ours", "met"), [(64.0, True), (65.0, False)])
def test_a_target_without_a_reference_is_absolute(ours, met):
    assert row(ours, targets=(at_most(64),)).met is met


def test_one_missed_target_of_two_is_a_miss():
    targets = (at_least(1, "a"), at_least(3, "b"))
    assert row(2.0, peers={"a": 1.0}, limits={"b": 1.0}, targets=targets).met is False


def test_nothing_is_met_that_was_not_measured():
    assert row(2.0, targets=(at_least(1, "rclone"),)).met is None
    assert row(None, peers={"rclone": 1.0}, targets=(at_least(1, "rclone"),)).met is None
    assert row(2.0).met is None


def test_a_miss_counts_even_where_another_target_cannot_be_told():
    targets = (at_least(1, "absent"), at_least(3))
    assert row(2.0, targets=targets).met is False


def test_json_has_the_agreed_fields():
    found = row(
        2.0,
        peers={"rclone": 1.0},
        limits={"null driver": 4.0},
        targets=(at_least(2.5, "rclone"), at_most(288)),
    )
    document = json.loads(json.dumps(found.as_dict()))
    assert {"suite", "row", "server", "unit", "better", "ours", "peers", "limits"} <= set(document)
    assert document["target"] == "≥ 2.5 × rclone; ≤ 288"
    assert document["met"] is False
    assert document["peers"]["rclone"]["median"] == 1.0
    assert document["ours"]["spread"] == [2.0, 2.0]
    assert document["ours"]["samples"] == [2.0]
    assert document["ours"]["peak_rss"] is None


def test_a_row_comes_back_from_json():
    found = row(
        2.0,
        peers={"rclone": 1.0},
        limits={"null driver": 4.0},
        targets=(at_least(2.5, "rclone"), at_most(1.5, "null driver"), at_most(288)),
    )
    document = json.loads(json.dumps(found.as_dict()))
    again = Row.from_dict(document)
    assert again.as_dict() == found.as_dict()
    assert again.targets == found.targets
    missing = row(None)
    assert Row.from_dict(missing.as_dict()).as_dict() == missing.as_dict()


def test_costs_come_back_as_their_medians():
    costs = (Costs(requests=4, cpu_all=1.5), Costs(requests=8))
    again = Value.from_dict(json.loads(json.dumps(Value((1.0, 3.0), costs).as_dict())))
    assert again.samples == (1.0, 3.0)
    assert (again.cost("requests"), again.cost("cpu_all"), again.cost("wire_bytes")) == (
        6,
        1.5,
        None,
    )


@pytest.mark.parametrize("text", ["", "2 × rclone", "> 2", "≥ much", "≥"])
def test_what_is_no_target_is_refused(text):
    with pytest.raises(ValueError, match=r"no target|could not convert"):
        Target.parse(text)
