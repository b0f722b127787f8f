"""A study as one HTML page: what was found, in sentences computed from the records, with methods and manifest.

Everything is read from the run folder; no model is needed. What a run does not hold is named in place of the figure.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from workbench.dimensions.labels import label_summary
from workbench.figures import (
    Drawing,
    Section,
    best_per_domain,
    contexts_html,
    definitions_html,
    figure_fragment,
    frequency_caption,
    is_scored,
    share_plotly,
    write_page,
)
from workbench.figures.comparison import UNSTEERED, budget_name, gain, is_measured, is_shown, reading
from workbench.figures.detectors import N_DETECTORS
from workbench.figures.html import Table, environment
from workbench.figures.magnitudes import MAX_PANELS, RARE, largest_dimensions
from workbench.figures.style import joined, number
from workbench.records import LEVEL, SELECTIONS, SPLITS, Contrast, Detector, Dimension, LabelScore, Verdict
from workbench.report.masking import masking_finding, masking_values
from workbench.runs import MASKING, Run

TEMPLATES = Path(__file__).parent / "templates"
N_CONTEXTS = 8
SECTIONS = (
    ("planted", "What was planted"),
    ("magnitudes", "Dimension magnitudes"),
    ("frequency", "Activation frequency"),
    ("dimensions", "Domain-critical dimensions"),
    ("detectors", "Detectors"),
    ("masking", "Masking: what the model needs"),
    ("verdicts", "Sink or detector"),
    ("labels", "Labels on held-out text"),
    ("stability", "How sure"),
    ("steering", "Steering"),
    ("methods", "Methods"),
    ("manifest", "Manifest"),
)


def write_study_page(run: Run, drawings: Sequence[Drawing], path: Path) -> Path:
    """Write the page of a study from its figures, drawn already, and its records."""
    if not any(map(run.has, ("statistics", "rows", "dcds", "detectors", "contrasts"))):
        raise ValueError(f"{run.folder} holds no records; make a run with: workbench study --out {run.folder}")
    drawn: dict[str, list[Markup]] = {}
    for one in drawings:
        drawn.setdefault(one.kind, []).append(figure_fragment(one.figure, name=one.name, caption=one.caption))
    plotly = share_plotly(path.parent)
    lead, *sections = blocks("study.html.j2", ("lead", *(name for name, _ in SECTIONS)), _values(run, drawings, drawn))
    titles = zip(SECTIONS, sections, strict=True)
    present = [Section(name, title, body) for (name, title), body in titles if body.strip()]
    title = f"Domain-critical dimensions of {run.model_name}"
    return write_page(path, title=title, lead=lead, sections=present, plotly=plotly)


def blocks(template: str, names: Sequence[str], values: Mapping[str, Any]) -> list[Markup]:
    """The named blocks of a template, each filled with the same values."""
    found = environment(TEMPLATES).get_template(template)
    parts = environment(TEMPLATES).get_template("parts.html.j2").module
    macros = {name: getattr(parts, name) for name in ("absent", "details", "figures", "listed", "reason", "shown")}
    context = found.new_context({**macros, **values})
    return [Markup("".join(found.blocks[name](context))) for name in names]


def _values(run: Run, drawings: Sequence[Drawing], drawn: Mapping[str, Sequence[Markup]]) -> dict[str, Any]:
    """All that the template shows besides what it reads from the run itself."""
    return {
        "run": run,
        "drawn": drawn,
        "facts": _facts(run),
        "findings": findings(run),
        "planted": planted_table(run),
        "max_panels": MAX_PANELS,
        "rare": RARE,
        "frequency_caption": frequency_caption,
        "dcds": _dcd_tables(run.dcds) if run.has("dcds") else {},
        "detectors": _detectors(run.detectors) if run.has("detectors") else [],
        "is_scored": is_scored,
        "contexts": contexts_html,
        "n_contexts": N_CONTEXTS,
        "masking": masking_values(run) if run.has(MASKING) else None,
        "verdicts": verdict_table(run.verdicts) if run.has("verdicts") and run.verdicts else None,
        "controls_text": _controls(run.controls),
        "labels_text": label_sentence(run.labels) if run.has("labels") else "",
        "conditions": _condition_table(run) if run.has("selections") else None,
        "effects": _effects(run, drawings, drawn) if run.has("contrasts") else [],
        "definitions": definitions_html(),
        "settings": _settings(run),
        "manifest": json.dumps(run.manifest, indent=2, ensure_ascii=False),
    }


# --- the opening ------------------------------------------------------------------------------------------------------


def _facts(run: Run) -> list[str]:
    facts = []
    if run.has("statistics"):
        _, n_layers, d_model = run.statistics.mean_magnitude.shape
        facts += [f"{len(run.statistics.domains)} domains", f"{n_layers} layers × {d_model} dimensions"]
    if run.has("rows"):
        facts.append(f"{len(run.rows.prompts)} documents")
    if seeds := run.manifest.get("seeds"):
        facts.append(f"seed {joined([str(seed) for seed in dict.fromkeys(seeds.values())])}")
    if "seconds" in run.summary:
        facts.append(f"{number(float(run.summary['seconds']))} s")
    return facts


def findings(run: Run) -> list[str]:
    """What was found, at most two short sentences each: the number first, a caveat second."""
    found = []
    if run.has("statistics") and len(run.statistics.domains) > 1:
        count, n_domains, largest = largest_dimensions(run.statistics)
        named = f" ({joined([str(each) for each in largest])})" if count > 1 else ""
        found.append(f"{count} of {n_domains} domains share the same three largest dimensions{named}.")
    if run.has("dcds") and run.dcds:
        own = [dcd for dcd in run.dcds if dcd.selection == run.dcds[0].selection]
        here = sum(dcd.reach == "this domain" for dcd in own)
        found.append(
            f"{len({dcd.dimension for dcd in own})} distinct DCDs were selected over all domains. "
            f"{here} of {len(own)} selections are large in their own domain more than elsewhere."
        )
    if run.has("detectors") and run.detectors:
        scored = [one for one in run.detectors if is_scored(one)]
        found.append(
            f"{len(scored)} of {len(run.detectors)} dimension-and-layer readings carry a label. "
            f"{sum(one.low > 0.5 for one in scored)} of these score above chance on held-out text."
        )
    if run.has(MASKING):
        found.append(masking_finding(run))
    if run.has("verdicts") and run.verdicts:
        counts = Counter(one.verdict for one in run.verdicts)
        found.append(
            f"{counts['sink']} of {len(run.verdicts)} judged pairs of domain and dimension are sinks, "
            f"{counts['detector']} detectors, {counts['both']} both and {counts['neither']} neither."
        )
    if run.has("labels") and run.labels:
        within = [one.within for one in run.labels if one.is_dcd and math.isfinite(one.within)]
        across = [one.across for one in run.labels if one.is_dcd and math.isfinite(one.across)]
        if within and across:
            found.append(
                f"{number(float(np.mean(within)))} is the mean held-out AUROC of DCD labels inside their domain. "
                f"Against the same tokens of other domains it is {number(float(np.mean(across)))} (chance: 0.5)."
            )
    if run.has("contrasts"):
        found += [_effect_finding(run, metric) for metric in _metrics(run.primary)]
    return found


def _effect_finding(run: Run, metric: str) -> str:
    own = [one for one in run.primary if (one.metric, one.against) == (metric, UNSTEERED) and is_measured(one)]
    better = sum(is_shown(one) and gain(one) > 0 for one in own)
    worse = sum(is_shown(one) and gain(one) < 0 for one in own)
    if better + worse == 0:
        return f"0 of {len(own)} steered arms differ detectably from unsteered in {metric}."
    chance = LEVEL * len(own)
    caveat = "After adjustment for their number." if any(math.isfinite(one.q) for one in own) else ""
    return (
        f"{better} of {len(own)} steered arms improve {metric}, {worse} worsen it. "
        f"{caveat or f'About {chance:.0f} would differ by chance.'}"
    )


def _metrics(contrasts: Sequence[Contrast]) -> list[str]:
    return list(dict.fromkeys(one.metric for one in contrasts if one.against == UNSTEERED))


# --- tables -----------------------------------------------------------------------------------------------------------


def planted_table(run: Run) -> Table | None:
    """By role: how often each way of selecting finds it, where masking ranks it, and how it is judged."""
    frame = run.frame("planted")
    if frame.empty:
        return None
    rows = []
    for role, own in frame.groupby("role", sort=False):
        verdicts = Counter(str(name) or "not judged" for name in own["verdict"])
        means = [f"{np.mean(own[name]):.0%}" for name in ("magnitude", "discrimination")]
        judged = ", ".join(f"{name} {count}" for name, count in verdicts.most_common())
        rows.append((str(role), str(len(own)), *means, f"{np.median(own['rank']):.0f}", judged))
    heads = ("role", "planted", "by magnitude", "by discrimination", "median rank by masking", "verdicts")
    return Table("Planted dimensions by role", heads, rows)


def _dcd_tables(dcds: Sequence[Dimension]) -> dict[str, Table]:
    heads = ("domain", "rank", "dimension", "magnitude", "elsewhere", "frequency", "elsewhere", "large in")
    tables = {}
    for selection in [name for name in SELECTIONS if any(dcd.selection == name for dcd in dcds)]:
        rows = [
            (
                dcd.domain,
                str(dcd.rank),
                str(dcd.dimension),
                number(dcd.magnitude),
                number(dcd.magnitude_elsewhere),
                f"{dcd.frequency:.2f}",
                f"{dcd.frequency_elsewhere:.2f}",
                dcd.reach,
            )
            for dcd in dcds
            if dcd.selection == selection
        ]
        about = "magnitude in activation units, frequency as fraction of prompts"
        tables[selection] = Table(f"Domain-critical dimensions by {selection}; {about}", heads, rows)
    return tables


def _detectors(detectors: Sequence[Detector]) -> list[dict[str, Any]]:
    """Per domain: how many readings carry a label, and the ones that are shown with their contexts."""
    found = []
    for domain in dict.fromkeys(one.domain for one in detectors):
        own = [one for one in detectors if one.domain == domain]
        cards = best_per_domain(own, N_DETECTORS) or own[:2]
        found.append({"name": domain, "n": len(own), "n_scored": sum(map(is_scored, own)), "cards": cards})
    return found


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Every verdict with its evidence."""
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
        for item in verdicts
    ]
    heads = (
        *("domain", "dimension", "verdict", "massive by", "fraction at first token", "at delimiters"),
        *("domain AUROC (95 %)", "cost of zero", "cost of mean", "label"),
    )
    return Table("Verdicts with their evidence; costs in nats per token on test", heads, rows)


