"""What steering breaks: several measures, because each alone is blind to something, and their table.

KL on neutral text does not see endless loops, repetition does not see nonsense, the loss under the unsteered model
does not see loops (they are likely), length does not see any of it. Measures of text are functions of the tokens and
can be checked by hand; those that need the model say so.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from workbench.comparison.plan import N_OFF_TARGET_ITEMS, N_PREFIXES
from workbench.comparison.store import CellKey
from workbench.interventions import UNSTEERED, Scope, Where, arm_named, arm_rank
from workbench.models import HookedModel
from workbench.records import BudgetKind, CellResult, Damage, ScoreResult
from workbench.statistics import Interval, paired_interval
from workbench.tasks.base import Metric, Scores, Task, TaskError, score_parts
from workbench.tasks.metrics import PLAIN, Part, is_repetitive
from workbench.tasks.scoring import continued_losses

N_PREFIX_WORDS = 8
OFF_TARGET = " on other domains"
Values = dict[str, dict[str, float]]  # measure -> what was measured (a subject, a passage) -> value


@dataclass(frozen=True)
class Measure:
    """One measure of damage: its unit, and in which direction it tells damage ("" where a change of either does)."""

    name: str
    unit: str
    worse: Literal["up", "down", ""]


MEASURES = (
    Measure("KL", "nats per token", "up"),
    Measure("top-1 agreement", "fraction", "down"),
    Measure("loss of its text", "nats per token", "up"),
    Measure("repetition", "fraction", "up"),
    Measure("loops", "fraction", "up"),
    Measure("distinct bigrams", "fraction", "down"),
    Measure("compression ratio", "bytes per byte", "up"),
    Measure("length", "tokens", ""),
)


def prefixes(texts: Sequence[str]) -> tuple[str, ...]:
    """The first words of the first few texts, for every arm to continue."""
    return tuple(" ".join(text.split()[:N_PREFIX_WORDS]) for text in texts[:N_PREFIXES])


def by_unit(values: Sequence[float] | Float64[np.ndarray, "text"], units: Sequence[str]) -> dict[str, float]:
    """Mean over the values of every unit that are numbers; NaN where none is."""
    groups: dict[str, list[float]] = {}
    for unit, value in zip(units, values, strict=True):
        groups.setdefault(unit, []).append(float(value))
    finite = {unit: [value for value in group if np.isfinite(value)] for unit, group in groups.items()}
    return {unit: float(np.mean(group)) if group else np.nan for unit, group in finite.items()}


def repetition(ids: Sequence[int], n: int = 3) -> float:
    """Share of n-grams that stand earlier in the same text: 0 none, towards 1 a loop; NaN where there is no n-gram."""
    grams = _grams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else np.nan


def distinct_n(texts: Sequence[Sequence[int]], n: int = 2) -> float:
    """Distinct n-grams over all n-grams of several texts together: low where texts are alike or repeat themselves."""
    grams = [gram for ids in texts for gram in _grams(ids, n)]
    if not grams:
        raise ValueError(f"no text has {n} tokens, so distinct-{n} is undefined; generate longer texts")
    return len(set(grams)) / len(grams)


def compression_ratio(text: str) -> float:
    """Bytes of the text over its bytes after deflate (level 9); above about 3 in loops, NaN for an empty text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data, 9)) if data else np.nan


def _grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


@dataclass(frozen=True, eq=False)
class TextDamage:
    """Measures of generated texts, one value per text: shares and ratios without unit, `loss` in nats per token.

    `loss` is of the text under the unsteered model, after its prompt, NaN for an empty text; `n_tokens` its length;
    `loops` is 1 where `is_repetitive`. `distinct` is of all texts together.
    """

    repetition: Float64[np.ndarray, "text"]
    loops: Float64[np.ndarray, "text"]
    compression: Float64[np.ndarray, "text"]
    n_tokens: Float64[np.ndarray, "text"]
    loss: Float64[np.ndarray, "text"]
    distinct: float

    def by_unit(self, units: Sequence[str]) -> Values:
        """Every measure averaged over the texts of a unit, and the distinct bigrams of all texts."""
        found = {
            "loss of its text": self.loss,
            "repetition": self.repetition,
            "loops": self.loops,
            "compression ratio": self.compression,
            "length": self.n_tokens,
        }
        return {name: by_unit(values, units) for name, values in found.items()} | {
            "distinct bigrams": {"all": float(self.distinct)}
        }


