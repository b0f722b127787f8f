"""Folding a stream of activations into `DimensionStatistics` and pooled rows, in one pass and constant memory.

Each prompt is reduced on the device of its activations (float64 sums, centred before squaring), prompts are joined by
Chan's pairwise update, and top tokens are searched only above the value that would enter the list. Shards that were
folded apart merge to the same result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from workbench.dimensions.top_tokens import Extremes, merge_top
from workbench.records import Activations, DimensionStatistics, PooledRows, TopTokens

N_SIGMA = 3.0
POOLINGS: tuple[str, ...] = ("mean_abs", "mean", "max_abs", "last", "first", "all", "scaled", "delimiter", "rest")


def active_dimensions(magnitude: Float[np.ndarray, "*rows d_model"]) -> Bool[np.ndarray, "*rows d_model"]:
    """The 3-sigma rule: which dimensions of a row of magnitudes lie more than 3 sigma above the mean of that row.

    Mean and (population) standard deviation run over the d_model entries of the row itself. A row of equal entries has
    no active dimension.
    """
    rows = magnitude.astype(np.float64)
    return rows > rows.mean(axis=-1, keepdims=True) + N_SIGMA * rows.std(axis=-1, keepdims=True)


@dataclass(frozen=True)
class PromptReductions:
    """What a batch is reduced to, prompt by prompt: everything the statistics and the pooled rows need.

    `n_tokens`, the moments (`m2` = sum of squared deviations from `mean`) and the extremes are over the tokens after
    the first of each prompt; `first` is the activation at position 0, `last` at the last token. Activation units.
    `scaled` is the mean magnitude with every token divided by the RMS of its vector; `delimiter` and `rest` are mean
    magnitudes of one position class, NaN where a prompt has no such token or nobody said which they are.
    """

    prompt_index: Int[np.ndarray, "prompt"]
    n_tokens: Int[np.ndarray, "prompt"]
    mean: Float64[np.ndarray, "prompt layer d_model"]
    m2: Float64[np.ndarray, "prompt layer d_model"]
    mean_magnitude: Float64[np.ndarray, "prompt layer d_model"]
    highest: Float32[np.ndarray, "prompt layer d_model"]
    lowest: Float32[np.ndarray, "prompt layer d_model"]
    first: Float32[np.ndarray, "prompt layer d_model"]
    last: Float32[np.ndarray, "prompt layer d_model"]
    scaled: Float32[np.ndarray, "prompt layer d_model"]
    delimiter: Float32[np.ndarray, "prompt layer d_model"]
    rest: Float32[np.ndarray, "prompt layer d_model"]

    @property
    def max_magnitude(self) -> Float32[np.ndarray, "prompt layer d_model"]:
        """Largest magnitude over the tokens after the first."""
        return np.maximum(self.highest, -self.lowest)

    @property
    def _all(self) -> Float64[np.ndarray, "prompt layer d_model"]:
        """Mean magnitude over all tokens, the first included."""
        n = self.n_tokens[:, None, None]
        return (n * self.mean_magnitude + np.abs(self.first)) / (n + 1)

    def pool(self, poolings: Sequence[str]) -> Float32[np.ndarray, "prompt pooling layer d_model"]:
        """One row per prompt and pooling of `POOLINGS`, as in `PooledRows`."""
        unknown = [pooling for pooling in poolings if pooling not in POOLINGS]
        if unknown or not poolings:
            raise ValueError(f"unknown poolings {unknown}; choose from {', '.join(POOLINGS)}")
        source = {
            "mean_abs": self.mean_magnitude,
            "mean": self.mean,
            "max_abs": self.max_magnitude,
            "last": self.last,
            "first": self.first,
            "all": self._all,
            "scaled": self.scaled,
            "delimiter": self.delimiter,
            "rest": self.rest,
        }
        return np.stack([source[pooling] for pooling in poolings], axis=1).astype(np.float32)


def reduce_prompts(activations: Activations) -> PromptReductions:
    """Reduce a batch of whole prompts, one row per prompt in the order in which they stand in the batch.

    Raises `ValueError` where a prompt does not start at position 0 or has no second token, and where activations are
    NaN or infinite (the layer is named).
    """
    starts, lengths, prompt_index = _prompt_bounds(activations)
    values = activations.values
    if values.device.type == "mps":  # has no float64
        values = values.cpu()
    classes = activations.is_delimiter
    if classes is not None:
        classes = classes.to(values.device)
    parts = []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        here = slice(start, start + length)
        parts.append(_reduce(values[:, here], None if classes is None else classes[here]))
    columns = (torch.stack(column).cpu().numpy() for column in zip(*parts, strict=True))
    reductions = PromptReductions(prompt_index, lengths - 1, *columns)
    _check_finite(reductions, activations)
    return reductions


def pool(
    activations: Activations, poolings: Sequence[str] = POOLINGS
) -> tuple[Int[np.ndarray, "prompt"], Float32[np.ndarray, "prompt pooling layer d_model"]]:
    """Indices of the prompts of a batch and their pooled rows.

    Where a `StatisticsFold` sees the same batch, use what its `update` returns instead: the work is then done once.
    """
    reductions = reduce_prompts(activations)
    return reductions.prompt_index, reductions.pool(poolings)


def _prompt_bounds(
    activations: Activations,
) -> tuple[Int[np.ndarray, "prompt"], Int[np.ndarray, "prompt"], Int[np.ndarray, "prompt"]]:
    """Start row, number of tokens and index of every prompt in the batch."""
    index = activations.prompt_index.cpu().numpy()
    positions = activations.positions.cpu().numpy()
    if len(index) == 0:
        raise ValueError(f"a batch of domain {activations.domain} holds no tokens; leave out empty prompts")
    starts = np.flatnonzero(np.diff(index, prepend=index[0] - 1))
    lengths = np.diff(starts, append=len(index))
    prompts = index[starts]
    if len(np.unique(prompts)) != len(prompts):
        raise ValueError("tokens of a prompt do not stand together in the batch; hand over whole prompts one by one")
    if (positions[starts] != 0).any() or np.count_nonzero(positions == 0) != len(starts):
        wrong = prompts[np.flatnonzero(positions[starts] != 0)[:1]].tolist()
        raise ValueError(f"prompt {wrong} does not run from position 0; split batches at prompt boundaries only")
    if (lengths < 2).any():
        short = prompts[lengths < 2][:5].tolist()
        raise ValueError(f"prompts {short} have no token after the first position; leave out prompts this short")
    return starts, lengths, prompts


def _reduce(
    prompt: Float[Tensor, "layer token d_model"], is_delimiter: Bool[Tensor, "token"] | None
) -> tuple[Float[Tensor, "layer d_model"], ...]:
    """Mean, m2, mean magnitude (float64), then the float32 fields of `PromptReductions`, of one prompt."""
    rest = prompt[:, 1:]
    centred = rest.to(torch.float64, copy=True)
    mean = centred.mean(dim=1)
    m2 = centred.sub_(mean[:, None]).square_().sum(dim=1)
    magnitude = rest.float().abs()
    mean_magnitude = rest.abs().sum(dim=1, dtype=torch.float64) / rest.shape[1]
    exact = (rest.amax(dim=1), rest.amin(dim=1), prompt[:, 0], prompt[:, -1])
    weighted = _weights(magnitude, None if is_delimiter is None else is_delimiter[1:]) @ magnitude
    return mean, m2, mean_magnitude, *(value.float() for value in exact), *weighted.unbind(dim=1)


def _weights(
    magnitude: Float[Tensor, "layer token d_model"], is_delimiter: Bool[Tensor, "token"] | None
) -> Float[Tensor, "layer pooling token"]:
    """What every token counts in `scaled`, `delimiter` and `rest`; NaN where a class has no tokens."""
    norm = torch.linalg.vector_norm(magnitude, dim=2)
    rms = (norm / magnitude.shape[2] ** 0.5).clamp(min=torch.finfo(torch.float32).tiny)
    if is_delimiter is None:
        nothing = torch.full_like(rms, torch.nan)
        return torch.stack([1 / rms / rms.shape[1], nothing, nothing], dim=1)
    shares = [(chosen / chosen.sum()).expand_as(rms) for chosen in (is_delimiter.float(), (~is_delimiter).float())]
    return torch.stack([1 / rms / rms.shape[1], *shares], dim=1)


def _check_finite(reductions: PromptReductions, activations: Activations) -> None:
    finite = np.isfinite(reductions.mean) & np.isfinite(reductions.first)
    if finite.all():
        return
    prompt, layer, _ = np.argwhere(~finite)[0]
    raise ValueError(
        f"activations at {activations.sites[layer]} are NaN or infinite in prompt {reductions.prompt_index[prompt]} of "
        f"domain {activations.domain}; load the model in dtype float32 or bfloat16"
    )


# --- the fold ---------------------------------------------------------------------------------------------------------


class StatisticsFold:
    """Accumulates `DimensionStatistics` batch by batch; memory depends on the shape of the model, not on the corpus.

    `domains` are the domains that may come, `n_layers` the number of sites in every batch, `n_top` the number of top
    tokens kept per end. Top tokens cost domains x layers x d_model x 2 n_top x 20 bytes.
    """

    def __init__(self, domains: Sequence[str], n_layers: int, d_model: int, n_top: int = 20) -> None:
        if n_top < 1:
            raise ValueError(f"n_top is {n_top}; keep at least one top token")
        if len(set(domains)) != len(domains):
            raise ValueError(f"domains are listed twice: {', '.join(domains)}")
        self.domains = tuple(domains)
        shape = (len(domains), n_layers, d_model)
        self._moments = _Moments.zeros(shape)
        self._n_active = np.zeros(shape, dtype=np.int64)
        self._extremes = [Extremes(n_layers, d_model, n_top) for _ in domains]

    def update(self, activations: Activations) -> PromptReductions:
        """Fold one batch of whole prompts of one domain; returns the per-prompt reductions, ready for pooling."""
        shape = self._n_active.shape[1:]
        found = (activations.values.shape[0], activations.values.shape[2])
        if found != shape:
            raise ValueError(f"a batch has {found} layers and dimensions, the fold was made for {shape}")
        if activations.domain not in self.domains:
            raise ValueError(f"unknown domain {activations.domain!r}; the fold was made for {', '.join(self.domains)}")
        reductions = reduce_prompts(activations)
        domain = self.domains.index(activations.domain)
        self._moments.add(domain, _Moments.of(reductions))
        self._n_active[domain] += active_dimensions(reductions.mean_magnitude).sum(axis=0)
        self._extremes[domain].offer(activations)
        return reductions

    def result(self) -> DimensionStatistics:
        """What has been folded so far; the fold can go on afterwards."""
        tables = [extremes.arrays() for extremes in self._extremes]
        top = TopTokens(*(np.stack(field) for field in zip(*tables, strict=True)))
        return _as_statistics(self.domains, self._moments, self._n_active.copy(), top)


def merge(a: DimensionStatistics, b: DimensionStatistics) -> DimensionStatistics:
    """Statistics of two disjoint sets of prompts from the statistics of each.

    Prompt addresses must count in one list of prompts: parts that were collected apart are shifted first
    (`shift_prompts`), and their pooled rows joined in the same order (`join_rows`).
    """
    if a.domains != b.domains:
        raise ValueError(f"statistics of different domains do not merge: {a.domains} and {b.domains}")
    if a.top.value.shape != b.top.value.shape:
        raise ValueError(f"statistics of different shape do not merge: {a.top.value.shape} and {b.top.value.shape}")
    moments = _from_statistics(a)
    moments.add(slice(None), _from_statistics(b))
    return _as_statistics(a.domains, moments, a.n_active + b.n_active, merge_top(a.top, b.top))


def shift_prompts(statistics: DimensionStatistics, by: int) -> DimensionStatistics:
    """The same statistics, with prompt addresses that count `by` prompts which stand before their own."""
    prompt = statistics.top.prompt
    return replace(statistics, top=replace(statistics.top, prompt=np.where(prompt >= 0, prompt + by, prompt)))


def join_rows(parts: Sequence[PooledRows]) -> PooledRows:
    """The pooled rows of several lists of prompts, one after another, in memory; raises where they do not fit."""
    kinds = {(part.poolings, part.values.shape[2:]) for part in parts}
    if len(kinds) != 1:
        raise ValueError(f"rows of {len(kinds)} kinds of poolings and shapes do not join; collect all of them alike")
    names, domains, splits = (
        tuple(item for part in parts for item in getattr(part, field)) for field in ("prompts", "domains", "splits")
    )
    return PooledRows(names, domains, splits, parts[0].poolings, np.concatenate([part.values for part in parts]))


class _Moments(NamedTuple):
    """Counts, moments and magnitudes with a leading domain axis (absent in a contribution to one domain)."""

    n_tokens: np.ndarray
    n_prompts: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    mean_magnitude: np.ndarray
    max_magnitude: np.ndarray
    first_mean_magnitude: np.ndarray
    first_max_magnitude: np.ndarray

    @classmethod
    def zeros(cls, shape: tuple[int, int, int]) -> "_Moments":
        counts = (np.zeros((shape[0], 1, 1), dtype=np.int64) for _ in range(2))
        return cls(*counts, *(np.zeros(shape) for _ in range(6)))

    @classmethod
    def of(cls, reductions: PromptReductions) -> "_Moments":
        """The contribution of a batch, joined over its prompts."""
        weight = reductions.n_tokens[:, None, None]
        n_tokens = weight.sum()
        centre = reductions.mean[0]  # deviations from a nearby value keep the digits of the mean
        mean = centre + (weight * (reductions.mean - centre)).sum(axis=0) / n_tokens
        first = np.abs(reductions.first.astype(np.float64))
        return cls(
            n_tokens=n_tokens,
            n_prompts=np.asarray(len(weight)),
            mean=mean,
            m2=(reductions.m2 + weight * np.square(reductions.mean - mean)).sum(axis=0),
            mean_magnitude=(weight * reductions.mean_magnitude).sum(axis=0) / n_tokens,
            max_magnitude=reductions.max_magnitude.max(axis=0).astype(np.float64),
            first_mean_magnitude=first.mean(axis=0),
            first_max_magnitude=first.max(axis=0),
        )

    def add(self, at: int | slice, other: "_Moments") -> None:
        """Fold `other` into the domains `at`, in place (Chan, Golub & LeVeque 1983)."""
        n_tokens = self.n_tokens[at] + other.n_tokens
        n_prompts = self.n_prompts[at] + other.n_prompts
        share = other.n_tokens / np.maximum(n_tokens, 1)
        first_share = other.n_prompts / np.maximum(n_prompts, 1)
        difference = other.mean - self.mean[at]
        self.m2[at] += other.m2 + np.square(difference) * (self.n_tokens[at] * share)
        self.mean[at] += difference * share
        self.mean_magnitude[at] += (other.mean_magnitude - self.mean_magnitude[at]) * share
        self.first_mean_magnitude[at] += (other.first_mean_magnitude - self.first_mean_magnitude[at]) * first_share
        self.max_magnitude[at] = np.maximum(self.max_magnitude[at], other.max_magnitude)
        self.first_max_magnitude[at] = np.maximum(self.first_max_magnitude[at], other.first_max_magnitude)
        self.n_tokens[at] = n_tokens
        self.n_prompts[at] = n_prompts


def _from_statistics(statistics: DimensionStatistics) -> _Moments:
    return _Moments(
        n_tokens=statistics.n_tokens[:, None, None].copy(),
        n_prompts=statistics.n_prompts[:, None, None].copy(),
        **{name: getattr(statistics, name).copy() for name in _Moments._fields[2:]},
    )


def _as_statistics(
    domains: tuple[str, ...], moments: _Moments, n_active: Int[np.ndarray, "domain layer d_model"], top: TopTokens
) -> DimensionStatistics:
    return DimensionStatistics(
        domains=domains,
        n_tokens=moments.n_tokens[:, 0, 0].copy(),
        n_prompts=moments.n_prompts[:, 0, 0].copy(),
        n_active=n_active,
        top=top,
        **{name: getattr(moments, name).copy() for name in _Moments._fields[2:]},
    )
