"""Labels that are tested: two scores on held-out passages, permuted passages, curves of score against share labelled.

A label is a token class, chosen for an end and a layer of a dimension on *identify* and scored on *test*:

    within   tokens of the class against other tokens of the same domain
    across   tokens of the class in the domain against tokens of the same class in other domains

A dimension can detect a class without caring for the domain (within high, across 0.5), or the domain without caring
for the class. Both are AUROC, 0.5 by luck. Permutations: `within` lays the class pattern of one passage over the
activations of another, so that patterns and activations keep their own order and lengths; `across` permutes which
passages are of the domain. P-values are one-sided, intervals are bootstraps of passages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int
from scipy.stats import rankdata

from workbench.dimensions.criteria import NEUTRAL
from workbench.dimensions.detectors import (
    MIN_DOCUMENTS,
    MIN_TOKENS,
    TokenTable,
    document_texts,
    document_weights,
    label_qualities,
    token_table,
)
from workbench.records import ENDS, LEVEL, Dimension, LabelScore, PooledRows, TokenColumns
from workbench.statistics import auroc, auroc_interval, percentile_interval
from workbench.token_classes import class_members

NAN = float("nan")
GROUPS = {"DCDs": True, "other dimensions": False}
SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))


def control_dimensions(rows: PooledRows, dcds: Sequence[Dimension], n: int, *, seed: int = 0) -> list[Dimension]:
    """For every domain n random dimensions that are DCDs of no domain, to be labelled beside them; the same for all.

    Their `selection` and evidence are those of the domain-critical record, with rank 0. Raises where too few are left.
    """
    d_model = rows.values.shape[3]
    others = np.setdiff1d(np.arange(d_model), [dcd.dimension for dcd in dcds])
    if not 1 <= n <= len(others):
        raise ValueError(f"{n} controls asked for, but {len(others)} dimensions are no DCDs; choose 1 to {len(others)}")
    chosen = np.sort(np.random.default_rng(seed).choice(others, n, replace=False)).tolist()
    domains = dict.fromkeys(dcd.domain for dcd in dcds)
    nan = float("nan")
    return [
        Dimension(domain, dimension, 0, "magnitude", nan, nan, nan, nan, "no domain")
        for domain in domains
        for dimension in chosen
    ]


def score_labels(
    columns: TokenColumns,
    dcds: Sequence[Dimension],
    controls: Sequence[Dimension] = (),
    *,
    n_permutations: int = 300,
    seed: int = 0,
) -> list[LabelScore]:
    """The best label of every DCD and every control over all collected layers and both ends, tested on *test*.

    Of the classes with enough tokens the label is the one with the largest product of AUROC and share of the top tokens
    on *identify*, those that `find_detectors` would accept first. Dimensions without any such class are left out.
    """
    known = {dimension for _, dimension in columns.columns}
    wanted = dict.fromkeys(((dcd.domain, dcd.dimension) for dcd in dcds), True)
    for control in controls:
        wanted.setdefault((control.domain, control.dimension), False)
    missing = [dimension for _, dimension in wanted if dimension not in known]
    if missing:
        raise ValueError(f"dimension {missing[0]} was not collected; pass its columns to collect_columns")
    names, members = class_members(document_texts(columns), columns.prompt_index)
    held_out = _HeldOut(columns, members, seed, n_permutations)
    found = []
    for domain in dict.fromkeys(domain for domain, _ in wanted):
        own = {dimension: is_dcd for (owner, dimension), is_dcd in wanted.items() if owner == domain}
        found += _of_domain(columns, members, names, domain, own, held_out)
    return found


def _of_domain(
    columns: TokenColumns,
    members: Bool[np.ndarray, "token class"],
    names: Sequence[str],
    domain: str,
    dimensions: Mapping[int, bool],
    held_out: "_HeldOut",
) -> list[LabelScore]:
    """The best label of every dimension in one domain, with its scores; none where no class has enough tokens."""
    chosen = [number for number, (_, dimension) in enumerate(columns.columns) if dimension in dimensions]
    identify = token_table(columns, members, domain, "identify", chosen)
    test = token_table(columns, members, domain, "test", chosen)
    allowed = identify.is_supported & test.is_supported
    if not allowed.any():
        return []
    quality, passes = label_qualities(identify, allowed)
    order = np.where(allowed, quality + passes, -1.0)
    weights = document_weights(test, held_out.seed)
    found = []
    for dimension, is_dcd in dimensions.items():
        own = [at for at, number in enumerate(chosen) if columns.columns[number][1] == dimension]
        end, at, label = (int(index) for index in np.unravel_index(order[:, own].argmax(), order[:, own].shape))
        column, sign = own[at], 1 if ENDS[end] == "high" else -1
        within = _within(test, column, sign, label, weights, held_out)
        across = held_out.across(domain, chosen[column], sign, label)
        head = (domain, dimension, columns.columns[chosen[column]][0], ENDS[end], names[label], is_dcd)
        scores = (within.score, within.low, within.high, within.p_value)
        scores += (across.score, across.low, across.high, across.p_value)
        n_inside = int(test.members[:, label].sum())
        found.append(LabelScore(*head, float(quality[end, column, label]), *scores, n_inside, across.n_outside))
    return found


def label_curve(scores: Sequence[LabelScore], *, seed: int = 0, n_resamples: int = 500) -> pd.DataFrame:
    """Mean held-out score against the share of dimensions that are labelled, for DCDs and for the others.

    Dimensions are labelled from the best quality on *identify* downwards. One row per group, score ("within", "across")
    and share, with a 95 % interval over resampled dimensions; scores that are NaN are left out of the mean.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for group, is_dcd in GROUPS.items():
        chosen = [item for item in scores if item.is_dcd == is_dcd]
        if not chosen:
            continue
        quality = np.array([item.quality for item in chosen])
        drawn = np.concatenate(
            [np.arange(len(chosen))[None], rng.integers(len(chosen), size=(n_resamples, len(chosen)))]
        )
        for name in ("within", "across"):
            values = np.array([getattr(item, name) for item in chosen])
            order = np.take_along_axis(drawn, np.argsort(-quality[drawn], axis=1, kind="stable"), axis=1)
            sorted_values = values[order]
            known = ~np.isnan(sorted_values)
            sums, counts = np.where(known, sorted_values, 0).cumsum(axis=1), known.cumsum(axis=1)
            for share in SHARES:
                n = max(1, round(share * len(chosen)))
                means = sums[:, n - 1] / np.where(counts[:, n - 1] > 0, counts[:, n - 1], np.nan)
                rows.append([group, name, n / len(chosen), float(means[0]), *percentile_interval(means[1:]), n])
    return pd.DataFrame(rows, columns=["group", "score", "share", "mean", "low", "high", "n"])


