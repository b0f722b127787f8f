"""What the arms of a comparison are made of: one direction per domain and layer, and sets of dimensions."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.interventions import CriticalDimensionSteering, Steering
from workbench.records import PooledRows


def domain_directions(rows: PooledRows) -> dict[str, Float[Tensor, "layer d_model"]]:
    """Per domain and layer: mean over its *identify* passages minus mean over those of all other domains.

    A passage counts once, with the mean activation over its tokens after the first; float32, in activation units.
    Raises where a domain, or what it is compared with, has no such passage.
    """
    values = rows.pooled("mean")
    directions = {}
    for domain in dict.fromkeys(rows.domains):
        own = rows.where(split="identify", domain=domain)
        others = rows.where(split="identify") & ~rows.where(domain=domain)
        if not own.any() or not others.any():
            lacking = domain if not own.any() else f"any domain but {domain}"
            raise ValueError(
                f"there is no identify passage of {lacking}, so there is no direction; add some to the corpus"
            )
        directions[domain] = row_difference(values, own, others)
    return directions


# --- what the arms of every comparison are made of --------------------------------------------------------------------


def row_difference(
    values: Float[np.ndarray, "text layer d_model"], own: Bool[np.ndarray, "text"], others: Bool[np.ndarray, "text"]
) -> Float[Tensor, "layer d_model"]:
    """Mean of some pooled rows minus mean of others, in activation units."""
    difference = values[own].mean(axis=0, dtype=np.float64) - values[others].mean(axis=0, dtype=np.float64)
    return torch.from_numpy(difference.astype(np.float32))


def on_dimensions(directions: Float[Tensor, "layer d_model"], layer: int, dimensions: tuple[int, ...]) -> Steering:
    """The direction of a layer on some dimensions, zero elsewhere."""
    return CriticalDimensionSteering(directions[layer][None], (layer,), dimensions)


def largest_dimensions(direction: Float[Tensor, "d_model"], k: int) -> tuple[int, ...]:
    """The k dimensions in which a direction is largest, all where it has fewer."""
    return tuple(direction.abs().topk(min(k, len(direction))).indices.tolist())


def random_dimensions(generator: np.random.Generator, d_model: int, k: int) -> tuple[int, ...]:
    """k different dimensions, all where there are fewer, in order."""
    return tuple(sorted(generator.choice(d_model, size=min(k, d_model), replace=False).tolist()))


def spread_layers(n: int, n_layers: int) -> tuple[int, ...]:
    """n layers in the middle of n equal parts of the depth, all where there are fewer."""
    return tuple(int((index + 0.5) * n_layers / n) for index in range(n)) if n < n_layers else tuple(range(n_layers))
