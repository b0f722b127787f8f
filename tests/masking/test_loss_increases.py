"""The arithmetic of masking results against numbers worked by hand."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from workbench.dimensions.masking import (
    answer_histogram,
    choice_frame,
    domain_loss_increase,
    is_delimiter,
    jaccard,
    mean_interval,
    overlap_at_k,
    specificity,
    top_dimensions,
)
from workbench.records import ChoiceItem, ChoiceMasking, MaskingResult, load_record, save_record
from workbench.statistics import spearman

DIMENSIONS = (2, 5, 7)
# One row per dimension; columns are two identify and two test prompts of law, then the same of code.
INCREASE = np.array(
    [
        [1.0, 3.0, 0.0, 4.0, 0.0, 0.2, 1.0, 1.0],
        [5.0, 5.0, 1.0, 2.0, 0.3, 0.3, 0.0, 0.5],
        [0.0, 0.2, 9.0, 9.0, 4.0, 2.0, 3.0, 3.0],
    ]
)


def masking(
    increase: np.ndarray = INCREASE, dimensions: tuple[int, ...] = DIMENSIONS, d_model: int = 8
) -> MaskingResult:
    domains = ("law",) * 4 + ("code",) * 4
    splits = ("identify", "identify", "test", "test") * 2
    names = tuple(f"p{i}" for i in range(8))
    return MaskingResult("zero", "measured", 8, 4.0, dimensions, names, domains, splits, np.full(8, 2.5), increase)


def test_dimensions_are_ranked_by_their_mean_increase_on_identify() -> None:
    result = masking()
    np.testing.assert_allclose(domain_loss_increase(result, "identify"), [[2.0, 5.0, 0.1], [0.1, 0.3, 3.0]])
    assert top_dimensions(result, 2) == {"law": (5, 2), "code": (7, 5)}
    # two values 1 and 2: standard error 0.5, Student's 97.5 % quantile with one degree of freedom 12.7062
    mean, low, high = mean_interval(np.array([1.0, 2.0]))
    assert (mean, low, high) == pytest.approx((1.5, 1.5 - 12.7062 * 0.5, 1.5 + 12.7062 * 0.5), abs=1e-4)


def test_specificity_is_the_increase_beyond_that_of_the_other_domains() -> None:
    increases = np.array([[2.0, 1.0], [0.5, 1.0], [0.0, 4.0]])
    np.testing.assert_allclose(specificity(increases), [[1.75, -1.5], [-0.5, -1.5], [-1.25, 3.0]])
    with pytest.raises(ValueError, match="at least two"):
        specificity(increases[:1])


def test_what_was_not_measured_takes_no_part() -> None:
    increase = INCREASE.copy()
    increase[1, :4] = np.nan  # dimension 5 only in code
    increase[0, 4:] = np.nan  # dimension 2 only in law
    result = masking(increase)
    assert top_dimensions(result, 2) == {"law": (2, 7), "code": (7, 5)}
    with pytest.raises(ValueError, match="k is 3, but 2 dimensions were masked in law"):
        top_dimensions(result, 3)


def test_overlap_and_its_chance_follow_from_counting_all_rankings() -> None:
    n, k = 6, 3
    first = np.array([9.0, 8.0, 7.0, 3.0, 2.0, 1.0])
    second = np.array([9.0, 1.0, 8.0, 7.0, 2.0, 3.0])  # top 3: 0, 2, 3; two in common
    row = overlap_at_k(first, second, [k]).iloc[0]
    counts = [len({0, 1, 2} & set(other)) for other in itertools.combinations(range(n), k)]
    assert (row["overlap"], row["n_common"], row["chance"]) == (pytest.approx(2 / 3), 2, 0.5)
    assert row["chance"] == pytest.approx(np.mean(counts) / k)
    assert row["p"] == pytest.approx(np.mean(np.array(counts) >= 2))
    inside = np.mean([row["low"] <= count / k <= row["high"] for count in counts])
    assert inside >= 0.95
    assert overlap_at_k(first, second, [n])["overlap"].tolist() == [1.0]
    with pytest.raises(ValueError, match="choose k from 1 to 6"):
        overlap_at_k(first, second, [7])


def test_rank_correlation_with_a_tie() -> None:
    # ranks 1 2 3 4 and 1 2.5 2.5 4: covariance 4.5 / sqrt(5 * 4.5)
    assert spearman(np.array([0.1, 0.2, 5.0, 9.0]), np.array([1.0, 3.0, 3.0, 7.0])) == pytest.approx(4.5 / 22.5**0.5)
    assert spearman(np.array([1.0, np.nan, 2.0, 3.0]), np.array([3.0, 9.0, 2.0, 1.0])) == pytest.approx(-1.0)
    assert math.isnan(spearman(np.ones(3), np.arange(3.0)))


def test_sets_are_compared_by_jaccard() -> None:
    assert jaccard([1, 2, 3], [3, 4]) == jaccard([4, 3], [1, 2, 3]) == 0.25
    assert jaccard([3, 4], [4, 3]) == 1.0
    assert jaccard([], [3]) == 0.0
    assert math.isnan(jaccard([], []))


def choices() -> ChoiceMasking:
    items = tuple(
        ChoiceItem(f"q{i}", "law", "test", "Which?", (" A", " B", " C"), answer)
        for i, answer in enumerate((0, 1, 2, 2))
    )
    baseline = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8], [0.4, 0.2, 0.4]]))
    masked = np.log(np.array([[[0.5, 0.25, 0.25]] * 4]))
    return ChoiceMasking("zero", (3,), items, baseline, masked)


def test_accuracy_and_log_odds_fall_to_those_of_a_constant_answer() -> None:
    row = choice_frame(choices()).iloc[0]
    assert (row["accuracy"], row["accuracy_drop"], row["n"]) == (0.75, 0.5, 4)  # a tie is not right
    before = np.mean(np.log([0.5 / 0.5, 0.6 / 0.4, 0.8 / 0.2, 0.4 / 0.6]))
    after = np.mean(np.log([0.5 / 0.5, 0.25 / 0.75, 0.25 / 0.75, 0.25 / 0.75]))
    assert row["log_odds"] == pytest.approx(before)
    assert row["log_odds_drop"] == pytest.approx(before - after)


def test_the_histogram_shows_a_model_that_always_says_the_same() -> None:
    unmasked = answer_histogram(choices())
    assert dict(zip(unmasked["predicted"], unmasked["n"], strict=True)) == {" A": 2, " B": 1, " C": 1}
    masked = answer_histogram(choices(), 3)
    assert masked[["predicted", "n"]].values.tolist() == [[" A", 4]]
    with pytest.raises(ValueError, match="dimension 4 was not masked"):
        answer_histogram(choices(), 4)


def test_records_survive_a_file(tmp_path: Path) -> None:
    increase = INCREASE.copy()
    increase[0, 0] = np.nan
    result = masking(increase)
    save_record(result, tmp_path / "masking.safetensors")
    loaded = load_record(tmp_path / "masking.safetensors", MaskingResult)
    np.testing.assert_array_equal(loaded.loss_increase, increase)
    assert {**vars(loaded), "loss_increase": 0, "baseline": 0} == {**vars(result), "loss_increase": 0, "baseline": 0}
    save_record(choices(), tmp_path / "choices.safetensors")
    again = load_record(tmp_path / "choices.safetensors", ChoiceMasking)
    assert again.items == choices().items
    np.testing.assert_array_equal(again.masked, choices().masked)


def test_records_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(3, 8\)"):
        masking(INCREASE[:2])
    with pytest.raises(ValueError, match="two different choices"):
        ChoiceItem("q", "law", "test", "Which?", (" A", " A"), 0)
    with pytest.raises(ValueError, match="answer 2"):
        ChoiceItem("q", "law", "test", "Which?", (" A", " B"), 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (".", True),
        (" ,", True),
        ("\n", True),
        ("\n\n", True),
        (".\n", True),
        (" the", False),
        ("=", False),
        (" ", False),
    ],
)
def test_delimiters_end_sentences_clauses_and_lines(text: str, expected: bool) -> None:
    assert is_delimiter(text) is expected
