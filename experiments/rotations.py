"""What is a detector here: tested labels, verdicts with their controls, and random rotations of the residual stream.

Labels are chosen on the identify split and scored on the test split, for the DCDs and for dimensions that are DCDs of
no domain. Verdicts are those of `workbench verdict`, without masking costs. Rotations repeat selection, labels and
steering in random bases.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.pages import DOCS, table, write_results, write_section
from workbench.comparison.rotations import LOWER_IS_BETTER, basis_frame, compare_bases
from workbench.corpus import neutral_prompts
from workbench.dimensions import detector_share, find_dcds, find_verdicts
from workbench.dimensions.labels import label_curve, label_summary
from workbench.models import HookedModel, load_model
from workbench.records import SELECTIONS, VERDICTS, LabelScore
from workbench.study import Settings, load_passages, survey
from workbench.study.certainty import examine_labels

K = 8
N_ROTATIONS = 5
SHARES = (0.25, 0.5, 1.0)
SCORES = {"within": "class against other tokens of the domain", "across": "class inside the domain against outside it"}


def run(model: HookedModel, *, quick: bool = False) -> dict[str, Any]:
    settings = Settings(k=K, preset="quick" if quick else "full")
    prompts = load_passages(settings, model)
    rows = survey(model, prompts, settings)[1]
    dcds = [dcd for selection in SELECTIONS for dcd in find_dcds(rows, k=K, selection=selection)]
    labels = list(examine_labels(model, prompts, rows, dcds, settings))
    verdicts = find_verdicts(rows, dcds, seed=settings.seed)
    shares = detector_share(rows, {item.dimension for item in verdicts}, seed=settings.seed)
    bases = compare_bases(model, prompts, neutral_prompts(), k=K, n_rotations=2 if quick else N_ROTATIONS)
    frame = basis_frame(bases)
    return {
        "k": K,
        "n_passages": dict(Counter(prompt.domain for prompt in prompts)),
        "labels": label_summary(labels),
        "gaps": {name: label_gap(labels, name) for name in SCORES},
        "curve": plain_rows(label_curve(labels)),
        "verdicts": [[item.domain, item.dimension, item.verdict, item.is_dcd, item.control_share] for item in verdicts],
        "controls": shares,
        "rotations": plain_rows(frame),
        "bases": bases,
    }


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


def label_gap(labels: Sequence[LabelScore], name: str, *, n_resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """Mean score of the DCDs minus that of the others, with a 95 % interval over dimensions drawn anew.

    All records of a dimension are drawn together, since one dimension is labelled in several domains.
    """
    rng = np.random.default_rng(seed)
    means = []
    for is_dcd in (True, False):
        groups: dict[int, list[float]] = {}
        for item in labels:
            if item.is_dcd == is_dcd and not np.isnan(value := getattr(item, name)):
                groups.setdefault(item.dimension, []).append(value)
        if not groups:
            return dict.fromkeys(("mean", "low", "high"), float("nan"))
        sums, counts = (np.array([fold(own) for own in groups.values()]) for fold in (sum, len))
        drawn = rng.integers(len(sums), size=(n_resamples, len(sums)))
        drawn = np.concatenate([np.arange(len(sums))[None], drawn])
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    gaps = means[0] - means[1]
    low, high = np.quantile(gaps[1:], [0.025, 0.975])
    return {"mean": float(gaps[0]), "low": float(low), "high": float(high)}


# --- the page ---------------------------------------------------------------------------------------------------------


def section(results: dict[str, Any]) -> str:
    """Everything on the page below its marks, made from the numbers."""
    parts = [label_section(results), verdict_section(results), rotation_section(results)]
    return "\n\n".join(parts)


def label_section(results: dict[str, Any]) -> str:
    rows = [
        [
            group,
            str(facts["labels"]),
            *(
                f"{facts[name]:.2f} ({facts[f'{name}_above_luck']} of {facts[f'{name}_measured']})"
                for name in SCORES
                if facts["labels"]
            ),
        ]
        for group, facts in results["labels"].items()
        if facts["labels"]
    ]
    lines = [
        "### Labels on held-out passages",
        "",
        "Mean AUROC on the test split, and in brackets how many labels have p at most 0.05, each alone.",
        "",
        table(("dimensions", "labels", *SCORES.values()), rows),
        "",
        f"Mean AUROC where only the best labels of the identify split are kept ({k_words(results)}):",
        "",
        curve_table(results["curve"]),
        "",
    ]
    for name, words in SCORES.items():
        gap = results["gaps"][name]
        shown = f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
        lines.append(f"* {words.capitalize()}: DCDs minus other dimensions {shown}, {gap_words(gap)}.")
    return "\n".join(lines)


def k_words(results: dict[str, Any]) -> str:
    return f"{results['k']} dimensions per domain and selection"


def gap_words(gap: dict[str, float]) -> str:
    if not gap["low"] <= gap["high"]:
        return "not measured"
    if gap["low"] <= 0 <= gap["high"]:
        return "no difference shown"
    return "the labels of DCDs hold better" if gap["mean"] > 0 else "the labels of other dimensions hold better"


def curve_table(curve: Sequence[dict[str, Any]]) -> str:
    rows = []
    for name, words in SCORES.items():
        for group in dict.fromkeys(row["group"] for row in curve):
            own = [row for row in curve if (row["group"], row["score"]) == (group, name)]
            cells = []
            for share in SHARES:
                row = min(own, key=lambda row, share=share: abs(row["share"] - share))
                cells.append(f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")
            rows.append([words, group, *cells])
    return table(("score", "dimensions", *(f"best {share:.0%}" for share in SHARES)), rows)


def verdict_section(results: dict[str, Any]) -> str:
    verdicts = results["verdicts"]
    rows = [
        [name, str(sum(row[2] == name for row in verdicts)), str(sum(row[2] == name and row[3] for row in verdicts))]
        for name in VERDICTS
    ]
    shares = results["controls"]
    highest = max(shares, key=lambda domain: shares[domain])
    mean = sum(shares.values()) / len(shares)
    n_detectors = sum(row[2] in ("detector", "both") for row in verdicts)
    return "\n".join(
        [
            "### Verdicts",
            "",
            table(("verdict", "judged", "of them DCDs"), rows),
            "",
            f"* {n_detectors} of {len(verdicts)} judged pairs of domain and dimension pass as detectors.",
            f"* AUROC alone: of the dimensions that were not judged, {mean:.0%} reach the AUROC that a detector must "
            f"(mean over domains; most in {highest}, {shares[highest]:.0%}). "
            + (
                "Telling a domain apart is therefore no mark of few dimensions here, and the rule asks for more."
                if mean > 0.05
                else "Few do, so the AUROC says something by itself."
            ),
        ]
    )


def rotation_section(results: dict[str, Any]) -> str:
    found = results["rotations"]
    rows = [
        [
            row["measure"] + (" (lower is better)" if row["measure"] in LOWER_IS_BETTER else ""),
            *(f"{row[name]:.3f}" for name in ("coordinate", "rotated", "lowest", "highest")),
            f"{row['better']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
        ]
        for row in found
    ]
    heads = ("measure", "coordinate", "rotated", "lowest rotation", "highest rotation", "share of pairs won")
    groups: dict[str, list[str]] = {"better": [], "worse": [], "not told apart from": []}
    for row in found:
        shown = "better" if row["low"] > 0.5 else "worse" if row["high"] < 0.5 else "not told apart from"
        if row["better"] != row["better"]:  # NaN: some budget was reached in no basis
            continue
        groups[shown].append(row["measure"])
    lines = [
        "### Is the coordinate basis special?",
        "",
        f"Means over {len(results['n_passages'])} domains; pairs are a domain and one of {found[0]['n_rotations']} "
        "random rotations, ties count half.",
        "",
        table(heads, rows),
        "",
    ]
    for words, measures in groups.items():
        if measures:
            than = "random rotations" if words == "not told apart from" else "than in random rotations"
            lines.append(f"* The coordinate basis is {words} {than} by: {', '.join(measures)}.")
    if not groups["better"]:
        lines.append("* That single coordinates are special is not shown here: rotated bases do as well.")
    return "\n".join(lines)


def main(model: HookedModel | None = None, *, docs=DOCS, quick: bool = False) -> None:
    model = model or load_model()
    results = run(model, quick=quick)
    write_results("rotations", model, results, docs=docs)
    folder = f"{docs.name}/results"
    write_section("detectors", "rotations", section(results), model, docs=docs.parent, results=folder)


if __name__ == "__main__":
    main()
