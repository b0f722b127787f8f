"""Contrastive Activation Addition (CAA), here also the whole-dimension baseline of CDS.

    r_l <- r_l + strength * v_l,   v_l = mean over positive texts - mean over negative texts of r_l

Source: arXiv 2312.06681 (difference of means at one block output). Ours: the pooling is an option (`last` is the
paper's answer token when the texts end in it, `mean` averages over the tokens after the first), and the vector keeps
its norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from workbench.interventions.base import Steering
from workbench.interventions.directions import (
    Examples,
    Pooling,
    check_finite,
    difference_in_means,
    residual_difference,
)
from workbench.models import HookedModel
from workbench.records import Site, SiteKind


@final
@dataclass(frozen=True, eq=False)
class ContrastiveAddition(Steering):
    """Add `direction` at one site, by default the block output of `layer`."""

    direction: Float[Tensor, "d_model"]
    layer: int
    kind: SiteKind = "resid_post"

    def __post_init__(self) -> None:
        check_finite("direction", self.direction)

    @property
    def sites(self) -> tuple[Site, ...]:
        return (Site(self.kind, self.layer),)

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return self.direction.to(x).expand_as(x)

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        positive: Examples,
        negative: Sequence[str] = (),
        *,
        domain: str = "",
        layer: int,
        pooling: Pooling = "mean",
    ) -> "ContrastiveAddition":
        """Difference in means of the block outputs of `layer`: of texts, or of the rows of a domain and of all others.

        `pooling` is over the tokens of a text: `mean` of those after the first, or the `last`.
        """
        direction = residual_difference(model, positive, negative, domain, [layer], pooling)
        return cls(direction[0], int(layer))

    @classmethod
    def fit_input(
        cls,
        model: HookedModel,
        positive: Sequence[str],
        negative: Sequence[str],
        *,
        layer: int,
        pooling: Pooling = "last",
    ) -> "ContrastiveAddition":
        """The same at the input of a block: the direction that `DirectionalAblation` takes out, added instead."""
        site = Site("resid_pre", layer)
        return cls(difference_in_means(model, positive, negative, [site], pooling)[0, 0].float(), layer, "resid_pre")
