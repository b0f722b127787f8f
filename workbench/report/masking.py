"""The section of the report on masking: what the model loses without single dimensions, and how that is ranked."""

from html import escape

import pandas as pd

from workbench.figures import table_html
from workbench.figures.masking import (
    drop_caption,
    drop_figure,
    magnitude_drop_caption,
    magnitude_drop_figure,
    overlap_caption,
    overlap_figure,
)
from workbench.figures.recall import recall_caption, recall_figure
from workbench.figures.style import number
from workbench.masking.tables import (
    ALL_TOKENS,
    OVERLAP_KS,
    TOKEN_SUBSETS,
    Criticality,
    criticality_tables,
    exam_summary,
    load_criticality,
    loss_increase_table,
    table_rows,
    token_summary,
)
from workbench.report.material import Material, absent, paragraph, plot
from workbench.runs import MASKING


def masking(material: Material) -> str:
    """Loss increases by rank and against magnitude, agreement, recall where it was measured, and the exam."""
    folder = material.folder / "records" / MASKING
    if not folder.is_dir():
        return absent("masking of dimensions")
    result = load_criticality(folder)
    tables = criticality_tables(result)
    path = _path(result)
    parts = [
        _how(result, path),
        plot(drop_figure(tables["loss_increases"]), "drops", drop_caption(tables["loss_increases"], path=path)),
        plot(magnitude_drop_figure(tables["masked"]), "large-or-needed", magnitude_drop_caption(tables["masked"])),
        plot(
            overlap_figure(tables["agreement"]),
            "overlap",
            overlap_caption(tables["agreement"], k=result.plan.k, path=path),
        ),
    ]
    if "recall" in tables:
        parts.append(plot(recall_figure(tables["recall"]), "recall", recall_caption(tables["recall"])))
    parts += [_tokens(result), _exam(result), _details(tables["loss_increases"])]
    return "".join(parts)


def masking_findings(material: Material) -> list[str]:
    """What masking cost, in one sentence, where it was measured."""
    folder = material.folder / "records" / MASKING
    if not folder.is_dir():
        return []
    result = load_criticality(folder)
    return [drop_caption(loss_increase_table(result), path=_path(result))]


def _path(result: Criticality) -> str:
    return "full" if "zero" in result.plan.exhaustive else "screened"


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
    few = " With so few passages only large increases can be shown." if min(counts.values()) < 10 else ""
    return paragraph(
        f"To rank the dimensions, {ranked}; what is reported is measured on {counts['test']} passages per domain of "
        f"test. All in all {number(result.cost)} forward passes.{few}"
    )


def _tokens(result: Criticality) -> str:
    """Whether the ranking is that of the first token and of tokens of high norm, in numbers."""
    nearest = max((k for k in OVERLAP_KS if k <= min(result.plan.k, result.d_model // 2)), default=1)
    rows = {(row["masked_at"], row["counted_at"], row["against"]): row for row in token_summary(result, nearest)}
    if not rows:
        return ""
    magnitude = f"magnitude {TOKEN_SUBSETS[0]}"
    shown, found = [], {}
    for masked_at, counted_at in dict.fromkeys(key[:2] for key in rows):
        large, needed = (rows[masked_at, counted_at, name] for name in (magnitude, ALL_TOKENS))
        found[masked_at, counted_at] = large, needed
        numbers = (f"{large['overlap']:.0%}", f"{needed['overlap']:.0%}", number(large["worst"]))
        shown.append((masked_at, counted_at, *numbers))
    (large, needed), (large_later, needed_later) = next(iter(found.values())), list(found.values())[-1]
    n = len(result.excluding_sinks[0][1].prompts) // len(result.domains)
    told = paragraph(
        f"Is this only the sink? With the first token and tokens of high norm excluded from masks and losses, the top "
        f"{nearest} by masking share {needed_later['overlap']:.0%} with the top {nearest} at all tokens (the same "
        f"{n} passages per domain with nothing left out: {needed['overlap']:.0%}; chance {large['chance']:.1%}), and "
        f"{large_later['overlap']:.0%} with the {nearest} largest ({large['overlap']:.0%}). The dimension that costs "
        f"most costs {number(large_later['worst'])} nats per token on identify ({number(large['worst'])})."
    )
    heads = (
        "masked at",
        "losses counted at",
        "shared with magnitude",
        "shared with masking",
        "largest loss increase (nats)",
    )
    label = f"Top {nearest} by masking where tokens are excluded, means over the domains"
    return f"<h3>Without the first token and tokens of high norm</h3>{told}{table_html(heads, shown, label=label)}"


def _exam(result: Criticality) -> str:
    rows = exam_summary(result)
    if not rows:
        return paragraph("No exam fits this model and corpus, so accuracy under masking was not measured.")
    shown = [
        (
            row["masked_to"],
            str(row["rank"]) if row["rank"] else "random",
            f"{row['accuracy']:.0%}",
            f"{row['accuracy'] - row['accuracy_drop']:.0%}",
            number(row["log_odds_drop"]),
            str(row["n_items"]),
        )
        for row in rows
    ]
    heads = ("masked to", "rank", "accuracy", "accuracy masked", "fall of log-odds (nats)", "items")
    label = "Exam items of test with the dimension at each rank masked, all domains together"
    return f"<h3>Exam</h3>{table_html(heads, shown, label=label)}"


def _details(increases: pd.DataFrame) -> str:
    rows = [
        (
            *(str(row[name]) for name in ("masked_to", "ranked_by", "domain")),
            str(row["rank"]) if row["rank"] else "random",
            str(row["dimension"]) if row["dimension"] >= 0 else "–",
            number(row["loss_increase"]),
            f"{number(row['low'])} to {number(row['high'])}",
            "yes" if row["verified"] else "estimate",
        )
        for row in table_rows(increases)
    ]
    heads = ("masked to", "ranked by", "domain", "rank", "dimension", "loss increase", "95 % interval", "rank measured")
    table = table_html(heads, rows, label="Increase of token loss on test (nats per token)")
    return f"<details><summary>{escape('All loss increases')}: {len(rows)} rows</summary>{table}</details>"