def label_frame(scores: Sequence[LabelScore]) -> pd.DataFrame:
    """One row per tested label, with the fields of `LabelScore` as columns."""
    names = list(LabelScore.__dataclass_fields__)
    return pd.DataFrame([[getattr(item, name) for name in names] for item in scores], columns=names)


def label_summary(scores: Sequence[LabelScore]) -> dict[str, dict[str, float | int]]:
    """Of DCDs and of other dimensions: mean scores, and how many are above luck (p at most 0.05, each alone)."""
    found: dict[str, dict[str, float | int]] = {}
    for group, is_dcd in GROUPS.items():
        own = [item for item in scores if item.is_dcd == is_dcd]
        found[group] = {"labels": len(own)}
        for name in ("within", "across"):
            known = [value for item in own if not np.isnan(value := getattr(item, name))]
            found[group][name] = float(np.mean(known)) if known else NAN
            found[group][f"{name}_above_luck"] = sum(getattr(item, f"{name}_p") <= LEVEL for item in own)
            found[group][f"{name}_measured"] = len(known)
    return found


# --- the two scores ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Score:
    score: float = NAN
    low: float = NAN
    high: float = NAN
    p_value: float = NAN
    n_outside: int = 0


class _HeldOut:
    """The *test* tokens of all domains, after the first position."""

    def __init__(
        self, columns: TokenColumns, members: Bool[np.ndarray, "token class"], seed: int, n_permutations: int
    ) -> None:
        is_test = (np.array(columns.splits) == "test") & (np.array(columns.domains) != NEUTRAL)
        self.rows = np.flatnonzero(is_test[columns.prompt_index] & (columns.positions > 0))
        self.members = members[self.rows]
        self.prompt = columns.prompt_index[self.rows]
        self.domains = np.array(columns.domains)
        self.values = columns.values
        self.seed, self.n_permutations = seed, n_permutations

    def across(self, domain: str, column: int, sign: int, label: int) -> _Score:
        """Tokens of the class in the domain against tokens of the class elsewhere, with passages permuted."""
        of_class = self.members[:, label]
        values = sign * self.values[self.rows[of_class], column]
        document = np.unique(self.prompt[of_class], return_inverse=True)[1]
        is_inside = self.domains[self.prompt[of_class]] == domain
        n_inside, n_outside = int(is_inside.sum()), int((~is_inside).sum())
        n_documents = [len(np.unique(document[side])) for side in (is_inside, ~is_inside)]
        if min(n_inside, n_outside) < MIN_TOKENS or min(n_documents) < MIN_DOCUMENTS:
            return _Score(n_outside=n_outside)
        score = float(auroc(values[:, None], is_inside[:, None])[0, 0])
        weights = document_weights(TokenTable(values[:, None], is_inside[:, None], document), self.seed)
        low, high = auroc_interval(values, is_inside, document, weights)
        p_value = self._permuted(rankdata(values), document, is_inside, score)
        return _Score(score, min(low, score), max(high, score), p_value, n_outside)

    def _permuted(
        self,
        ranks: Float64[np.ndarray, "token"],
        document: Int[np.ndarray, "token"],
        is_inside: Bool[np.ndarray, "token"],
        score: float,
    ) -> float:
        """Ranks over all tokens do not change with the labels of passages, so sums per passage are enough."""
        sums, counts = np.bincount(document, weights=ranks), np.bincount(document)
        label = np.bincount(document, weights=is_inside) > 0
        rng = np.random.default_rng(self.seed)
        labels = np.stack([rng.permutation(label) for _ in range(self.n_permutations)]).astype(np.float64)
        n = labels @ counts
        null = (labels @ sums - n * (n + 1) / 2) / (n * (counts.sum() - n))
        return _p_value(null, score)


