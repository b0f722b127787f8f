"""Selections, verdicts and labels against planted truth on seeds that no threshold was chosen on.

The count over twenty seeds and a thousand planted dimensions is `python -m benchmarks.planted`.
"""

import pytest

from benchmarks.planted import Tally, null_runs, run_seed, summary


@pytest.fixture(scope="module")
def found() -> dict:
    tally = Tally()
    for seed in (100, 101):
        run_seed(seed, 2.0, 8, tally)
    return summary(tally)


def test_discriminative_selection_finds_all_and_little_else(found: dict) -> None:
    assert found["planted"] == 104
    assert found["selection_recall"]["rate"] == 1.0
    assert found["selection_precision"]["rate"] >= 0.95


def test_magnitude_alone_fails_where_it_should(found: dict) -> None:
    assert found["seeds_where_magnitude_fails"] == 2
    assert found["magnitude_recall"]["rate"] < 0.8


def test_verdicts_are_right_and_no_sink_is_called_a_detector(found: dict) -> None:
    assert found["verdict_right"]["rate"] >= 0.98
    assert found["verdict_right"]["of"] >= 100
    assert found["sinks_called_detectors"]["n"] == 0
    assert found["sinks_called_detectors"]["of"] >= 8


def test_planted_classes_are_recovered_as_labels(found: dict) -> None:
    assert found["labels_recovered"]["of"] == 72
    assert found["labels_recovered"]["rate"] >= 0.9


def test_without_a_gap_nothing_is_found() -> None:
    nothing = null_runs([100], 8)
    assert nothing["dimensions_selected"] == 0
    assert nothing["verdicts_of_detector"] == 0
