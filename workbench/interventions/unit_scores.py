"""Which activation coordinates ("atomic units") change in the same direction in most contrastive pairs.

    m_ij = x_i(positive_j) - x_i(negative_j)                momentum of unit i in pair j, at the last token of each text
    r+_i, r-_i = share of pairs with m_ij > 0, with m_ij < 0;     s_i = max(r+_i, r-_i)

Source: arXiv 2602.04428 and its released code (last token of prompt + answer, one ranking over all layers, the mlp
output rather than its neurons as units, ties in favour of the lowest layer and index). Ours: null thresholds, the share
of activations above zero, and counting in a stream, so that memory does not grow with the number of pairs.
"""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from scipy import stats

from workbench.interventions.base import SteeringError
from workbench.interventions.pairs import PairActivations, check_count, check_kind, check_option, pair_activations
from workbench.models import HookedModel
from workbench.records import Pair, Site

UnitKind = Literal["z", "mlp_raw", "resid_post"]
Null = Literal["independent", "flips"]
Choice = Literal["top", "bottom", "random"]
Place = tuple[int, slice, slice]  # a site, all rows, a block of units
BLOCK = 16_384  # units counted at a time: the activations of a batch then stay in the cache


@dataclass(frozen=True, eq=False)
class SignScores:
    """Counts over pairs for every unit: how often its activation is larger, and smaller, in the positive text.

    `n_above_zero_positive` and `n_above_zero_negative` count activations > 0 in the positive and in the negative texts.
    `flipped_maxima` holds, per random flip of the pair labels, the largest count of any unit; empty if none were asked
    for. Sites are of one kind, in ascending order of layer.
    """

    sites: tuple[Site, ...]
    n_pairs: int
    n_positive: Int64[np.ndarray, "layer width"]
    n_negative: Int64[np.ndarray, "layer width"]
    n_above_zero_positive: Int64[np.ndarray, "layer width"]
    n_above_zero_negative: Int64[np.ndarray, "layer width"]
    flipped_maxima: Int64[np.ndarray, "flip"]

    @property
    def n_units(self) -> int:
        return self.n_positive.size

    @property
    def scores(self) -> Float64[np.ndarray, "layer width"]:
        """s = max(r+, r-), a fraction of the pairs."""
        return np.maximum(self.n_positive, self.n_negative) / self.n_pairs

    @property
    def gains(self) -> Float64[np.ndarray, "layer width"]:
        """Signed score: the published gamma at alpha = 1."""
        return np.where(self.n_positive > self.n_negative, self.n_positive, -self.n_negative) / self.n_pairs

    @property
    def share_above_zero(self) -> Float64[np.ndarray, "layer width"]:
        """Share of all last-token activations that are > 0; the published rule follows the momentum only there."""
        return (self.n_above_zero_positive + self.n_above_zero_negative) / (2 * self.n_pairs)


@dataclass(frozen=True, eq=False)
class UnitSelection:
    """Chosen units, best first, with what is known about each.

    `n_ties_at_cut` counts units that were left out although they score the same as the last one chosen. Scores of at
    least `null_threshold` are rare (one selection in twenty) where pair labels mean nothing; infinite if there are too
    few pairs for any score to be.
    """

    kind: UnitKind
    width: int
    layers: Int64[np.ndarray, "unit"]
    units: Int64[np.ndarray, "unit"]
    scores: Float64[np.ndarray, "unit"]
    gains: Float64[np.ndarray, "unit"]
    share_above_zero: Float64[np.ndarray, "unit"]
    n_ties_at_cut: int
    null_threshold: float

    @property
    def is_above_null(self) -> Bool[np.ndarray, "unit"]:
        return self.scores >= self.null_threshold


