"""What dominates, from two samples."""

from __future__ import annotations

import pytest

from fuse.load import Meter, Sample, dominant

BEGIN = Sample(elapsed=100, processor=50, reading=40, answering=30)


@pytest.mark.parametrize(
    ("processor", "reading", "answering", "said"),
    [
        (0.1, 0.2, 0.2, "idle"),
        (9.0, 30.0, 30.0, "processor"),
        (1.0, 30.0, 25.0, "store"),
        (1.0, 30.0, 1.0, "transfer"),
    ],
)
def test_what_dominates(processor, reading, answering, said):
    now = Sample(
        elapsed=BEGIN.elapsed + 10,
        processor=BEGIN.processor + processor,
        reading=BEGIN.reading + reading,
        answering=BEGIN.answering + answering,
    )
    assert dominant(BEGIN, now) == said


def test_no_time_has_passed():
    assert dominant(BEGIN, BEGIN) == "idle"


def test_each_question_is_about_the_time_since_the_last_one():
    seconds = iter([0.0, 10.0, 20.0])
    processor = iter([0.0, 9.0, 9.1])
    meter = Meter(lambda: next(seconds), lambda: next(processor))
    assert meter.figures(5.0, 5.0)["dominant"] == "processor"
    assert meter.figures(5.0, 5.0) == {"dominant": "idle", "processor_seconds": 9.1}