def text_damage(model: HookedModel, prompts: Sequence[str], written: Sequence[Sequence[int]]) -> TextDamage:
    """Measure generated token ids; call it without steering on the model, since `loss` is the unsteered model's."""
    if len(prompts) != len(written) or not written:
        raise ValueError(f"damage needs as many texts as prompts, got {len(written)} for {len(prompts)}")
    texts = [model.decode(ids, after=prompt) for prompt, ids in zip(prompts, written, strict=True)]
    pairs = [(prompt, ids) for prompt, ids in zip(prompts, written, strict=True) if ids]
    losses = np.full(len(written), np.nan)
    losses[[bool(ids) for ids in written]] = continued_losses(model, pairs) if pairs else []
    return TextDamage(
        repetition=np.array([repetition(ids) for ids in written]),
        loops=np.array([float(is_repetitive(ids)) for ids in written]),
        compression=np.array([compression_ratio(text) for text in texts]),
        n_tokens=np.array([float(len(ids)) for ids in written]),
        loss=losses,
        distinct=distinct_n(written) if any(len(ids) > 1 for ids in written) else np.nan,
    )


def off_target_scores(
    model: HookedModel, tasks: Sequence[Task], parts: Sequence[Part] = PLAIN, scope: Scope | Where = "all", *, seed: int
) -> list[dict[str, Scores]]:
    """Scores of a few *test* items of other domains' tasks under every part, by the name of the task."""
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise TaskError("two of the other tasks have the same name; pass each task once")
    rows = [score_parts(task, model, "test", parts, scope, n=N_OFF_TARGET_ITEMS, seed=seed) for task in tasks]
    return [{name: row[index] for name, row in zip(names, rows, strict=True)} for index in range(len(parts))]


def off_target_values(found: Mapping[str, Scores], tasks: Sequence[Task]) -> Values:
    """The first metric of every other task, all of one kind, averaged over the items of a subject."""
    values: Values = {}
    for task in tasks:
        scores, metric = found[task.name], task.metrics[0].name
        units = [f"{task.name}/{subject}" for subject in scores.subjects]
        values.setdefault(f"{metric}{OFF_TARGET}", {}).update(by_unit(scores.values[metric], units))
    return values


# --- the table --------------------------------------------------------------------------------------------------------


def damage_table(
    cells: Mapping[CellKey, CellResult], tasks: Sequence[tuple[str, Metric]], *, seed: int = 0
) -> list[Damage]:
    """What every arm breaks at its budget, beside the unsteered model: one record per task, arm, budget and measure.

    `tasks` are names with their first metric. Units are passages for neutral text, subjects for texts of the task and
    for items of other domains, and prefixes where the task generates nothing. Draws and seeds are averaged.
    """
    found = []
    for task, metric in tasks:
        groups: dict[tuple[str, BudgetKind, float], list[Mapping[str, Mapping[str, float]]]] = {}
        for key, result in cells.items():
            if key.task == task and isinstance(result, ScoreResult) and result.is_measured:
                groups.setdefault((key.arm, key.budget, key.level), []).append(result.damage)
        base = groups.pop((UNSTEERED, "none", 0.0), [])
        for arm, budget, level in sorted(groups, key=lambda group: (group[1], group[2], arm_rank(group[0]))):
            own = groups[arm, budget, level]
            for measure in _measures(own, metric):
                means = _means(own, measure.name), _means(base, measure.name)
                head = (task, arm, arm_named(arm).role, budget, level, measure.name, measure.unit, measure.worse)
                found.append(Damage(*head, *_paired(*means, seed)))
    return found


def _measures(found: Sequence[Mapping[str, Mapping[str, float]]], metric: Metric) -> list[Measure]:
    """The measures that there are, in the order in which they are always shown."""
    present = {name for values in found for name in values}
    off_target = Measure(f"{metric.name}{OFF_TARGET}", metric.unit, "down" if metric.higher_is_better else "up")
    return [measure for measure in (*MEASURES, off_target) if measure.name in present]


def _means(found: Sequence[Mapping[str, Mapping[str, float]]], measure: str) -> dict[str, float]:
    """The measure of every unit, averaged over draws and seeds."""
    gathered: dict[str, list[float]] = {}
    for values in found:
        for unit, value in values.get(measure, {}).items():
            if math.isfinite(value):
                gathered.setdefault(unit, []).append(value)
    return {unit: float(np.mean(values)) for unit, values in gathered.items()}


def _paired(
    own: Mapping[str, float], base: Mapping[str, float], seed: int
) -> tuple[float, float, float, float, float, int]:
    """Mean, mean of the unsteered model, and the paired difference with its interval and number of pairs."""
    shared = [unit for unit in own if unit in base]
    differences = np.array([own[unit] - base[unit] for unit in shared])
    mean = float(differences.mean()) if shared else math.nan
    found = Interval(mean, math.nan, math.nan, len(shared))
    if len(shared) > 1:
        found = paired_interval(differences, seed=seed)
    value, before = (float(np.mean(list(part.values()))) if part else math.nan for part in (own, base))
    return value, before, found.mean, found.low, found.high, found.n