def _controls(fractions: Mapping[str, float]) -> str:
    if not fractions:
        return ""
    domain, most = max(fractions.items(), key=lambda pair: pair[1])
    return (
        f"Control: of the dimensions that were not judged, {sum(fractions.values()) / len(fractions):.0%} on "
        f"average over the domains tell the domain apart as well as a detector must ({domain}: {most:.0%}); the "
        "more do, the less a verdict of detector says."
    )


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


def _condition_table(run: Run) -> Table:
    rows = [
        (
            item.condition,
            item.domain,
            str(item.k),
            f"{number(item.jaccard)} ({number(item.low)} to {number(item.high)})",
            number(item.spearman),
        )
        for item in run.conditions
    ]
    heads = ("condition", "domain", "k", "Jaccard of the top k (95 %)", "rank correlation")
    return Table("Agreement of the largest dimensions under other conditions", heads, rows)


def _effects(run: Run, drawings: Sequence[Drawing], drawn: Mapping[str, Sequence[Markup]]) -> list[dict[str, Any]]:
    """Per metric its figures, and all rows as tables."""
    by_kind = {kind: [one for one in drawings if one.kind == kind] for kind in drawn}
    found = []
    for metric in _metrics(run.primary):
        fragments = [
            fragment
            for kind in ("effect", "front", "forest", "difference", "domains")
            for one, fragment in zip(by_kind.get(kind, []), drawn.get(kind, []), strict=True)
            if f"metric={metric!r}" in one.call
        ]
        own = [one for one in run.contrasts if one.metric == metric]
        against = effect_table([one for one in own if one.against == UNSTEERED],
                               f"Every arm against the unsteered model: {metric}")  # fmt: skip
        pairs = effect_table([one for one in own if one.against != UNSTEERED], f"Arm against arm: {metric}")
        tables = [one for one in (against, pairs) if one.rows]
        found.append({"title": metric[:1].upper() + metric[1:], "figures": fragments, "tables": tables})
    return found


