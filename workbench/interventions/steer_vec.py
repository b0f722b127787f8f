"""SteerVec: the additive counterpart of Activation Scaling, one learned vector per output and token position.

    h <- h + beta * v[site, position]                    beta in [-1, 1] is the strength of `steer`

Source: arXiv 2410.04962 (that it is additive with the same dial; the form is ours). It has d_model times the parameters
of Activation Scaling, and its L1 penalty depends on the scale of the activations, so compare the two at equal relative
perturbation. Tied to positions like Activation Scaling.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from workbench.interventions.base import at_positions
from workbench.interventions.learned_scaling import Dial, DialItem, DialReport, Objective, fit_dial
from workbench.models import HookedModel
from workbench.records import Site

DEFAULT = replace(Objective(), minimality=1e-4, rate=1e-2)


@final
@dataclass(frozen=True, eq=False)
class SteerVec(Dial):
    """Add strength * vectors[site, position] to the outputs at `site_names`, at the leading positions."""

    vectors: Float[Tensor, "site pos d_model"]
    site_names: tuple[str, ...]

    @property
    def values(self) -> Float[Tensor, "site pos d_model"]:
        return self.vectors

    @cached_property
    def prepared(self) -> Float[Tensor, "site row d_model"]:
        return pad(self.vectors, (0, 0, 0, 1))

    @property
    def prompt_length(self) -> int:
        return self.vectors.shape[1]

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return at_positions(self.row(site).to(x), positions).expand_as(x)

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        items: Sequence[DialItem],
        *,
        layers: Sequence[int] | None = None,
        objective: Objective = DEFAULT,
    ) -> tuple["SteerVec", DialReport]:
        """Learn the vectors on items of equal length; returns the method and how it does on those same items."""

        def start(n_sites: int, n_tokens: int) -> Tensor:
            return torch.zeros(n_sites, n_tokens, model.d_model)

        return fit_dial(model, items, cls, start, layers=layers, objective=objective, equal_length=True)
