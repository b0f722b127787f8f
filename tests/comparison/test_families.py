"""Sign-flip tests, families of tests, Pareto fronts: against scipy and by hand."""

import numpy as np
import pytest
from scipy import stats

from workbench.statistics import (
    Interval,
    benjamini_hochberg,
    hypervolume,
    pareto_front,
    sign_flip_p,
    verdict,
)


def test_few_pairs_are_counted_exactly_as_scipy_does() -> None:
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.9, -0.05, 0.6])
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=10**6)
    assert sign_flip_p(differences, seed=0) == pytest.approx(theirs.pvalue)


def test_three_equal_differences_by_hand() -> None:
    # of the eight sign patterns only +++ and --- are as far from zero
    assert sign_flip_p(np.array([1.0, 1.0, 1.0]), seed=0) == 2 / 8
    assert sign_flip_p(np.zeros(5), seed=0) == 1.0


def test_drawn_flips_agree_with_scipy() -> None:
    differences = np.random.default_rng(0).normal(0.25, 1.0, size=60)
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20000, rng=1)
    error = float(np.sqrt(theirs.pvalue / 20000))
    assert sign_flip_p(differences, seed=2) == pytest.approx(theirs.pvalue, abs=5 * error)
    assert sign_flip_p(differences, seed=2) == sign_flip_p(differences, seed=2)


def test_p_is_uniform_where_nothing_differs() -> None:
    generator = np.random.default_rng(5)
    found = [sign_flip_p(generator.normal(size=20), seed=seed, n_flips=500) for seed in range(400)]
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_adjusted_p_values_are_those_of_scipy() -> None:
    p = np.random.default_rng(1).uniform(size=40) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))


def test_what_was_not_measured_does_not_count_in_the_family() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03])
    # three tests: 0.01 * 3 / 1, 0.03 * 3 / 2 and 0.04 * 3 / 3, each at most the next larger one
    np.testing.assert_allclose(benjamini_hochberg(p), [0.03, np.nan, 0.04, 0.04])


def test_impossible_p_values_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg(np.array([0.5, 1.5]))


@pytest.mark.parametrize(
    ("low", "high", "q", "higher_is_better", "expected"),
    [
        (0.1, 0.3, 0.01, True, "better"),
        (0.1, 0.3, 0.01, False, "worse"),
        (-0.3, -0.1, 0.01, False, "better"),
        (-0.1, 0.3, 0.01, True, "no difference shown"),
        (0.1, 0.3, 0.2, True, "no difference shown"),
        (np.nan, np.nan, np.nan, True, "not measured"),
    ],
)
def test_one_phrase_per_comparison(low: float, high: float, q: float, higher_is_better: bool, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 9), q, higher_is_better=higher_is_better) == expected


def test_front_and_area_by_hand() -> None:
    damage = np.array([1.0, 2.0, 3.0, 2.5, 1.0, np.nan])
    effect = np.array([1.0, 3.0, 4.0, 2.0, 0.5, 9.0])
    assert pareto_front(damage, effect).tolist() == [True, True, True, False, False, False]
    # strips of width 4 - 1, 4 - 2, 4 - 3 and heights 1, 2, 1
    assert hypervolume(damage, effect, worst=(4.0, 0.0)) == 3 * 1 + 2 * 2 + 1 * 1
    assert hypervolume(damage, effect, worst=(2.5, 0.0)) == 1.5 * 1 + 0.5 * 2
    assert hypervolume(damage, effect, worst=(0.5, 0.0)) == 0.0


def test_equal_points_stand_and_fall_together() -> None:
    assert pareto_front(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0])).tolist() == [True, True, False]


def test_a_dominated_point_never_changes_the_area() -> None:
    generator = np.random.default_rng(3)
    damage, effect = generator.uniform(size=12), generator.uniform(size=12)
    front = pareto_front(damage, effect)
    whole = hypervolume(damage, effect, worst=(1.0, 0.0))
    assert hypervolume(damage[front], effect[front], worst=(1.0, 0.0)) == whole
    # every grid cell below and right of some point is dominated: count them
    grid = (np.arange(400) + 0.5) / 400
    covered = ((damage[:, None, None] <= grid[:, None]) & (effect[:, None, None] >= grid)).any(axis=0)
    assert whole == pytest.approx(covered.mean(), abs=0.01)


def test_a_single_pair_gives_no_test() -> None:
    with pytest.raises(ValueError, match="give no interval"):
        sign_flip_p(np.array([1.0]), seed=0)
