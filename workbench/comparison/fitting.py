"""How every arm of a comparison is fitted; directions point from what is not wanted to what is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import collect
from workbench.comparison.arm_kinds import ARM_KINDS, counts_of
from workbench.comparison.arms import (
    domain_directions,
    largest_dimensions,
    on_dimensions,
    random_dimensions,
    row_difference,
)
from workbench.dimensions import find_dcds
from workbench.interventions import (
    ITI,
    SADI,
    ActAdd,
    ActivationScaling,
    AUSteer,
    ContrastiveAddition,
    DialItem,
    DirectionalAblation,
    DynScalar,
    Objective,
    Scope,
    Steering,
    SteerVec,
    StyleHeads,
    head_scores,
    persona_activations,
    probe_heads,
)
from workbench.models import HookedModel
from workbench.records import NotApplicable, Pair, PooledRows, Prompt, Selection
from workbench.tasks.base import FittingData, same_length

Item = TypeVar("Item")
WANTED, OTHER = "wanted", "other"


@dataclass(frozen=True, eq=False)
class Variant:
    """One setting of an arm, fitted: what is tried on *tune*; `scope` is where it acts."""

    setting: str
    steering: Steering
    scope: Scope


@dataclass(frozen=True, eq=False)
class FitContext:
    """What all arms of a task are fitted on: the model, the data, the layers searched, the number of units, a seed.

    At most `n_fit` texts of each side are fitted on; dials learn from `n_dial` prompts in `dial_steps` steps.
    """

    model: HookedModel
    data: FittingData
    layers: tuple[int, ...]
    k: int
    seed: int
    pooling: Literal["mean", "last"]
    scope: Scope
    n_fit: int
    n_dial: int = 32
    dial_steps: int = 60
    collected: PooledRows | None = None
    domain: str = WANTED
    fits: dict[tuple[str, int, int], dict[str, Steering]] = field(default_factory=dict)

    @cached_property
    def rows(self) -> PooledRows:
        """Pooled rows: those collected before, or of the texts, the wanted ones as one domain."""
        if self.collected is not None:
            return self.collected
        sides = ((WANTED, self._some(self.data.positive)), (OTHER, self._some(self.data.negative)))
        prompts = [
            Prompt(text, domain, f"{domain}/{index}", "identify")
            for domain, texts in sides
            for index, text in enumerate(texts)
        ]
        return collect(self.model, prompts, n_top=1, poolings=("mean", "last", "mean_abs"), truncate=True)[1]

    @cached_property
    def is_wanted(self) -> Bool[np.ndarray, "text"]:
        return self.rows.where(domain=WANTED)

    @cached_property
    def directions(self) -> Float[Tensor, "layer d_model"]:
        """Per layer: mean of the wanted texts minus mean of the others, in activation units."""
        if self.collected is not None:
            return domain_directions(self.collected)[self.domain]
        return self.difference(self.is_wanted)

    def difference(self, chosen: Bool[np.ndarray, "text"]) -> Float[Tensor, "layer d_model"]:
        """Difference in means of the chosen texts and the rest."""
        return row_difference(self.rows.pooled(self.pooling), chosen, ~chosen)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple(self._some(self.data.pairs))

    @cached_property
    def dial_items(self) -> tuple[DialItem, ...]:
        return tuple(self._some(self.data.dial_items)[: self.n_dial])

    @property
    def objective(self) -> Objective:
        return Objective(steps=self.dial_steps)

    def dimensions(self, k: int, selection: Selection = "magnitude") -> tuple[int, ...]:
        """The domain-critical dimensions of the wanted texts; raises where the selection is empty."""
        k = min(k, self.model.d_model)
        found = find_dcds(self.rows, k=k, selection=selection)
        chosen = tuple(dcd.dimension for dcd in found if dcd.domain == self.domain)
        if not chosen:
            raise NotApplicable("no dimension is active in 30 % more of the wanted texts than of the others")
        return chosen

    def fitted(self, arm: str, k: int, draw: int) -> dict[str, Steering]:
        """All settings of an arm, fitted once; raises `NotApplicable` where the data do not allow it."""
        if (arm, k, draw) not in self.fits:
            self.fits[arm, k, draw] = {one.setting: one.steering for one in fit_arm(arm, self, k=k, draw=draw)}
        return self.fits[arm, k, draw]

    def scope_of(self, arm: str) -> Scope:
        return _scope(arm, self)

    def draw(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, number, 7 if self.collected is None else crc32(self.domain.encode())])

    def _some(self, items: Sequence[Item]) -> list[Item]:
        """At most `n_fit` items, drawn by the seed, in their own order."""
        if len(items) <= self.n_fit:
            return list(items)
        kept = np.random.default_rng([self.seed, 11]).choice(len(items), size=self.n_fit, replace=False)
        return [items[index] for index in sorted(kept)]


def fit_arm(name: str, ground: FitContext, *, k: int, draw: int) -> list[Variant]:
    """All settings of one arm, fitted; raises `ValueError` with the reason where the data do not allow it."""
    kind = ARM_KINDS[name]
    if kind.search == "count":
        return _FITS_BY_COUNT[name](ground, k)
    fitted = _FITS_BY_LAYER[name](ground, k, draw)
    return [Variant(f"layer {layer}", fitted(layer), _scope(name, ground)) for layer in ground.layers]


def _scope(name: str, ground: FitContext) -> Scope:
    """Everybody edits the same tokens, but ActAdd, whose vectors stand at absolute positions of the prompt."""
    return ActAdd.published_scope if name == "actadd" else ground.scope


AtLayer = Callable[[int], Steering]


def _restricted(ground: FitContext, dimensions: tuple[int, ...]) -> AtLayer:
    return lambda layer: on_dimensions(ground.directions, layer, dimensions)


def _cds(ground: FitContext, k: int, draw: int) -> AtLayer:
    return _restricted(ground, ground.dimensions(k))


def _cds_discrimination(ground: FitContext, k: int, draw: int) -> AtLayer:
    return _restricted(ground, ground.dimensions(k, "discrimination"))


def _cds_both(ground: FitContext, k: int, draw: int) -> AtLayer:
    return _restricted(ground, ground.dimensions(k, "both"))


def _whole(ground: FitContext, k: int, draw: int) -> AtLayer:
    return lambda layer: ContrastiveAddition(ground.directions[layer], layer)


def _random(ground: FitContext, k: int, draw: int) -> AtLayer:
    return _restricted(ground, random_dimensions(ground.draw(draw), ground.model.d_model, k))


def _complement(ground: FitContext, k: int, draw: int) -> AtLayer:
    left_out = set(ground.dimensions(k))
    return _restricted(ground, tuple(d for d in range(ground.model.d_model) if d not in left_out))


def _top(ground: FitContext, k: int, draw: int) -> AtLayer:
    return lambda layer: on_dimensions(ground.directions, layer, largest_dimensions(ground.directions[layer], k))


def _noise(ground: FitContext, k: int, draw: int) -> AtLayer:
    """A random direction with the norm of the fitted one, a new one at every layer."""

    def at(layer: int) -> Steering:
        direction = ground.directions[layer]
        values = np.random.default_rng([ground.seed, draw, layer, 13]).normal(size=len(direction))
        noise = torch.from_numpy((values / np.linalg.norm(values)).astype(np.float32))
        return ContrastiveAddition(noise * direction.norm(), layer)

    return at


def _shuffled(ground: FitContext, k: int, draw: int) -> AtLayer:
    """The direction that the same texts give when wanted and other labels are dealt out at random."""
    difference = ground.difference(ground.draw(draw).permutation(ground.is_wanted))
    return lambda layer: ContrastiveAddition(difference[layer], layer)


def _austeer(ground: FitContext, k: int, draw: int) -> AtLayer:
    return lambda layer: AUSteer.fit(ground.model, ground.pairs, k=min(k, ground.model.d_model), layers=[layer])


def _actadd(ground: FitContext, k: int, draw: int) -> AtLayer:
    return lambda layer: ActAdd.fit(ground.model, ground.pairs, layer=layer)


def _ablation(ground: FitContext, k: int, draw: int) -> AtLayer:
    """Takes out what the unwanted texts have more of; at strength 1 nothing of it is left."""
    return lambda layer: DirectionalAblation(ground.directions[layer], ground.model.n_layers)


def _style_heads(ground: FitContext, k: int, draw: int) -> AtLayer:
    model, data = ground.model, ground.data
    some = slice(0, ground.n_fit)
    activations = persona_activations(model, data.positive_exchanges[some], data.negative_exchanges[some])
    scores = head_scores(model, activations, n_resamples=2)
    n_heads = max(1, model.n_heads // 4)
    return lambda layer: StyleHeads.fit(model, activations, layer=layer, heads=scores.top(layer, n_heads))


def _activation_scaling(ground: FitContext, k: int, draw: int) -> AtLayer:
    items = same_length(ground.model, ground.dial_items)
    return lambda layer: ActivationScaling.fit(ground.model, items, layers=[layer], objective=ground.objective)[0]


def _steer_vec(ground: FitContext, k: int, draw: int) -> AtLayer:
    items = same_length(ground.model, ground.dial_items)
    return lambda layer: SteerVec.fit(ground.model, items, layers=[layer], objective=ground.objective)[0]


def _dyn_scalar(ground: FitContext, k: int, draw: int) -> AtLayer:
    return lambda layer: DynScalar.fit(ground.model, ground.dial_items, layers=[layer], objective=ground.objective)[0]


def _iti(ground: FitContext, k: int) -> list[Variant]:
    counts = counts_of("iti", len(ground.layers), k, ground.model.n_layers * ground.model.n_heads)
    probes = probe_heads(ground.model, ground.pairs, seed=ground.seed)
    return [Variant(f"k {count}", ITI.from_probes(probes, count), ground.scope) for count in counts]


def _sadi(ground: FitContext, k: int) -> list[Variant]:
    counts = counts_of("sadi", len(ground.layers), k, ground.model.n_layers * ground.model.n_heads)
    fitted = [SADI.fit(ground.model, ground.pairs, kind="mlp_raw", k=count) for count in counts]
    return [Variant(f"k {count}", one, ground.scope) for count, one in zip(counts, fitted, strict=True)]


_FITS_BY_LAYER: dict[str, Callable[[FitContext, int, int], AtLayer]] = {
    "cds": _cds,
    "cds-discrimination": _cds_discrimination,
    "cds-both": _cds_both,
    "whole-dimension": _whole,
    "austeer": _austeer,
    "actadd": _actadd,
    "ablation": _ablation,
    "style-heads": _style_heads,
    "activation-scaling": _activation_scaling,
    "steer-vec": _steer_vec,
    "dyn-scalar": _dyn_scalar,
    "random-k": _random,
    "complement": _complement,
    "top-k": _top,
    "noise": _noise,
    "shuffled": _shuffled,
}
_FITS_BY_COUNT: dict[str, Callable[[FitContext, int], list[Variant]]] = {"iti": _iti, "sadi": _sadi}
