"""The arithmetic of masking: which dimensions a domain needs, how specific that is, and whether rankings agree.

Everything is computed from a saved `MaskingResult` or `ChoiceMasking`, without a model. "Drop" is what masking costs:
the rise of token loss (nats per token), or the fall of accuracy or log-odds; larger is worse for the model. Rankings
are descending, ranks count from 1, and ties go to the lower index.

    specificity(s, d) = drop(s, d) - mean over s' != s of drop(s', d)
    overlap@k         = |top k of one ranking and top k of the other| / k; by chance hypergeometric, k / n on average
"""

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int
from scipy import special, stats

from workbench.dimensions.criteria import NEUTRAL
from workbench.records import SPLITS, ChoiceMasking, MaskingResult, Split

POSITION_CLASSES = ("first token", "delimiter", "rest")
RANKS = (1, 10, 100)
LEVEL = 0.95
_DELIMITER = re.compile(r"\s*[.,;:!?]+\s*|\s*\n\s*")


def is_delimiter(text: str) -> bool:
    """Whether a token ends a sentence, a clause or a line: marks of .,;:!? alone, or a line break."""
    return _DELIMITER.fullmatch(text) is not None


# --- drops ------------------------------------------------------------------------------------------------------------


def masked_domains(result: MaskingResult) -> tuple[str, ...]:
    """The domains of a masking result in order of appearance; text of no domain ("neutral") is left out."""
    return tuple(domain for domain in dict.fromkeys(result.domains) if domain != NEUTRAL)


