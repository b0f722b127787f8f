"""Every reading of the magnitude-based rule, computed from the same pooled rows, and how far they agree.

The paper (Roh, Cho, Kim 2026, arXiv 2603.00029) leaves open over what mean and sigma are taken, whether values are
signed, over which tokens and layers they are pooled and on what scale, and whether the 30 % rule selects or describes.
`READINGS` holds the default and every alternative, one change at a time; k is an argument.

Of a reading every prompt q, layer l and dimension d has a score x[q,l,d], read from one pooling:

    absolute    |x|                       active: score > mean + 3 sigma
    upper       x                         active: score > mean + 3 sigma
    two-sided   x                         active: |score - mean| > 3 sigma, ordered by |x|

Mean and sigma run over the dimensions of the same row, or over all prompts of the same dimension. Layers are averaged,
taken one by one with a majority vote on "active", replaced by their largest, or only one is looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from workbench.dimensions.criteria import DomainProfiles, order_dimensions, split_domains
from workbench.dimensions.statistics import N_SIGMA
from workbench.records import PooledRows, ReadingAgreement, Selection, Split

Over = Literal["dimensions", "prompts"]
Sign = Literal["absolute", "upper", "two-sided"]
Layers = Literal["mean", "vote", "max", "first", "middle", "last"]


@dataclass(frozen=True)
class Reading:
    """One way to read the rule; `pooling` names what is read of the tokens, and on which scale."""

    pooling: str = "mean_abs"
    over: Over = "dimensions"
    sign: Sign = "absolute"
    layers: Layers = "mean"
    selection: Selection = "magnitude"


DEFAULT = Reading()
READINGS: dict[str, Reading] = {
    "default": DEFAULT,
    "sigma over prompts, 30 % rule": replace(DEFAULT, over="prompts", selection="both"),
    "signed, upper tail": replace(DEFAULT, pooling="mean", sign="upper"),
    "signed, two-sided": replace(DEFAULT, pooling="mean", sign="two-sided"),
    "all tokens": replace(DEFAULT, pooling="all"),
    "largest token": replace(DEFAULT, pooling="max_abs"),
    "last token": replace(DEFAULT, pooling="last"),
    "first layer": replace(DEFAULT, layers="first"),
    "middle layer": replace(DEFAULT, layers="middle"),
    "last layer": replace(DEFAULT, layers="last"),
    "layer vote, 30 % rule": replace(DEFAULT, layers="vote", selection="both"),
    "largest layer": replace(DEFAULT, layers="max"),
    "scaled by RMS": replace(DEFAULT, pooling="scaled"),
    "30 % rule": replace(DEFAULT, selection="both"),
    "30 % rule, by gap": replace(DEFAULT, selection="discrimination"),
}


def reading_profiles(rows: PooledRows, reading: Reading, *, split: Split = "identify") -> DomainProfiles:
    """Magnitude (mean score) and frequency of every dimension in every domain under one reading.

    Signed readings give signed "magnitudes" for the upper tail. Raises where the pooling was not collected.
    """
    domains = split_domains(rows, split)
    chosen = rows.where(split=split) & np.isin(rows.domains, domains)
    of = np.array(rows.domains)[chosen]
    scores = _scores(rows.pooled(reading.pooling)[chosen].astype(np.float64), reading)
    active = _active(scores, reading)
    if reading.layers == "vote":
        active = active.mean(axis=1, keepdims=True) > 0.5
        scores = scores.mean(axis=1, keepdims=True)
    size = np.abs(scores[:, 0]) if reading.sign == "two-sided" else scores[:, 0]
    magnitude, frequency = (
        np.stack([values[of == domain].mean(axis=0) for domain in domains]) for values in (size, active[:, 0])
    )
    counts = np.array([(of == domain).sum() for domain in domains])
    return DomainProfiles(domains, counts, magnitude, frequency.astype(np.float64))


def reading_sets(
    rows: PooledRows,
    *,
    k: int = 8,
    split: Split = "identify",
    readings: Mapping[str, Reading] = READINGS,
) -> dict[str, dict[str, tuple[int, ...]]]:
    """The DCDs of every domain under every reading, best first, at most `k` each: reading -> domain -> dimensions.

    Readings whose pooling is not among the rows are left out; raises if none is left, or for k out of range.
    """
    d_model = rows.values.shape[3]
    if not 1 <= k <= d_model:
        raise ValueError(f"k is {k}; choose between 1 and d_model = {d_model}")
    known = {name: reading for name, reading in readings.items() if reading.pooling in rows.poolings}
    if not known:
        wanted = ", ".join(sorted({reading.pooling for reading in readings.values()}))
        raise ValueError(f"the rows hold {', '.join(rows.poolings)}; collect at least one of {wanted}")
    sets = {}
    for name, reading in known.items():
        profiles = reading_profiles(rows, reading, split=split)
        sets[name] = {
            domain: tuple(order_dimensions(profiles, number, reading.selection)[:k].tolist())
            for number, domain in enumerate(profiles.domains)
        }
    return sets


def reading_agreement(rows: PooledRows, *, k: int = 8, split: Split = "identify") -> list[ReadingAgreement]:
    """Jaccard index of the DCD sets of every domain between every two readings, in the order of `READINGS`."""
    sets = reading_sets(rows, k=k, split=split)
    return [
        ReadingAgreement(domain, first, second, k, _jaccard(sets[first][domain], sets[second][domain]))
        for domain in next(iter(sets.values()))
        for first, second in combinations(sets, 2)
    ]


def agreement_matrix(agreements: Sequence[ReadingAgreement], domain: str | None = None) -> pd.DataFrame:
    """Agreement of readings as a symmetric table, for one domain or (None) as the mean over domains, NaN left out."""
    names = list(dict.fromkeys(name for item in agreements for name in (item.first, item.second)))
    if domain is not None and all(item.domain != domain for item in agreements):
        raise ValueError(
            f"no agreement was measured in {domain!r}; choose one of {sorted({a.domain for a in agreements})}"
        )
    table = pd.DataFrame(np.eye(len(names)), index=names, columns=names)
    values: dict[tuple[str, str], list[float]] = {}
    for item in agreements:
        if domain in (None, item.domain):
            values.setdefault((item.first, item.second), []).append(item.jaccard)
    for (first, second), found in values.items():
        known = [value for value in found if not np.isnan(value)]
        table.loc[first, second] = table.loc[second, first] = np.mean(known) if known else np.nan
    return table


def _scores(
    values: Float64[np.ndarray, "prompt layer d_model"], reading: Reading
) -> Float64[np.ndarray, "prompt kept d_model"]:
    """Scores with the layers that are still apart: all for a vote, otherwise one."""
    if reading.sign == "absolute":
        values = np.abs(values)
    match reading.layers:
        case "vote":
            return values
        case "max":
            largest = np.abs(values).argmax(axis=1, keepdims=True)
            return np.take_along_axis(values, largest, axis=1)
        case "mean":
            return values.mean(axis=1, keepdims=True)
        case place:
            at = {"first": 0, "middle": values.shape[1] // 2, "last": values.shape[1] - 1}[place]
            return values[:, at : at + 1]


def _active(
    scores: Float64[np.ndarray, "prompt layer d_model"], reading: Reading
) -> Bool[np.ndarray, "prompt layer d_model"]:
    axis = 2 if reading.over == "dimensions" else 0
    deviation = scores - scores.mean(axis=axis, keepdims=True)
    if reading.sign == "two-sided":
        deviation = np.abs(deviation)
    return deviation > N_SIGMA * scores.std(axis=axis, keepdims=True)


def _jaccard(first: Sequence[int], second: Sequence[int]) -> float:
    union = set(first) | set(second)
    return len(set(first) & set(second)) / len(union) if union else float("nan")
