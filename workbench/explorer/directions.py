"""What the slider of a card steers with: directions from the saved rows, without another pass over the corpus."""

from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.explorer.material import ExplorerError, Material
from workbench.interventions import ContrastiveAddition, CriticalDimensionSteering, Steering, SteeringError, steer
from workbench.interventions.directions import domain_difference

Edit = Literal["this dimension", "dimensions of the domain (CDS)", "all dimensions"]
EDITS: tuple[Edit, ...] = get_args(Edit)


def direction_towards(material: Material, domain: str, layer: int) -> Float[Tensor, "d_model"]:
    """Mean over the domain's passages to identify on minus mean over those of the others, in activation units.

    Every passage counts once, by the mean over its tokens after the first: the direction that
    `CriticalDimensionSteering.fit` finds on the same passages.
    """
    try:
        return domain_difference(material.rows, domain, [layer])[0]
    except SteeringError as error:
        raise ExplorerError(str(error)) from error


def spread(material: Material, layer: int, dimension: int) -> float:
    """Standard deviation of a dimension over all tokens after the first, of all domains, in activation units."""
    statistics = material.statistics
    weight = statistics.n_tokens / statistics.n_tokens.sum()
    mean = statistics.mean[:, layer, dimension]
    second = statistics.variance[:, layer, dimension] + np.square(mean - weight @ mean)
    return float(np.sqrt(weight @ second))


def edit_of(material: Material, edit: str, domain: str, layer: int, dimension: int) -> Steering:
    """The steering behind an edit, at one layer.

    `this dimension`: one standard deviation upwards on it, nothing elsewhere. The other two: the direction towards the
    domain, on its domain-critical dimensions (selected by magnitude), or on all.
    """
    if edit not in EDITS:
        raise ExplorerError(f"unknown edit {edit!r}; choose one of {', '.join(EDITS)}")
    if edit == "this dimension":
        one = torch.zeros(1, material.d_model)
        one[0, dimension] = spread(material, layer, dimension)
        return CriticalDimensionSteering(one, (layer,), (dimension,))
    direction = direction_towards(material, domain, layer)
    if edit == "all dimensions":
        return ContrastiveAddition(direction, layer)
    return CriticalDimensionSteering(direction[None], (layer,), tuple(material.chosen(domain)))


def continuation(
    material: Material, prompt: str, n_tokens: int, steering: Steering | None = None, strength: float = 0.0
) -> str:
    """The likeliest text after a prompt, steered if asked; raises where no model is at hand."""
    model = material.model
    if model is None:
        raise ExplorerError("there is no model to steer; pass model=workbench.load_model(...) of this run")
    tokens = model.tokenize([prompt], side="left")
    if steering is None or strength == 0.0:
        return model.decode(model.generate(tokens, max_new_tokens=n_tokens)[0], after=prompt)
    with steer(model, steering, strength):
        return model.decode(model.generate(tokens, max_new_tokens=n_tokens)[0], after=prompt)
