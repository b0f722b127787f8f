"""The sections of the report on what a study always holds: magnitudes, DCDs, detectors, steering, methods, manifest."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from workbench.dimensions import frequency_table
from workbench.figures import (
    against_unsteered,
    arm_name,
    best_per_domain,
    between_arms,
    contexts_html,
    dcd_caption,
    dcd_figure,
    definitions_html,
    detector_caption,
    detector_figure,
    difference_caption,
    difference_figure,
    effect_caption,
    effect_figure,
    first_position_caption,
    first_position_figure,
    forest_caption,
    forest_figure,
    frequency_caption,
    frequency_figure,
    is_scored,
    magnitude_caption,
    magnitude_figure,
    profile_caption,
    profile_figure,
    reading,
    table_html,
    token_words,
)
from workbench.figures.style import joined, number
from workbench.records import SPLITS, Comparison, Detector, Dimension
from workbench.report.masking import masking_findings
from workbench.report.material import Material, absent, paragraph, plot, shown
from workbench.report.verdicts import certain_findings

N_PROFILES = 6
N_CARDS = 6  # detectors shown with their contexts, per domain
N_CONTEXTS = 8
RARE = 0.05


def lead(material: Material) -> str:
    """The facts of the run and its findings in one sentence each."""
    facts = []
    if material.statistics:
        _, n_layers, d_model = material.statistics.mean_magnitude.shape
        facts += [f"{len(material.statistics.domains)} domains", f"{n_layers} layers × {d_model} dimensions"]
    if material.rows:
        facts.append(f"{len(material.rows.prompts)} documents")
    seeds = material.manifest.get("seeds", {})
    if seeds:
        facts.append(f"seed {joined([str(seed) for seed in dict.fromkeys(seeds.values())])}")
    if "seconds" in material.summary:
        facts.append(f"{number(float(material.summary['seconds']))} s")
    found = [magnitude_caption(material.statistics)] if material.statistics else []
    found += [dcd_caption(material.dcds)] if material.dcds else []
    found += [detector_caption(material.detectors)] if material.detectors else []
    found += masking_findings(material) + certain_findings(material)
    unsteered = against_unsteered(material.comparisons)
    found += [effect_caption(unsteered, metric) for metric in _metrics(unsteered)]
    missing = ""
    if material.missing:
        missing = f'<p class="note">Not in this run: {escape(", ".join(material.missing))}.</p>'
    items = "".join(f"<li>{escape(fact)}</li>" for fact in facts)
    points = "".join(f"<li>{escape(point)}</li>" for point in found)
    return f'<ul class="facts">{items}</ul>{missing}<h2>In short</h2><ul>{points}</ul>'


def magnitudes(material: Material) -> str:
    """Dimension magnitudes over layers, and those at the first position."""
    if material.statistics is None:
        return absent("statistics")
    statistics, words = material.statistics, token_words(material.detectors)
    domains, note = shown(statistics.domains)
    return (
        plot(magnitude_figure(statistics, domains, words=words), "magnitudes", magnitude_caption(statistics))
        + note
        + plot(first_position_figure(statistics), "first-positions", first_position_caption(statistics))
    )


def frequency(material: Material) -> str:
    """Share of prompts in which dimensions are active."""
    if material.rows is None:
        return absent("pooled rows")
    frequency: pd.DataFrame = frequency_table(material.rows)
    caption = frequency_caption(frequency)
    if frequency.to_numpy().max() < RARE:
        return paragraph(f"{caption} None is active in as much as {RARE:.0%} of the prompts of any domain.")
    words = token_words(material.detectors)
    return plot(frequency_figure(frequency, at_least=RARE, words=words), "frequency", caption)


def dimensions(material: Material) -> str:
    """The DCDs by every selection, and profiles of the most telling ones."""
    if not material.dcds:
        return absent("domain-critical dimensions")
    drawn = dcd_figure(material.dcds, words=token_words(material.detectors))
    parts = [plot(drawn, "dimensions-map", dcd_caption(material.dcds))]
    for selection in dict.fromkeys(dcd.selection for dcd in material.dcds):
        own = [dcd for dcd in material.dcds if dcd.selection == selection]
        table = _dcd_table(own, selection)
        is_first = selection == material.dcds[0].selection
        parts.append(
            f"<details{' open' if is_first else ''}><summary>Selected by {selection}</summary>{table}</details>"
        )
    if material.statistics is not None:
        words = token_words(material.detectors)
        parts.append("<h3>Profiles over layers</h3>")
        for dimension in _telling_dimensions(material.dcds):
            figure = profile_figure(material.statistics, dimension, words=words)
            parts.append(plot(figure, f"profile-{dimension}", profile_caption(material.statistics, dimension)))
    return "".join(parts)


def _dcd_table(dcds: Sequence[Dimension], selection: str) -> str:
    heads = ("domain", "rank", "dimension", "magnitude", "elsewhere", "frequency", "elsewhere", "large in")
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
    ]
    label = f"Domain-critical dimensions by {selection}; magnitude in activation units, frequency as share of prompts"
    return table_html(heads, rows, label=label)


def _telling_dimensions(dcds: Sequence[Dimension]) -> list[int]:
    """The largest dimension of the first domain, then the one most specific to each domain, without repetition."""
    largest = max(dcds, key=lambda dcd: dcd.magnitude)
    specific = []
    for domain in dict.fromkeys(dcd.domain for dcd in dcds):
        own = [dcd for dcd in dcds if dcd.domain == domain]
        specific.append(max(own, key=lambda dcd: dcd.frequency - dcd.frequency_elsewhere))
    return list(dict.fromkeys(dcd.dimension for dcd in (largest, *specific)))[:N_PROFILES]


def detectors(material: Material) -> str:
    """DCDs read as detectors, with the contexts that fire them."""
    if not material.detectors:
        return absent("detectors")
    detectors = material.detectors
    parts = [plot(detector_figure(detectors, N_CARDS), "detectors", detector_caption(detectors))]
    for index, domain in enumerate(dict.fromkeys(detector.domain for detector in detectors)):
        own = [detector for detector in detectors if detector.domain == domain]
        shown = best_per_domain(own, N_CARDS) or own[:2]
        n_scored = sum(map(is_scored, own))
        counts = f"{n_scored} of {len(own)} readings labelled; {len(shown)} shown"
        cards = "".join(map(_card, shown))
        summary = f"<summary>{escape(domain)}: {counts}</summary>"
        parts.append(f"<details{'' if index else ' open'}>{summary}{cards}</details>")
    return "".join(parts)


def _card(detector: Detector) -> str:
    score = "not scored"
    if is_scored(detector):
        score = f"AUROC {detector.auroc:.2f} (95 %: {detector.low:.2f} to {detector.high:.2f})"
    title = f"Dimension {detector.dimension}, layer {detector.layer}, {detector.end} end: {detector.label}"
    words = " · ".join(repr(word) for word in detector.promoted) or "nothing recorded"
    against = " · ".join(repr(word) for word in detector.suppressed) or "nothing recorded"
    return (
        f'<div class="card"><h4>{escape(title)}</h4>'
        f"<p>{escape(score)}, {detector.n_tokens} tokens of the class. Logit lens: promotes {escape(words)}; "
        f"suppresses {escape(against)}.</p>"
        f'<div class="table-scroll" role="region" tabindex="0" aria-label="{escape(title)}">'
        f"{contexts_html(detector, N_CONTEXTS)}</div></div>"
    )


def _metrics(comparisons: Sequence[Comparison]) -> list[str]:
    return list(dict.fromkeys(comparison.metric for comparison in comparisons))


def steering(material: Material) -> str:
    """The steering comparison: figures per metric and all rows as tables."""
    unsteered, pairs = against_unsteered(material.comparisons), between_arms(material.comparisons)
    if not unsteered:
        return absent("steering comparison")
    domains, note = shown(list(dict.fromkeys(comparison.domain for comparison in unsteered)))
    drawn = [comparison for comparison in unsteered if comparison.domain in domains]
    drawn_pairs = [comparison for comparison in pairs if comparison.domain in domains]
    levels = sorted({comparison.budget for comparison in unsteered})
    level = levels[len(levels) // 2]
    parts = [note]
    for index, metric in enumerate(_metrics(unsteered)):
        parts.append(f"<h3>{escape(metric[:1].upper() + metric[1:])}</h3>")
        parts.append(plot(effect_figure(drawn, metric), f"effect-{index}", effect_caption(unsteered, metric)))
        caption = forest_caption(unsteered, level, metric)
        parts.append(plot(forest_figure(drawn, level, metric), f"forest-{index}", caption))
        if any(pair.budget == level and pair.metric == metric for pair in drawn_pairs):
            figure, caption = difference_figure(drawn_pairs, level, metric), difference_caption(pairs, level, metric)
            parts.append(plot(figure, f"difference-{index}", caption))
        for found, what in ((unsteered, "Every arm against the unsteered model"), (pairs, "Arm against arm")):
            own = [comparison for comparison in found if comparison.metric == metric]
            if own:
                table = _comparison_table(own, f"{what}: {metric}")
                parts.append(f"<details><summary>{escape(what)}: all {len(own)} rows</summary>{table}</details>")
    return "".join(parts)


def _comparison_table(comparisons: Sequence[Comparison], label: str) -> str:
    heads = ("domain", "arm", "KL asked", "KL", "layer", "strength", "effect", "95 % interval", "n", "reading")
    rows = [
        (
            item.domain,
            arm_name(item),
            f"{item.budget:g}",
            number(item.kl),
            str(item.layer) if item.layer >= 0 else "–",
            number(item.strength),
            number(item.effect),
            f"{number(item.low)} to {number(item.high)}" if item.n else "–",
            str(item.n),
            f"{reading(item)}; {item.note}" if item.n and item.note else reading(item),
        )
        for item in comparisons
    ]
    return table_html(heads, rows, label=label)


def methods(material: Material) -> str:
    """Definitions, the classifier, splits, seeds and settings."""
    parts = [definitions_html()]
    if material.classifier:
        c = material.classifier
        parts.append(
            paragraph(
                f"The domain classifier, trained on {c['n_training']} passages, assigns {c['held_out']:.0%} of "
                f"{c['n_held_out']} held-out passages and {c['own_text']:.0%} of {c['n_own_text']} unsteered texts of "
                f"the model itself to the right domain; guessing gives 1 in {len(c['domains'])}."
            )
        )
    counts = _split_counts(material)
    if counts:
        rows = [(domain, *(str(own.get(split, 0)) for split in SPLITS)) for domain, own in counts.items()]
        parts.append(f"<h3>Splits</h3>{table_html(('domain', *SPLITS), rows, label='Documents per domain and split')}")
    for name, title in (("seeds", "Seeds"), ("settings", "Settings")):
        values = material.manifest.get(name)
        if isinstance(values, Mapping):
            rows = [(str(key), _text(value)) for key, value in values.items()]
            parts.append(f"<h3>{title}</h3>{table_html(('name', 'value'), rows, label=title)}")
    return "".join(parts)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "–" if value is None else str(value)


def _split_counts(material: Material) -> dict[str, dict[str, int]]:
    if material.rows is None:
        return {}
    counts: dict[str, dict[str, int]] = {}
    for domain, split in zip(material.rows.domains, material.rows.splits, strict=True):
        own = counts.setdefault(domain, {})
        own[split] = own.get(split, 0) + 1
    return counts


def manifest(material: Material) -> str:
    """The manifest as it was written."""
    if not material.manifest:
        return absent("manifest: it was not finished, or its manifest.json was removed")
    text = json.dumps(material.manifest, indent=2, ensure_ascii=False)
    return f'<pre tabindex="0" role="region" aria-label="Manifest">{escape(text)}</pre>'
