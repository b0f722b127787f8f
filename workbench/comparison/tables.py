"""From finished cells to tables: every arm against the unsteered model and against the controls, with one line each.

The unit is the subject: differences are averaged over the items of a subject, over draws and over seeds, then
resampled. Adjusted p-values are over all contrasts to the same `against`. Same cells, same tables.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy import stats

from workbench.comparison.damage import damage_table
from workbench.comparison.store import CellKey
from workbench.interventions import PROMPT_ONLY, UNSTEERED, arm_named, arm_rank
from workbench.records import (
    BudgetKind,
    CellResult,
    Contrast,
    CurveResult,
    Damage,
    ScoreResult,
    SearchResult,
    StrengthCurve,
    save_table,
)
from workbench.records.tables import write_csv
from workbench.statistics import (
    Interval,
    benjamini_hochberg,
    hypervolume,
    paired_interval,
    pareto_front,
    sign_flip_p,
    verdict,
)
from workbench.tasks.base import Metric

Cells = Mapping[CellKey, CellResult]
# What methods are compared with, beside unsteered.
RIVALS = ("caa", "whole-dimension", "sadi-heads", "sadi-mlp", "random-k", PROMPT_ONLY)
NAN = math.nan


@dataclass(frozen=True)
class TaskTable:
    """What tables need to know of a task: its metrics, the primary one first, and its domain ("" if it has none)."""

    name: str
    domain: str
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class _Entry:
    """An arm at a budget: its test cells over draws and seeds."""

    task: TaskTable
    arm: str
    budget: BudgetKind
    level: float
    cells: Mapping[CellKey, ScoreResult]


def contrasts(
    cells: Cells, tasks: Sequence[TaskTable], *, seed: int = 0, rivals: Mapping[str, Sequence[str]] | None = None
) -> list[Contrast]:
    """Every arm at every budget on every metric, against unsteered and against its rivals.

    `rivals` names them by arm; by default every method is compared with `RIVALS`.
    """
    found = []
    for entry in _entries(cells, tasks):
        base = _entry(cells, entry.task, UNSTEERED, "none", 0.0)
        for index, metric in enumerate(entry.task.metrics):
            found.append(_contrast(entry, base, metric, seed, is_primary=index == 0))
            for rival in _rivals(entry.arm) if rivals is None else rivals.get(entry.arm, ()):
                same = (entry.budget, entry.level) if rival != PROMPT_ONLY else ("none", 0.0)
                other = _entry(cells, entry.task, rival, *same)
                if rival != entry.arm and other.cells:
                    found.append(_contrast(entry, other, metric, seed, is_primary=index == 0))
    return _with_verdicts(found)


def _rivals(arm: str) -> tuple[str, ...]:
    return RIVALS if arm_named(arm).role == "method" else ()


def record_frame(kind: type[Any], records: Sequence[Any]) -> pd.DataFrame:
    """One row per record of a kind, with its fields as columns."""
    names = [field.name for field in dataclasses.fields(kind)]
    return pd.DataFrame([[getattr(one, name) for name in names] for one in records], columns=pd.Index(names))


def domain_counts(found: Sequence[Contrast]) -> pd.DataFrame:
    """In how many domains an arm is ahead of another at the same budget, as in "34 of 57"; with the sign test.

    `ahead` and `behind` count signs of the mean effect, `better` and `worse` what was shown; `p` is the two-sided
    binomial test of ahead against behind, ties left out. Groups of a single domain are left out.
    """
    groups: dict[tuple[Any, ...], list[Contrast]] = {}
    for one in found:
        if one.domain and one.verdict != "not measured":
            kind = one.task.split("/")[0]
            groups.setdefault((kind, one.metric, one.budget, one.level, one.arm, one.against), []).append(one)
    rows = []
    for key, members in groups.items():
        signs = [(one.effect > 0) - (one.effect < 0) for one in members]
        wanted = [sign if one.higher_is_better else -sign for sign, one in zip(signs, members, strict=True)]
        ahead, behind = wanted.count(1), wanted.count(-1)
        p = float(stats.binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0
        shown = [sum(one.verdict == word for one in members) for word in ("better", "worse")]
        if len(members) > 1:
            rows.append([*key, len(members), ahead, behind, *shown, p])
    names = ["task", "metric", "budget", "level", "arm", "against", "n_domains", "ahead", "behind", "better", "worse"]
    return pd.DataFrame(rows, columns=pd.Index([*names, "p"]))


def fronts(found: Sequence[Contrast]) -> pd.DataFrame:
    """Per task and arm: the points on the Pareto front of effect and KL, and the hypervolume of the arm's own points.

    Effects count in the wanted direction, against unsteered, on the primary metric. The reference point is the largest
    KL of the task and an effect of zero; `on_front` counts the arm's points among those that no arm dominates.
    """
    rows = []
    chosen = [one for one in found if one.against == UNSTEERED and one.is_primary and one.budget != "none"]
    chosen = [one for one in chosen if math.isfinite(one.effect) and math.isfinite(one.kl)]
    for task in dict.fromkeys(one.task for one in chosen):
        own = [one for one in chosen if one.task == task]
        damage = np.array([one.kl for one in own])
        effect = np.array([one.effect if one.higher_is_better else -one.effect for one in own])
        on_front = pareto_front(damage, effect)
        for arm in dict.fromkeys(one.arm for one in own):
            mask = np.array([one.arm == arm for one in own])
            area = hypervolume(damage[mask], effect[mask], worst=(float(damage.max()), 0.0))
            rows.append([task, arm, int(mask.sum()), int((on_front & mask).sum()), area])
    return pd.DataFrame(rows, columns=pd.Index(["task", "arm", "n_points", "on_front", "hypervolume"]))


def curves(cells: Cells, tasks: Sequence[TaskTable], *, limit: float) -> list[StrengthCurve]:
    """The strength curves of a run, one per task and arm that could be run."""
    found = []
    for task in tasks:
        for key, result in cells.items():
            if key.task == task.name and isinstance(result, CurveResult):
                found.append(_curve(task, key, result, limit))
    return sorted(found, key=lambda one: (one.task, arm_rank(one.arm)))


def _curve(task: TaskTable, key: CellKey, result: CurveResult, limit: float) -> StrengthCurve:
    metric = task.metrics[0]
    return StrengthCurve(
        task=task.name,
        domain=task.domain,
        arm=key.arm,
        setting=result.setting,
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        strengths=result.strengths,
        effect=result.effect,
        effect_low=result.effect_low,
        effect_high=result.effect_high,
        kl=result.kl,
        in_norms=tuple(strength * result.norms_per_strength for strength in result.strengths),
        limit=limit,
        low=result.low,
        high=result.high,
        n_evaluations=result.n_evaluations,
        note=result.note,
    )


def settings_frame(cells: Cells) -> pd.DataFrame:
    """Every setting that was searched: strength, KL, size of the edit, score on *tune*."""
    names = ("strength", "kl", "is_reached", "in_norms", "in_sds", "n_coordinates", "tune", "note")
    keys = ("task", "arm", "draw", "setting", "budget", "level", "seed")
    rows = [
        [*(getattr(key, name) for name in keys), *(getattr(result, name) for name in names)]
        for key, result in sorted(cells.items(), key=lambda cell: cell[0])
        if isinstance(result, SearchResult)
    ]
    return pd.DataFrame(rows, columns=pd.Index([*keys, *names]))


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The tables of a comparison; `frames` holds them by name, ready to be written as CSV."""

    contrasts: tuple[Contrast, ...]
    curves: tuple[StrengthCurve, ...]
    frames: dict[str, pd.DataFrame]
    damages: tuple[Damage, ...] = ()


