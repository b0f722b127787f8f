"""AUSteer: scale the few activation coordinates ("atomic units") whose sign of change is most consistent over pairs.

    x_i <- x_i + strength * g_i * x_i,   g_i = r+_i if r+_i > r-_i else -r-_i,   for the k units of largest s_i

r+_i and r-_i are the shares of pairs in which unit i is larger, and smaller, in the positive text; s_i is the larger of
them (`unit_scores`). Source: arXiv 2602.04428 and its released code. The paper's alpha is the strength of `steer`; its
token scope is "all". At an exact tie r+ = r- the code has a positive gain and the formula a negative one; here the
formula holds.

Ours: the mode `momentum_consistent`, x_i <- x_i + strength * g_i * |x_i|, which moves x_i in the direction of its
momentum also where x_i is negative (the published rule then moves it the other way).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.interventions.base import Scope, Steering, SteeringError, steer
from workbench.interventions.directions import BATCH, check_finite, check_layers
from workbench.interventions.pairs import check_kind, check_option
from workbench.interventions.unit_scores import UnitKind, UnitSelection, select_units, sign_consistency
from workbench.models import Call, HookedModel, HookFunction
from workbench.records import Pair, Site

Mode = Literal["published", "momentum_consistent"]


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
        check_option("mode", self.mode, Mode)
        check_layers("rows of gains", self.gain, self.layers)
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


def rms_ratios(
    model: HookedModel, steering: Steering, texts: Sequence[str], strength: float = 1.0
) -> dict[Site, float]:
    """How much larger the edit makes the root mean square of the activations at each site: mean over all tokens.

    Where a post-norm follows (`mlp_raw` in Gemma-2), it divides the coordinates that were left alone by this ratio.
    """
    if not texts:
        raise SteeringError("no texts to measure on; pass at least one")
    before: dict[Site, list[Tensor]] = {site: [] for site in steering.sites}
    after: dict[Site, list[Tensor]] = {site: [] for site in steering.sites}

    def noting(norms: dict[Site, list[Tensor]]) -> HookFunction:
        def note(values: Tensor, site: Site, call: Call) -> None:
            norms[site].append(values[call.positions >= 0].float().norm(dim=-1))

        return note

    for start in range(0, len(texts), BATCH):
        # Hooks run in the order in which they are set: one before the edit, one after it.
        with (
            model.hooked(dict.fromkeys(steering.sites, noting(before))),
            steer(model, steering, strength, "all"),
            model.hooked(dict.fromkeys(steering.sites, noting(after))),
        ):
            model.run(model.tokenize(texts[start : start + BATCH]))
    return {
        site: float((torch.cat(after[site]) / torch.cat(before[site]).clamp(min=1e-12)).mean())
        for site in steering.sites
    }
