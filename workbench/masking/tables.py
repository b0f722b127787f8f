"""What a criticality experiment found: its plan and records, saved and read back, and tables of them, without a model.

loss_increases  what masking the rank-1, 10, 100 dimension and random ones costs on *test*, per domain and mode
masked          every dimension measured on *test*, with its loss increase on *identify* and its specificity
exam            the fall of accuracy and log-odds on exam items
answers         how often each answer is predicted, unmasked and masked
agreement       overlap@k and Spearman's correlation of magnitude with the ranking by masking, beside chance
tokens          the same excluding the first token or tokens of high norm from losses, or from masks too
jaccard         how much the top dimensions of two domains share, by masking and by magnitude
recall          where a mode was masked exhaustively: how much of its top k the screened path finds with m candidates

The experiment itself runs a model (`workbench.masking.experiment`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from workbench.dimensions.masking import (
    answer_histogram,
    choice_frame,
    domain_loss_increase,
    jaccard,
    masked_domains,
    mean_interval,
    measured_order,
    overlap_at_k,
    rank_dimensions,
    specificity,
    top_dimensions,
)
from workbench.records import MASK_MODES, ChoiceMasking, MaskingResult, MaskMode, TokenSet, load_record, save_record
from workbench.schema import Count, Distinct, Index, Several, checked
from workbench.statistics import spearman

FIRST_TOKEN = "first token alone"
TOKEN_SUBSETS = ("after the first token", "all tokens", "without high-norm tokens", FIRST_TOKEN)
MEAN = "mean"  # of the domains
RANDOM = 0  # rank of the controls
ALL_TOKENS = "masking at all tokens"
OVERLAP_KS = (1, 2, 4, 8, 10, 16, 32, 64, 128, 256, 512)
Order = Mapping[str, Sequence[int]]  # the dimensions of every domain, the one needed most first


@checked()
class CriticalityPlan:
    """How much a criticality experiment does.

    Dimensions are ranked in each of `ranked` modes on `n_identify` passages per domain (None: all): by masking every
    dimension where the mode is in `exhaustive`, otherwise on the screened path, where gradients rank all dimensions and
    `m` candidates of every domain are masked exactly: the `n_largest` by magnitude and at the first token, and those
    of the largest estimate.
    Loss increases of the dimensions at `ranks`, of `n_random` random ones and of those named besides are measured in
    all `modes` on `n_test` passages per domain of *test*, and on `n_items` exam items per domain (0: no exam). On
    `n_excluding_sinks` passages per domain of *identify* (0: not at all) dimensions are ranked again, on the screened
    path and masked to zero, without the first token and without tokens of high norm: their losses excluded, or the mask
    too. All else is masked at the tokens `masked_at`, and losses are of what is predicted at `counted_at`.
    """

    name: str
    modes: tuple[MaskMode, ...] = MASK_MODES
    ranked: tuple[MaskMode, ...] = MASK_MODES
    exhaustive: tuple[MaskMode, ...] = ()
    n_identify: Several | None = None
    n_test: Several | None = None
    n_items: Index | None = None
    ranks: Annotated[tuple[Count, ...], Distinct] = (1, 10, 100)
    k: Count = 10
    m: Count = 32
    n_largest: Index = 4
    n_random: Index = 4
    n_groups: Count = 4
    n_points: Count = 2
    n_excluding_sinks: Index = 0
    masked_at: TokenSet = "all tokens"
    counted_at: TokenSet = "all tokens"

    def __post_init__(self) -> None:
        if "zero" not in self.ranked or not set(self.exhaustive) <= set(self.ranked) <= set(self.modes):
            raise ValueError("ranked must hold zero and be among modes, and exhaustive be among ranked")
        if self.m < self.k:
            raise ValueError(
                f"m is {self.m}, fewer than k = {self.k}: {self.m} candidates cannot hold the top {self.k}"
            )


@dataclass(frozen=True, eq=False)
class Criticality:
    """The results of one criticality experiment; loss increases in nats per token, magnitudes in activation units.

    `estimates` and `identify` rank the dimensions per mode; `test` and `exam` hold what masking costs on held-out
    passages and items. `random` are the dimensions drawn as controls. `magnitudes` are mean magnitudes per domain and
    dimension over some of the tokens (`TOKEN_SUBSETS`), in the order of `domains`. `cost` counts forward passes of one
    passage or of one choice (a backward pass as two). `excluding_sinks` holds estimate and masking for every choice of
    tokens that are counted and masked (`masked_at`, `counted_at` of each).
    """

    plan: CriticalityPlan
    d_model: int
    domains: tuple[str, ...]
    random: tuple[int, ...]
    cost: float
    magnitudes: Mapping[str, Float64[np.ndarray, "domain d_model"]]
    estimates: Mapping[MaskMode, MaskingResult]
    identify: Mapping[MaskMode, MaskingResult]
    test: Mapping[MaskMode, MaskingResult]
    exam: Mapping[MaskMode, ChoiceMasking]
    excluding_sinks: tuple[tuple[MaskingResult, MaskingResult], ...] = ()


def ranking(measured: MaskingResult, estimate: MaskingResult | None = None) -> dict[str, tuple[int, ...]]:
    """The dimensions of every domain, the one needed most on *identify* first: measured ones before estimated ones."""
    estimated = {} if estimate is None else measured_order(estimate)
    orders = measured_order(measured).items()
    return {domain: tuple(dict.fromkeys((*order, *estimated.get(domain, ())))) for domain, order in orders}


def rank_scores(order: Sequence[int], d_model: int) -> Float64[np.ndarray, "d_model"]:
    """A ranking as scores that have it: the later a dimension stands the lower, NaN where it is not ranked."""
    scores = np.full(d_model, np.nan)
    scores[list(order)] = -np.arange(len(order), dtype=np.float64)
    return scores


def largest_of(magnitudes: Mapping[str, Float64[np.ndarray, "domain d_model"]], n: int) -> tuple[int, ...]:
    """The n largest dimensions after the first token and the n largest at it, which gradients may not see; sorted."""
    means = [magnitudes[name].mean(axis=0) for name in (TOKEN_SUBSETS[0], FIRST_TOKEN)]
    return tuple(sorted({index for mean in means for index in rank_dimensions(mean)[:n].tolist()}))


def candidates_of(estimate: MaskingResult, m: int, largest: Sequence[int] = ()) -> dict[str, tuple[int, ...]]:
    """The m dimensions of every domain that the screened path masks: `largest`, then the first of the estimate."""
    if not 1 <= m <= len(estimate.dimensions):
        raise ValueError(f"m is {m}, but {len(estimate.dimensions)} dimensions were estimated; choose fewer candidates")
    first = top_dimensions(estimate, m)
    return {domain: tuple(dict.fromkeys((*largest, *own)))[:m] for domain, own in first.items()}


# --- saving -----------------------------------------------------------------------------------------------------------

RECORD_FILE = "criticality.safetensors"


def save_criticality(result: Criticality, folder: str | Path) -> None:
    """Write an experiment into a folder of its own."""
    save_record(result, Path(folder) / RECORD_FILE)


def load_criticality(folder: str | Path) -> Criticality:
    """Read what `save_criticality` wrote."""
    return load_record(Path(folder) / RECORD_FILE, Criticality)


# --- tables -----------------------------------------------------------------------------------------------------------


def criticality_tables(result: Criticality) -> dict[str, pd.DataFrame]:
    """All tables of an experiment by name; those with nothing to show are left out."""
    tables = {
        "loss_increases": loss_increase_table(result),
        "masked": masked_table(result),
        "exam": exam_table(result),
        "answers": answer_table(result),
        "agreement": agreement_table(result),
        "tokens": token_table(result),
        "jaccard": jaccard_table(result),
        "recall": recall_table(result),
    }
    return {name: table for name, table in tables.items() if not table.empty}


def orders(result: Criticality) -> dict[MaskMode, dict[str, tuple[int, ...]]]:
    """The ranking of the dimensions of every domain in every mode that ranks."""
    return {mode: ranking(measured, result.estimates[mode]) for mode, measured in result.identify.items()}


def loss_increase_table(result: Criticality) -> pd.DataFrame:
    """Loss increase in nats per token on *test*, with a 95 % Student interval over passages.

    One row per mode masked in, mode ranked in, domain and rank; rank 0 is the mean over random dimensions. `verified`
    says whether the rank was measured (else it comes from the estimate), `fraction` is the increase relative to the
    unmasked loss. Rows of domain "mean" average the domains, with an interval over domains.
    """
    found = orders(result)
    rows: list[list[Any]] = []
    for mode, test in result.test.items():
        for ranked_by in dict.fromkeys(("zero", mode)):
            if ranked_by in found:
                rows += _increases_of(result, test, ranked_by, found[ranked_by])
    names = ["masked_to", "ranked_by", "domain", "rank", "dimension", "verified", "loss_increase", "low", "high", "n"]
    return pd.DataFrame(rows, columns=[*names, "fraction"])


def _increases_of(result: Criticality, test: MaskingResult, ranked_by: MaskMode, order: Order) -> list[list[Any]]:
    head = [test.mode, ranked_by]
    n_measured = {domain: len(measured) for domain, measured in measured_order(result.identify[ranked_by]).items()}
    rows = []
    for rank in (*result.plan.ranks, *([RANDOM] if result.random else [])):
        of_rank = []
        for domain in result.domains:
            passages = np.array(test.domains) == domain
            chosen = result.random if rank == RANDOM else (order[domain][rank - 1],)
            places = [test.dimensions.index(dimension) for dimension in chosen]
            increases = test.loss_increase[np.ix_(places, passages)].mean(axis=0)
            is_verified = rank == RANDOM or rank <= n_measured[domain]
            fraction = float(increases.mean() / test.baseline[passages].mean())
            shown = chosen[0] if rank != RANDOM else -1
            interval = mean_interval(increases)
            of_rank.append([*head, domain, rank, shown, is_verified, *interval, len(increases), fraction])
        is_verified = all(row[5] for row in of_rank)
        interval, fraction = mean_interval(np.array([row[6] for row in of_rank])), np.mean([row[10] for row in of_rank])
        rows += [*of_rank, [*head, MEAN, rank, -1, is_verified, *interval, len(of_rank), float(fraction)]]
    return rows


def masked_table(result: Criticality) -> pd.DataFrame:
    """Loss increase on *test* of every dimension that was measured there, the same and its rank on *identify*, its
    specificity, and its mean magnitude after the first token."""
    found, magnitude = orders(result), next(iter(result.magnitudes.values()))
    rows = []
    for mode, test in result.test.items():
        increases = domain_loss_increase(test, "test")
        special = specificity(increases) if len(increases) > 1 else np.full_like(increases, np.nan)
        ranked_by = mode if mode in found else "zero"
        ranked = result.identify[ranked_by]
        identified = pd.DataFrame(domain_loss_increase(ranked, "identify"), result.domains, ranked.dimensions)
        identified = identified.reindex(columns=list(test.dimensions)).to_numpy()
        for number, domain in enumerate(result.domains):
            ranks = {dimension: rank for rank, dimension in enumerate(found[ranked_by][domain], 1)}
            for index in sorted(range(len(test.dimensions)), key=lambda index: ranks[test.dimensions[index]]):
                dimension, place = test.dimensions[index], (number, index)
                values = [ranks[dimension], identified[place], magnitude[number, dimension]]
                if not np.isnan(increases[place]):
                    rows.append([mode, domain, dimension, increases[place], special[place], ranked_by, *values])
    names = ["masked_to", "domain", "dimension", "test", "specificity", "ranked_by", "rank", "identify", "magnitude"]
    return pd.DataFrame(rows, columns=names)


def _in_order(frame: pd.DataFrame, domains: Sequence[str]) -> pd.DataFrame:
    """Rows by domain as the experiment has them, then by rank."""
    places = {domain: place for place, domain in enumerate(domains)}
    order = np.lexsort((np.asarray(frame["rank"]), np.array([places[domain] for domain in frame["domain"]])))
    return frame.iloc[order]


def exam_table(result: Criticality) -> pd.DataFrame:
    """Fall of accuracy (fraction) and of log-odds (nats) on exam items of *test*, per mode, domain and dimension.

    `rank` is that under zero masking, 0 for random dimensions.
    """
    found = orders(result)["zero"]
    frames = []
    for mode, exam in result.exam.items():
        frame = choice_frame(exam)
        frame.insert(0, "masked_to", mode)
        ranks = []
        for domain, dimension in zip(frame["domain"], frame["dimension"], strict=True):
            place = found[domain].index(dimension) + 1
            ranks.append(RANDOM if dimension in result.random and place not in result.plan.ranks else place)
        frame.insert(3, "rank", ranks)
        frames.append(_in_order(frame, result.domains))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def answer_table(result: Criticality) -> pd.DataFrame:
    """How often each answer text is predicted on exam items: unmasked, and with the rank-1 dimension masked."""
    found = orders(result)["zero"]
    frames = []
    for mode, exam in result.exam.items():
        if not frames:
            frames.append(answer_histogram(exam).assign(masked_to="nothing", dimension=-1))
        for domain in dict.fromkeys(item.domain for item in exam.items):
            own = _of_domain(exam, domain)
            frame = answer_histogram(own, found[domain][0])
            frames.append(frame.assign(masked_to=mode, dimension=found[domain][0]))
    if not frames:
        return pd.DataFrame()
    names = ["masked_to", "domain", "split", "dimension", "predicted", "n"]
    return pd.concat(frames, ignore_index=True).reindex(columns=names)


def _of_domain(exam: ChoiceMasking, domain: str) -> ChoiceMasking:
    kept = [index for index, item in enumerate(exam.items) if item.domain == domain]
    items = tuple(exam.items[index] for index in kept)
    return ChoiceMasking(exam.mode, exam.dimensions, items, exam.baseline[kept], exam.masked[:, kept])


def agreement_table(result: Criticality) -> pd.DataFrame:
    """Overlap@k and Spearman's correlation of magnitude with the ranking by masking, per token subset.

    One row per mode ranked in, tokens that the magnitude is over, domain and k, with chance and its central 95 %;
    `p` is hypergeometric, for one k and domain alone.
    """
    frames = [
        _agreement(result, order, magnitude, {"ranked_by": mode, "tokens": tokens})
        for mode, order in orders(result).items()
        for tokens, magnitude in result.magnitudes.items()
    ]
    return pd.concat(frames, ignore_index=True)


def token_table(result: Criticality) -> pd.DataFrame:
    """`agreement_table` where masks and losses exclude tokens: is agreement, or what is critical, only that of sinks?

    Dimensions are masked to zero at the tokens `masked_at`, losses are of what is predicted at `counted_at`; first come
    all tokens, in the same passages. `worst` is what the rank-1 dimension costs (nats per token, *identify*). `against`
    is a token subset of magnitude, or the ranking by masking and counting at all tokens in all passages.
    """
    if not result.excluding_sinks:
        return pd.DataFrame()
    zero = orders(result)["zero"]
    everywhere = np.stack([rank_scores(zero[domain], result.d_model) for domain in result.domains])
    others = {f"magnitude {tokens}": values for tokens, values in result.magnitudes.items()} | {ALL_TOKENS: everywhere}
    names = result.excluding_sinks[0][1].prompts
    nothing_excluded = (_in_prompts(result.estimates["zero"], names), _in_prompts(result.identify["zero"], names))
    frames = []
    for estimate, measured in (nothing_excluded, *result.excluding_sinks):
        order, worst = ranking(measured, estimate), dict(zip(result.domains, _worst(measured), strict=True))
        head = {"masked_at": measured.masked_at, "counted_at": measured.counted_at}
        for name, scores in others.items():
            frame = _agreement(result, order, scores, head | {"against": name})
            frames.append(frame.assign(worst=[worst[domain] for domain in frame["domain"]]))
    return pd.concat(frames, ignore_index=True)


def _in_prompts(result: MaskingResult, names: Collection[str]) -> MaskingResult:
    """A result as it is in some of its prompts."""
    kept = [index for index, name in enumerate(result.prompts) if name in names]
    parts = {part: tuple(getattr(result, part)[index] for index in kept) for part in ("prompts", "domains", "splits")}
    return replace(result, baseline=result.baseline[kept], loss_increase=result.loss_increase[:, kept], **parts)


def _worst(measured: MaskingResult) -> Float64[np.ndarray, "domain"]:
    return np.nanmax(domain_loss_increase(measured, "identify"), axis=1)


def token_summary(result: Criticality, k: int) -> list[dict[str, Any]]:
    """`token_table` at one k as means over domains: overlap, chance, Spearman's correlation, largest loss increase."""
    table = token_table(result)
    if table.empty:
        return []
    names = ["masked_at", "counted_at", "against"]
    groups = table[table["k"] == k].groupby(names, sort=False)
    means: pd.DataFrame = groups[["overlap", "chance", "spearman", "worst"]].agg("mean").reset_index()
    return table_rows(means.assign(k=k))