def tabulate(
    cells: Cells,
    tasks: Sequence[TaskTable],
    matrix: Mapping[str, Mapping[str, str]],
    *,
    seed: int,
    kl_limit: float,
    rivals: Mapping[str, Sequence[str]] | None = None,
) -> Outcomes:
    """All tables of some cells; `matrix[task][arm]` says why an arm does not run, `rivals` is as in `contrasts`."""
    found = contrasts(cells, tasks, seed=seed, rivals=rivals)
    broken = damage_table(cells, [(task.name, task.metrics[0]) for task in tasks], seed=seed)
    drawn = curves(cells, tasks, limit=kl_limit)
    rows = [(task, arm, reason or "runs") for task, reasons in matrix.items() for arm, reason in reasons.items()]
    bands = [(one.task, one.arm, one.setting, one.low, one.high, one.n_evaluations, one.note) for one in drawn]
    frames = {
        "contrasts": record_frame(Contrast, found),
        "domains": domain_counts(found),
        "fronts": fronts(found),
        "damage": record_frame(Damage, broken),
        "bands": pd.DataFrame(
            bands, columns=pd.Index(["task", "arm", "setting", "low", "high", "n_evaluations", "note"])
        ),
        "applicability": pd.DataFrame(rows, columns=pd.Index(["task", "arm", "status"])),
        "settings": settings_frame(cells),
    }
    return Outcomes(tuple(found), tuple(drawn), frames, tuple(broken))


def write_tables(outcomes: Outcomes, folder: Path) -> None:
    """Write every table as CSV, and the records that figures are drawn from."""
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for name, frame in outcomes.frames.items():
        write_csv(frame, tables / f"{name}.csv")
    save_table(list(outcomes.contrasts), folder / "contrasts.json")
    save_table(list(outcomes.curves), folder / "curves.json")
    save_table(list(outcomes.damages), folder / "damage.json")


# --- pairing ----------------------------------------------------------------------------------------------------------


