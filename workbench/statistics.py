"""Paired statistics: intervals and tests for the mean of differences that belong together, and Pareto fronts.

Sign convention everywhere: a difference is steered minus unsteered, or first arm minus second, of the same passage or
prompt. Whether positive is good depends on the metric. The unit that is resampled is the passage, never the token.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy import stats

from workbench.records import Outcome

N_RESAMPLES = 4000
N_FLIPS = 20000
N_EXACT = 12  # pairs up to which every flip is counted
MAX_BINS = 4096
ALPHA = 0.05


@dataclass(frozen=True)
class Interval:
    """A mean of `n` paired differences with the bounds of its bootstrap interval, in the unit of the differences."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def covers_zero(self) -> bool:
        return self.low <= 0 <= self.high

    @property
    def half_width(self) -> float:
        """The smallest true difference that an experiment of this size tends to show."""
        return (self.high - self.low) / 2


def paired_interval(
    differences: Float64[np.ndarray, "pair"], *, seed: int, level: float = 0.95, n_resamples: int = N_RESAMPLES
) -> Interval:
    """Mean of paired differences with its expanded percentile bootstrap interval.

    Plain percentile intervals are too narrow for few pairs: the resampled mean has variance (n-1)/n too small, and a
    normal tail where Student's belongs. The quantiles are therefore moved outwards as Hesterberg (2015, section 4.3)
    proposes; for large n they are the plain ones. Raises for fewer than two pairs and for values that are not finite.
    """
    _check_pairs(differences)
    n = len(differences)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    rows = np.random.default_rng(seed).integers(0, n, size=(n_resamples, n))
    means = differences[rows].mean(axis=1)
    expanded = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, df=n - 1)
    tail = float(stats.norm.cdf(-expanded))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(differences.mean()), float(low), float(high), n)


def percentile_interval(resampled: Float64[np.ndarray, "resample"]) -> tuple[float, float]:
    """Bounds of the middle 95 % of resampled values; NaN is left out, and where nothing is known both are NaN."""
    known = resampled[~np.isnan(resampled)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def resample_counts(n: int, n_resamples: int, rng: np.random.Generator) -> Float64[np.ndarray, "resample unit"]:
    """How often each of `n` units is drawn in every bootstrap resample of n units."""
    return rng.multinomial(n, np.full(n, 1 / n), n_resamples).astype(np.float64)


def auroc(
    values: Float[np.ndarray, "token column"], members: Bool[np.ndarray, "token class"]
) -> Float64[np.ndarray, "column class"]:
    """Area under the ROC curve of every column for every class, ties counted half; NaN where one side is empty."""
    ranks = stats.rankdata(values, axis=0)
    n_inside = members.sum(axis=0)
    wins = ranks.T @ members.astype(np.float64) - n_inside * (n_inside + 1) / 2
    pairs = (n_inside * (len(members) - n_inside)).astype(np.float64)
    return wins / np.where(pairs > 0, pairs, np.nan)


def auroc_interval(
    values: Float[np.ndarray, "token"],
    is_member: Bool[np.ndarray, "token"],
    document: Int[np.ndarray, "token"],
    weights: Float64[np.ndarray, "resample document"],
) -> tuple[float, float]:
    """95 % percentile interval of the AUROC over resampled documents.

    Wins are counted once per pair of documents, so that a resample is a weighted sum over pairs. Exact up to 4096
    distinct values; beyond that, values are put into as many bins of equal share and those of one bin count as ties.
    """
    bins = np.unique(values, return_inverse=True)[1]
    n_bins = int(bins.max()) + 1
    if n_bins > MAX_BINS:
        bins, n_bins = bins * MAX_BINS // n_bins, MAX_BINS
    n_documents = weights.shape[1]
    outside = np.bincount(document[~is_member] * n_bins + bins[~is_member], minlength=n_documents * n_bins)
    outside = outside.reshape(n_documents, n_bins).astype(np.float64)
    beaten = outside.cumsum(axis=1) - outside / 2
    wins = np.zeros((n_documents, n_documents))
    np.add.at(wins, document[is_member], beaten[:, bins[is_member]].T)
    # einsum rather than @: products this small only wait for one another on the threads of a busy machine
    won = (np.einsum("bd,de->be", weights, wins) * weights).sum(axis=1)
    pairs = (weights @ np.bincount(document[is_member], minlength=n_documents)) * (weights @ outside.sum(axis=1))
    scores = won[pairs > 0] / pairs[pairs > 0]
    return percentile_interval(scores)


def spearman(first: Float[np.ndarray, "dimension"], second: Float[np.ndarray, "dimension"]) -> float:
    """Spearman's rank correlation over the dimensions that both scores know; NaN where one of them is constant."""
    known = ~(np.isnan(first) | np.isnan(second))
    if known.sum() < 3:
        raise ValueError(f"{int(known.sum())} dimensions are in both rankings; a correlation needs at least 3")
    a, b = first[known], second[known]
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.asarray(stats.spearmanr(a, b)[0]))