def _agreement(
    result: Criticality,
    order: Order,
    scores: Float64[np.ndarray, "domain d_model"],
    head: Mapping[str, str],
) -> pd.DataFrame:
    """Overlap@k and Spearman's correlation of scores with a ranking, one row per domain and k, after the columns of
    `head`."""
    ks = [k for k in OVERLAP_KS if k <= result.d_model // 2] or [1]
    frames = []
    for number, domain in enumerate(result.domains):
        ranked = rank_scores(order[domain], result.d_model)
        frame = overlap_at_k(scores[number], ranked, ks)
        frames.append(frame.assign(**head, domain=domain, spearman=spearman(scores[number], ranked)))
    table = pd.concat(frames, ignore_index=True)
    names = [*head, "domain"]
    return table.reindex(columns=[*names, *(column for column in table.columns if column not in names)])


def jaccard_table(result: Criticality) -> pd.DataFrame:
    """Jaccard index of the top-k sets of every pair of domains, by masking in every mode and by magnitude."""
    k = result.plan.k
    sets = {
        f"masking to {mode}": {domain: order[domain][:k] for domain in result.domains}
        for mode, order in orders(result).items()
    }
    for tokens, magnitude in result.magnitudes.items():
        if tokens != FIRST_TOKEN:
            sets[f"magnitude {tokens}"] = {
                domain: rank_dimensions(magnitude[number])[:k].tolist() for number, domain in enumerate(result.domains)
            }
    rows = [
        [by, k, first, second, jaccard(chosen[first], chosen[second])]
        for by, chosen in sets.items()
        for first in chosen
        for second in chosen
    ]
    return pd.DataFrame(rows, columns=["by", "k", "first", "second", "jaccard"])


def recall_table(result: Criticality, ms: Sequence[int] = (10, 12, 16, 20, 24, 32, 40)) -> pd.DataFrame:
    """Recall@k of the screened path with m candidates, per exhaustively masked mode and domain, and its cost.

    The largest dimensions of the plan are among the candidates. `cost` is in forward passes over the passages: the
    estimate, one unmasked pass, and one per candidate; `fraction` is of the exhaustive cost.
    """
    plan, rows = result.plan, []
    largest = largest_of(result.magnitudes, plan.n_largest)
    setting = estimate_name(plan.n_groups, plan.n_points, len(largest))
    for mode in plan.exhaustive:
        exact, estimate = result.identify[mode], result.estimates[mode]
        true = top_dimensions(exact, plan.k)
        for m in (m for m in ms if plan.k <= m <= result.d_model):
            found, cost = candidates_of(estimate, m, largest), estimate.cost + 1 + m
            for domain in result.domains:
                recall = len({*found[domain]} & {*true[domain]}) / plan.k
                rows.append([mode, setting, domain, plan.k, m, recall, cost, cost / (result.d_model + 1)])
    return pd.DataFrame(rows, columns=["mode", "setting", "domain", "k", "m", "recall", "cost", "fraction"])


def estimate_name(n_groups: int, n_points: int, n_ungrouped: int) -> str:
    """What an estimate by gradients is called in tables and figures."""
    if n_points == 1:
        return "plain gradient"
    return f"{n_groups} groups, {n_points} points" + (", largest ungrouped" if n_ungrouped else "")


def summarise_criticality(result: Criticality) -> dict[str, Any]:
    """The key `masking` of `summary.json`: path, sizes, loss increases by rank, specificity, exam, agreement, also
    excluding the first token and tokens of high norm."""
    increases, agreement, masked = loss_increase_table(result), agreement_table(result), masked_table(result)
    default = next(iter(result.magnitudes))
    nearest = max(k for k in agreement["k"] if k <= result.plan.k)
    is_shown = (agreement["ranked_by"] == "zero") & (agreement["tokens"] == default) & (agreement["k"] == nearest)
    return {
        "path": "full" if "zero" in result.plan.exhaustive else "screened",
        "plan": result.plan,
        "forward_passes": result.cost,
        "passages": {part: _counts(getattr(result, part)["zero"]) for part in ("identify", "test")},
        "loss_increases": table_rows(increases[increases["ranked_by"] == "zero"]),
        "rank_1": table_rows(masked[(masked["masked_to"] == "zero") & (masked["rank"] == 1)]),
        "exam": exam_summary(result),
        "agreement": table_rows(agreement[is_shown]),
        "tokens": token_summary(result, nearest),
        "recall": table_rows(recall_table(result)),
    }


def exam_summary(result: Criticality) -> list[dict[str, Any]]:
    """Accuracy and what masking costs it, per mode and rank, over the items of all domains together."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in table_rows(exam_table(result)):
        if row["rank"] in (*result.plan.ranks, RANDOM):
            groups.setdefault((row["masked_to"], row["rank"]), []).append(row)
    rows = []
    for (mode, rank), own in groups.items():
        n = sum(row["n"] for row in own)
        names = ("accuracy", "accuracy_drop", "log_odds_drop")
        means = {name: sum(row[name] * row["n"] for row in own) / n for name in names}
        n_items = sum({row["domain"]: row["n"] for row in own}.values())
        rows.append({"masked_to": mode, "rank": rank, **means, "n_items": n_items})
    return rows


def table_rows(frame: Any) -> list[dict[str, Any]]:
    """The rows of a table as plain dictionaries."""
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


def _counts(result: MaskingResult) -> dict[str, int]:
    return {domain: result.domains.count(domain) for domain in masked_domains(result)}
