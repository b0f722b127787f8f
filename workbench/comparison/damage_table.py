"""The table of damage: what every arm breaks at its budget, beside the unsteered model, with intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from workbench.comparison.damage import MEASURES, Measure
from workbench.comparison.tables import Cells, TaskTable
from workbench.interventions import UNSTEERED, arm_named, arm_rank
from workbench.records import BudgetKind, Damage
from workbench.statistics import Interval, paired_interval

ELSEWHERE = " elsewhere"
Group = tuple[str, BudgetKind, float]


def damages(cells: Cells, tasks: Sequence[TaskTable], *, seed: int = 0) -> list[Damage]:
    """One record per task, arm, budget and measure; cells that hold no damage give none.

    Units are passages for neutral text, subjects for texts of the task and for items elsewhere, and openings where the
    task writes nothing. Draws and seeds are averaged.
    """
    found = []
    for task in tasks:
        groups = _groups(cells, task)
        base = groups.pop((UNSTEERED, "none", 0.0), [])
        for arm, budget, level in sorted(groups, key=lambda group: (group[1], group[2], arm_rank(group[0]))):
            own = groups[arm, budget, level]
            for measure in _measures(own, task):
                means = _means(own, measure.name), _means(base, measure.name)
                head = (task.name, arm, arm_named(arm).role, budget, level, measure.name, measure.unit, measure.worse)
                found.append(Damage(*head, *_paired(*means, seed)))
    return found


def _groups(cells: Cells, task: TaskTable) -> dict[Group, list[Mapping[str, Any]]]:
    """What the test cells of a task say of damage, by arm and budget."""
    groups: dict[Group, list[Mapping[str, Any]]] = {}
    for key, results in cells.items():
        if (key.task, key.stage) == (task.name, "test") and "damage" in results:
            groups.setdefault((key.arm, key.budget, key.level), []).append(results["damage"])
    return groups


def _measures(found: Sequence[Mapping[str, Any]], task: TaskTable) -> list[Measure]:
    """The measures that there are, in the order in which they are always shown."""
    present = dict.fromkeys(name for values in found for name in values)
    first = task.metrics[0]
    rest = [
        Measure(name, first.unit if name == f"{first.name}{ELSEWHERE}" else "", _worse(name))
        for name in present
        if name.endswith(ELSEWHERE)
    ]
    return [measure for measure in MEASURES if measure.name in present] + rest


def _worse(name: str) -> Literal["up", "down"]:
    return "up" if name.startswith("loss") else "down"


def _means(found: Sequence[Mapping[str, Any]], measure: str) -> dict[str, float]:
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
