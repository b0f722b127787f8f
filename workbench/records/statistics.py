"""Activations and what is folded from them: statistics, rows per prompt, columns."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from workbench.records.text import Site, Split


@dataclass(frozen=True)
class Activations:
    """Rows of real tokens of one batch, all of one domain; padding never appears.

    `values[s]` are the activations at `sites[s]` in the model's dtype. `prompt_index` counts in the list of prompts
    that the stream was given; `positions` are absolute, so position 0 is BOS or, where a family has none, the first
    token. `is_delimiter` marks tokens that end a sentence, a clause or a line; None where nobody said.
    """

    domain: str
    sites: tuple[Site, ...]
    values: Float[Tensor, "site token width"]
    token_ids: Int[Tensor, "token"]
    prompt_index: Int[Tensor, "token"]
    positions: Int[Tensor, "token"]
    is_delimiter: Bool[Tensor, "token"] | None = None

    def __repr__(self) -> str:
        sites = ", ".join(map(str, self.sites))
        return f"Activations: {len(self.token_ids)} tokens of {self.domain!r} at {sites}"


@dataclass(frozen=True)
class TopTokens:
    """The tokens with the most extreme activations, per domain, layer, end (0 high, 1 low), rank and dimension.

    `value` is in activation units; `prompt` counts in the list of prompts, -1 where fewer tokens than ranks were seen.
    """

    value: Float32[np.ndarray, "domain layer end rank d_model"]
    prompt: Int[np.ndarray, "domain layer end rank d_model"]
    position: Int[np.ndarray, "domain layer end rank d_model"]
    token: Int[np.ndarray, "domain layer end rank d_model"]


@dataclass(frozen=True)
class DimensionStatistics:
    """What is known of every residual dimension, per domain and layer, over all tokens but the first of each prompt.

    Moments are float64 and merge exactly enough that shards equal one pass. Position 0 (BOS, or the first token of
    families without BOS) carries attention sinks and is counted apart in the `first_*` fields. `n_active` counts the
    prompts whose mean magnitude at that layer lies more than 3 sigma above the mean over dimensions.
    """

    domains: tuple[str, ...]
    n_tokens: Int[np.ndarray, "domain"]
    n_prompts: Int[np.ndarray, "domain"]
    mean: Float64[np.ndarray, "domain layer d_model"]
    m2: Float64[np.ndarray, "domain layer d_model"]
    mean_magnitude: Float64[np.ndarray, "domain layer d_model"]
    max_magnitude: Float64[np.ndarray, "domain layer d_model"]
    n_active: Int[np.ndarray, "domain layer d_model"]
    first_mean_magnitude: Float64[np.ndarray, "domain layer d_model"]
    first_max_magnitude: Float64[np.ndarray, "domain layer d_model"]
    top: TopTokens

    def __repr__(self) -> str:
        n_layers, d_model = self.mean.shape[1:]
        counts = zip(self.domains, self.n_prompts, self.n_tokens, strict=True)
        domains = ", ".join(f"{domain} ({prompts} prompts, {tokens} tokens)" for domain, prompts, tokens in counts)
        return f"DimensionStatistics: {n_layers} layers of {d_model} dimensions\n{domains}"

    @property
    def variance(self) -> Float64[np.ndarray, "domain layer d_model"]:
        """Population variance over tokens, in squared activation units."""
        return self.m2 / np.maximum(self.n_tokens, 1)[:, None, None]

    @property
    def frequency(self) -> Float64[np.ndarray, "domain layer d_model"]:
        """Share of prompts in which the dimension is active under the 3-sigma rule, per layer."""
        return self.n_active / np.maximum(self.n_prompts, 1)[:, None, None]


@dataclass(frozen=True)
class PooledRows:
    """One row per prompt, pooling, layer and dimension: what readings, bootstrap and permutations resample.

    `values` may be memory-mapped. Poolings are over the tokens after the first: `mean_abs`, `mean`, `max_abs`, `last`,
    `scaled` (`mean_abs` with every token divided by the RMS of its vector), and `delimiter` and `rest` (`mean_abs` of
    the tokens that end a sentence, clause or line, and of the others; NaN where there are none). `first` is the
    activation of the first position itself, `all` the mean magnitude with the first position included.
    """

    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[Split, ...]
    poolings: tuple[str, ...]
    values: Float32[np.ndarray, "prompt pooling layer d_model"]

    def __post_init__(self) -> None:
        n = self.values.shape[0]
        if not n == len(self.prompts) == len(self.domains) == len(self.splits):
            raise ValueError(f"{n} rows, but {len(self.prompts)} names, {len(self.domains)} domains")
        if self.values.shape[1] != len(self.poolings):
            raise ValueError(f"{self.values.shape[1]} poolings in the rows, but {len(self.poolings)} names for them")

    def __repr__(self) -> str:
        n_prompts, _, n_layers, d_model = self.values.shape
        return (
            f"PooledRows: {n_prompts} prompts, {n_layers} layers of {d_model} dimensions\n"
            f"domains: {', '.join(dict.fromkeys(self.domains))}\npoolings: {', '.join(self.poolings)}"
        )

    def pooled(self, pooling: str) -> Float32[np.ndarray, "prompt layer d_model"]:
        """The rows of one pooling; raises if it was not collected."""
        if pooling not in self.poolings:
            raise ValueError(f"pooling {pooling!r} was not collected; these were: {', '.join(self.poolings)}")
        return self.values[:, self.poolings.index(pooling)]

    def where(self, *, split: Split | None = None, domain: str | None = None) -> Bool[np.ndarray, "prompt"]:
        """Mask of the rows of one split and/or one domain."""
        mask = np.ones(len(self.prompts), dtype=bool)
        if split is not None:
            mask &= np.array(self.splits) == split
        if domain is not None:
            mask &= np.array(self.domains) == domain
        return mask


@dataclass(frozen=True)
class TokenColumns:
    """Activations of chosen (layer, dimension) columns at every real token, first positions included.

    `token_text[t]` is the text of token t; tokens of a prompt stand together in reading order. `prompt_index` counts in
    `prompts`, whose domains and splits stand beside it.
    """

    columns: tuple[tuple[int, int], ...]
    values: Float32[np.ndarray, "token column"]
    token_text: tuple[str, ...]
    prompt_index: Int[np.ndarray, "token"]
    positions: Int[np.ndarray, "token"]
    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    splits: tuple[Split, ...]

    def __repr__(self) -> str:
        return (
            f"TokenColumns: {len(self.columns)} columns (layer, dimension) at {len(self.token_text)} tokens of "
            f"{len(self.prompts)} prompts\ndomains: {', '.join(dict.fromkeys(self.domains))}"
        )
