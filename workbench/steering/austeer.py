"""AUSteer: scale the few activation coordinates ("atomic units") whose sign of change is most consistent over pairs.

    m_ij = x_i(positive_j) - x_i(negative_j)                momentum of unit i in pair j, at the last token of each text
    r+_i, r-_i = share of pairs with m_ij > 0, with m_ij < 0;     s_i = max(r+_i, r-_i)
    x_i <- x_i + strength * g_i * x_i,   g_i = r+_i if r+_i > r-_i else -r-_i,   for the k units of largest s_i

Source: arXiv 2602.04428 and its released code (last token of prompt + answer, one ranking over all layers, the mlp
output rather than its neurons as units, ties in favour of the lowest layer and index). The paper's alpha is the
strength of `steer`; its token scope is "all". At an exact tie r+ = r- the code has a positive gain and the formula a
negative one; here the formula holds.

Ours: the mode `momentum_consistent`, x_i <- x_i + strength * g_i * |x_i|, which moves x_i in the direction of its
momentum also where x_i is negative (the published rule then moves it the other way); null thresholds; the share of
activations above zero; counting in a stream, so that memory does not grow with the number of pairs.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from scipy import stats
from torch import Tensor

from workbench.models import HookedModel
from workbench.records import Pair, Site
from workbench.steering._base import Scope, Steering, SteeringError
from workbench.steering._directions import check_finite
from workbench.steering._pairs import PairActivations, check_count, check_kind, pair_activations

UnitKind = Literal["z", "mlp_raw", "resid_post"]
Mode = Literal["published", "momentum_consistent"]
Null = Literal["independent", "flips"]
Choice = Literal["top", "bottom", "random"]


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
    flips = torch.randint(0, 2, (n_flips, len(pairs)), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    counters = count_signs(stream, shape, flips=flips, device=model.device, source=model.name)
    return SignScores(sites, len(pairs), *(counter.cpu().numpy() for counter in counters))


def count_signs(
    stream: Iterable[PairActivations],
    shape: tuple[int, int],
    *,
    flips: Int[Tensor, "flip all_pairs"] | None = None,
    device: torch.device | None = None,
    source: str = "the model",
) -> tuple[Int[Tensor, "..."], ...]:
    """The counters behind `sign_consistency`, over batches of [site, pair, width]: larger, smaller, above zero in the
    positive and in the negative texts, and the largest count of any unit under each flip of labels (+1 or -1).
    """
    larger, smaller, positive_above, negative_above = (
        torch.zeros(shape, dtype=torch.long, device=device) for _ in range(4)
    )
    n_flips = 0 if flips is None else len(flips)
    flipped, done = torch.zeros((n_flips, *shape), device=device), 0
    for positive, negative in stream:
        # A sum shows NaN and infinity, and is many times faster than isfinite; so are int32 sums than the default.
        if not math.isfinite(float(positive.sum(dtype=torch.float32) + negative.sum(dtype=torch.float32))):
            raise SteeringError(f"{source} gives NaN or infinite activations at these sites; load it in float32")
        up, down = positive > negative, positive < negative
        larger += up.sum(dim=1, dtype=torch.int32)
        smaller += down.sum(dim=1, dtype=torch.int32)
        positive_above += (positive > 0).sum(dim=1, dtype=torch.int32)
        negative_above += (negative > 0).sum(dim=1, dtype=torch.int32)
        if flips is not None and n_flips:
            signs = flips[:, done : done + up.shape[1]].to(flipped)
            flipped += torch.einsum("fp,spw->fsw", signs, up.float() - down.float())
        done += up.shape[1]
    maxima = (larger + smaller + flipped.abs().long()).flatten(1).amax(dim=1) // 2 if n_flips else torch.zeros(0).long()
    return larger, smaller, positive_above, negative_above, maxima


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
    _check_option("null", null, Null)
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
    _check_option("choice", which, Choice)
    flat = np.maximum(scores.n_positive, scores.n_negative).ravel()
    n_ties = 0
    if which == "random":
        chosen = np.random.default_rng(seed).choice(scores.n_units, size=k, replace=False)
    else:
        chosen = np.argsort(-flat if which == "top" else flat, kind="stable")[:k]
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


def _check_option(noun: str, value: str, allowed: object) -> None:
    if value not in get_args(allowed):
        raise SteeringError(f"unknown {noun} {value!r}; choose one of {', '.join(get_args(allowed))}")


@final
@dataclass(frozen=True, eq=False)
class AUSteer(Steering):
    """Scale chosen coordinates: `gain[i]` are the gains at `layers[i]`, mostly 0, the same for every token."""

    gain: Float[Tensor, "layer width"]
    kind: UnitKind
    layers: tuple[int, ...]
    mode: Mode = "published"

    published_scope: ClassVar[Scope] = Scope("all")

    def __post_init__(self) -> None:
        check_finite("gain", self.gain)
        check_kind(self.kind, UnitKind, "AUSteer")
        _check_option("mode", self.mode, Mode)
        if len(self.layers) != len(self.gain) or len(set(self.layers)) != len(self.layers):
            raise SteeringError(f"{len(self.gain)} rows of gains for layers {self.layers}; give one per distinct layer")
        if not bool(self.gain.any()):
            raise SteeringError("all gains are 0, so nothing would change; choose units whose activations differ")

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site(self.kind, layer) for layer in self.layers)

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        gain = self.gain[self.layers.index(site.layer)].to(x)
        return gain * (x if self.mode == "published" else x.abs())

    @classmethod
    def from_units(cls, selection: UnitSelection, mode: Mode = "published") -> "AUSteer":
        """The steering that scales the selected units by their gains."""
        layers = tuple(sorted({int(layer) for layer in selection.layers}))
        gain = torch.zeros(len(layers), selection.width)
        rows = [layers.index(int(layer)) for layer in selection.layers]
        gain[rows, selection.units.tolist()] = torch.tensor(selection.gains, dtype=torch.float32)
        return cls(gain, selection.kind, layers, mode)

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        pairs: Sequence[Pair],
        *,
        kind: UnitKind = "mlp_raw",
        k: int = 16,
        mode: Mode = "published",
        layers: Sequence[int] | None = None,
        batch_size: int = 16,
    ) -> "AUSteer":
        """Score the units of one kind of site over `pairs` (prompt + wanted or unwanted answer) and take the top k.

        For scores, ties and null thresholds call `sign_consistency`, `select_units` and `from_units` in turn.
        """
        check_kind(kind, UnitKind, "AUSteer")
        sites = [Site(kind, layer) for layer in (range(model.n_layers) if layers is None else layers)]
        return cls.from_units(select_units(sign_consistency(model, pairs, sites, batch_size=batch_size), k), mode)
