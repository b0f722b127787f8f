"""Paired statistics: intervals for the mean of differences that belong together.

Sign convention everywhere: a difference is steered minus unsteered, or first arm minus second, of the same passage or
prompt. Whether positive is good depends on the metric. The unit that is resampled is the passage, never the token.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

N_RESAMPLES = 4000


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
    n = len(differences)
    if n < 2:
        raise ValueError(f"{n} paired difference(s) give no interval; measure at least 2 passages or prompts")
    if not np.isfinite(differences).all():
        raise ValueError("paired differences hold NaN or infinite values; look at the losses of the passages")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    rows = np.random.default_rng(seed).integers(0, n, size=(n_resamples, n))
    means = differences[rows].mean(axis=1)
    expanded = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, df=n - 1)
    tail = float(stats.norm.cdf(-expanded))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(differences.mean()), float(low), float(high), n)
