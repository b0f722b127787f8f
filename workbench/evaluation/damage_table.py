"""The table of damage: what every arm breaks at its budget, beside the unsteered model, with intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from workbench.evaluation.damage import MEASURES, Measure
from workbench.evaluation.methods import ARM_KINDS, UNSTEERED
from workbench.evaluation.statistics import Interval, paired_interval
from workbench.evaluation.tables import Cells, TaskTable
from workbench.records import BudgetKind

ELSEWHERE = " elsewhere"
COLUMNS = ("task", "arm", "role", "budget", "level", "measure", "unit", "worse")
COLUMNS += ("value", "unsteered", "difference", "low", "high", "n")
Group = tuple[str, BudgetKind, float]


def damage_frame(cells: Cells, tasks: Sequence[TaskTable], *, seed: int = 0) -> pd.DataFrame:
    """One row per task, arm, budget and measure: its mean, the unsteered model's, and the paired difference.

    Units are passages for neutral text, subjects for texts of the task and for items elsewhere, and openings where the
    task writes nothing; `low` and `high` bound the 95 % bootstrap interval over them, NaN where there is a single one.
    Draws and seeds are averaged. `worse` says which direction tells damage; cells that hold no damage give no row.
    """
    rows = []
    for task in tasks:
        groups: dict[Group, list[Mapping[str, Any]]] = {}
        for key, results in cells.items():
            if (key.task, key.stage) == (task.name, "test") and "damage" in results:
                groups.setdefault((key.arm, key.budget, key.level), []).append(results["damage"])
        base = groups.pop((UNSTEERED, "none", 0.0), [])
        order = list(ARM_KINDS)
        for (arm, budget, level), found in sorted(
            groups.items(), key=lambda item: (item[0][1], item[0][2], order.index(item[0][0]))
        ):
            for measure in _measures(found, task):
                head = [task.name, arm, ARM_KINDS[arm].role, budget, level, measure.name, measure.unit, measure.worse]
                rows.append([*head, *_paired(_means(found, measure.name), _means(base, measure.name), seed)])
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


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


def _paired(own: Mapping[str, float], base: Mapping[str, float], seed: int) -> list[float | int]:
    shared = [unit for unit in own if unit in base]
    differences = np.array([own[unit] - base[unit] for unit in shared])
    mean = float(differences.mean()) if shared else math.nan
    found = Interval(mean, math.nan, math.nan, len(shared))
    if len(shared) > 1:
        found = paired_interval(differences, seed=seed)
    value, before = (float(np.mean(list(part.values()))) if part else math.nan for part in (own, base))
    return [value, before, found.mean, found.low, found.high, found.n]