def domain_rise(result: MaskingResult, split: Split) -> Float64[np.ndarray, "domain dimension"]:
    """Mean rise of loss over the prompts of every domain and one split, nats per token; NaN where not measured."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    rows = []
    for domain in masked_domains(result):
        chosen = (np.array(result.domains) == domain) & (np.array(result.splits) == split)
        if not chosen.any():
            raise ValueError(f"domain {domain!r} has no masked prompts in split {split!r}; mask prompts of that split")
        rows.append(result.loss_increase[:, chosen].mean(axis=1))
    return np.stack(rows)


def specificity(drops: Float64[np.ndarray, "domain dimension"]) -> Float64[np.ndarray, "domain dimension"]:
    """Drop in the domain minus the mean drop in the others; NaN where one of them was not measured."""
    if len(drops) < 2:
        raise ValueError("specificity compares domains, but there is only one; mask the prompts of at least two")
    return drops - (drops.sum(axis=0) - drops) / (len(drops) - 1)


def rank_dimensions(scores: Float[np.ndarray, "dimension"]) -> Int[np.ndarray, "rank"]:
    """Indices from the largest to the smallest score; NaN (not measured) is left out."""
    order = np.argsort(-scores, kind="stable")
    return order[~np.isnan(scores[order])]


def top_dimensions(result: MaskingResult, k: int, *, split: Split = "identify") -> dict[str, tuple[int, ...]]:
    """The k dimensions of every domain whose masking costs most, worst first; raises where fewer were measured."""
    chosen = {}
    for domain, drops in zip(masked_domains(result), domain_rise(result, split), strict=True):
        order = rank_dimensions(drops)
        if not 1 <= k <= len(order):
            raise ValueError(f"k is {k}, but {len(order)} dimensions were masked in {domain}; choose 1 to {len(order)}")
        chosen[domain] = tuple(result.dimensions[index] for index in order[:k])
    return chosen


def drop_frame(result: MaskingResult) -> pd.DataFrame:
    """One row per domain and measured dimension: rise on *identify* and *test* (NaN without such prompts), rank on
    *identify*, specificity on *test*."""
    domains = masked_domains(result)
    present = {split for split, domain in zip(result.splits, result.domains, strict=True) if domain != NEUTRAL}
    nothing = np.full((len(domains), len(result.dimensions)), np.nan)
    rises = {split: domain_rise(result, split) if split in present else nothing for split in ("identify", "test")}
    special_to = specificity(rises["test"]) if len(domains) > 1 else nothing
    frames = []
    for number, domain in enumerate(domains):
        ranks = np.full(len(result.dimensions), np.nan)
        order = rank_dimensions(rises["identify"][number])
        ranks[order] = np.arange(1, len(order) + 1)
        columns = {
            "domain": domain,
            "dimension": result.dimensions,
            "rank": ranks,
            "identify": rises["identify"][number],
            "test": rises["test"][number],
            "specificity": special_to[number],
        }
        frames.append(pd.DataFrame(columns).sort_values("rank", kind="stable"))
    frame = pd.concat(frames, ignore_index=True)
    return frame.dropna(how="all", subset=["identify", "test"]).reset_index(drop=True)


def drop_by_rank(
    result: MaskingResult, ranks: Sequence[int] = RANKS, *, rank_on: Split = "identify", report_on: Split = "test"
) -> pd.DataFrame:
    """What masking the rank-1, 10, 100 dimension of every domain costs on held-out prompts, as the paper's table does.

    Each domain has its own ranking, from `rank_on`; `drop` is the mean over prompts of `report_on` with a 95 % Student
    interval (`low`, `high`). The rows of domain "mean" average the domains; their interval is over domains.
    """
    order = [rank_dimensions(drops) for drops in domain_rise(result, rank_on)]
    shortest = min(map(len, order))
    wrong = [rank for rank in ranks if not 1 <= rank <= shortest]
    if wrong:
        raise ValueError(f"rank {wrong[0]} asked for, but {shortest} dimensions were masked; choose 1 to {shortest}")
    before = domain_rise(result, rank_on)
    rows = []
    for rank in ranks:
        reported = []
        for number, domain in enumerate(masked_domains(result)):
            index = int(order[number][rank - 1])
            mask = (np.array(result.domains) == domain) & (np.array(result.splits) == report_on)
            mean, low, high = mean_interval(result.loss_increase[index, mask])
            reported.append(mean)
            ranked = float(before[number, index])
            rows.append([domain, rank, result.dimensions[index], ranked, mean, low, high, int(mask.sum())])
        ranked = float(np.mean([row[3] for row in rows[-len(reported) :]]))
        rows.append(["mean", rank, -1, ranked, *mean_interval(np.array(reported)), len(reported)])
    return pd.DataFrame(rows, columns=["domain", "rank", "dimension", rank_on, "drop", "low", "high", "n"])


def mean_interval(values: Float64[np.ndarray, "value"]) -> tuple[float, float, float]:
    """Mean with its 95 % Student interval; NaN bounds for fewer than two values."""
    if len(values) == 0:
        raise ValueError("there are no masked prompts to report on; mask prompts of identify and of test")
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


# --- agreement --------------------------------------------------------------------------------------------------------


def overlap_at_k(
    first: Float[np.ndarray, "dimension"], second: Float[np.ndarray, "dimension"], ks: Sequence[int]
) -> pd.DataFrame:
    """How many of the top k dimensions two rankings share, beside chance.

    One row per k: `overlap` (fraction), `n_common`, `chance` (k / n), `low` and `high` (the central 95 % of overlaps of
    random rankings), `p` (chance of at least this overlap, hypergeometric, for one k alone). Only dimensions that both
    scores know (not NaN) take part.
    """
    known = ~(np.isnan(first) | np.isnan(second))
    n = int(known.sum())
    wrong = [k for k in ks if not 1 <= k <= n]
    if wrong:
        raise ValueError(f"k is {wrong[0]}, but both rankings hold {n} dimensions; choose k from 1 to {n}")
    a, b = rank_dimensions(first[known]), rank_dimensions(second[known])
    rows = []
    for k in ks:
        common = len(set(a[:k].tolist()) & set(b[:k].tolist()))
        chance = stats.hypergeom(n, k, k)
        low, high = chance.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2]) / k
        rows.append([k, common / k, common, k / n, float(low), float(high), float(chance.sf(common - 1))])
    return pd.DataFrame(rows, columns=["k", "overlap", "n_common", "chance", "low", "high", "p"])


def spearman(first: Float[np.ndarray, "dimension"], second: Float[np.ndarray, "dimension"]) -> float:
    """Spearman's rank correlation over the dimensions that both scores know; NaN where one of them is constant."""
    known = ~(np.isnan(first) | np.isnan(second))
    if known.sum() < 3:
        raise ValueError(f"{int(known.sum())} dimensions are in both rankings; a correlation needs at least 3")
    a, b = stats.rankdata(first[known]), stats.rankdata(second[known])
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def agreement_frame(
    magnitude: Float64[np.ndarray, "domain d_model"], result: MaskingResult, ks: Sequence[int], *, split: Split
) -> pd.DataFrame:
    """Overlap@k and Spearman's correlation of magnitude with masking, one row per domain and k.

    `magnitude` holds every dimension of the model in the order of `masked_domains(result)`, under any reading (with or
    without the first token, or high-norm tokens). With a screened result, chance counts the masked dimensions only.
    """
    drops = domain_rise(result, split)
    if magnitude.shape != (len(drops), result.d_model):
        raise ValueError(f"magnitude is {magnitude.shape}, expected {(len(drops), result.d_model)} (domain, d_model)")
    frames = []
    for number, domain in enumerate(masked_domains(result)):
        scores = magnitude[number, list(result.dimensions)]
        frame = overlap_at_k(scores, drops[number], ks)
        frame.insert(0, "domain", domain)
        frames.append(frame.assign(spearman=spearman(scores, drops[number])))
    return pd.concat(frames, ignore_index=True)


