"""Intervals cover as often as they say, and are honest about what they cannot know."""

import numpy as np
import pytest
from scipy import stats

from workbench.comparison import Interval, paired_interval


@pytest.mark.parametrize("n", [8, 48])
def test_interval_covers_the_true_mean_as_often_as_stated(n: int) -> None:
    generator = np.random.default_rng(n)
    n_experiments = 600
    covered = 0
    for seed in range(n_experiments):
        interval = paired_interval(generator.normal(0.3, 1.0, size=n), seed=seed, n_resamples=1000)
        covered += interval.low <= 0.3 <= interval.high
    # 95 % of 600 experiments, plus or minus three standard errors of such a share
    assert abs(covered / n_experiments - 0.95) < 3 * np.sqrt(0.95 * 0.05 / n_experiments)


def test_interval_agrees_with_scipy_for_many_pairs() -> None:
    differences = np.random.default_rng(0).exponential(size=800) - 0.7
    ours = paired_interval(differences, seed=1, n_resamples=20000)
    theirs = stats.bootstrap((differences,), np.mean, method="percentile", rng=2, n_resamples=20000).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=2e-3)
    assert ours.high == pytest.approx(theirs.high, abs=2e-3)


def test_exchanging_the_arms_negates_the_effect() -> None:
    differences = np.random.default_rng(3).normal(0.5, 1, size=40)
    there, back = paired_interval(differences, seed=5), paired_interval(-differences, seed=5)
    assert there.mean == -back.mean
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


def test_four_pairs_by_hand() -> None:
    interval = paired_interval(np.array([1.0, 1.0, 1.0, 5.0]), seed=0)
    assert interval.mean == 2.0
    # the lowest and highest means that four draws can give
    assert interval.low == pytest.approx(1.0)
    assert 4.0 <= interval.high <= 5.0
    assert paired_interval(np.full(5, 0.25), seed=0) == Interval(0.25, 0.25, 0.25, 5)
    assert Interval(0.1, -0.1, 0.5, 9).covers_zero
    assert Interval(0.1, -0.1, 0.5, 9).half_width == pytest.approx(0.3)
    assert not Interval(0.3, 0.1, 0.5, 9).covers_zero


def test_same_seed_same_interval() -> None:
    differences = np.random.default_rng(0).normal(size=30)
    assert paired_interval(differences, seed=7) == paired_interval(differences, seed=7)
    assert paired_interval(differences, seed=7) != paired_interval(differences, seed=8)


def test_what_gives_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        paired_interval(np.array([0.5]), seed=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        paired_interval(np.array([0.5, np.nan]), seed=0)
    with pytest.raises(ValueError, match="level"):
        paired_interval(np.array([0.5, 0.4]), seed=0, level=95.0)
