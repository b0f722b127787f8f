"""Tables and the summary of a criticality experiment, made from its records without a model.

drops       what masking the rank-1, 10, 100 dimension and random ones costs on *test*, per domain and mode
masked      every dimension measured on *test*, with its drop on *identify* and its specificity
exam        the fall of accuracy and log-odds on exam items
answers     how often each answer is predicted, unmasked and masked
agreement   overlap@k and Spearman's correlation of magnitude with the ranking by masking, beside chance
tokens      the same with losses counted, and dimensions masked, without the first token or tokens of high norm
jaccard     how much the top dimensions of two domains share, by masking and by magnitude
recall      where a mode was masked exhaustively: how much of its top k the screened path finds with m candidates
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from workbench.dimensions.loss_increases import (
    answer_histogram,
    choice_frame,
    domain_rise,
    drop_frame,
    jaccard_matrix,
    masked_domains,
    mean_interval,
    overlap_at_k,
    rank_dimensions,
    spearman,
    top_dimensions,
)
from workbench.dimensions.masking_records import (
    FIRST_TOKEN,
    Criticality,
    candidates_of,
    largest_of,
    rank_scores,
    ranking,
)
from workbench.records import ChoiceMasking, MaskingResult, MaskMode

MEAN = "mean"  # of the domains
RANDOM = 0  # rank of the controls
ALL_TOKENS = "masking at all tokens"
OVERLAP_KS = (1, 2, 4, 8, 10, 16, 32, 64, 128, 256, 512)


def criticality_tables(result: Criticality) -> dict[str, pd.DataFrame]:
    """All tables of an experiment by name; those with nothing to show are left out."""
    tables = {
        "drops": drop_table(result),
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


def drop_table(result: Criticality) -> pd.DataFrame:
    """Drop in nats per token on *test*, with a 95 % Student interval over passages.

    One row per mode masked in, mode ranked in, domain and rank; rank 0 is the mean over random dimensions. `verified`
    says whether the rank was measured (else it comes from the estimate), `share` is the drop as a share of the unmasked
    loss. Rows of domain "mean" average the domains, with an interval over domains.
    """
    found = orders(result)
    rows: list[list[Any]] = []
    for mode, test in result.test.items():
        for ranked_by in dict.fromkeys(("zero", mode)):
            if ranked_by in found:
                rows += _drops_of(result, test, ranked_by, found[ranked_by])
    names = ["masked_to", "ranked_by", "domain", "rank", "dimension", "verified", "drop", "low", "high", "n", "share"]
    return pd.DataFrame(rows, columns=names)


def _drops_of(
    result: Criticality, test: MaskingResult, ranked_by: MaskMode, order: Mapping[str, Sequence[int]]
) -> list[list[Any]]:
    head = [test.mode, ranked_by]
    rows = []
    for rank in (*result.plan.ranks, *([RANDOM] if result.random else [])):
        drops, shares = [], []
        for domain in result.domains:
            passages = np.array(test.domains) == domain
            chosen = result.random if rank == RANDOM else (order[domain][rank - 1],)
            rise = test.loss_increase[
                np.ix_([test.dimensions.index(dimension) for dimension in chosen], passages)
            ].mean(axis=0)
            is_verified = rank == RANDOM or rank <= _n_measured(result.identify[ranked_by], domain)
            share = float(rise.mean() / test.baseline[passages].mean())
            mean, low, high = mean_interval(rise)
            one = chosen[0] if rank != RANDOM else -1
            rows.append([*head, domain, rank, one, is_verified, mean, low, high, len(rise), share])
            drops.append(mean)
            shares.append(share)
        verified = all(row[5] for row in rows[-len(drops) :])
        mean, low, high = mean_interval(np.array(drops))
        rows.append([*head, MEAN, rank, -1, verified, mean, low, high, len(drops), float(np.mean(shares))])
    return rows


def _n_measured(measured: MaskingResult, domain: str) -> int:
    drops = domain_rise(measured, "identify")[masked_domains(measured).index(domain)]
    return int(np.isfinite(drops).sum())


def masked_table(result: Criticality) -> pd.DataFrame:
    """Drop on *test* of every dimension that was measured there, its drop and rank on *identify*, its specificity, and
    its mean magnitude after the first token."""
    found = orders(result)
    magnitude = next(iter(result.magnitudes.values()))
    frames = []
    for mode, test in result.test.items():
        frame = drop_frame(test).drop(columns=["rank", "identify"])
        ranked_by = mode if mode in found else "zero"
        measured = drop_frame(result.identify[ranked_by]).set_index(["domain", "dimension"])["identify"]
        keys = list(zip(frame["domain"], frame["dimension"], strict=True))
        places = {
            (domain, dimension): rank
            for domain, order in found[ranked_by].items()
            for rank, dimension in enumerate(order, 1)
        }
        frame.insert(0, "masked_to", mode)
        frame["ranked_by"] = ranked_by
        frame["rank"] = [places[key] for key in keys]
        frame["identify"] = measured.reindex(pd.MultiIndex.from_tuples(keys)).to_numpy()
        frame["magnitude"] = [magnitude[result.domains.index(domain), dimension] for domain, dimension in keys]
        frames.append(_in_order(frame, result.domains))
    return pd.concat(frames, ignore_index=True)


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
    """Overlap@k and Spearman's correlation of magnitude with the ranking by masking, per token reading.

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
    """`agreement_table` where masks and losses spare tokens: is agreement, or what is critical, only that of sinks?

    Dimensions are masked to zero at the tokens `masked_at`, losses are of what is predicted at `counted_at`; first come
    all tokens, in the same passages. `worst` is what the rank-1 dimension costs (nats per token, *identify*). `against`
    is a token reading of magnitude, or the ranking by masking and counting at all tokens in all passages.
    """
    if not result.spared:
        return pd.DataFrame()
    zero = orders(result)["zero"]
    everywhere = np.stack([rank_scores(zero[domain], result.d_model) for domain in result.domains])
    others = {f"magnitude {tokens}": values for tokens, values in result.magnitudes.items()} | {ALL_TOKENS: everywhere}
    names = result.spared[0][1].prompts
    unspared = (_in_prompts(result.estimates["zero"], names), _in_prompts(result.identify["zero"], names))
    frames = []
    for estimate, measured in (unspared, *result.spared):
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
    return np.nanmax(domain_rise(measured, "identify"), axis=1)