def sign_flip_p(differences: Float64[np.ndarray, "pair"], *, seed: int, n_flips: int = N_FLIPS) -> float:
    """Two-sided p-value of the paired sign-flip test: how often flipped signs give a mean at least as far from zero.

    Up to 12 pairs all 2^n flips are counted; beyond that `n_flips` are drawn, and the smallest p is 1 / (n_flips + 1).
    SciPy's `permutation_test` gives the same where all flips are counted and takes ten times as long elsewhere.
    Flipping whole pairs is exact where a pair is as likely to differ one way as the other. Raises as `paired_interval`.
    """
    _check_pairs(differences)
    n = len(differences)
    if n <= N_EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        drawn = 0
    else:
        signs = np.random.default_rng(seed).integers(0, 2, size=(n_flips, n), dtype=np.int8) * 2 - 1
        drawn = 1
    observed = abs(differences.sum())
    slack = 1e-9 * np.abs(differences).sum()
    n_as_far = int((np.abs(signs @ differences) >= observed - slack).sum())
    return (n_as_far + drawn) / (len(signs) + drawn)


def benjamini_hochberg(p: Float64[np.ndarray, "test"]) -> Float64[np.ndarray, "test"]:
    """Adjusted p-values of a family: keeping those of at most 0.05 keeps the expected share of false ones below 5 %.

    NaN stands for a comparison that was not measured; it stays NaN and does not count in the family.
    """
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    if (p[known] < 0).any() or (p[known] > 1).any():
        raise ValueError("p-values lie between 0 and 1; pass those of sign_flip_p, say")
    adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted


def verdict(interval: Interval, q: float, *, higher_is_better: bool) -> Outcome:
    """Better, worse, or no difference shown: the interval must leave zero out, and `q` be at most 0.05."""
    if math.isnan(interval.mean):
        return "not measured"
    if interval.covers_zero or not q <= ALPHA:
        return "no difference shown"
    return "better" if (interval.mean > 0) == higher_is_better else "worse"


def pareto_front(
    damage: Float64[np.ndarray, "point"], effect: Float64[np.ndarray, "point"]
) -> Bool[np.ndarray, "point"]:
    """True where no other point has at most this damage and at least this effect, one of them strictly.

    Equal points are all on the front or all off it; points with a NaN are off it.
    """
    known = ~(np.isnan(damage) | np.isnan(effect))
    no_worse = (damage[:, None] <= damage) & (effect[:, None] >= effect)
    strictly = (damage[:, None] < damage) | (effect[:, None] > effect)
    return known & ~(no_worse & strictly & known[:, None]).any(axis=0)


def hypervolume(
    damage: Float64[np.ndarray, "point"], effect: Float64[np.ndarray, "point"], *, worst: tuple[float, float]
) -> float:
    """Area of what the points dominate, up to the reference point `worst` = (most damage, least effect).

    In units of damage times effect. Points that are not better than `worst` in both add nothing.
    """
    most, least = worst
    on_front = pareto_front(damage, effect) & (damage < most) & (effect > least)
    area, height = 0.0, least
    for point in sorted(set(zip(damage[on_front].tolist(), effect[on_front].tolist(), strict=True))):
        area += (most - point[0]) * (point[1] - height)
        height = point[1]
    return area


def _check_pairs(differences: Float64[np.ndarray, "pair"]) -> None:
    if len(differences) < 2:
        raise ValueError(
            f"{len(differences)} paired difference(s) give no interval; measure at least 2 passages or prompts"
        )
    if not np.isfinite(differences).all():
        raise ValueError("paired differences hold NaN or infinite values; look at the losses of the passages")
