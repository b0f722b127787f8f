"""The controls of a comparison as cards, and what it measures without steering."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.interventions.base import Combination, Steering
from workbench.interventions.caa import ContrastiveAddition
from workbench.interventions.cds import CriticalDimensionSteering
from workbench.interventions.context import FitContext
from workbench.interventions.directions import row_difference
from workbench.interventions.methods import METHODS, Counts, MethodCard, Setting, method_named
from workbench.records import NotApplicable

UNSTEERED, PROMPT_ONLY = "unsteered", "prompt-only"


def largest_dimensions(direction: Float[Tensor, "d_model"], k: int) -> tuple[int, ...]:
    """The k dimensions in which a direction is largest, all where it has fewer."""
    return tuple(direction.abs().topk(min(k, len(direction))).indices.tolist())


def random_dimensions(generator: np.random.Generator, d_model: int, k: int) -> tuple[int, ...]:
    """k different dimensions, all where there are fewer, in order."""
    return tuple(sorted(generator.choice(d_model, size=min(k, d_model), replace=False).tolist()))


def on_dimensions(directions: Float[Tensor, "layer d_model"], layer: int, dimensions: Sequence[int]) -> Steering:
    """The direction of a layer on some dimensions, zero elsewhere."""
    return CriticalDimensionSteering(directions[layer][None], (layer,), tuple(dimensions))


def _at(setting: Setting) -> tuple[int, int]:
    assert setting.layer is not None
    assert setting.k is not None
    return setting.layer, setting.k


def _random(context: FitContext, setting: Setting) -> Steering:
    layer, k = _at(setting)
    drawn = random_dimensions(context.draw(setting.draw), context.model.d_model, k)
    return on_dimensions(context.directions, layer, drawn)


def _complement(context: FitContext, setting: Setting) -> Steering:
    layer, k = _at(setting)
    left_out = set(context.dimensions(k))
    others = [dimension for dimension in range(context.model.d_model) if dimension not in left_out]
    if not others:
        raise NotApplicable(f"all {k} dimensions are critical, so there is no complement")
    return on_dimensions(context.directions, layer, others)


def _top(context: FitContext, setting: Setting) -> Steering:
    layer, k = _at(setting)
    return on_dimensions(context.directions, layer, largest_dimensions(context.directions[layer], k))


def _noise(context: FitContext, setting: Setting) -> Steering:
    """A random direction with the norm of the fitted one, a new one at every layer."""
    layer, _ = _at(setting)
    direction = context.directions[layer]
    values = np.random.default_rng([context.seed, setting.draw, layer, 13]).normal(size=len(direction))
    noise = torch.from_numpy((values / np.linalg.norm(values)).astype(np.float32))
    return ContrastiveAddition(noise * direction.norm(), layer)


def _shuffled(context: FitContext, setting: Setting) -> Steering:
    """The direction that the same texts give when the labels wanted and other are permuted."""
    layer, _ = _at(setting)
    labels = context.draw(setting.draw).permutation(context.is_wanted)
    return ContrastiveAddition(row_difference(context.pooled[:, layer], labels), layer)


def _none(context: FitContext, setting: Setting) -> Steering:
    raise NotApplicable("there is nothing to fit")


def _card(
    name: str, fit_at: Callable[[FitContext, Setting], Steering], summary: str, counts: Counts = "", *, is_drawn: bool
) -> MethodCard:
    """A control of one direction at one layer, on some dimensions or on all."""
    kind = CriticalDimensionSteering if counts else ContrastiveAddition
    card = MethodCard(name, kind, "rows", fit_at, summary, counts=counts, k=8 if counts else 0, cost="rows")
    return replace(card, is_drawn=is_drawn, role="control")


_CARDS = (
    MethodCard(UNSTEERED, Combination, "rows", _none, "the model as it is", "none", role="control"),
    MethodCard(PROMPT_ONLY, Combination, "instruction", _none, "the instruction in prompts", "none", role="control"),
    _card("random-k", _random, "k random dimensions", "coordinates", is_drawn=True),
    _card("complement", _complement, "all dimensions but the DCDs", "coordinates left out", is_drawn=False),
    _card("top-k", _top, "the k largest dimensions of the direction", "coordinates", is_drawn=False),
    _card("noise", _noise, "a random direction of the same norm", is_drawn=True),
    _card("shuffled", _shuffled, "the direction of permuted labels", is_drawn=True),
)
CONTROLS: dict[str, MethodCard] = {card.name: card for card in _CARDS}


def arm_named(name: str) -> MethodCard:
    """The card of a method (or its alias) or of a control; raises `SteeringError` for other names."""
    return CONTROLS[name] if name in CONTROLS else method_named(name)


def arm_rank(name: str) -> int:
    """Where an arm stands in tables: methods in the order of their cards, then controls."""
    return [card.summary for card in every_card()].index(arm_named(name).summary)


def every_card() -> tuple[MethodCard, ...]:
    """Methods, then controls."""
    return (*METHODS.values(), *CONTROLS.values())