def _entries(cells: Cells, tasks: Sequence[TaskTable]) -> list[_Entry]:
    found = {}
    for key in cells:
        if key.stage == "test" and key.arm != UNSTEERED:
            found.setdefault((key.task, key.arm, key.budget, key.level), None)
    order = {task.name: (index, task) for index, task in enumerate(tasks)}
    known = [one for one in found if one[0] in order]
    known.sort(key=lambda one: (order[one[0]][0], one[2], one[3], arm_rank(one[1])))
    return [_entry(cells, order[task][1], arm, budget, level) for task, arm, budget, level in known]


def _entry(cells: Cells, task: TaskTable, arm: str, budget: BudgetKind, level: float) -> _Entry:
    own = {
        key: result
        for key, result in cells.items()
        if isinstance(result, ScoreResult)
        and (key.task, key.arm, key.budget, key.level) == (task.name, arm, budget, level)
    }
    return _Entry(task, arm, budget, level, own)


def _contrast(entry: _Entry, other: _Entry, metric: Metric, seed: int, *, is_primary: bool) -> Contrast:
    differences, n_missing = _differences(entry, other, metric.name)
    interval, p, note = Interval(NAN, NAN, NAN, len(differences)), NAN, _note(entry)
    if other.cells and not any(result.is_measured for result in other.cells.values()):
        note = "; ".join(filter(None, [note, f"{other.arm} was not measured: {_note(other)}"]))
    if len(differences) >= 2:
        interval, p = paired_interval(differences, seed=seed), sign_flip_p(differences, seed=seed)
    elif len(differences) == 1:
        note = "; ".join(filter(None, ["a single subject gives no interval", note]))
    ran = [result for result in entry.cells.values() if result.is_measured]
    settings = list(dict.fromkeys(result.setting for result in ran if result.setting != "-"))
    means = {
        name: float(np.mean([getattr(result, name) for result in ran])) if ran else NAN
        for name in ("strength", "in_norms", "in_sds", "kl")
    }
    return Contrast(
        task=entry.task.name,
        domain=entry.task.domain,
        arm=entry.arm,
        role=arm_named(entry.arm).role,
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        is_primary=is_primary,
        budget=entry.budget,
        level=entry.level,
        against=other.arm,
        setting=", ".join(settings),
        **means,
        effect=interval.mean,
        low=interval.low,
        high=interval.high,
        p=p,
        q=NAN,
        n=interval.n,
        n_missing=n_missing,
        verdict="not measured",
        minimum_detectable_effect=interval.half_width,
        note=note,
    )


def _with_verdicts(found: Sequence[Contrast]) -> list[Contrast]:
    adjusted = np.full(len(found), NAN)
    for against in dict.fromkeys(one.against for one in found):
        family = np.array([one.against == against for one in found])
        adjusted[family] = benjamini_hochberg(np.array([one.p for one in found])[family])
    return [
        dataclasses.replace(
            one,
            q=float(q),
            verdict=verdict(
                Interval(one.effect, one.low, one.high, one.n), float(q), higher_is_better=one.higher_is_better
            ),
        )
        for one, q in zip(found, adjusted, strict=True)
    ]


def _differences(entry: _Entry, other: _Entry, metric: str) -> tuple[Float64[np.ndarray, "subject"], int]:
    """One difference per subject, and how many items could not be judged in one of the two."""
    first, second = _by_subject(entry, metric), _by_subject(other, metric)
    shared = [subject for subject in first if subject in second]
    values, n_missing = [], 0
    for subject in shared:
        pairs = [first[subject][name] - second[subject][name] for name in first[subject] if name in second[subject]]
        judged = [value for value in pairs if math.isfinite(value)]
        n_missing += len(pairs) - len(judged)
        if judged:
            values.append(float(np.mean(judged)))
    return np.array(values, dtype=np.float64), n_missing


def _by_subject(entry: _Entry, metric: str) -> dict[str, dict[tuple[str, int], float]]:
    """Score per subject and (item, seed), averaged over draws; NaN where any draw was not judged."""
    gathered: dict[str, dict[tuple[str, int], list[float]]] = {}
    for key, result in entry.cells.items():
        if not result.is_measured:
            continue
        columns = zip(result.names, result.subjects, result.values[metric], strict=True)
        for name, subject, value in columns:
            gathered.setdefault(subject, {}).setdefault((name, key.seed), []).append(value)
    return {
        subject: {name: float(np.mean(values)) for name, values in items.items()} for subject, items in gathered.items()
    }


def _note(entry: _Entry) -> str:
    """What a reader must know: draws averaged, budgets out of reach, arms that could not be fitted."""
    notes = []
    ran = [result for result in entry.cells.values() if result.is_measured]
    if arm_named(entry.arm).is_drawn:
        notes.append(f"mean of {len(ran)} draw(s)")
    notes += [result.note for result in entry.cells.values() if not result.is_measured]
    notes += [result.note for result in ran]
    return "; ".join(dict.fromkeys(filter(None, notes)))