def jaccard_matrix(sets: Mapping[str, Collection[int]]) -> pd.DataFrame:
    """Shared share of every pair of dimension sets, |A and B| / |A or B|; NaN where both are empty."""
    values = np.full((len(sets), len(sets)), np.nan)
    for row, a in enumerate(map(set, sets.values())):
        for column, b in enumerate(map(set, sets.values())):
            if a | b:
                values[row, column] = len(a & b) / len(a | b)
    return pd.DataFrame(values, index=list(sets), columns=list(sets))


def recall_at_k(exact: MaskingResult, estimate: MaskingResult, *, k: int, m: int, split: Split) -> dict[str, float]:
    """Share of the k truly worst dimensions of every domain that are among the m worst of an estimate."""
    if m < k:
        raise ValueError(f"m is {m}, fewer than k = {k}: {m} candidates cannot hold the top {k}; choose m >= k")
    true, found = top_dimensions(exact, k, split=split), top_dimensions(estimate, m, split=split)
    return {domain: len(set(true[domain]) & set(found[domain])) / k for domain in true}


# --- choices ----------------------------------------------------------------------------------------------------------


def choice_frame(result: ChoiceMasking) -> pd.DataFrame:
    """Fall of accuracy (fraction) and of log-odds (nats) of the right choice, per domain, split and masked dimension.

    Log-odds are those of the right choice against all others together. `accuracy` and `log_odds` are unmasked;
    `n` counts items. An item counts as right where no other choice is as likely.
    """
    answers = np.array([item.answer for item in result.items])
    right, odds = _right(result.baseline, answers), _log_odds(result.baseline, answers)
    rights, all_odds = _right(result.masked, answers), _log_odds(result.masked, answers)
    labels = [(item.domain, item.split) for item in result.items]
    rows = []
    for domain, split in dict.fromkeys(labels):
        chosen = np.array([label == (domain, split) for label in labels])
        before, before_odds = right[chosen].mean(), odds[chosen].mean()
        for index, dimension in enumerate(result.dimensions):
            drops = before - rights[index, chosen].mean(), before_odds - all_odds[index, chosen].mean()
            rows.append([domain, split, dimension, before, drops[0], before_odds, drops[1], int(chosen.sum())])
    columns = ["domain", "split", "dimension", "accuracy", "accuracy_drop", "log_odds", "log_odds_drop", "n"]
    return pd.DataFrame(rows, columns=columns).dropna(subset=["log_odds_drop"]).reset_index(drop=True)


def answer_histogram(result: ChoiceMasking, dimension: int | None = None) -> pd.DataFrame:
    """How often each choice text is predicted, per domain and split: a model that always says the same shows here.

    Unmasked (None) or with one dimension masked.
    """
    if dimension is not None and dimension not in result.dimensions:
        raise ValueError(f"dimension {dimension} was not masked; choose one of {list(result.dimensions)[:10]}")
    scores = result.baseline if dimension is None else result.masked[result.dimensions.index(dimension)]
    rows = [
        (item.domain, item.split, item.choices[int(row.argmax())])
        for item, row in zip(result.items, scores, strict=True)
        if not np.isnan(row).any()
    ]
    frame = pd.DataFrame(rows, columns=["domain", "split", "predicted"])
    return frame.value_counts(sort=True).rename("n").reset_index()


def _right(scores: Float64[np.ndarray, "*mask item choice"], answers: Int[np.ndarray, "item"]) -> np.ndarray:
    own, others = _split_choices(scores, answers)
    return np.where(np.isnan(own), np.nan, own > others.max(axis=-1))


def _log_odds(scores: Float64[np.ndarray, "*mask item choice"], answers: Int[np.ndarray, "item"]) -> np.ndarray:
    own, others = _split_choices(scores, answers)
    return own - special.logsumexp(others, axis=-1)


def _split_choices(scores: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score of the right choice, and those of the others."""
    at = np.broadcast_to(answers[:, None], (*scores.shape[:-1], 1))
    own = np.take_along_axis(scores, at, axis=-1)[..., 0]
    n = scores.shape[-1]
    rest = np.array([[choice for choice in range(n) if choice != answer] for answer in answers.tolist()])
    return own, np.take_along_axis(scores, np.broadcast_to(rest, (*scores.shape[:-1], n - 1)), axis=-1)
