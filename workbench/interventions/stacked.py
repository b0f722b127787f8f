"""Several edits side by side in one forward pass: the batch holds its rows once per variant, variant by variant."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.interventions.base import Scope, Steering, Where, steer
from workbench.models import HookedModel
from workbench.records import Site, Tokens

Part = tuple[Steering | None, float]  # a steering, or None for the model as it stands, and its strength
PLAIN: tuple[Part, ...] = ((None, 0.0),)


@final
@dataclass(frozen=True, eq=False)
class StackedSteering(Steering):
    """Several steerings side by side: `parts[i]` acts, at its own strength, on rows i * n_rows to (i + 1) * n_rows."""

    parts: tuple[Part, ...]
    n_rows: int

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(sorted({site for part, _ in self.parts if part is not None for site in part.sites}))

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        total = torch.zeros_like(x)
        for index, (part, strength) in enumerate(self.parts):
            rows = slice(index * self.n_rows, (index + 1) * self.n_rows)
            if part is not None and site in part.sites:
                total[rows] = strength * part.delta(x[rows], site, positions[rows])
        return total


class RowVariants(ABC):
    """Variants that differ from row to row, such as masks whose values depend on the tokens of each row."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of variants."""

    @abstractmethod
    def steering(self, rows: Sequence[int], variants: slice) -> Steering:
        """What acts, at strength 1, on a batch that holds `rows` once per chosen variant."""


Variants = Sequence[Part] | RowVariants


@contextmanager
def stacked(
    model: HookedModel, tokens: Tokens, rows: Sequence[int], parts: Variants, some: slice, scope: Scope | Where
) -> Iterator[Tokens]:
    """The tokens of `rows` once for each of some variants, one below the other, while each acts on its own rows.

    Where none steers, the model is left as it stands.
    """
    n_variants = some.stop - some.start
    steering = (
        parts.steering(rows, some) if isinstance(parts, RowVariants) else StackedSteering(tuple(parts[some]), len(rows))
    )
    with steer(model, steering, 1.0, scope) if steering.sites else nullcontext():
        yield Tokens(tokens.ids.repeat(n_variants, 1), tokens.mask.repeat(n_variants, 1))
