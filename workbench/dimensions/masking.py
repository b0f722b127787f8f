"""The arithmetic of masking: which dimensions a domain needs, how specific that is, and whether rankings agree.

Everything is computed from a saved `MaskingResult` or `ChoiceMasking`, without a model. A loss increase is masked minus
unmasked token loss (nats per token); larger is worse for the model. Rankings are descending, ranks count from 1, and
ties go to the lower index.

    specificity(s, d) = loss increase(s, d) - mean over s' != s of loss increase(s', d)
    overlap@k         = |top k of one ranking and top k of the other| / k; by chance hypergeometric, k / n on average
"""

import re
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int
from scipy import special, stats

from workbench.dimensions.criteria import NEUTRAL
from workbench.records import SPLITS, ChoiceMasking, MaskingResult, Split

POSITION_CLASSES = ("first token", "delimiter", "rest")
LEVEL = 0.95
_DELIMITER = re.compile(r"\s*[.,;:!?]+\s*|\s*\n\s*")


def is_delimiter(text: str) -> bool:
    """Whether a token ends a sentence, a clause or a line: marks of .,;:!? alone, or a line break."""
    return _DELIMITER.fullmatch(text) is not None


# --- loss increases ---------------------------------------------------------------------------------------------------


def masked_domains(result: MaskingResult) -> tuple[str, ...]:
    """The domains of a masking result in order of appearance; text of no domain ("neutral") is left out."""
    return tuple(domain for domain in dict.fromkeys(result.domains) if domain != NEUTRAL)


def domain_loss_increase(result: MaskingResult, split: Split) -> Float64[np.ndarray, "domain dimension"]:
    """Mean loss increase over the prompts of every domain and one split, nats per token; NaN where not measured."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    rows = []
    for domain in masked_domains(result):
        chosen = (np.array(result.domains) == domain) & (np.array(result.splits) == split)
        if not chosen.any():
            raise ValueError(f"domain {domain!r} has no masked prompts in split {split!r}; mask prompts of that split")
        rows.append(result.loss_increase[:, chosen].mean(axis=1))
    return np.stack(rows)


def specificity(increases: Float64[np.ndarray, "domain dimension"]) -> Float64[np.ndarray, "domain dimension"]:
    """Increase in the domain minus the mean increase in the others; NaN where one of them was not measured."""
    if len(increases) < 2:
        raise ValueError("specificity compares domains, but there is only one; mask the prompts of at least two")
    return increases - (increases.sum(axis=0) - increases) / (len(increases) - 1)


def rank_dimensions(scores: Float[np.ndarray, "dimension"]) -> Int[np.ndarray, "rank"]:
    """Indices from the largest to the smallest score; NaN (not measured) is left out."""
    order = np.argsort(-scores, kind="stable")
    return order[~np.isnan(scores[order])]


def measured_order(result: MaskingResult, *, split: Split = "identify") -> dict[str, tuple[int, ...]]:
    """The measured dimensions of every domain, the one whose masking costs most first."""
    increases = zip(masked_domains(result), domain_loss_increase(result, split), strict=True)
    return {
        domain: tuple(result.dimensions[index] for index in rank_dimensions(increase)) for domain, increase in increases
    }


def top_dimensions(result: MaskingResult, k: int, *, split: Split = "identify") -> dict[str, tuple[int, ...]]:
    """The k dimensions of every domain whose masking costs most, worst first; raises where fewer were measured."""
    orders = measured_order(result, split=split)
    for domain, order in orders.items():
        if not 1 <= k <= len(order):
            raise ValueError(f"k is {k}, but {len(order)} dimensions were masked in {domain}; choose 1 to {len(order)}")
    return {domain: order[:k] for domain, order in orders.items()}


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


def jaccard(first: Collection[int], second: Collection[int]) -> float:
    """|A and B| / |A or B| of two sets of dimensions; NaN where both are empty."""
    union = len({*first} | {*second})
    return len({*first} & {*second}) / union if union else float("nan")


# --- exams ------------------------------------------------------------------------------------------------------------


def choice_frame(result: ChoiceMasking) -> pd.DataFrame:
    """Fall of accuracy (fraction) and of log-odds (nats) of the right choice, per domain, split and masked dimension.

    Log-odds are those of the right choice against all others together. `accuracy` and `log_odds` are unmasked;
    `n` counts items. An item counts as right where no other choice is as likely.
    """
    answers = np.array([item.answer for item in result.items])
    right, odds = right_choices(result.baseline, answers), _log_odds(result.baseline, answers)
    rights, all_odds = right_choices(result.masked, answers), _log_odds(result.masked, answers)
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


def right_choices(scores: Float64[np.ndarray, "*mask item choice"], answers: Int[np.ndarray, "item"]) -> np.ndarray:
    """1 where the right choice is likelier than every other, 0 where it is not, NaN where nothing was measured."""
    right, others = _split_choices(scores, answers)
    return np.where(np.isnan(right), np.nan, right > others.max(axis=-1))


def _log_odds(scores: Float64[np.ndarray, "*mask item choice"], answers: Int[np.ndarray, "item"]) -> np.ndarray:
    right, others = _split_choices(scores, answers)
    return right - special.logsumexp(others, axis=-1)


def _split_choices(scores: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The score of the right choice, and those of the others."""
    is_right = np.arange(scores.shape[-1]) == answers[:, None]
    right = np.take_along_axis(scores, np.broadcast_to(answers[:, None], (*scores.shape[:-1], 1)), axis=-1)[..., 0]
    return right, np.where(is_right, -np.inf, scores)
