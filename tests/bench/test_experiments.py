"""From samples to rows; rounds; what the command line selects."""

from __future__ import annotations

import contextlib

from bench import rounds
from bench.errors import BenchError
from bench.experiments import MIB, Experiment, Figure, Sample, Trial, rows_of
from bench.rows import Costs, at_least
from bench.suites import all_experiments


def experiment(*figures, title="reading"):
    return Experiment(
        suite="read",
        title=title,
        server="static",
        cost_unit="GiB",
        figures=figures,
        prepare=lambda _workbench: contextlib.nullcontext([]),
    )


ROLES = [("ours", "ours"), ("rclone plain", "peer"), ("null driver", "limit")]


def test_contenders_become_columns_by_their_roles():
    samples = {
        "ours": [Sample({"rate": 3.0}), Sample({"rate": 5.0}), Sample({"rate": 4.0})],
        "rclone plain": [Sample({"rate": 1.0})],
        "null driver": [Sample({"rate": 8.0})],
    }
    found = experiment(Figure(metric="rate", unit="MB/s", targets=(at_least(2.5, "rclone"),)))
    (row,) = rows_of(found, ROLES, samples, memory_budget=0)
    assert row.row == "reading"
    assert row.ours.samples == (3.0, 5.0, 4.0)
    assert row.others == {"rclone plain": 1.0, "null driver": 8.0}
    assert row.met is True


def test_a_metric_that_a_trial_lacks_leaves_it_out_of_the_row():
    samples = {"ours": [Sample({"a": 1.0, "b": 2.0})], "rclone plain": [Sample({"a": 1.0})]}
    figures = (Figure(metric="a", unit="x"), Figure(metric="b", unit="x", row="other"))
    first, second = rows_of(experiment(*figures), ROLES, samples, memory_budget=0)
    assert "rclone plain" in first.peers
    assert not second.peers
    assert second.row == "reading: other"


def test_a_metric_of_another_phase_can_be_the_limit():
    samples = {"ours": [Sample({"cold": 10.0, "warm": 60.0})]}
    figure = Figure(
        metric="warm",
        unit="files/s",
        borrowed={"ours, cold": ("ours", "cold")},
        targets=(at_least(5, "ours, cold"),),
    )
    (row,) = rows_of(experiment(figure), ROLES, samples, memory_budget=0)
    assert row.met is True
    assert row.ratios == {"ours, cold": 6.0}


def test_a_phase_of_its_own_has_costs_of_its_own():
    sample = Sample({"cold": 1.0, "warm": 1.0}, Costs(requests=9), {"warm": Costs(requests=0)})
    figures = (Figure(metric="cold", unit="x"), Figure(metric="warm", unit="x"))
    cold, warm = rows_of(experiment(*figures), ROLES, {"ours": [sample]}, memory_budget=0)
    assert (cold.ours.cost("requests"), warm.ours.cost("requests")) == (9, 0)


def test_peak_memory_makes_a_row_with_the_budget_as_its_target():
    samples = {
        "ours": [Sample({"rate": 1.0}, Costs(peak_rss=200 * MIB))],
        "rclone plain": [Sample({"rate": 1.0}, Costs(peak_rss=50 * MIB))],
        "null driver": [Sample({"rate": 1.0}, Costs(peak_rss=900 * MIB))],
    }
    figure = Figure(metric="rate", unit="MB/s")
    *_, memory = rows_of(experiment(figure), ROLES, samples, memory_budget=100 * MIB)
    assert memory.row == "reading: peak RSS"
    assert (memory.ours.median, memory.better, memory.met) == (200.0, "lower", False)
    assert memory.others == {"rclone plain": 50.0}
    assert memory.target == "≤ 196"


def test_rounds_take_everybody_in_turns():
    order = []

    def trial(name):
        def measure():
            order.append(name)
            return Sample({"x": float(len(order))})

        return Trial(name, "peer", measure)

    samples = rounds.run([trial("a"), trial("b"), trial("c")], 2, lambda *_told: None)
    assert order == ["a", "b", "c"] * 2
    assert [sample.metrics["x"] for sample in samples["b"]] == [2.0, 5.0]


def test_who_fails_once_is_out_and_counts_no_more():
    told = []

    def failing():
        if told:
            raise BenchError("wrong bytes")
        return Sample({"x": 1.0})

    trials = [Trial("bad", "ours", failing), Trial("good", "peer", lambda: Sample({"x": 1.0}))]
    samples = rounds.run(trials, 3, lambda *each: told.append(each))
    assert samples["bad"] == []
    assert len(samples["good"]) == 3
    failures = [
        (number, trial.name) for number, trial, found in told if not isinstance(found, Sample)
    ]
    assert failures == [(1, "bad")]


def test_suites_and_parts_of_titles_select():
    found = experiment(title="random 4 KiB")
    assert found.selected_by([])
    assert found.selected_by(["read"])
    assert found.selected_by(["write", "read/RANDOM"])
    assert found.selected_by(["read/[static]"])
    assert not found.selected_by(["write", "read/sequential"])


def test_every_row_has_a_name_of_its_own():
    names = [
        (each.suite, each.title, each.server, figure.row)
        for each in all_experiments()
        for figure in each.figures
    ]
    assert len(names) == len(set(names))