def effect_table(contrasts: Sequence[Contrast], label: str) -> Table:
    """One row per contrast: what it cost, the effect with its interval, and how it reads."""
    heads = ("domain", "arm", "budget", "KL", "setting", "strength", "effect", "95 % interval", "n", "reading")
    rows = [
        (
            one.domain or one.task,
            one.arm if one.against == UNSTEERED else f"{one.arm} − {one.against}",
            "–" if one.budget == "none" else budget_name(one.budget, one.level),
            number(one.kl),
            one.setting or "–",
            number(one.strength),
            number(one.effect),
            f"{number(one.low)} to {number(one.high)}" if one.n else "–",
            str(one.n),
            f"{reading(one)}; {one.note}" if one.n and one.note else reading(one),
        )
        for one in contrasts
    ]
    return Table(label, heads, rows)


def _settings(run: Run) -> list[Table]:
    tables = []
    if run.has("rows"):
        counts: dict[str, Counter[str]] = {}
        for domain, split in zip(run.rows.domains, run.rows.splits, strict=True):
            counts.setdefault(domain, Counter())[split] += 1
        rows = [(domain, *(str(own[split]) for split in SPLITS)) for domain, own in counts.items()]
        tables.append(Table("Documents per domain and split", ("domain", *SPLITS), rows))
    for name, title in (("seeds", "Seeds"), ("settings", "Settings")):
        values = run.manifest.get(name)
        if isinstance(values, Mapping):
            rows = [(str(key), _text(value)) for key, value in values.items()]
            tables.append(Table(title, ("name", "value"), rows))
    return tables


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "–" if value is None else str(value)
