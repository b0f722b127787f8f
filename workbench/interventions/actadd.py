"""Activation Addition (ActAdd): a sequence of vectors, one for each leading position of the prompt, at one block input.

    r_t <- r_t + strength * (h_t(positive) - h_t(negative))   for t = 0 ... T - 1,   T tokens in the padded pair

Source: arXiv 2308.10248 (one pair, the shorter text padded to equal token length, resid_pre of one layer, during the
prompt only). Ours: several pairs are averaged position by position; the padding is appended and must be one token.

Use it in the scope "prompt". `delta` knows absolute positions, not where a prompt ends: in a wider scope a prompt
shorter than the vectors would have its first generated tokens edited too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from workbench.activations import capture
from workbench.interventions.base import Scope, Steering, SteeringError, at_positions
from workbench.interventions.directions import check_finite
from workbench.models import HookedModel
from workbench.records import NotApplicable, Pair, Site, Tokens


@final
@dataclass(frozen=True, eq=False)
class ActAdd(Steering):
    """Add `vectors[t]` to the block input of one layer at absolute position t; later positions stay as they are."""

    vectors: Float[Tensor, "pos d_model"]
    layer: int

    published_scope: ClassVar[Scope] = Scope("prompt")

    def __post_init__(self) -> None:
        check_finite("vectors", self.vectors)
        if len(self.vectors) == 0:
            raise SteeringError("no vectors to add; fit on texts of at least one token")

    @property
    def sites(self) -> tuple[Site, ...]:
        return (Site("resid_pre", self.layer),)

    @property
    def reach(self) -> int:
        return len(self.vectors)

    @cached_property
    def _table(self) -> Float[Tensor, "row d_model"]:
        return pad(self.vectors, (0, 0, 0, 1))

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return at_positions(self._table.to(x), positions).expand_as(x)

    @classmethod
    def fit(cls, model: HookedModel, pairs: Sequence[Pair], *, layer: int, padding: str = " ") -> "ActAdd":
        """Difference of the block inputs of `layer`, position by position, averaged over the pairs.

        Texts shorter than the longest are continued with the token of `padding`; where that is not one token of the
        model and the lengths differ, this raises.
        """
        if not pairs:
            raise SteeringError("no pairs to fit on; pass at least one pair of a positive and a negative text")
        texts = [pair.positive for pair in pairs] + [pair.negative for pair in pairs]
        tokens = _padded(model, texts, padding)
        values = capture(model, tokens, [Site("resid_pre", layer)])[0].float()
        return cls((values[: len(pairs)].mean(0) - values[len(pairs) :].mean(0)).cpu(), layer)


def _padded(model: HookedModel, texts: Sequence[str], padding: str) -> Tokens:
    """Texts as rows of equal length, all of real tokens."""
    tokens = model.tokenize(texts)
    if bool(tokens.mask.all()):
        return tokens
    token = model.text.ids(padding)
    if len(token) != 1:
        raise NotApplicable(
            f"the texts have {int(tokens.lengths.min())} to {int(tokens.lengths.max())} tokens and the padding "
            f"{padding!r} is {len(token)} tokens; pass texts of equal length or a padding of one token"
        )
    return Tokens(torch.where(tokens.mask, tokens.ids, token[0]), torch.ones_like(tokens.mask))
