"""The sections of the report on certainty: sink or detector, tested labels, bootstrap, conditions, readings.

Where a run says why it did not measure a part, that reason stands in its place.
"""

from collections.abc import Mapping, Sequence
from html import escape

from workbench.dimensions.labels import LEVEL, label_curve, label_summary
from workbench.figures import table_html
from workbench.figures.style import number
from workbench.figures.verdicts import (
    agreement_caption,
    agreement_figure,
    label_curve_caption,
    label_curve_figure,
    rank_caption,
    rank_figure,
    verdict_caption,
    verdict_figure,
)
from workbench.records import (
    ConditionStability,
    LabelScore,
    ReadingAgreement,
    SelectionStability,
    Verdict,
    load_table,
    read_json,
)
from workbench.report.material import Material, absent, paragraph, plot


def verdicts(material: Material) -> str:
    """The map of verdicts with the share of controls that pass as detectors, and all verdicts as a table."""
    records = material.folder / "records"
    if not (records / "verdicts.json").is_file():
        return _reason(material, "verdicts") or absent("verdicts")
    found: list[Verdict] = load_table(records / "verdicts.json", Verdict)
    if not found:
        return absent("judged dimensions")
    parts = [plot(verdict_figure(found), "verdicts-map", verdict_caption(found))]
    controls = records / "controls.json"
    if controls.is_file():
        shares = read_json(controls)
        parts.append(_controls({domain: share for domain, share in shares.items() if share is not None}))
    parts.append(f"<details><summary>All {len(found)} verdicts</summary>{_verdict_table(found)}</details>")
    return "".join(parts)


def certain_findings(material: Material) -> list[str]:
    """What the run says in one sentence each on verdicts and tested labels, where it has them."""
    records, found = material.folder / "records", []
    if (records / "verdicts.json").is_file() and (judged := load_table(records / "verdicts.json", Verdict)):
        found.append(verdict_caption(judged))
    if (records / "labels.json").is_file():
        found.append(label_curve_caption(label_curve(load_table(records / "labels.json", LabelScore))))
    return found


def labels(material: Material) -> str:
    """Two held-out scores of the labels, DCDs beside dimensions that are none; nothing where no label was tested."""
    path = material.folder / "records" / "labels.json"
    if not path.is_file():
        return _reason(material, "labels")
    found: list[LabelScore] = load_table(path, LabelScore)
    curve = label_curve(found)
    return paragraph(label_sentence(found)) + plot(label_curve_figure(curve), "label-curve", label_curve_caption(curve))


def label_sentence(found: Sequence[LabelScore]) -> str:
    """How many labels hold on *test*, each alone: of the class, and of the class inside the domain."""
    texts = []
    for group, facts in label_summary(found).items():
        if facts["labels"]:
            texts.append(
                f"{facts['labels']} {group}: {facts['within_above_luck']} of {facts['within_measured']} fire more on "
                f"their class than on other tokens of the domain, {facts['across_above_luck']} of "
                f"{facts['across_measured']} more on the class inside the domain than outside it"
            )
    return f"Labels on held-out passages, p at most {LEVEL} for each alone. {'; '.join(texts)}."


def _reason(material: Material, part: str) -> str:
    """Why the run did not measure a part, as its summary says; empty where it says nothing."""
    said = material.summary.get(part)
    return f'<p class="note">{escape(said[:1].upper() + said[1:])}.</p>' if isinstance(said, str) else ""


def _controls(shares: Mapping[str, float]) -> str:
    if not shares:
        return ""
    domain, most = max(shares.items(), key=lambda pair: pair[1])
    mean = sum(shares.values()) / len(shares)
    return paragraph(
        f"Control: of the dimensions that were not judged, {mean:.0%} on average over the domains tell the domain "
        f"apart as well as a detector must ({domain}: {most:.0%}); the more do, the less a verdict of detector says."
    )


def _verdict_table(found: Sequence[Verdict]) -> str:
    rows = [
        (
            item.domain,
            str(item.dimension),
            item.verdict,
            "; ".join(item.massive) or "none",
            f"{item.share_first:.0%}",
            f"{item.share_delimiter:.0%}",
            f"{number(item.auroc)} ({number(item.low)} to {number(item.high)})",
            number(item.cost_zero),
            number(item.cost_mean),
            item.label,
        )
        for item in found
    ]
    heads = (
        *("domain", "dimension", "verdict", "massive by", "share at first token", "share at delimiters"),
        *("domain AUROC (95 %)", "cost of zero", "cost of mean", "label"),
    )
    return table_html(heads, rows, label="Verdicts with their evidence; costs in nats per token on test")


def stability(material: Material) -> str:
    """Rank intervals of the DCDs, agreement of split halves, and agreement of the readings of the rule."""
    records = material.folder / "records"
    if not (records / "selections.json").is_file():
        return _reason(material, "stability") or absent("stability of the selected dimensions")
    selections: list[SelectionStability] = load_table(records / "selections.json", SelectionStability)
    conditions: list[ConditionStability] = load_table(records / "conditions.json", ConditionStability)
    readings: list[ReadingAgreement] = load_table(records / "readings.json", ReadingAgreement)
    by_magnitude = [item for item in selections if item.selection == "magnitude"]
    parts = []
    if by_magnitude:
        parts.append(plot(rank_figure(by_magnitude), "rank-intervals", rank_caption(by_magnitude)))
    if conditions:
        parts.append(_condition_table(conditions))
    if readings:
        parts.append(plot(agreement_figure(readings), "readings", agreement_caption(readings)))
    return "".join(parts)


def _condition_table(conditions: Sequence[ConditionStability]) -> str:
    rows = [
        (
            item.condition,
            item.domain,
            str(item.k),
            f"{number(item.jaccard)} ({number(item.low)} to {number(item.high)})",
            number(item.spearman),
        )
        for item in conditions
    ]
    heads = ("condition", "domain", "k", "Jaccard of the top k (95 %)", "rank correlation")
    return table_html(heads, rows, label="Agreement of the largest dimensions under other conditions")
