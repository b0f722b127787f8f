"""DynScalar: activation scaling whose scalar is read from the activation itself, so that prompts may differ in length.

    h <- h + beta * (g[site] . h) h                      beta in [-1, 1] is the strength of `steer`

Source: arXiv 2410.04962 (Eq. 10: a probe-like dot product, as cited by others). Ours: no bias, no squashing, one probe
per site shared by all positions, and h divided by its root mean square inside the dot product, so that the scalar does
not grow with the scale of the site.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from workbench.interventions.learned_scaling import Dial, DialItem, DialReport, Objective, fit_dial
from workbench.models import HookedModel
from workbench.records import Site

DEFAULT = replace(Objective(), minimality=1e-3, rate=1e-3)


@final
@dataclass(frozen=True, eq=False)
class DynScalar(Dial):
    """Scale the outputs at `site_names` by 1 + strength * (probe . h / rms(h)), at every position in scope."""

    probes: Float[Tensor, "site d_model"]
    site_names: tuple[str, ...]

    @property
    def values(self) -> Float[Tensor, "site d_model"]:
        return self.probes

    @cached_property
    def prepared(self) -> Float[Tensor, "site 1 d_model"]:
        """Divided by the norm of h instead of its root mean square, sqrt(d_model) goes to the probe."""
        return (self.probes * math.sqrt(self.probes.shape[1]))[:, None]

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return linear(x, self.row(site).to(x)) / norm.clamp(min=1e-6) * x

    @classmethod
    def fit(
        cls,
        model: HookedModel,
        items: Sequence[DialItem],
        *,
        layers: Sequence[int] | None = None,
        objective: Objective = DEFAULT,
    ) -> tuple["DynScalar", DialReport]:
        """Learn the probes; prompts may differ in length. Returns the method and how it does on those same items."""

        def start(n_sites: int, n_tokens: int) -> Tensor:
            return torch.zeros(n_sites, model.d_model)

        return fit_dial(model, items, cls, start, layers=layers, objective=objective, equal_length=False)
