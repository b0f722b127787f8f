"""Which heads write a persona: signed contributions to the change of a layer's attention output, and what is noise.

    c[l,h] = < W_O[l,h] Delta z[l,h], Delta o[l] >,   sum over h of c[l,h] = |Delta o[l]|^2

Source of c: the code of arXiv 2603.13249 (an inner product, not a cosine). Ours is what follows. c is a quadratic form
of a mean difference, so the noise of the mean adds to it: with responses of noise alone every head that varies has a
positive c. `noise` is an unbiased estimate of that part, and c - noise is the mean of the same product over pairs of
different responses (a U-statistic), in which noise cancels.

Its interval is a studentised bootstrap over responses. A percentile interval would not do: resampling adds its own
noise to what is squared, so it lies too high. The studentised one asks how far resampled estimates, in units of their
own jackknife error, lie from the plain c, which is what they estimate; it also follows their skewness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64

from workbench.interventions.base import SteeringError
from workbench.interventions.style_heads import PersonaActivations
from workbench.models import HookedModel

Ranking = Literal["share", "norm"]
FEWEST = 3  # responses of a kind from which a jackknife error can be had


@dataclass(frozen=True)
class HeadScores:
    """Head contributions at every layer, with the part that is noise and 95 % intervals.

    `contribution` is the plain c; it sums to |Delta o|^2 over the heads of a layer. `noise` is the part of it that the
    scatter of responses alone would give. `share` = (contribution - noise) / |Delta o|^2 is unbiased up to that common
    divisor; shares and noise / |Delta o|^2 together sum to 1. `low` and `high` bound the share. With fewer than three
    responses of a kind `noise`, `low` and `high` are NaN and the share is the plain one. `norm` is |W_O Delta z|.
    """

    contribution: Float64[np.ndarray, "layer head"]
    noise: Float64[np.ndarray, "layer head"]
    share: Float64[np.ndarray, "layer head"]
    low: Float64[np.ndarray, "layer head"]
    high: Float64[np.ndarray, "layer head"]
    norm: Float64[np.ndarray, "layer head"]

    @property
    def cosine(self) -> Float64[np.ndarray, "layer head"]:
        """Between what a head writes and Delta o: the contribution without the lengths, which favour large heads."""
        lengths = self.norm * np.sqrt(self.contribution.sum(axis=1, keepdims=True))
        return np.divide(self.contribution, lengths, out=np.zeros_like(lengths), where=lengths > 0)

    def frame(self) -> pd.DataFrame:
        """One row per head, with its role: correlated where the interval is above 0, anti-correlated where below."""
        layers, heads = np.indices(self.share.shape)
        role = np.where(self.low > 0, "correlated", np.where(self.high < 0, "anti-correlated", "unclear"))
        columns = {"layer": layers, "head": heads, "contribution": self.contribution, "noise": self.noise}
        columns |= {"share": self.share, "low": self.low, "high": self.high}
        columns |= {"norm": self.norm, "cosine": self.cosine, "role": role}
        return pd.DataFrame({name: values.ravel() for name, values in columns.items()})

    def top(self, layer: int, n: int, *, by: Ranking | str = "share") -> tuple[int, ...]:
        """The `n` heads of one layer with the largest share, or with the largest |W_O Delta z| (a control)."""
        n_layers, n_heads = self.share.shape
        if not 0 <= layer < n_layers:
            raise SteeringError(f"layer {layer} is out of range; there are layers 0 to {n_layers - 1}")
        if not 1 <= n <= n_heads:
            raise SteeringError(f"cannot choose {n} heads; this model has {n_heads} per layer")
        if by not in get_args(Ranking):
            raise SteeringError(f"unknown ranking {by!r}; choose one of {', '.join(get_args(Ranking))}")
        values = self.share if by == "share" else self.norm
        return tuple(int(head) for head in np.argsort(-values[layer], kind="stable")[:n])


def head_scores(
    model: HookedModel, activations: PersonaActivations, *, n_resamples: int = 500, seed: int = 0
) -> HeadScores:
    """Contribution of every head to the change of its layer's raw attention output, its noise, and its interval.

    With as many responses of one kind as of the other, row i of both counts as a pair (they answer the same question)
    and pairs are resampled; otherwise the two kinds are resampled apart. Memory per layer: n^2 numbers per head for n
    responses, and n per head and resample.
    """
    if n_resamples < 1:
        raise SteeringError(f"n_resamples must be at least 1, not {n_resamples}")
    positive, negative = (z.double().numpy() for z in (activations.positive_z, activations.negative_z))
    kinds = [positive - negative] if len(positive) == len(negative) else [positive, -negative]
    sizes = [len(kind) for kind in kinds]
    counts = resample_counts(sizes, n_resamples, seed)
    columns = []
    for layer in range(model.n_layers):
        weight = _output_weight(model, layer)
        layer_rows = [kind[:, layer].reshape(len(kind), model.n_heads, model.d_head) for kind in kinds]
        delta = np.sum([rows.mean(axis=0) for rows in layer_rows], axis=0)
        written = np.einsum("hd,hdm->hm", delta, weight)
        plain = written @ written.sum(axis=0)
        total = plain.sum() or 1.0
        products = head_products(np.concatenate(layer_rows), weight)
        noise, low, high = _noise_and_interval(products, sizes, counts, plain)
        signal = plain if min(sizes) < FEWEST else plain - noise
        columns.append((plain, noise, signal / total, low / total, high / total, np.linalg.norm(written, axis=1)))
    return HeadScores(*(np.stack(column) for column in zip(*columns, strict=True)))


def _output_weight(model: HookedModel, layer: int) -> Float64[np.ndarray, "head d_head d_model"]:
    width = model.n_heads * model.d_head
    rows = model.project_heads(torch.eye(width), layer).double().cpu().numpy()
    return rows.reshape(model.n_heads, model.d_head, -1)


def head_products(
    rows: Float64[np.ndarray, "row head d_head"], weight: Float64[np.ndarray, "head d_head d_model"]
) -> Float64[np.ndarray, "head row row2"]:
    """< W_O[h] z[i,h], o[j] > for every two rows of head outputs, symmetric in i and j; o[j] sums over all heads."""
    n_rows, n_heads, _ = rows.shape
    flat = weight.reshape(-1, weight.shape[-1])
    back = (rows.reshape(n_rows, -1) @ flat) @ flat.T
    products = rows.transpose(1, 0, 2) @ back.reshape(n_rows, n_heads, -1).transpose(1, 2, 0)
    return (products + products.transpose(0, 2, 1)) / 2


def resample_counts(sizes: Sequence[int], n_resamples: int, seed: int) -> Int64[np.ndarray, "resample row"]:
    """How often every row is drawn, within kinds of `sizes` rows; no resample is one row alone, which has no error."""
    generator = np.random.default_rng(seed)
    parts = []
    for size in sizes:
        drawn = generator.integers(0, size, size=(n_resamples, size))
        alone = (drawn == drawn[:, :1]).all(axis=1)
        drawn[alone, 0] = (drawn[alone, 0] + 1) % size
        parts.append(np.stack([np.bincount(row, minlength=size) for row in drawn]))
    return np.concatenate(parts, axis=1)


def _noise_and_interval(
    products: Float64[np.ndarray, "head row row2"],
    sizes: Sequence[int],
    counts: Int64[np.ndarray, "resample row"],
    plain: Float64[np.ndarray, "head"],
) -> tuple[Float64[np.ndarray, "head"], ...]:
    """Noise in `plain`, and the 95 % interval of what is left without it; NaN with too few rows."""
    if min(sizes) < FEWEST:
        unknown = np.full(len(plain), np.nan)
        return unknown, unknown, unknown
    estimate, error = cross_products(products, sizes, np.ones_like(counts[:1]))
    resampled, errors = cross_products(products, sizes, counts)
    distance = np.divide(resampled - plain, errors, out=np.zeros_like(errors), where=errors > 0)
    below, above = np.quantile(distance, [0.025, 0.975], axis=0)
    return plain - estimate[0], estimate[0] - above * error[0], estimate[0] - below * error[0]


def cross_products(
    products: Float64[np.ndarray, "head row row2"], sizes: Sequence[int], counts: Int64[np.ndarray, "resample row"]
) -> tuple[Float64[np.ndarray, "resample head"], Float64[np.ndarray, "resample head"]]:
    """< W_O[h] Delta z[h], Delta o > from different rows only, for every resample, and its jackknife error.

    Within a kind the mean is over pairs of different draws, between kinds over all pairs: an unbiased estimate.
    """
    kind = np.repeat(np.arange(len(sizes)), sizes)
    size = np.repeat(sizes, sizes)
    n_pairs = np.where(kind[:, None] == kind, size * (size - 1), np.outer(size, size))
    weighted = products / n_pairs
    diagonal = np.diagonal(weighted, axis1=1, axis2=2)
    links = (counts @ weighted).transpose(1, 0, 2) - diagonal  # what one draw of a row shares with all other draws
    variance = np.zeros(links.shape[:2])
    for index, n in enumerate(sizes):
        drawn, own = counts[:, None, kind == index], 2 * links[..., kind == index]
        mean = (drawn * own).sum(axis=-1, keepdims=True) / n
        variance += n * (n - 1) / (n - 2) ** 2 * (drawn * (own - mean) ** 2).sum(axis=-1)
    return (counts[:, None] * links).sum(axis=-1), np.sqrt(variance)
