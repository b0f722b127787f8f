"""What the report of a study says on masking: how dimensions were ranked, and what the model loses without them."""

from typing import Any

from workbench.figures.html import Table
from workbench.figures.style import number
from workbench.masking.tables import (
    ALL_TOKENS,
    MEAN,
    OVERLAP_KS,
    RANDOM,
    TOKEN_SUBSETS,
    Criticality,
    exam_summary,
    table_rows,
    token_summary,
)
from workbench.runs import Run


def masking_values(run: Run) -> dict[str, Any]:
    """Text and tables of the section; `tokens` and `exam` are None where they were not measured."""
    text, tokens = token_table(run.masking)
    return {
        "how": _how(run.masking, run.masking_path),
        "tokens_text": text,
        "tokens": tokens,
        "exam": _exam(run.masking),
        "all": _all_increases(table_rows(run.masking_tables["loss_increases"])),
    }


def masking_finding(run: Run) -> str:
    """What zeroing the dimension needed most costs, beside random ones."""
    rows = [
        row
        for row in table_rows(run.masking_tables["loss_increases"])
        if (row["masked_to"], row["ranked_by"], row["domain"]) == ("zero", "zero", MEAN)
    ]
    first = min((row for row in rows if row["rank"] != RANDOM), key=lambda row: row["rank"])
    random = [f" Random dimensions cost {number(row['loss_increase'])}." for row in rows if row["rank"] == RANDOM]
    cost, rank = number(first["loss_increase"]), first["rank"]
    return f"{cost} nats per token is the mean cost of setting the rank-{rank} dimension to zero.{''.join(random)}"


def _how(result: Criticality, path: str) -> str:
    plan = result.plan
    n = len(result.domains)
    counts = {part: len(getattr(result, part)["zero"].prompts) // n for part in ("identify", "test")}
    if path == "full":
        ranked = f"every dimension was masked to zero in {counts['identify']} passages per domain of identify"
    else:
        ranked = (
            f"gradients estimated all dimensions on {counts['identify']} passages per domain of identify, and "
            f"{plan.m} candidates of each, the largest dimensions among them, were then masked exactly (the screened "
            "path)"
        )
    few = " With so few passages only large increases can be detected." if min(counts.values()) < 10 else ""
    return (
        f"To rank the dimensions, {ranked}; what is reported is measured on {counts['test']} passages per domain of "
        f"test. In total {number(result.cost)} forward passes.{few}"
    )


def token_table(result: Criticality) -> tuple[str, Table | None]:
    """Whether the ranking is that of the first token and of tokens of high norm: in words, and as a table."""
    nearest = max((k for k in OVERLAP_KS if k <= min(result.plan.k, result.d_model // 2)), default=1)
    rows = {(row["masked_at"], row["counted_at"], row["against"]): row for row in token_summary(result, nearest)}
    if not rows:
        return "", None
    shown, found = [], {}
    for masked_at, counted_at in dict.fromkeys(key[:2] for key in rows):
        names = (f"magnitude {TOKEN_SUBSETS[0]}", ALL_TOKENS)
        large, needed = (rows[masked_at, counted_at, name] for name in names)
        found[masked_at, counted_at] = large, needed
        numbers = (f"{large['overlap']:.0%}", f"{needed['overlap']:.0%}", number(large["worst"]))
        shown.append((masked_at, counted_at, *numbers))
    (large, needed), (large_without, needed_without) = next(iter(found.values())), list(found.values())[-1]
    n = len(result.excluding_sinks[0][1].prompts) // len(result.domains)
    text = (
        f"Is this only the sink? Excluding the first token and tokens of high norm from masks and losses, the top "
        f"{nearest} by masking share {needed_without['overlap']:.0%} with the top {nearest} at all tokens (the same "
        f"{n} passages per domain with nothing left out: {needed['overlap']:.0%}; chance {large['chance']:.1%}), and "
        f"{large_without['overlap']:.0%} with the {nearest} largest ({large['overlap']:.0%}). The dimension that costs "
        f"most costs {number(large_without['worst'])} nats per token on identify ({number(large['worst'])})."
    )
    heads = ("masked at", "losses counted at", "shared with magnitude", "shared with masking", "worst increase (nats)")
    return text, Table(f"Top {nearest} by masking where tokens are left out, means over the domains", heads, shown)


def _exam(result: Criticality) -> Table | None:
    rows = [
        (
            row["masked_to"],
            str(row["rank"]) if row["rank"] else "random",
            f"{row['accuracy']:.0%}",
            f"{row['accuracy'] - row['accuracy_drop']:.0%}",
            number(row["log_odds_drop"]),
            str(row["n_items"]),
        )
        for row in exam_summary(result)
    ]
    heads = ("masked to", "rank", "accuracy", "accuracy masked", "fall of log-odds (nats)", "items")
    label = "Exam items of test with the dimension at each rank masked, all domains together"
    return Table(label, heads, rows) if rows else None


def _all_increases(increases: list[dict[str, Any]]) -> Table:
    rows = [
        (
            *(str(row[name]) for name in ("masked_to", "ranked_by", "domain")),
            str(row["rank"]) if row["rank"] else "random",
            str(row["dimension"]) if row["dimension"] >= 0 else "–",
            number(row["loss_increase"]),
            f"{number(row['low'])} to {number(row['high'])}",
            "yes" if row["verified"] else "estimate",
        )
        for row in increases
    ]
    heads = ("masked to", "ranked by", "domain", "rank", "dimension", "increase", "95 % interval", "rank measured")
    return Table("Increase of token loss on test (nats per token)", heads, rows)
