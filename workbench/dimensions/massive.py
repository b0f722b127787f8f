"""Which dimensions carry massive activations: the published rule and those that users debate, as one configurable test.

Sun et al. 2024 (arXiv 2402.17762)   |a| > 100 and |a| > 1000 times the median magnitude of the same hidden state
users (heretic #124, PR #154)        |a| > 100; > 1000 x median; > 1000 x median absolute deviation; clusters of at
                                     most 3; present in at least 25 % of layers
3-sigma                              |a| more than 3 standard deviations above the mean magnitude of the hidden state
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.records import PooledRows, Split


@dataclass(frozen=True)
class MassiveCriterion:
    """When an entry of a hidden state, and with it a dimension, is massive; every condition that is not 0 must hold.

    Of one entry: `at_least` (activation units), `times_median` and `times_mad` (of the magnitudes of the same hidden
    state; MAD: median absolute deviation of the values), `n_sigma` (above the mean magnitude). `at_most` entries of a
    hidden state may pass, otherwise none of them does (0: any number). Of a dimension: it passes at a layer in at least
    `min_prompts` of the prompts of some domain, and at `min_layers` of the layers (fractions; at least one layer).
    """

    at_least: float = 0.0
    times_median: float = 0.0
    times_mad: float = 0.0
    n_sigma: float = 0.0
    at_most: int = 0
    min_prompts: float = 0.5
    min_layers: float = 0.0

    def __post_init__(self) -> None:
        if max(self.at_least, self.times_median, self.times_mad, self.n_sigma) <= 0:
            raise ValueError("a criterion needs a condition; set at_least, times_median, times_mad or n_sigma")
        if not (0 < self.min_prompts <= 1 and 0 <= self.min_layers <= 1):
            raise ValueError(f"min_prompts {self.min_prompts} and min_layers {self.min_layers} are fractions up to 1")

    def entries(self, values: Float[Tensor, "*rows d_model"]) -> Bool[Tensor, "*rows d_model"]:
        """Which entries of hidden states are massive."""
        magnitude = values.float().abs()
        threshold = torch.full_like(magnitude[..., :1], self.at_least)
        if self.times_median:
            threshold = threshold.maximum(self.times_median * magnitude.median(dim=-1, keepdim=True).values)
        if self.times_mad:
            centred = values.float() - values.float().median(dim=-1, keepdim=True).values
            threshold = threshold.maximum(self.times_mad * centred.abs().median(dim=-1, keepdim=True).values)
        if self.n_sigma:
            spread = magnitude.std(dim=-1, keepdim=True, correction=0)
            threshold = threshold.maximum(magnitude.mean(dim=-1, keepdim=True) + self.n_sigma * spread)
        passes = magnitude > threshold
        if self.at_most:
            passes = passes & (passes.sum(dim=-1, keepdim=True) <= self.at_most)
        return passes


SUN = MassiveCriterion(at_least=100.0, times_median=1000.0)
CRITERIA: dict[str, MassiveCriterion] = {
    "3-sigma": MassiveCriterion(n_sigma=3.0),
    "Sun et al.": SUN,
    "above 100": MassiveCriterion(at_least=100.0),
    "1000 x median": MassiveCriterion(times_median=1000.0),
    "1000 x MAD": MassiveCriterion(times_mad=1000.0),
    "at most 3 together": replace(SUN, at_most=3),
    "a quarter of the layers": replace(SUN, min_layers=0.25),
}


def criterion_named(criterion: str | MassiveCriterion) -> MassiveCriterion:
    """A criterion by its name in `CRITERIA`, or as it is."""
    if isinstance(criterion, MassiveCriterion):
        return criterion
    if criterion not in CRITERIA:
        raise ValueError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")
    return CRITERIA[criterion]


def massive_dimensions(
    rows: PooledRows, criterion: str | MassiveCriterion = "Sun et al.", *, split: Split = "identify"
) -> Bool[np.ndarray, "layer d_model"]:
    """The massive dimensions of every layer, judged at the first position and at the largest later values.

    Of the first position the hidden state itself is in the rows. Of later ones the largest magnitude of every dimension
    stands in for it; its median is at least that of any single token, so the median rules are on the strict side there.
    `min_prompts` must be reached in some domain.
    """
    rule = criterion_named(criterion)
    chosen = rows.where(split=split)
    if not chosen.any():
        raise ValueError(f"there are no prompts in split {split!r}; choose another split")
    states = (torch.from_numpy(np.ascontiguousarray(rows.pooled(pooling)[chosen])) for pooling in ("first", "max_abs"))
    passes = torch.stack([rule.entries(state) for state in states]).any(dim=0).numpy()
    of = np.array(rows.domains)[chosen]
    shares = np.stack([passes[of == domain].mean(axis=0) for domain in dict.fromkeys(of.tolist())])
    of_layer = shares.max(axis=0) >= rule.min_prompts
    return of_layer & (of_layer.mean(axis=0) >= rule.min_layers)
