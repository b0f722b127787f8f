"""How sure a selection is: bootstrap of passages, permuted domain labels, and other conditions. Nothing runs a model.

bootstrap     passages are drawn anew within every domain; how often, and at which rank, is a dimension selected?
permutation   domain labels are permuted over passages; z is the standardised rank sum of the magnitude of a
              dimension in a domain. The largest z over all domains and dimensions of each permutation is the null
              of the whole family (Westfall, Young 1993), so that a few hundred permutations suffice
conditions    the same selection on halves of the passages, on shortened passages, in another number type
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.stats import rankdata

from workbench.dimensions.criteria import split_domains
from workbench.dimensions.statistics import active_dimensions
from workbench.records import (
    DISCRIMINATION_GAP,
    LEVEL,
    ConditionStability,
    PooledRows,
    Selection,
    SelectionStability,
    Split,
)
from workbench.statistics import percentile_interval, resample_counts, spearman

MIN_PASSAGES = 4
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Passages:
    """One row per passage: its domain (as an index), the magnitudes of its dimensions, and which are active."""

    domains: tuple[str, ...]
    domain: Int[np.ndarray, "passage"]
    magnitude: Float64[np.ndarray, "passage d_model"]
    active: Bool[np.ndarray, "passage d_model"]


def read_passages(rows: PooledRows, *, split: Split = "identify", pooling: str = "mean_abs") -> Passages:
    """The passages of one split under the default reading; raises for fewer than four passages in a domain."""
    domains = split_domains(rows, split)
    chosen = rows.where(split=split) & np.isin(rows.domains, domains)
    names = np.array(rows.domains)[chosen]
    domain = np.array([domains.index(name) for name in names.tolist()])
    counts = np.bincount(domain)
    if counts.min() < MIN_PASSAGES:
        few = domains[int(counts.argmin())]
        raise ValueError(
            f"domain {few!r} has {counts.min()} passages in {split!r}, too few for an interval; at least {MIN_PASSAGES}"
        )
    magnitude = np.abs(rows.pooled(pooling)[chosen].astype(np.float64)).mean(axis=1)
    return Passages(domains, domain, magnitude, active_dimensions(magnitude))


# --- bootstrap and permutation ----------------------------------------------------------------------------------------


def selection_stability(
    rows: PooledRows,
    *,
    k: int = 8,
    selection: Selection = "magnitude",
    split: Split = "identify",
    n_resamples: int = 500,
    n_permutations: int = 300,
    seed: int = 0,
) -> list[SelectionStability]:
    """Selection frequency, rank interval and family-wise p-value of every DCD that `find_dcds` gives, in its order."""
    passages = read_passages(rows, split=split)
    _check_k(k, passages.magnitude.shape[1])
    if n_resamples < 1 or n_permutations < 1:
        raise ValueError(f"{n_resamples} resamples and {n_permutations} permutations; at least one of each is needed")
    rng = np.random.default_rng(seed)
    chosen = _ranks(*_means(passages, np.ones((1, len(passages.domain)))), selection)[0]
    ranks = _ranks(*_means(passages, _bootstrap_weights(passages, n_resamples, rng)), selection)
    p_values = permutation_p_values(passages, n_permutations=n_permutations, seed=seed)
    found = []
    for number, domain in enumerate(passages.domains):
        for dimension in np.argsort(chosen[number], kind="stable")[:k].tolist():
            rank = int(chosen[number, dimension])
            if rank > passages.magnitude.shape[1]:
                break
            of = ranks[:, number, dimension]
            low, high = np.quantile(of, [0.025, 0.975], method="inverted_cdf")
            share, p_value = float((of <= k).mean()), float(p_values[number, dimension])
            found.append(
                SelectionStability(domain, dimension, rank, selection, share, int(low), int(high), p_value, n_resamples)
            )
    return found


def permutation_p_values(
    passages: Passages, *, n_permutations: int = 300, seed: int = 0
) -> Float64[np.ndarray, "domain d_model"]:
    """P-value of "larger in this domain than in the others", adjusted over the family of all domains and dimensions.

    The smallest possible one is 1 / (n_permutations + 1); at level 0.05 at most 5 % of runs without any difference
    report something.
    """
    ranks = rankdata(passages.magnitude, axis=0)
    spread = ranks.std(axis=0)
    ranks = (ranks - ranks.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    n_domains, n = len(passages.domains), len(passages.domain)
    rng = np.random.default_rng(seed)
    labels = np.concatenate(
        [passages.domain[None], rng.permuted(np.tile(passages.domain, (n_permutations, 1)), axis=1)]
    )
    inside = np.bincount(passages.domain, minlength=n_domains)
    scale = np.sqrt(inside * (n - inside) / (n - 1))[:, None]
    largest = np.empty(len(labels))
    observed = np.empty((n_domains, ranks.shape[1]))
    for number, label in enumerate(labels):
        z = (label == np.arange(n_domains)[:, None]).astype(np.float64) @ ranks / scale
        largest[number] = z.max()
        if number == 0:
            observed = z
    null = np.sort(largest[1:])
    exceeding = n_permutations - np.searchsorted(null, observed - _ROUNDING)
    return (1 + exceeding) / (n_permutations + 1)


def chance_gap(passages: Passages, *, n_permutations: int = 300, seed: int = 0) -> float:
    """The frequency gap that permuted domain labels exceed anywhere in 5 % of permutations, to stand beside 30 %."""
    rng = np.random.default_rng(seed)
    active = passages.active.astype(np.float64)
    n_domains = len(passages.domains)
    largest = []
    for _ in range(n_permutations):
        label = rng.permutation(passages.domain)
        inside = (label == np.arange(n_domains)[:, None]).astype(np.float64)
        frequency = inside @ active / inside.sum(axis=1, keepdims=True)
        largest.append(_gap(frequency[None])[0].max())
    return float(np.quantile(largest, 1 - LEVEL, method="higher"))


def _bootstrap_weights(passages: Passages, n: int, rng: np.random.Generator) -> Float64[np.ndarray, "resample passage"]:
    """How often every passage is drawn; passages are drawn within their domain."""
    weights = np.zeros((n, len(passages.domain)))
    for number in range(len(passages.domains)):
        at = np.flatnonzero(passages.domain == number)
        weights[:, at] = resample_counts(len(at), n, rng)
    return weights


def _means(
    passages: Passages, weights: Float64[np.ndarray, "resample passage"]
) -> tuple[Float64[np.ndarray, "resample domain d_model"], Float64[np.ndarray, "resample domain d_model"]]:
    """Magnitude and frequency of every domain under every weighting of its passages."""
    magnitude, frequency = [], []
    for number in range(len(passages.domains)):
        at = passages.domain == number
        of = weights[:, at] / weights[:, at].sum(axis=1, keepdims=True)
        magnitude.append(of @ passages.magnitude[at])
        frequency.append(of @ passages.active[at].astype(np.float64))
    return np.stack(magnitude, axis=1), np.stack(frequency, axis=1)


def _gap(
    frequency: Float64[np.ndarray, "resample domain d_model"],
) -> Float64[np.ndarray, "resample domain d_model"]:
    return frequency - (frequency.sum(axis=1, keepdims=True) - frequency) / (frequency.shape[1] - 1)


def _ranks(
    magnitude: Float64[np.ndarray, "resample domain d_model"],
    frequency: Float64[np.ndarray, "resample domain d_model"],
    selection: Selection,
) -> Int[np.ndarray, "resample domain d_model"]:
    """Rank of every dimension under the rules of `find_dcds`; d_model + 1 where it is not selectable."""
    d_model = magnitude.shape[2]
    gap = np.round(_gap(frequency), 9)
    selectable = np.ones(magnitude.shape, dtype=bool) if selection == "magnitude" else gap > DISCRIMINATION_GAP
    first_key = gap if selection == "discrimination" else magnitude
    order = np.lexsort((-magnitude, -np.where(selectable, first_key, -np.inf)), axis=2)
    ranks = np.empty(order.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, np.arange(1, d_model + 1)[None, None], axis=2)
    return np.where(selectable, ranks, d_model + 1)


def _check_k(k: int, d_model: int) -> None:
    if not 1 <= k <= d_model:
        raise ValueError(f"k is {k}; choose between 1 and d_model = {d_model}")


# --- conditions -------------------------------------------------------------------------------------------------------


def split_half_stability(
    rows: PooledRows, *, k: int = 8, split: Split = "identify", n_halves: int = 50, seed: int = 0
) -> list[ConditionStability]:
    """Agreement of the k largest dimensions between random halves of the passages of every domain."""
    passages = read_passages(rows, split=split)
    _check_k(k, passages.magnitude.shape[1])
    rng = np.random.default_rng(seed)
    found = []
    for number, domain in enumerate(passages.domains):
        values = passages.magnitude[passages.domain == number]
        halves = np.array([rng.permutation(len(values)) < len(values) // 2 for _ in range(n_halves)], dtype=np.float64)
        first, second = (share / share.sum(axis=1, keepdims=True) @ values for share in (halves, 1 - halves))
        found.append(_agreement("split halves", domain, k, first, second))
    return found


def condition_stability(
    rows: PooledRows, other: PooledRows, condition: str, *, k: int = 8, split: Split = "identify"
) -> list[ConditionStability]:
    """Agreement of the k largest dimensions of every domain between two sets of rows of the same passages.

    `condition` names what is different in `other`, such as "half the length" or "bfloat16". Passages are matched by
    name; raises where `other` lacks one.
    """
    place = {name: index for index, name in enumerate(other.prompts)}
    names = [name for name, at in zip(rows.prompts, rows.where(split=split).tolist(), strict=True) if at]
    missing = [name for name in names if name not in place]
    if missing or rows.values.shape[2:] != other.values.shape[2:]:
        raise ValueError(
            f"the rows under {condition!r} do not match: passages {missing[:3]} are missing, or layers and dimensions "
            f"are {other.values.shape[2:]} instead of {rows.values.shape[2:]}; collect both from the same passages"
        )
    first = read_passages(rows, split=split)
    _check_k(k, first.magnitude.shape[1])
    at = [place[name] for name, domain in zip(names, _domains_of(rows, names), strict=True) if domain in first.domains]
    second = np.abs(other.pooled("mean_abs")[at].astype(np.float64)).mean(axis=1)
    found = []
    for number, domain in enumerate(first.domains):
        of = first.domain == number
        means = (values[of].mean(axis=0, keepdims=True) for values in (first.magnitude, second))
        found.append(_agreement(condition, domain, k, *means))
    return found


def stability_summary(
    selections: Sequence[SelectionStability], conditions: Sequence[ConditionStability]
) -> dict[str, object]:
    """The figures of a run in plain values: how many DCDs are always selected, and agreement by condition."""
    by_condition: dict[str, list[ConditionStability]] = {}
    for item in conditions:
        by_condition.setdefault(item.condition, []).append(item)
    return {
        "dcds": len(selections),
        "selected_in_95_percent_of_resamples": sum(item.frequency >= 0.95 for item in selections),
        "larger_than_elsewhere": sum(item.p_value <= LEVEL for item in selections),
        "level": LEVEL,
        "conditions": {
            name: {
                "jaccard": float(np.mean([item.jaccard for item in items])),
                "lowest_jaccard": min(item.jaccard for item in items),
                "spearman": float(np.mean([item.spearman for item in items])),
            }
            for name, items in by_condition.items()
        },
    }


def _domains_of(rows: PooledRows, names: Sequence[str]) -> list[str]:
    of = dict(zip(rows.prompts, rows.domains, strict=True))
    return [of[name] for name in names]


def _agreement(
    condition: str,
    domain: str,
    k: int,
    first: Float64[np.ndarray, "repetition d_model"],
    second: Float64[np.ndarray, "repetition d_model"],
) -> ConditionStability:
    tops = [np.argsort(-values, axis=1, kind="stable")[:, :k] for values in (first, second)]
    common = np.array([len(set(a) & set(b)) for a, b in zip(tops[0].tolist(), tops[1].tolist(), strict=True)])
    shared = common / (2 * k - common)
    correlation = float(np.mean([spearman(a, b) for a, b in zip(first, second, strict=True)]))
    bounds = percentile_interval(shared) if len(shared) > 1 else (np.nan, np.nan)
    return ConditionStability(condition, domain, k, float(shared.mean()), *bounds, correlation, len(shared))
