"""Token ids of texts."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A batch of token ids with the mask of real tokens (padding is False), on the model's device."""

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]

    @property
    def lengths(self) -> Int[Tensor, "batch"]:
        """Number of real tokens per row."""
        return self.mask.sum(dim=1)

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """Absolute position of every real token, counted from 0; -1 on padding."""
        return torch.where(self.mask, self.mask.long().cumsum(dim=1) - 1, -1)