def token_summary(result: Criticality, k: int) -> list[dict[str, Any]]:
    """`token_table` at one k as means over domains: overlap, its chance, Spearman's correlation, the worst drop."""
    table = token_table(result)
    if table.empty:
        return []
    names = ["masked_at", "counted_at", "against"]
    groups = table[table["k"] == k].groupby(names, sort=False)
    means: pd.DataFrame = groups[["overlap", "chance", "spearman", "worst"]].agg("mean").reset_index()
    return table_rows(means.assign(k=k))


def _agreement(
    result: Criticality,
    order: Mapping[str, Sequence[int]],
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
    rows = []
    for by, own in sets.items():
        matrix = jaccard_matrix(own).to_numpy()
        for row, first in enumerate(own):
            rows += [[by, k, first, second, float(matrix[row, column])] for column, second in enumerate(own)]
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
    """The key `masking` of `summary.json`: path, sizes, drops by rank, specificity, exam, agreement with and without
    the first token and tokens of high norm."""
    drops, agreement, masked = drop_table(result), agreement_table(result), masked_table(result)
    default = next(iter(result.magnitudes))
    nearest = max(k for k in agreement["k"] if k <= result.plan.k)
    is_shown = (agreement["ranked_by"] == "zero") & (agreement["tokens"] == default) & (agreement["k"] == nearest)
    return {
        "path": "full" if "zero" in result.plan.exhaustive else "screened",
        "plan": result.plan,
        "forward_passes": result.cost,
        "passages": {part: _counts(getattr(result, part)["zero"]) for part in ("identify", "test")},
        "drops": table_rows(drops[drops["ranked_by"] == "zero"]),
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
