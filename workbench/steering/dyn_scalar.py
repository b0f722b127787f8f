"""DynScalar: activation scaling whose scalar is read from the activation itself, so that prompts may differ in length.

    h <- h + beta * (g[site] . h) h                      beta in [-1, 1] is the strength of `steer`

Source: arXiv 2410.04962 (Eq. 10: a probe-like dot product, as cited by others). Ours: no bias, no squashing, one probe
per site shared by all positions, and h divided by its root mean square inside the dot product, so that the scalar does
not grow with the scale of the site.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.models import HookedModel
from workbench.records import Site
from workbench.steering._base import Scope, Steering, SteeringError
from workbench.steering._dials import DialItem, DialReport, Objective, dial_batch, dial_sites, evaluate_dial, minimise

DEFAULT = replace(Objective(), minimality=1e-3, rate=1e-3)


@final
@dataclass(frozen=True, eq=False)
class DynScalar(Steering):
    """Scale the outputs at `site_names` by 1 + strength * (probe . h / rms(h)), at every position in scope."""

    probes: Float[Tensor, "site d_model"]
    site_names: tuple[str, ...]

    published_scope: ClassVar[Scope] = Scope("all")

    def __post_init__(self) -> None:
        if len(self.site_names) != len(self.probes):
            raise SteeringError(f"{len(self.probes)} probes for {len(self.site_names)} sites; give one per site")

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
        scale = x.pow(2).mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-6)
        return (x * probe).sum(dim=-1, keepdim=True) / scale * x

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
        batch = dial_batch(model, items, equal_length=False)
        names = tuple(str(site) for site in dial_sites(model, layers))
        start = torch.zeros(len(names), model.d_model)
        probes, steps = minimise(model, batch, start, lambda values: cls(values, names), objective)
        fitted = cls(probes, names)
        return fitted, evaluate_dial(model, fitted, items, n_steps=steps)
