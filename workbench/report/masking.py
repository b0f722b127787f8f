"""The section of the report on masking: what the model loses without single dimensions, and how that is ranked."""

from html import escape

import pandas as pd

from workbench.dimensions.masking_records import TOKEN_READINGS, Criticality, load_criticality
from workbench.dimensions.masking_tables import (
    ALL_TOKENS,
    OVERLAP_KS,
    criticality_tables,
    drop_table,
    exam_summary,
    table_rows,
    token_summary,
)
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
from workbench.report.material import Material, absent, paragraph, plot
from workbench.runs import MASKING


def masking(material: Material) -> str:
    """Drops by rank, magnitude against drop, agreement, recall where it was measured, the exam, and all drops."""
    folder = material.folder / "records" / MASKING
    if not folder.is_dir():
        return absent("masking of dimensions")
    result = load_criticality(folder)
    tables = criticality_tables(result)
    path = _path(result)
    parts = [
        _how(result, path),
        plot(drop_figure(tables["drops"]), "drops", drop_caption(tables["drops"], path=path)),
        plot(magnitude_drop_figure(tables["masked"]), "large-or-needed", magnitude_drop_caption(tables["masked"])),
        plot(
            overlap_figure(tables["agreement"]),
            "overlap",
            overlap_caption(tables["agreement"], k=result.plan.k, path=path),
        ),
    ]
    if "recall" in tables:
        parts.append(plot(recall_figure(tables["recall"]), "recall", recall_caption(tables["recall"])))
    parts += [_tokens(result), _exam(result), _drop_details(tables["drops"])]
    return "".join(parts)


def masking_findings(material: Material) -> list[str]:
    """What masking cost, in one sentence, where it was measured."""
    folder = material.folder / "records" / MASKING
    if not folder.is_dir():
        return []
    result = load_criticality(folder)
    return [drop_caption(drop_table(result), path=_path(result))]


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
    few = " With so few passages only large drops can be shown." if min(counts.values()) < 10 else ""
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
    magnitude = f"magnitude {TOKEN_READINGS[0]}"
    shown, found = [], {}
    for masked_at, counted_at in dict.fromkeys(key[:2] for key in rows):
        large, needed = (rows[masked_at, counted_at, name] for name in (magnitude, ALL_TOKENS))
        found[masked_at, counted_at] = large, needed
        numbers = (f"{large['overlap']:.0%}", f"{needed['overlap']:.0%}", number(large["worst"]))
        shown.append((masked_at, counted_at, *numbers))
    (large, needed), (large_spared, needed_spared) = next(iter(found.values())), list(found.values())[-1]
    n = len(result.spared[0][1].prompts) // len(result.domains)
    told = paragraph(
        f"Is this only the sink? With the first token and tokens of high norm left out of masks and losses, the top "
        f"{nearest} by masking share {needed_spared['overlap']:.0%} with the top {nearest} at all tokens (the same "
        f"{n} passages per domain with nothing left out: {needed['overlap']:.0%}; chance {large['chance']:.1%}), and "
        f"{large_spared['overlap']:.0%} with the {nearest} largest ({large['overlap']:.0%}). The dimension that costs "
        f"most costs {number(large_spared['worst'])} nats per token on identify ({number(large['worst'])})."
    )
    heads = ("masked at", "losses counted at", "shared with magnitude", "shared with masking", "worst rise (nats)")
    label = f"Top {nearest} by masking where tokens are left out, means over the domains"
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


def _drop_details(drops: pd.DataFrame) -> str:
    rows = [
        (
            *(str(row[name]) for name in ("masked_to", "ranked_by", "domain")),
            str(row["rank"]) if row["rank"] else "random",
            str(row["dimension"]) if row["dimension"] >= 0 else "–",
            number(row["drop"]),
            f"{number(row['low'])} to {number(row['high'])}",
            "yes" if row["verified"] else "estimate",
        )
        for row in table_rows(drops)
    ]
    heads = ("masked to", "ranked by", "domain", "rank", "dimension", "rise", "95 % interval", "rank measured")
    table = table_html(heads, rows, label="Rise of token loss on test (nats per token)")
    return f"<details><summary>{escape('All drops')}: {len(rows)} rows</summary>{table}</details>"
