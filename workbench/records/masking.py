"""What masking dimensions costs the model."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64

from workbench.records.text import Split, TokenSet

MaskMode = Literal["zero", "mean", "resample"]
MASK_MODES: tuple[MaskMode, ...] = get_args(MaskMode)


@dataclass(frozen=True)
class MaskingResult:
    """Increase of the token loss of every prompt when one residual dimension is masked at every block output.

    `baseline` is the unmasked mean loss over the tokens after the first, `loss_increase[i, q]` masked minus unmasked
    with `dimensions[i]` masked; nats per token, NaN where it was not measured. `mode` says what masked entries are set
    to; `how` whether it was measured or estimated from gradients. `cost` is in forward passes over all prompts (a
    backward pass counts as two), without those that find means, resample sources and norms beforehand. Masks act at the
    tokens `masked_at`; losses are those of what is predicted at the tokens `counted_at`.
    """

    mode: MaskMode
    how: Literal["measured", "estimated"]
    d_model: int
    cost: float
    dimensions: tuple[int, ...]
    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[Split, ...]
    baseline: Float64[np.ndarray, "prompt"]
    loss_increase: Float64[np.ndarray, "dimension prompt"]
    masked_at: TokenSet = "all tokens"
    counted_at: TokenSet = "all tokens"

    def __post_init__(self) -> None:
        shape = (len(self.dimensions), len(self.prompts))
        if self.loss_increase.shape != shape or not shape[1] == len(self.domains) == len(self.splits):
            raise ValueError(f"loss_increase is {self.loss_increase.shape}, expected {shape} (dimension, prompt)")


@dataclass(frozen=True)
class ChoiceItem:
    """A question with several answer texts, written as they would follow the prompt; `choices[answer]` is right."""

    name: str
    domain: str
    split: Split
    prompt: str
    choices: tuple[str, ...]
    answer: int

    def __post_init__(self) -> None:
        if not self.prompt or len(set(self.choices)) < 2 or len(set(self.choices)) != len(self.choices):
            raise ValueError(f"item {self.name} needs a prompt and at least two different choices")
        if not 0 <= self.answer < len(self.choices):
            raise ValueError(f"item {self.name} has answer {self.answer}, but {len(self.choices)} choices")


@dataclass(frozen=True)
class ChoiceMasking:
    """Log likelihood of every choice (nats, summed over its tokens), unmasked and with each dimension masked."""

    mode: MaskMode
    dimensions: tuple[int, ...]
    items: tuple[ChoiceItem, ...]
    baseline: Float64[np.ndarray, "item choice"]
    masked: Float64[np.ndarray, "dimension item choice"]
