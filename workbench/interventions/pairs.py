"""Contrastive pairs, as the methods read them: activations at the last real token of both texts."""

from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.interventions.base import SteeringError
from workbench.models import Call, HookedModel
from workbench.records import Pair, Site

PairActivations = tuple[Float[Tensor, "site pair width"], Float[Tensor, "site pair width"]]


def pairs_of(positive: Sequence[str], negative: Sequence[str]) -> tuple[Pair, ...]:
    """Two lists of texts as pairs, first with first; raises if they are of unequal length or a pair is no contrast."""
    if len(positive) != len(negative):
        raise SteeringError(
            f"{len(positive)} positive and {len(negative)} negative texts make no pairs; pass as many of one as of the "
            "other"
        )
    return tuple(Pair(one, other) for one, other in zip(positive, negative, strict=True))


def check_kind(kind: str, allowed: object, method: str) -> None:
    """Raise unless `kind` is one of the sites in the Literal `allowed`."""
    if kind not in get_args(allowed):
        raise SteeringError(f"{method} does not act at {kind!r}; choose one of {', '.join(get_args(allowed))}")


def check_option(noun: str, value: str, allowed: object) -> None:
    """Raise unless `value` is one of the options in the Literal `allowed`."""
    if value not in get_args(allowed):
        raise SteeringError(f"unknown {noun} {value!r}; choose one of {', '.join(get_args(allowed))}")


def check_count(k: int, n_available: int, noun: str) -> None:
    """Raise unless 1 <= k <= n_available."""
    if not 1 <= k <= n_available:
        raise SteeringError(f"cannot choose {k} of {n_available} {noun}; pass k from 1 to {n_available}")


def check_heads(method: str, n_heads: int, model: HookedModel) -> None:
    """Raise unless a method made for `n_heads` heads per layer meets a model that has as many."""
    if n_heads != model.n_heads:
        raise SteeringError(
            f"{method} was made for {n_heads} heads per layer, but {model.name} has {model.n_heads}; fit it again"
        )


def last_tokens(model: HookedModel, texts: Sequence[str], sites: Sequence[Site]) -> Float[Tensor, "site text width"]:
    """Activations at the last token of every text, in the model's dtype, in one pass; nothing else is kept."""
    tokens = model.tokenize(texts)
    rows, last = torch.arange(len(texts), device=model.device), tokens.lengths - 1
    kept: dict[Site, Tensor] = {}

    def keep(values: Tensor, site: Site, call: Call) -> None:
        kept[site] = values[rows, last].clone()

    with model.hooked(dict.fromkeys(sites, keep)):
        model.run(tokens)
    return torch.stack([kept[site] for site in sites])


def pair_activations(
    model: HookedModel, pairs: Sequence[Pair], sites: Sequence[Site], batch_size: int
) -> Iterator[PairActivations]:
    """Last-token activations of positives and negatives, `batch_size` pairs at a time.

    Both texts of a pair stand in one batch, so that activations which are equal in theory are equal in fact.
    """
    if not pairs:
        raise SteeringError("no pairs to fit on; pass at least one pair of a positive and a negative text")
    if batch_size < 1:
        raise SteeringError(f"batch_size is the number of pairs per pass and must be at least 1, not {batch_size}")
    for start in range(0, len(pairs), batch_size):
        chosen = pairs[start : start + batch_size]
        texts = [pair.positive for pair in chosen] + [pair.negative for pair in chosen]
        values = last_tokens(model, texts, sites)
        yield values[:, : len(chosen)], values[:, len(chosen) :]
