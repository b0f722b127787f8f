"""Semantics-Adaptive Dynamic Intervention (SADI): scale the elements whose activation differs most between pairs.

    A <- A + strength * M * A,   M = 1 on the k elements of largest mean difference (positive - negative), else 0

Source: arXiv 2410.12299; this is the paper's formula, with its delta as strength. Elements are whole heads (the
difference averaged over d_head) or single coordinates of the MLP output before any post-norm; differences are taken at
the last token, only positive ones count, and the last prompt token is edited.

The released code differs: it multiplies the elements by its own delta, so delta_code = delta_paper + 1, and overwrites
all outputs of the same type at that token, in all layers, with values of an unedited pass, so that an edit never
changes a later one. Here later layers see the edited values. FFN neurons, the code's third type, are no site of this
workbench. The paper tunes k and delta on the test set; do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from workbench.interventions.base import Scope, Steering, SteeringError
from workbench.interventions.directions import check_finite, check_layers
from workbench.interventions.pairs import check_count, check_kind, pair_activations
from workbench.models import HookedModel
from workbench.records import NotApplicable, Pair, Site

Elements = Literal["z", "mlp_raw"]


@final
@dataclass(frozen=True, eq=False)
class SADI(Steering):
    """Add the activation itself where `mask[i]` is 1, at `layers[i]`; `kind` is z (heads) or mlp_raw (coordinates)."""

    mask: Float[Tensor, "layer width"]
    kind: Elements
    layers: tuple[int, ...]

    published_scope: ClassVar[Scope] = Scope("last_prompt")

    def __post_init__(self) -> None:
        check_finite("mask", self.mask)
        check_kind(self.kind, Elements, "SADI")
        check_layers("masks", self.mask, self.layers)
        if not bool(((self.mask == 0) | (self.mask == 1)).all()) or not bool(self.mask.any()):
            raise SteeringError("a SADI mask holds 0 and 1, and at least one 1")

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site(self.kind, layer) for layer in self.layers)

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return self.mask[self.layers.index(site.layer)].to(x) * x

    @classmethod
    def fit(
        cls, model: HookedModel, pairs: Sequence[Pair], *, kind: Elements = "z", k: int = 6, batch_size: int = 16
    ) -> "SADI":
        """The k elements of largest mean difference over all layers; of equals the lowest layer, then index.

        Raises `NotApplicable` if fewer than k differences are positive.
        """
        check_kind(kind, Elements, "SADI")
        group = model.d_head if kind == "z" else 1
        difference = _mean_difference(model, pairs, kind, batch_size).unflatten(-1, (-1, group)).mean(dim=-1)
        check_count(k, difference.numel(), "heads" if kind == "z" else "coordinates")
        n_positive = int((difference > 0).sum())
        if n_positive < k:
            raise NotApplicable(f"only {n_positive} elements have a positive difference; pass k <= {n_positive}")
        chosen = difference.flatten().argsort(descending=True, stable=True)[:k]
        mask = torch.zeros(difference.numel()).index_fill(0, chosen, 1.0).view(difference.shape)
        layers = [layer for layer, row in enumerate(mask) if bool(row.any())]
        return cls(mask[layers].repeat_interleave(group, dim=1), kind, tuple(layers))


def _mean_difference(
    model: HookedModel, pairs: Sequence[Pair], kind: Elements, batch_size: int
) -> Float64[Tensor, "layer width"]:
    sites = [Site(kind, layer) for layer in range(model.n_layers)]
    total = torch.zeros(len(sites), model.width(sites[0]), dtype=torch.float64)
    for positive, negative in pair_activations(model, pairs, sites, batch_size):
        total += (positive.double() - negative.double()).sum(dim=1).cpu()
    if not bool(torch.isfinite(total).all()):
        raise SteeringError(f"{model.name} gives NaN or infinite activations at these sites; load it in float32")
    return total / len(pairs)
