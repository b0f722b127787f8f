"""DynScalar: activation scaling whose scalar is read from the activation itself, so that prompts may differ in length.

    h <- h + beta * (g[site] . h) h                      beta in [-1, 1] is the strength of `steer`

Source: arXiv 2410.04962 (Eq. 10: a probe-like dot product, as cited by others). Ours: no bias, no squashing, one probe
per site shared by all positions, and h divided by its root mean square inside the dot product, so that the scalar does
not grow with the scale of the site.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models import HookedModel
from workbench.records import Site
from workbench.steering._base import Scope, Steering
from workbench.steering._dials import DialItem, DialReport, Objective, check_sites, fit_dial

DEFAULT = replace(Objective(), minimality=1e-3, rate=1e-3)


@final
@dataclass(frozen=True, eq=False)
class DynScalar(Steering):
    """Scale the outputs at `site_names` by 1 + strength * (probe . h / rms(h)), at every position in scope."""

    probes: Float[Tensor, "site d_model"]
    site_names: tuple[str, ...]

    published_scope: ClassVar[Scope] = Scope("all")

    def __post_init__(self) -> None:
        check_sites(self.probes, self.site_names)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site.parse(name) for name in self.site_names)

    @property
    def share_nonzero(self) -> float:
        """Share of probe weights of magnitude above 1e-3."""
        return float((self.probes.abs() > 1e-3).float().mean())

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        probe = self.probes[self.site_names.index(str(site))].to(x)
        rms = torch.linalg.vector_norm(x, dim=-1) / math.sqrt(x.shape[-1])
        return ((x @ probe) / rms.clamp(min=1e-6))[..., None] * x

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
