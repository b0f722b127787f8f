"""Inference-Time Intervention (ITI): shift the heads whose outputs best tell positive from negative texts.

    z_h <- z_h + strength * sigma_h * theta_h    for the k heads of best validation accuracy, over all layers

theta_h: mean of z_h over positive texts minus mean over negative ones ("mass mean shift"), or the weights of the probe,
made a unit vector; sigma_h: standard deviation of z_h along theta_h.

Source: arXiv 2306.03341 and its released code: a logistic regression per head on the last token, accuracy on a fifth of
the data, k = 48, alpha = 15 (the strength of `steer`), edited at the last position of every call, which is the scope
"from_last_prompt". Ours: a pair is never divided between training and validation; sigma and theta are measured on the
same texts, all of them (the released code takes sigma from separate tuning texts), but probe weights on those the probe
was trained on; every row of a batch is edited (the released code edits the first).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from workbench.interventions.base import Scope, Steering, SteeringError
from workbench.interventions.directions import check_finite
from workbench.interventions.pairs import check_count, check_heads, check_option, pair_activations
from workbench.models import HookedModel
from workbench.records import NotApplicable, Pair, Site

Direction = Literal["mean_shift", "probe_weight"]


@dataclass(frozen=True, eq=False)
class HeadProbes:
    """Every head's validation accuracy (fraction of `2 * n_validation` texts) and its shift sigma * theta."""

    accuracy: Float64[np.ndarray, "layer head"]
    shifts: Float32[np.ndarray, "layer head d_head"]
    n_train: int
    n_validation: int


def probe_heads(
    model: HookedModel,
    pairs: Sequence[Pair],
    *,
    direction: Direction = "mean_shift",
    validation_share: float = 0.2,
    seed: int = 0,
    batch_size: int = 16,
) -> HeadProbes:
    """Fit one probe per head on the last token of each text; pairs are split by `seed`, `direction` says what theta is.

    Keeps the last-token z of all texts: 2 * pairs * layers * heads * d_head * 4 bytes.
    """
    check_option("direction", direction, Direction)
    n_validation = round(validation_share * len(pairs))
    if not 0 < n_validation < len(pairs):
        raise NotApplicable(
            f"{len(pairs)} pairs with a validation share of {validation_share} leave {n_validation} to validate and "
            f"{len(pairs) - n_validation} to train; pass more pairs, or another share"
        )
    sites = [Site("z", layer) for layer in range(model.n_layers)]
    batches = [torch.stack(both, dim=2).float().cpu() for both in pair_activations(model, pairs, sites, batch_size)]
    heads = torch.cat(batches, dim=1).unflatten(-1, (model.n_heads, model.d_head)).permute(0, 3, 1, 2, 4).numpy()
    if not np.isfinite(heads).all():
        raise SteeringError(f"{model.name} gives NaN or infinite head outputs; load it in float32")
    order = np.random.default_rng(seed).permutation(len(pairs))
    train, validation = order[n_validation:], order[:n_validation]
    accuracy, shifts = np.empty(heads.shape[:2]), np.empty((*heads.shape[:2], model.d_head), dtype=np.float32)
    for place in np.ndindex(accuracy.shape):
        head = heads[place].astype(np.float64)
        probe = LogisticRegression(max_iter=1000).fit(*_labelled(head[train]))
        accuracy[place] = probe.score(*_labelled(head[validation]))
        mean_shift = (head[:, 0] - head[:, 1]).mean(axis=0)
        shifts[place] = _shift(head, probe.coef_[0] if direction == "probe_weight" else mean_shift)
    return HeadProbes(accuracy, shifts, len(train), len(validation))


def _labelled(
    head: Float64[np.ndarray, "pair side d_head"],
) -> tuple[Float64[np.ndarray, "text d_head"], Int[np.ndarray, "text"]]:
    """All texts one below the other, and 1 where they are positive."""
    return head.reshape(-1, head.shape[-1]), np.tile([1, 0], len(head))


def _shift(
    head: Float64[np.ndarray, "pair side d_head"], direction: Float64[np.ndarray, "d_head"]
) -> Float64[np.ndarray, "d_head"]:
    """sigma * theta: the direction, as long as the standard deviation of all texts along it."""
    norm = np.linalg.norm(direction)
    if norm == 0:
        return direction
    unit = direction / norm
    return (head.reshape(-1, len(unit)) @ unit).std() * unit


@final
@dataclass(frozen=True, eq=False)
class ITI(Steering):
    """Add `vectors[i]` to the output of head `heads[i]` = (layer, head); `n_heads` is the number in every layer."""

    vectors: Float[Tensor, "head d_head"]
    heads: tuple[tuple[int, int], ...]
    n_heads: int

    published_scope: ClassVar[Scope] = Scope("from_last_prompt")

    def __post_init__(self) -> None:
        check_finite("vectors", self.vectors)
        if len(self.heads) != len(self.vectors) or len(set(self.heads)) != len(self.heads) or not self.heads:
            raise SteeringError(f"{len(self.vectors)} vectors for heads {self.heads}; give one per distinct head")
        if not all(0 <= head < self.n_heads for _, head in self.heads):
            raise SteeringError(f"heads {self.heads} are out of range; a layer has heads 0 to {self.n_heads - 1}")

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("z", layer) for layer in sorted({layer for layer, _ in self.heads}))

    @cached_property
    def _shifts(self) -> dict[int, Float[Tensor, "width"]]:
        d_head = self.vectors.shape[1]
        shifts = {site.layer: self.vectors.new_zeros(self.n_heads, d_head) for site in self.sites}
        for vector, (layer, head) in zip(self.vectors, self.heads, strict=True):
            shifts[layer][head] = vector
        return {layer: shift.flatten() for layer, shift in shifts.items()}

    def check_model(self, model: HookedModel) -> None:
        check_heads("ITI", self.n_heads, model)

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return self._shifts[site.layer].to(x).expand_as(x)

    @classmethod
    def from_probes(cls, probes: HeadProbes, k: int = 48) -> "ITI":
        """Shift the k heads of best validation accuracy; of equals the lowest layer, then the lowest head."""
        n_heads = probes.accuracy.shape[1]
        check_count(k, probes.accuracy.size, "heads")
        best = np.argsort(-probes.accuracy.ravel(), kind="stable")[:k]
        heads = tuple((int(index) // n_heads, int(index) % n_heads) for index in best)
        vectors = torch.from_numpy(np.stack([probes.shifts[head] for head in heads]))
        return cls(vectors, heads, n_heads)

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        pairs: Sequence[Pair],
        *,
        k: int = 48,
        direction: Direction = "mean_shift",
        validation_share: float = 0.2,
        seed: int = 0,
    ) -> "ITI":
        """Probe all heads on `pairs` and shift the best k; for the accuracies call `probe_heads` and `from_probes`."""
        check_count(k, model.n_layers * model.n_heads, "heads")
        probes = probe_heads(model, pairs, direction=direction, validation_share=validation_share, seed=seed)
        return cls.from_probes(probes, k)