def sign_consistency(
    model: HookedModel,
    pairs: Sequence[Pair],
    sites: Sequence[Site],
    *,
    batch_size: int = 16,
    n_flips: int = 0,
    seed: int = 0,
) -> SignScores:
    """Count the sign of the momentum of every unit at `sites` (one kind, distinct layers) over all pairs, in one pass.

    Memory: one batch of last-token activations and four integers per unit, whatever the number of pairs, plus one float
    per unit and flip. `n_flips` asks for that many random flips of the labels of whole pairs, drawn from `seed`. A text
    longer than the context raises: cutting it would score another token than its last.
    """
    sites = _checked(sites)
    stream = pair_activations(model, pairs, sites, batch_size)
    shape = (len(sites), model.width(sites[0]))
    flips = np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.float32), size=(n_flips, len(pairs)))
    return SignScores(sites, len(pairs), *count_signs(stream, shape, flips=flips, source=model.name))


def count_signs(
    stream: Iterable[PairActivations],
    shape: tuple[int, int],
    *,
    flips: Float32[np.ndarray, "flip all_pairs"] | None = None,
    source: str = "the model",
) -> tuple[Int64[np.ndarray, "..."], ...]:
    """The counters behind `sign_consistency`, over batches of [site, pair, width]: larger, smaller, above zero in the
    positive and in the negative texts, and the largest count of any unit under each flip of labels (+1 or -1).
    """
    n_sites, width = shape
    counters = np.zeros((n_sites, 4, width), dtype=np.int32)
    flipped, done = np.zeros((0 if flips is None else len(flips), *shape), dtype=np.float32), 0
    parts = [slice(start, start + BLOCK) for start in range(0, width, BLOCK)]
    places = [(site, slice(None), part) for site in range(n_sites) for part in parts]
    n_threads = torch.get_num_threads()
    shares = [places[thread::n_threads] for thread in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool:
        for batch in stream:
            positive, negative = (values.cpu().float().numpy() for values in batch)

            def count(share: Sequence[Place], one: np.ndarray = positive, other: np.ndarray = negative) -> bool:
                return all(_add_signs(counters[place], one[place], other[place]) for place in share)

            if not all(pool.map(count, shares)):
                raise SteeringError(f"{source} gives NaN or infinite activations at these sites; load it in float32")
            n_pairs = positive.shape[1]
            if len(flipped):
                assert flips is not None
                flipped += np.tensordot(flips[:, done : done + n_pairs], np.sign(positive - negative), axes=(1, 1))
            done += n_pairs
    totals = counters.swapaxes(0, 1).astype(np.int64)
    doubled = totals[0] + totals[1] + np.abs(flipped).astype(np.int64)
    return *totals, doubled.max(axis=(1, 2), initial=0) // 2


def _add_signs(
    counters: Int32[np.ndarray, "4 width"],
    positive: Float32[np.ndarray, "pair width"],
    negative: Float32[np.ndarray, "pair width"],
) -> bool:
    """Add the counts of one block of units, whose activations stay in the cache; False where one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        momentum = positive - negative
    flags = np.empty((4, *momentum.shape), dtype=bool)
    np.greater(momentum, 0, out=flags[0])
    np.less(momentum, 0, out=flags[1])
    np.greater(positive, 0, out=flags[2])
    np.greater(negative, 0, out=flags[3])
    counters += np.add.reduce(flags.view(np.uint8), axis=1, dtype=np.uint8 if len(positive) <= 255 else np.int32)
    return math.isfinite(torch.from_numpy(momentum).sum())  # a sum shows NaN and infinity, and is faster than isfinite


def _checked(sites: Sequence[Site]) -> tuple[Site, ...]:
    if not sites:
        raise SteeringError("no sites to score; pass the sites of one kind, such as Site('mlp_raw', 0)")
    for site in sites:
        check_kind(site.kind, UnitKind, "AUSteer")
    if len({site.kind for site in sites}) > 1 or len(set(sites)) < len(sites):
        raise SteeringError(f"expected distinct sites of one kind, given {', '.join(map(str, sites))}")
    return tuple(sorted(sites))


def null_threshold(scores: SignScores, *, null: Null = "independent", level: float = 0.05) -> float:
    """The smallest score that any unit reaches with a probability of at most `level` if pair labels mean nothing.

    `independent`: exact binomial for units with independent fair signs, over all units. `flips`: from the random flips
    of `sign_consistency`, which keep the correlation between units. Infinite where even a score of 1 is too likely.
    """
    if not 0 < level < 1:
        raise SteeringError(f"level is a probability between 0 and 1, not {level}")
    check_option("null", null, Null)
    n_pairs = scores.n_pairs
    if null == "independent":
        counts = np.arange(n_pairs // 2 + 1, n_pairs + 1)
        one_unit = np.minimum(2 * stats.binom.sf(counts - 1, n_pairs, 0.5), 1 - 1e-12)
        any_unit = -np.expm1(scores.n_units * np.log1p(-one_unit))
        return float(counts[any_unit <= level][0] / n_pairs) if any_unit[-1] <= level else math.inf
    n_flips = len(scores.flipped_maxima)
    # The observed labels are one more flip: at most `allowed` flips may reach the threshold.
    allowed = math.floor(level * (n_flips + 1)) - 1
    if allowed < 0:
        raise SteeringError(
            f"{n_flips} flips cannot show a level of {level}; ask sign_consistency for n_flips >= "
            f"{math.ceil(1 / level) - 1}"
        )
    count = int(np.sort(scores.flipped_maxima)[::-1][allowed]) + 1
    return count / n_pairs if count <= n_pairs else math.inf


def select_units(
    scores: SignScores, k: int, *, which: Choice = "top", null: Null = "independent", seed: int = 0
) -> UnitSelection:
    """The k units of largest score over all layers jointly; of equals the lowest layer, then the lowest index.

    `bottom` (smallest scores) and `random` (drawn from `seed`) are controls.
    """
    check_count(k, scores.n_units, "units")
    check_option("choice", which, Choice)
    flat = np.maximum(scores.n_positive, scores.n_negative).ravel()
    n_ties = 0
    if which == "random":
        chosen = np.random.default_rng(seed).choice(scores.n_units, size=k, replace=False)
    else:
        chosen = first_of(flat if which == "top" else -flat, k)
        n_ties = int((flat == flat[chosen[-1]]).sum() - (flat[chosen] == flat[chosen[-1]]).sum())
    rows, units = np.unravel_index(chosen, scores.n_positive.shape)
    layers = np.array([site.layer for site in scores.sites], dtype=np.int64)
    kind = scores.sites[0].kind
    assert kind in ("z", "mlp_raw", "resid_post")
    return UnitSelection(
        kind=kind,
        width=scores.n_positive.shape[1],
        layers=layers[rows],
        units=units.astype(np.int64),
        scores=scores.scores[rows, units],
        gains=scores.gains[rows, units],
        share_above_zero=scores.share_above_zero[rows, units],
        n_ties_at_cut=n_ties,
        null_threshold=null_threshold(scores, null=null),
    )


def first_of(values: Int64[np.ndarray, "unit"], k: int) -> Int64[np.ndarray, "k"]:
    """Indices of the k largest values in descending order, of equals the lowest index; sorts no more than it must."""
    cut = np.partition(values, -k)[-k]
    candidates = np.flatnonzero(values >= cut)
    return candidates[np.argsort(-values[candidates], kind="stable")[:k]]


def unit_frame(selection: UnitSelection) -> pd.DataFrame:
    """One row per chosen unit; `follows_momentum` is the share of activations that the published rule moves so."""
    return pd.DataFrame(
        {
            "site": selection.kind,
            "layer": selection.layers,
            "unit": selection.units,
            "score": selection.scores,
            "gain": selection.gains,
            "follows_momentum": selection.share_above_zero,
            "above_null": selection.is_above_null,
        }
    )
