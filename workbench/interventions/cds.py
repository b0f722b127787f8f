"""Critical Dimension Steering (CDS): activation steering restricted to the domain-critical dimensions.

    r_l <- r_l + strength * M_S v_l,   v_l = mean over positive texts - mean over negative texts of r_l

Source: arXiv 2603.00029. The idea (restrict a difference-in-means direction to the DCDs) is the paper's; layers,
pooling, token scope and the absence of any renormalisation are this workbench's choices, since the paper's are not
known to us. With S = all dimensions at one layer it equals contrastive addition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.interventions.base import Steering, SteeringError
from workbench.interventions.directions import (
    Examples,
    Pooling,
    check_finite,
    check_layers,
    checked_dimensions,
    checked_layers,
    domain_dimensions,
    residual_difference,
)
from workbench.models import HookedModel
from workbench.records import PooledRows, Selection, Site


@final
@dataclass(frozen=True, eq=False)
class CriticalDimensionSteering(Steering):
    """Add, at the block outputs `layers`, `direction[i]` on the chosen `dimensions` and nothing elsewhere."""

    direction: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    dimensions: tuple[int, ...]

    def __post_init__(self) -> None:
        check_finite("direction", self.direction)
        check_layers("directions", self.direction, self.layers)
        checked_dimensions(self.dimensions)
        if not self.dimensions:
            raise SteeringError("no dimensions to steer: the selection is empty; try another selection or a larger k")
        width = self.direction.shape[1]
        if not all(0 <= dimension < width for dimension in self.dimensions):
            raise SteeringError(f"dimensions {self.dimensions} are out of range; the direction has 0 to {width - 1}")
        restricted = torch.zeros_like(self.direction)
        restricted[:, list(self.dimensions)] = self.direction[:, list(self.dimensions)]
        object.__setattr__(self, "direction", restricted)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("resid_post", layer) for layer in self.layers)

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return self.direction[self.layers.index(site.layer)].to(x).expand_as(x)

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        positive: Examples,
        negative: Sequence[str] = (),
        *,
        domain: str = "",
        layers: Sequence[int],
        dimensions: Sequence[int] | None = None,
        k: int = 8,
        selection: Selection = "magnitude",
        pooling: Pooling = "mean",
    ) -> "CriticalDimensionSteering":
        """Difference in means at every layer, kept on `dimensions`.

        Of positive and negative texts, or of pooled rows and a `domain`: its *identify* rows against those of all other
        domains. Rows also say which dimensions are critical, where none are given: the first `k` by `selection`.
        """
        direction = residual_difference(model, positive, negative, domain, layers, pooling)
        if dimensions is None:
            if not isinstance(positive, PooledRows):
                raise SteeringError("texts do not say which dimensions to steer; pass dimensions=, or pooled rows")
            dimensions = domain_dimensions(positive, domain, k, selection)
        return cls(direction, tuple(checked_layers(layers)), tuple(checked_dimensions(dimensions)))


CDS = CriticalDimensionSteering
