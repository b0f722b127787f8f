"""Every method of `METHODS` fitted on a few texts, for the laws; and what has no card of its own."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from tests.tiny import tiny_model
from workbench.interventions import (
    METHODS,
    Combination,
    ContrastiveAddition,
    ContrastPrompt,
    CriticalDimensionSteering,
    Exchange,
    FitContext,
    FittingData,
    HeadAblation,
    Setting,
    Steering,
)
from workbench.interventions.context import WANTED
from workbench.models import HookedModel
from workbench.records import Pair

model_of = cache(tiny_model)
POSITIVE = (
    "the court shall sum of cell",
    "a court is the sum of",
    "the cell shall is a court",
    "court shall sum x a .",
)
NEGATIVE = ("it was a river and y", "the river was y and it", "y was it and the river", "river and it was river y")
PAIRS = [(f"{first} {last}", f"{second} {last}") for last in ("x", "is") for first in POSITIVE for second in NEGATIVE]
DATA = FittingData(
    POSITIVE,
    NEGATIVE,
    pairs=tuple(Pair(*both) for both in PAIRS[::3]),
    contrast_prompts=(
        ContrastPrompt("the court shall sum of cell", " river", " cell"),
        ContrastPrompt("it was a river and y", " court", " x"),
    ),
    positive_exchanges=tuple(Exchange(f"{word} is", " the court shall sum") for word in ("x", "y", "it", "a")),
    negative_exchanges=tuple(Exchange(f"{word} is", " a river of y") for word in ("x", "y", "it", "a")),
)
LAWFUL = (*METHODS, "head ablation", "combination")
# What is learned in a few steps, or shifts little, changes too little of a random model to put some laws to the test.
WEIGHT = {"caa": 5.0, "cds": 5.0, "cds-discrimination": 30.0, "cds-both": 30.0}
WEIGHT |= dict.fromkeys(("activation-scaling", "steer-vec", "dyn-scalar"), 20.0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2.0 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_context(model: HookedModel) -> FitContext:
    """Texts with rows of their own, in which one dimension is made to tell the wanted ones apart.

    Of 16 dimensions no more than one can lie three standard deviations above the mean.
    """
    rows = FitContext(model, DATA).rows
    values = rows.values.copy()
    wanted = np.flatnonzero(rows.where(domain=WANTED))
    values[np.ix_(wanted, [rows.poolings.index("mean_abs")], range(model.n_layers), [5])] += 100.0
    return FitContext(model, DATA, collected=replace(rows, values=values), n_optimisation_steps=3)


WITHOUT_CARD: dict[str, Callable[[HookedModel], Steering]] = {
    "head ablation": lambda model: HeadAblation(((0, 1), (2, 3)), model.n_heads),
    "combination": lambda model: Combination(
        (
            (ContrastiveAddition(noise(model.d_model), 1), 1.0),
            (CriticalDimensionSteering(noise(2, model.d_model, seed=1), (1, 2), (0, 3)), -2.0),
        )
    ),
}
_contexts: dict[int, FitContext] = {}


def steering_of(model: HookedModel, name: str) -> Steering:
    """A method fitted on a few texts, or what has no card."""
    if name in WITHOUT_CARD:
        return WITHOUT_CARD[name](model)
    context = _contexts.setdefault(id(model), tiny_context(model))
    return METHODS[name].fit(context, Setting(k=4 if METHODS[name].counts else None))


def strong(model: HookedModel, name: str) -> Steering:
    """The same, times a weight where the laws need a larger edit."""
    steering = steering_of(model, name)
    return Combination(((steering, WEIGHT[name]),)) if name in WEIGHT else steering
