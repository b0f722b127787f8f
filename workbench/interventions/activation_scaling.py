"""Activation Scaling (the paper's ActivScalar): one learned scalar per attention or MLP output and token position.

    h <- h + beta * alpha[site, position] * h            beta in [-1, 1] is the strength of `steer`

Source: arXiv 2410.04962 (Eq. 5, as cited by others; the paper's code was not seen). Ours: the exact loss, Adam, and
early stopping. The scalars belong to positions, so prompts must have the length of the training prompts; positions
beyond it are left alone. A multiplication cannot create a direction that is absent from h.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from workbench.interventions.base import SteeringError, at_positions
from workbench.interventions.learned_scaling import Dial, DialItem, DialReport, Objective, fit_dial
from workbench.models import HookedModel
from workbench.records import Site

DEFAULT = Objective()


@final
@dataclass(frozen=True, eq=False)
class ActivationScaling(Dial):
    """Scale the outputs at `site_names` by 1 + strength * alpha at each of the leading positions."""

    alpha: Float[Tensor, "site pos"]
    site_names: tuple[str, ...]

    @property
    def values(self) -> Float[Tensor, "site pos"]:
        return self.alpha

    @cached_property
    def prepared(self) -> Float[Tensor, "site row 1"]:
        return pad(self.alpha, (0, 1))[..., None]

    @property
    def prompt_length(self) -> int:
        return self.alpha.shape[1]

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return at_positions(self.row(site).to(x), positions) * x

    def keep_top(self, n: int) -> "ActivationScaling":
        """The same with all but the `n` scalars of largest magnitude set to zero."""
        if not 1 <= n <= self.alpha.numel():
            raise SteeringError(f"cannot keep {n} of {self.alpha.numel()} scalars; pass n from 1 to that number")
        kept = torch.zeros_like(self.alpha).flatten()
        top = self.alpha.flatten().abs().topk(n).indices
        kept[top] = self.alpha.flatten()[top]
        return ActivationScaling(kept.view_as(self.alpha), self.site_names)

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        items: Sequence[DialItem],
        *,
        layers: Sequence[int] | None = None,
        objective: Objective = DEFAULT,
    ) -> tuple["ActivationScaling", DialReport]:
        """Learn the scalars on items of equal length; returns the method and how it does on those same items."""
        return fit_dial(model, items, cls, torch.zeros, layers=layers, objective=objective, equal_length=True)