def _within(
    table: TokenTable,
    column: int,
    sign: int,
    label: int,
    weights: Float64[np.ndarray, "resample document"],
    held_out: _HeldOut,
) -> _Score:
    """Tokens of the class against other tokens of the domain, with class patterns laid over other passages."""
    values, is_member = sign * table.values[:, column], table.members[:, label]
    score = float(auroc(values[:, None], is_member[:, None])[0, 0])
    low, high = auroc_interval(values, is_member, table.document, weights)
    null = _shifted_scores(values, is_member, table.document, held_out.n_permutations, held_out.seed)
    return _Score(score, min(low, score), max(high, score), _p_value(null, score))


def _shifted_scores(
    values: Float32[np.ndarray, "token"],
    is_member: Bool[np.ndarray, "token"],
    document: Int[np.ndarray, "token"],
    n_permutations: int,
    seed: int,
) -> Float64[np.ndarray, "permutation"]:
    """AUROC with the class pattern of a random other passage laid over each passage, from the first token on."""
    lengths = np.bincount(document)
    n, longest = len(lengths), int(lengths.max())
    place = np.arange(len(document)) - (np.cumsum(lengths) - lengths)[document]
    ranks, pattern, present = (np.zeros((n, longest)) for _ in range(3))
    ranks[document, place], pattern[document, place], present[document, place] = rankdata(values), is_member, 1.0
    sums, counts = ranks @ pattern.T, present @ pattern.T
    rng = np.random.default_rng(seed)
    orders = np.stack([rng.permutation(n) for _ in range(n_permutations)])
    at = np.arange(n)[None]
    chosen, n_members = sums[at, orders].sum(axis=1), counts[at, orders].sum(axis=1)
    pairs = n_members * (len(values) - n_members)
    return np.where(pairs > 0, (chosen - n_members * (n_members + 1) / 2) / np.where(pairs > 0, pairs, 1), 0.5)


def _p_value(null: Float64[np.ndarray, "permutation"], score: float) -> float:
    return float((1 + (null >= score - 1e-12).sum()) / (len(null) + 1))
