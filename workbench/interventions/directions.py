"""The difference in means, from texts or from pooled rows: what most methods add, scale or take out."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64
from torch import Tensor

from workbench.dimensions import find_dcds
from workbench.interventions.base import SteeringError
from workbench.models import Call, HookedModel
from workbench.records import NotApplicable, PooledRows, Selection, Site

Pooling = Literal["mean", "last"]
Examples = Sequence[str] | PooledRows
BATCH = 32


# --- from texts -------------------------------------------------------------------------------------------------------


def text_means(
    model: HookedModel, texts: Sequence[str], sites: Sequence[Site], pooling: Pooling | int = "mean"
) -> Float64[Tensor, "site row width"]:
    """Mean activation over texts, summed in float64; texts are streamed and nothing else is kept.

    `mean` is over the tokens after the first of each text, `last` takes the last token: one row each. A number n gives
    n rows, one for each of the last n tokens, the last of them being the last token.
    """
    texts = checked_texts(texts)
    if pooling not in get_args(Pooling) and not isinstance(pooling, int):
        raise SteeringError(f"unknown pooling {pooling!r}; choose one of {', '.join(get_args(Pooling))}")
    n_rows = pooling if isinstance(pooling, int) else 1
    if n_rows < 1:
        raise SteeringError(f"n_positions must be at least 1, not {n_rows}")
    totals: dict[Site, Float64[Tensor, "row width"]] = {}
    for start in range(0, len(texts), BATCH):
        tokens = model.tokenize(texts[start : start + BATCH])
        if int(tokens.lengths.min()) < n_rows:
            raise SteeringError(f"a text has {int(tokens.lengths.min())} tokens, fewer than n_positions={n_rows}")
        lengths, positions = tokens.lengths[:, None], tokens.positions
        if pooling == "mean":
            chosen = (positions >= 1) | ((lengths == 1) & (positions == 0))
            weights = (chosen.float() / chosen.sum(dim=1, keepdim=True))[:, None]
        else:
            rows = torch.arange(n_rows, device=positions.device)[:, None]
            weights = (positions[:, None] == lengths[..., None] - n_rows + rows).float()

        def add(
            values: Tensor, site: Site, call: Call, weights: Tensor = weights, is_real: Tensor = tokens.mask
        ) -> None:
            clean = torch.where(is_real[..., None], values.float(), 0.0)
            found = torch.einsum("bpw,brp->brw", clean, weights).double().sum(dim=0).cpu()
            totals[site] = totals[site] + found if site in totals else found

        with model.hooked(dict.fromkeys(sites, add)):
            model.run(tokens)
    return torch.stack([totals[site] for site in sites]) / len(texts)


def difference_in_means(
    model: HookedModel,
    positive: Sequence[str],
    negative: Sequence[str],
    sites: Sequence[Site],
    pooling: Pooling | int = "mean",
) -> Float64[Tensor, "site row width"]:
    """Mean over the positive texts minus mean over the negative ones, in activation units; rows as in `text_means`."""
    positive, negative = checked_texts(positive), checked_texts(negative)
    if sorted(positive) == sorted(negative):
        raise SteeringError("positive and negative texts are the same, which is no contrast; pass texts that differ")
    return text_means(model, positive, sites, pooling) - text_means(model, negative, sites, pooling)


# --- from pooled rows -------------------------------------------------------------------------------------------------


def row_difference(
    values: Float32[np.ndarray, "text *shape"], is_wanted: Bool[np.ndarray, "text"]
) -> Float32[Tensor, "*shape"]:
    """Mean of the wanted rows minus mean of the others, in activation units."""
    wanted, others = (values[chosen].mean(axis=0, dtype=np.float64) for chosen in (is_wanted, ~is_wanted))
    return torch.from_numpy((wanted - others).astype(np.float32))


def domain_difference(
    rows: PooledRows, domain: str, layers: Sequence[int] | slice = slice(None), pooling: Pooling = "mean"
) -> Float32[Tensor, "layer d_model"]:
    """Mean over the *identify* rows of a domain minus mean over those of all other domains."""
    identify = rows.where(split="identify")
    is_wanted = rows.where(domain=domain)[identify]
    if not is_wanted.any() or is_wanted.all():
        lacking = f"any domain but {domain}" if is_wanted.any() else domain
        raise SteeringError(
            f"there is no identify passage of {lacking}, so there is no direction; add some to the corpus"
        )
    return row_difference(rows.pooled(pooling)[:, layers][identify], is_wanted)


def domain_dimensions(rows: PooledRows, domain: str, k: int, selection: Selection = "magnitude") -> tuple[int, ...]:
    """The domain-critical dimensions of a domain, best first; raises `NotApplicable` where there are none."""
    found = find_dcds(rows, k=k, selection=selection)
    chosen = tuple(dcd.dimension for dcd in found if dcd.domain == domain)
    if not chosen:
        raise NotApplicable(f"no dimension is active in 30 % more of the texts of {domain!r} than of the others")
    return chosen


# --- from either ------------------------------------------------------------------------------------------------------


def residual_difference(
    model: HookedModel,
    positive: Examples,
    negative: Sequence[str],
    domain: str,
    layers: Sequence[int],
    pooling: Pooling,
) -> Float[Tensor, "layer d_model"]:
    """The difference in means of block outputs: of texts, or of the rows of a domain against those of all others."""
    layers = checked_layers(layers)
    sites = model.residual_sites(layers)
    if isinstance(positive, PooledRows):
        if not domain or negative:
            raise SteeringError("pooled rows are fitted on a domain against all others: pass domain=, and no texts")
        if positive.values.shape[2:] != (model.n_layers, model.d_model):
            raise SteeringError(
                f"pooled rows of shape {positive.values.shape} are not of {model.name}; collect them at all layers"
            )
        return domain_difference(positive, domain, layers, pooling)
    if domain:
        raise SteeringError("a domain is looked up in pooled rows; with texts pass positive and negative ones alone")
    return difference_in_means(model, positive, negative, sites, pooling)[:, 0].float()


# --- checks -----------------------------------------------------------------------------------------------------------


def checked_texts(texts: Sequence[str]) -> Sequence[str]:
    """The texts; raises for a single string, for what is no text, and for none."""
    if isinstance(texts, str):
        raise SteeringError(f"expected several texts, given one string; pass [{texts[:20]!r}]")
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise SteeringError(f"expected texts, given a {type(wrong[0]).__name__}; pass strings, such as prompt.text")
    if not texts:
        raise SteeringError("no texts to fit on; pass at least one positive and one negative")
    return texts


def checked_layers(layers: Sequence[int]) -> list[int]:
    """The layers as plain integers; raises for a single number and for what is none."""
    return _integers("layers", layers)


def checked_dimensions(dimensions: Sequence[int]) -> list[int]:
    """The dimensions as plain integers; raises for a single number and for records."""
    return _integers("dimensions", dimensions)


def _integers(name: str, values: Sequence[int]) -> list[int]:
    if not isinstance(values, Sequence | np.ndarray | range) or isinstance(values, str):
        raise SteeringError(f"{name} is {values!r}; pass a list of integers, such as {name}=[3]")
    wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, int | np.integer)]
    if wrong:
        raise SteeringError(
            f"{name} must be integers, given a {type(wrong[0]).__name__}; of Dimension records pass "
            "[dcd.dimension for dcd in dcds]"
        )
    return [int(value) for value in values]


def check_layers(noun: str, rows: Sequence[object] | Tensor, layers: Sequence[int]) -> None:
    """Raise unless there is one row per layer and no layer stands twice."""
    checked_layers(layers)
    if len(layers) != len(rows) or len(set(layers)) != len(layers):
        raise SteeringError(f"{len(rows)} {noun} for layers {tuple(layers)}; give one per distinct layer")


def check_finite(name: str, values: Tensor) -> None:
    """Raise if a payload holds NaN or infinite values."""
    if not bool(torch.isfinite(values).all()):
        raise SteeringError(f"{name} holds NaN or infinite values; fit it again on clean activations")
