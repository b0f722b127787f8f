"""Difference-in-means directions, shared by the methods that add one."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.activations import capture
from workbench.interventions.base import SteeringError
from workbench.models import HookedModel
from workbench.records import Site

Pooling = Literal["mean", "last"]
BATCH = 32


def pooled_means(
    model: HookedModel, texts: Sequence[str], sites: Sequence[Site], pooling: Pooling
) -> Float[Tensor, "text site width"]:
    """One float32 vector per text and site: mean over the tokens after the first, or the last token's activation."""
    if pooling not in get_args(Pooling):
        raise SteeringError(f"unknown pooling {pooling!r}; choose one of {', '.join(get_args(Pooling))}")
    if not texts:
        raise SteeringError("no texts to fit on; pass at least one positive and one negative")
    pieces = []
    for start in range(0, len(texts), BATCH):
        tokens = model.tokenize(texts[start : start + BATCH])
        values = capture(model, tokens, sites).float()
        positions = tokens.positions
        if pooling == "last":
            chosen = positions == tokens.lengths[:, None] - 1
        else:
            chosen = (positions >= 1) | ((tokens.lengths[:, None] == 1) & (positions == 0))
        weight = chosen.float() / chosen.sum(dim=1, keepdim=True)
        pieces.append(torch.einsum("sbpw,bp->bsw", torch.where(chosen[..., None], values, 0.0), weight))
    return torch.cat(pieces)


def difference_in_means(
    model: HookedModel, positive: Sequence[str], negative: Sequence[str], sites: Sequence[Site], pooling: Pooling
) -> Float[Tensor, "site width"]:
    """Mean over the positive texts minus mean over the negative ones, in activation units."""
    if sorted(positive) == sorted(negative):
        raise SteeringError("positive and negative texts are the same, which is no contrast; pass texts that differ")
    return pooled_means(model, positive, sites, pooling).mean(0) - pooled_means(model, negative, sites, pooling).mean(0)


def check_layers(noun: str, rows: Sequence[object] | Tensor, layers: Sequence[int]) -> None:
    """Raise unless there is one row per layer and no layer stands twice."""
    if len(layers) != len(rows) or len(set(layers)) != len(layers):
        raise SteeringError(f"{len(rows)} {noun} for layers {tuple(layers)}; give one per distinct layer")


def check_finite(name: str, values: Tensor) -> None:
    """Raise if a payload holds NaN or infinite values."""
    if not bool(torch.isfinite(values).all()):
        raise SteeringError(f"{name} holds NaN or infinite values; fit it again on clean activations")
