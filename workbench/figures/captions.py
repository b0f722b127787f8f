"""One sentence or two per figure that say what is seen, computed from the record and able to say the opposite."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench.figures.detectors import is_scored
from workbench.figures.effects import (
    against_unsteered,
    arm_name,
    between_arms,
    is_better,
    is_measured,
    of_metric,
    shows_difference,
    smallest_visible,
    unit_of,
)
from workbench.figures.frequencies import MOSTLY
from workbench.figures.style import joined, number
from workbench.records import Comparison, Detector, Dimension, DimensionStatistics

DISCRIMINATIVE = 0.30  # gap in frequency to the mean of the other domains from which a dimension is discriminative


def magnitude_caption(statistics: DimensionStatistics, n: int = 3) -> str:
    """Whether the domains share their largest dimensions, and how far these stand above the rest."""
    values = statistics.mean_magnitude.mean(axis=1)
    tops = [frozenset(row[:n].tolist()) for row in np.argsort(-values, axis=1, kind="stable")]
    n_domains = len(tops)
    ratio = float(np.median(values.max(axis=1) / np.maximum(np.median(values, axis=1), 1e-30)))
    height = f"The largest dimension is {number(ratio)} times the median dimension (median over the domains)."
    if n_domains == 1:
        largest = joined([str(item) for item in sorted(tops[0])])
        domain = statistics.domains[0]
        return f"In {domain} the {_word(n)} largest dimensions on average over layers are {largest}. {height}"
    (common, count), *_ = Counter(tops).most_common(1)
    everywhere = [str(item) for item in sorted(frozenset.intersection(*tops))]
    if count == 1:
        among = f"{joined(everywhere)} {'is' if len(everywhere) == 1 else 'are'}" if everywhere else "none is"
        return (
            f"No two of the {n_domains} domains share the same {_word(n)} largest dimensions; {among} among them in "
            f"every domain. {height}"
        )
    named = joined([str(item) for item in sorted(common)])
    others = [name for name, top in zip(statistics.domains, tops, strict=True) if top != common]
    rest = f"; {joined(others)} {'differs' if len(others) == 1 else 'differ'}" if others else ""
    reading = (
        "what is largest says little about the domain"
        if count == n_domains
        else "what is largest depends in part on the domain"
    )
    shared = f"{count} of {n_domains} domains share the same {_word(n)} largest dimensions ({named}){rest}"
    return f"{shared}: {reading}. {height}"


def first_position_caption(statistics: DimensionStatistics) -> str:
    """Whether the first position carries magnitudes that later positions do not."""
    first = statistics.first_mean_magnitude.mean(axis=0)
    later = statistics.mean_magnitude.mean(axis=0)
    layer = int(np.argmax(first.max(axis=1)))
    dimension = int(first[layer].argmax())
    here, there = float(first[layer].max()), float(later[layer].max())
    ratio = here / there if there > 0 else math.inf
    seen = (
        f"The first position is largest at layer {layer} in dimension {dimension} ({number(here)} activation units); "
        f"the largest of the later positions there is {number(there)} in dimension {int(later[layer].argmax())}"
    )
    if ratio >= 3:
        return f"{seen}: {number(ratio)} times less, so the first position is counted apart for a reason."
    if ratio > 1.1:
        return f"{seen}: somewhat less, so the first position stands out only a little."
    return f"{seen}: no less, so no sink shows at the first position."


def frequency_caption(frequency: pd.DataFrame) -> str:
    """How many dimensions are active everywhere, and how many belong to one domain."""
    values = frequency.to_numpy(dtype=float)
    n_domains, n_dimensions = values.shape
    n_active = int((values.max(axis=0) > 0).sum())
    n_everywhere = int((values.min(axis=0) >= MOSTLY).sum())
    start = (
        f"{n_active} of {n_dimensions} dimensions are active in at least one prompt, {n_everywhere or 'none'} of them "
        "in at least half of the prompts of every domain"
    )
    if n_domains == 1:
        return f"{start}."
    elsewhere = (values.sum(axis=0) - values) / (n_domains - 1)
    is_own = values - elsewhere > DISCRIMINATIVE + 1e-9
    if not is_own.any():
        return f"{start}; none exceeds the mean of the other domains by {DISCRIMINATIVE:.0%} in any domain."
    counts = [f"{name} {count}" for name, count in zip(frequency.index, is_own.sum(axis=1), strict=True) if count]
    n_own = int(is_own.any(axis=0).sum())
    verb = "exceeds" if n_own == 1 else "exceed"
    return (
        f"{start}; {n_own} {verb} the mean of the other domains by over {DISCRIMINATIVE:.0%} in at least one domain "
        f"({joined(counts)})."
    )


def profile_caption(statistics: DimensionStatistics, dimension: int) -> str:
    """In which domain and layer a dimension is largest, and whether it stands out there."""
    values = statistics.mean_magnitude[:, :, dimension]
    means = values.mean(axis=1)
    order = np.argsort(-means, kind="stable")
    best = int(order[0])
    layer = int(values[best].argmax())
    seen = (
        f"Dimension {dimension} is largest in {statistics.domains[best]}: {number(float(means[best]))} activation "
        f"units on average over layers, {number(float(values[best, layer]))} at layer {layer}"
    )
    if len(means) == 1:
        return f"{seen}."
    next_best = float(means[order[1]])
    ratio = float(means[best]) / next_best if next_best > 0 else math.inf
    if ratio >= 1.5:
        return f"{seen}; that is {number(ratio)} times the next domain ({statistics.domains[int(order[1])]})."
    spread = float(means[best]) / max(float(means.min()), 1e-30)
    if spread < 1.5:
        return f"{seen}; the domains hardly differ (largest beside smallest: {number(spread)} times)."
    return f"{seen}; {statistics.domains[int(order[1])]} comes close (ratio {number(ratio)})."


def dcd_caption(dcds: Sequence[Dimension]) -> str:
    """How many of the selected dimensions are large everywhere, how many in their domain only."""
    by_magnitude = [dcd for dcd in dcds if dcd.selection == "magnitude"] or list(dcds)
    if not by_magnitude:
        return "No dimension was selected in any domain."
    counts = Counter(dcd.reach for dcd in by_magnitude)
    distinct, n = len({dcd.dimension for dcd in by_magnitude}), len(by_magnitude)
    return (
        f"Selection by {by_magnitude[0].selection} names {n} dimensions over all domains, {distinct} of them distinct. "
        f"Of the {n}, {counts['every domain']} are large in every domain, {counts['this domain']} in this domain more "
        f"than elsewhere, {counts['some domains']} in some domains and {counts['no domain']} in none."
    )


def detector_caption(detectors: Sequence[Detector]) -> str:
    """How many detectors carry a label, how many are better than chance, and the best one."""
    scored = [detector for detector in detectors if is_scored(detector)]
    if not detectors:
        return "No dimension was read as a detector."
    if not scored:
        return f"None of the {len(detectors)} dimension-and-layer readings carries a label."
    above = sum(detector.low > 0.5 for detector in scored)
    best = max(scored, key=lambda detector: detector.auroc)
    return (
        f"{len(scored)} of {len(detectors)} dimension-and-layer readings carry a label; {above or 'none'} of these "
        f"have an interval above chance. The best is dimension {best.dimension}, layer {best.layer} for {best.label} "
        f"in {best.domain}: AUROC {best.auroc:.2f} ({best.low:.2f} to {best.high:.2f}). The best of many scores is "
        "an optimistic number."
    )


def effect_caption(comparisons: Sequence[Comparison], metric: str | None = None) -> str:
    """Whether any arm differs from the unsteered model, in which direction, and how many would by chance."""
    everything = of_metric(against_unsteered(comparisons), metric)
    chosen = [comparison for comparison in everything if is_measured(comparison)]
    name, unit = everything[0].metric, unit_of(everything[0].metric)
    n_missing = len(everything) - len(chosen)
    tail = f" {n_missing} of {len(everything)} could not be run (the table says why)." if n_missing else ""
    if not chosen:
        return f"No arm could be run, so nothing is known about {name}.{tail}"
    different = [comparison for comparison in chosen if shows_difference(comparison)]
    if not different:
        least = number(min(map(smallest_visible, chosen)))
        return (
            f"No arm differs from unsteered in {name}: all {len(chosen)} intervals cover zero; the narrowest could "
            f"have shown a difference of {least} ({unit}).{tail}"
        )
    better = [comparison for comparison in different if is_better(comparison)]
    n_worse, by_chance = len(different) - len(better), 0.05 * len(chosen)
    seen = (
        f"In {name}, {len(different)} of {len(chosen)} intervals leave out zero: {len(better)} better and {n_worse} "
        f"worse than unsteered, where about {by_chance:.0f} would by chance alone"
    )
    if not better:
        return f"{seen}; no arm improves on the unsteered model.{tail}"
    best = max(better, key=lambda comparison: abs(comparison.effect))
    return (
        f"{seen}; the largest improvement is {number(best.effect)} ({unit}; {arm_name(best)} in {best.domain} at KL "
        f"{number(best.kl)}).{tail}"
    )


def forest_caption(comparisons: Sequence[Comparison], budget: float, metric: str | None = None) -> str:
    """For every arm at one level of KL: in how many domains it is better, worse, or shows no difference."""
    chosen = [item for item in of_metric(against_unsteered(comparisons), metric) if item.budget == budget]
    return (
        f"Better, worse, no difference shown, in numbers of domains at KL {budget:g}: {_tally(chosen)}. Each arm is "
        "compared with the unsteered model, so this does not rank the arms."
    )


def difference_caption(comparisons: Sequence[Comparison], budget: float, metric: str | None = None) -> str:
    """For every pair of arms at one level of KL: in how many domains the first is better, worse, or neither."""
    chosen = [item for item in of_metric(between_arms(comparisons), metric) if item.budget == budget]
    measured = [item for item in chosen if is_measured(item)]
    if not any(map(shows_difference, measured)):
        return f"No two arms differ at KL {budget:g} in {chosen[0].metric}: all {len(measured)} intervals cover zero."
    return f"First arm better, worse, no difference shown, in numbers of domains at KL {budget:g}: {_tally(chosen)}."


def _tally(comparisons: Sequence[Comparison]) -> str:
    parts = []
    for arm in dict.fromkeys(map(arm_name, comparisons)):
        own = [item for item in comparisons if arm_name(item) == arm and is_measured(item)]
        different = [item for item in own if shows_difference(item)]
        better = sum(map(is_better, different))
        parts.append(f"{arm} {better}, {len(different) - better}, {len(own) - len(different)}")
    return "; ".join(parts)


def _word(n: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[n] if n < len(words) else str(n)
