"""The arms of a steering comparison: one direction per domain and layer, added on different sets of dimensions."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from workbench.interventions import ContrastiveAddition, Steering
from workbench.interventions.controls import largest_dimensions, on_dimensions, random_dimensions
from workbench.interventions.directions import domain_difference
from workbench.records import Dimension, PooledRows, Selection

Method = Literal["cds", "whole-dimension", "random-k", "top-k"]


@dataclass(frozen=True)
class Arm:
    """What is steered: `cds` the DCDs of a selection, `whole-dimension` everything, and two placebos of k dimensions.

    `random-k` draws its `dimensions` (`draw` tells the draws apart, whose effects are averaged); `top-k` takes, at
    every layer, the `k` dimensions in which the direction itself is largest.
    """

    domain: str
    method: Method
    k: int
    selection: str = ""
    dimensions: tuple[int, ...] = ()
    draw: int = 0

    @property
    def edit(self) -> tuple[str | int, ...]:
        """What the arm changes, whatever it is called: arms of one domain with the same edit are measured once."""
        return tuple(sorted(self.dimensions)) or (self.method, self.k)

    def steering(self, directions: Float[Tensor, "layer d_model"], layer: int) -> Steering:
        """The arm as a steering at one layer, along the direction of that layer."""
        match self.method:
            case "whole-dimension":
                return ContrastiveAddition(directions[layer], layer)
            case "top-k":
                return on_dimensions(directions, layer, largest_dimensions(directions[layer], self.k))
            case "cds" | "random-k":
                return on_dimensions(directions, layer, self.dimensions)


def arms_of(
    domain: str,
    dcds: Mapping[tuple[str, Selection], Sequence[Dimension]],
    *,
    d_model: int,
    n_random: int,
    seed: int,
) -> list[Arm]:
    """The arms of one domain; a selection that chose no dimension gives a CDS arm with k = 0, which nobody can run.

    The placebos have as many dimensions as the largest selection, and are left out where all are empty.
    """
    chosen = {selection: [dcd.dimension for dcd in found] for (of, selection), found in dcds.items() if of == domain}
    arms = [Arm(domain, "cds", len(found), selection, tuple(found)) for selection, found in chosen.items()]
    arms.append(Arm(domain, "whole-dimension", d_model))
    k = max((len(found) for found in chosen.values()), default=0)
    if k == 0:
        return arms
    arms.append(Arm(domain, "top-k", k))
    for draw in range(n_random):
        generator = np.random.default_rng([seed, draw, zlib.crc32(domain.encode())])
        arms.append(Arm(domain, "random-k", k, dimensions=random_dimensions(generator, d_model, k), draw=draw))
    return arms


def domain_directions(rows: PooledRows) -> dict[str, Float[Tensor, "layer d_model"]]:
    """Per domain and layer: mean over its *identify* passages minus mean over those of all other domains."""
    return {domain: domain_difference(rows, domain) for domain in dict.fromkeys(rows.domains)}


def spread_layers(n: int, n_layers: int) -> tuple[int, ...]:
    """n layers in the middle of n equal parts of the depth, all where there are fewer."""
    return tuple(int((index + 0.5) * n_layers / n) for index in range(n)) if n < n_layers else tuple(range(n_layers))
