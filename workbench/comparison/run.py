"""Running a comparison cell by cell: what is fitted, searched, chosen and reported stays apart.

    search   one setting (layer, or number of units) of one arm at one budget: the strength, and the score on *tune*
    test     the setting of best primary metric on *tune*, scored once on *test*
    curve    effect and damage along the strengths of that setting on *tune*, with the usable band

Several arms are run side by side, since a model takes hardly longer for more rows of a batch. Which ones is settled by
the plan, not by what is there already, so that an interrupted run ends with the same numbers to the last bit. A
finished cell is never written again. Everything that a cell holds follows from the specification and the weights.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float64

from workbench.comparison.bands import usable_band
from workbench.comparison.budgets import Budget, find_strengths
from workbench.comparison.damage import (
    N_ELSEWHERE,
    N_WRITTEN,
    Values,
    elsewhere,
    elsewhere_values,
    text_damage,
)
from workbench.comparison.entrants import Bench, Contest, Entrant
from workbench.comparison.fitting import Variant, scope_of
from workbench.comparison.plan import arms_of_spec
from workbench.comparison.store import CellKey
from workbench.comparison.strengths import EditSize, edit_sizes
from workbench.interventions import PROMPT_ONLY, UNSTEERED, FitContext, Scope
from workbench.models import HookedModel
from workbench.records import BudgetKind, Split
from workbench.statistics import Interval, paired_interval
from workbench.tasks.base import Scores, Task, score_parts
from workbench.tasks.metrics import PLAIN, Part
from workbench.tasks.scoring import continuations

Results = Mapping[str, Any]  # what the file of a cell holds
N_TOGETHER = 6  # arms (draws) that are run side by side
FIRST_NORM = 0.3  # where searches start: the norm of the edit at KL 0.1, as a share of the median residual norm


def run_cells(
    bench: Bench,
    contest: Contest,
    contexts: Mapping[int, FitContext],
    layers: tuple[int, ...],
    cells: Sequence[CellKey],
    *,
    twin: str = "",
    on_cell: Callable[[CellKey], None] | None = None,
) -> None:
    """Run the cells of one task that are not in the store yet; `on_cell` is called for every one, new or old.

    `contexts` are by seed, `layers` those searched. `twin` is a task that was run before and is fitted on the same: its
    strengths are taken over.
    Call it without steering on the model. Interrupted at any point, it goes on from the cells that are there.
    """
    arms = {arm.name: arm for arm in arms_of_spec(bench.spec)}
    for seed, context in contexts.items():
        groups: dict[tuple[str, int], list[CellKey]] = {}
        for key in cells:
            if key.seed == seed:
                groups.setdefault((key.arm, key.draw), []).append(key)
        runs = [
            (Entrant(bench, contest, context, layers, arms[name], draw, seed, twin), keys)
            for (name, draw), keys in groups.items()
        ]
        for key in _finished(runs):
            if on_cell is not None:
                on_cell(key)


Cell = tuple[Entrant, CellKey]


def _finished(runs: Sequence[tuple[Entrant, list[CellKey]]]) -> Iterator[CellKey]:
    """The cells of all arms, each as soon as it is in the store."""
    baselines = [run for run in runs if run[0].arm.name in (UNSTEERED, PROMPT_ONLY)]
    steered = [run for run in runs if run not in baselines]
    for entrant, keys in baselines:
        for key in keys:
            if key not in entrant.bench.store:
                entrant.bench.store.write(key, _baseline(entrant))
            yield key
    for start in range(0, len(steered), N_TOGETHER):
        yield from _together(steered[start : start + N_TOGETHER])


def _together(runs: Sequence[tuple[Entrant, list[CellKey]]]) -> Iterator[CellKey]:
    """Some arms side by side, budget by budget."""
    bench = runs[0][0].bench
    cells = [(entrant, key) for entrant, keys in runs for key in keys]
    for kind, level in bench.spec.budgets.levels():
        for stage, run in (("search", _search), ("test", _test)):
            own = [cell for cell in cells if (cell[1].stage, cell[1].budget, cell[1].level) == (stage, kind, level)]
            missing = {key for _, key in own if key not in bench.store}
            for key, results in run(own).items() if missing else ():
                if key in missing:
                    bench.store.write(key, results)
            yield from (key for _, key in own)
    unsteered = cache(lambda: runs[0][0].baseline("tune"))
    for entrant, key in cells:
        if key.stage == "curve":
            if key not in bench.store:
                bench.store.write(key, _curve(entrant, key, unsteered()))
            yield key


@dataclass(frozen=True, eq=False)
class _Job:
    """A fitted setting of an arm at a strength, for the cell it is run for."""

    entrant: Entrant
    key: CellKey
    variant: Variant
    strength: float = 1.0

    @property
    def part(self) -> Part:
        return self.variant.steering, self.strength


def _by_scope(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Jobs that edit the same tokens, and so can be run side by side."""
    groups: dict[Scope, list[_Job]] = {}
    for job in jobs:
        groups.setdefault(job.variant.scope, []).append(job)
    return list(groups.values())


def _scores(jobs: Sequence[_Job], split: Split) -> list[Scores]:
    """Scores of the task under jobs of one scope."""
    entrant, parts = jobs[0].entrant, [job.part for job in jobs]
    bench, task, n = entrant.bench, entrant.contest.task, entrant.bench.n_items(split)
    return score_parts(task, bench.model, split, parts, jobs[0].variant.scope, n=n, seed=entrant.seed)


# --- search -----------------------------------------------------------------------------------------------------------


def _search(cells: Sequence[Cell]) -> dict[CellKey, dict[str, Any]]:
    """Strength, size and score on *tune* of every setting; one that cannot be fitted says why."""
    found = _of_twins(cells) or _budgets(cells)
    reached = [cell for cell in cells if found[cell[1]]["reached"]]
    jobs = [_Job(entrant, key, _variant(entrant, key), found[key]["strength"]) for entrant, key in reached]
    for same in _by_scope(jobs):
        for job, scores in zip(same, _scores(same, "tune"), strict=True):
            found[job.key]["tune"] = scores.mean(job.entrant.metric.name)
    return found


def _variant(entrant: Entrant, key: CellKey) -> Variant:
    return entrant.variant(key.budget, key.level, key.setting)


def _of_twins(cells: Sequence[Cell]) -> dict[CellKey, dict[str, Any]]:
    """What the same settings cost in a task that is fitted on the same data; empty where there is none."""
    twins = {key: dataclasses.replace(key, task=entrant.twin) for entrant, key in cells if entrant.twin}
    store = cells[0][0].bench.store if cells else {}
    if len(twins) < len(cells) or any(twin not in store for twin in twins.values()):
        return {}
    known = {key: cells[0][0].bench.store.read(twin) for key, twin in twins.items()}
    return {key: {name: one for name, one in found.items() if name != "tune"} for key, found in known.items()}


def _budgets(cells: Sequence[Cell]) -> dict[CellKey, dict[str, Any]]:
    """The strength of every setting at its budget, what it costs and how large it is."""
    found: dict[CellKey, dict[str, Any]] = {}
    jobs = []
    for entrant, key in cells:
        try:
            jobs.append(_Job(entrant, key, _variant(entrant, key)))
        except ValueError as error:
            found[key] = {"reached": False, "note": " ".join(str(error).split())}
    for same in _by_scope(jobs):
        bench, scope = same[0].entrant.bench, same[0].variant.scope
        sizes = edit_sizes(bench.model, [job.variant.steering for job in same], bench.neutral.tokens, scope)
        note = "its edit is zero on the neutral text, so no strength has any size"
        found |= {job.key: {"reached": False, "note": note} for job in same}
        sized = [(job, size) for job, size in zip(same, sizes, strict=True) if size.in_norms > 0]
        for (job, size), budget in zip(sized, _strengths(sized), strict=True):
            found[job.key] = {
                "strength": budget.strength,
                "kl": budget.kl,
                "reached": budget.reached,
                "monotone": budget.monotone,
                "in_norms": size.in_norms * budget.strength,
                "in_sds": size.in_sds * budget.strength,
                "n_coordinates": size.n_coordinates,
                "note": budget.problem,
            }
    return found


def _strengths(sized: Sequence[tuple[_Job, EditSize]]) -> list[Budget]:
    """The strengths of jobs of one scope at one budget, with the KL that they cost there."""
    if not sized:
        return []
    first = sized[0][0]
    bench, scope = first.entrant.bench, first.variant.scope
    kind, level = first.key.budget, first.key.level

    def kl(indices: Sequence[int], strengths: Sequence[float]) -> list[float]:
        parts: list[Part] = [(sized[i][0].variant.steering, s) for i, s in zip(indices, strengths, strict=True)]
        return bench.neutral.kl(parts, scope).tolist()

    if kind == "edit":
        strengths = [level / size.in_norms for _, size in sized]
        costs = kl(range(len(sized)), strengths)
        return [Budget(level, s, cost, True, True, ((s, cost),)) for s, cost in zip(strengths, costs, strict=True)]
    target = bench.spec.budgets.at_kl if kind == "coordinates" else level
    return find_strengths(kl, target, [_guess(job, size, target) for job, size in sized])


def _guess(job: _Job, size: EditSize, target: float) -> float:
    """Where a search starts: from the KL level before, as KL grows with the square of the strength, or from a norm."""
    levels, key, store = job.entrant.bench.spec.budgets.kl, job.key, job.entrant.bench.store
    if key.budget == "kl" and key.level != levels[0]:
        before = store.read(dataclasses.replace(key, level=levels[levels.index(key.level) - 1]))
        if before["reached"]:
            return before["strength"] * math.sqrt(target / before["kl"])
    return FIRST_NORM * math.sqrt(target / 0.1) / size.in_norms


def _chosen(entrant: Entrant, kind: BudgetKind, level: float, task: str) -> tuple[CellKey | None, str]:
    """The search cell of best primary metric on *tune* among those that reached the budget, or why there is none."""
    arm, bench = entrant.arm, entrant.bench
    notes, found = [], {}
    for setting in entrant.settings(kind, level):
        key = CellKey(task, arm.name, entrant.draw, "search", setting, kind, level, entrant.seed)
        results = bench.store.read(key)
        notes.append(results["note"])
        if results["reached"] and math.isfinite(results["tune"]):
            found[key] = results["tune"]
    if not found:
        return None, next(filter(None, notes), "no setting could be judged on the tuning items")
    best = max if entrant.metric.higher_is_better else min
    return best(found, key=lambda key: found[key]), ""


# --- test and curve ---------------------------------------------------------------------------------------------------


def _baseline(entrant: Entrant) -> Results:
    """The unsteered model, or the model with the wish in its prompts."""
    is_prompted = entrant.arm.name == PROMPT_ONLY
    scores = entrant.baseline("test", is_prompted=is_prompted)
    if is_prompted:
        return {**_scored(scores), "damage": _prompted_damage(entrant, scores)}
    return {
        **_scored(scores),
        "damage": _damages(entrant, PLAIN, scope_of(entrant.arm, entrant.bench.spec.scope), [scores])[0],
    }


def _test(cells: Sequence[Cell]) -> dict[CellKey, Results]:
    """The setting chosen on *tune* of every arm, scored on *test*, with what it breaks."""
    found: dict[CellKey, Results] = {}
    jobs = []
    for entrant, key in cells:
        search, note = _chosen(entrant, key.budget, key.level, key.task)
        if search is None:
            found[key] = {"reached": False, "note": note}
            continue
        known = dict(entrant.bench.store.read(search))
        del known["tune"]
        found[key] = {"setting": search.setting, **known}
        jobs.append(_Job(entrant, key, _variant(entrant, search), known["strength"]))
    for same in _by_scope(jobs):
        scores = _scores(same, "test")
        damages = _damages(same[0].entrant, [job.part for job in same], same[0].variant.scope, scores)
        for job, one, damage in zip(same, scores, damages, strict=True):
            found[job.key] = {**found[job.key], **_scored(one), "damage": damage}
    return found


def _scored(scores: Scores) -> Results:
    values = {name: column.tolist() for name, column in scores.values.items()}
    return {"names": list(scores.names), "subjects": list(scores.subjects), "values": values}


def _damages(entrant: Entrant, parts: Sequence[Part], scope: Scope, scores: Sequence[Scores]) -> list[Values]:
    """What every part breaks: on neutral text, in what it writes, on the other domains."""
    bench, contest = entrant.bench, entrant.contest
    model = bench.model
    kl, agreement = bench.neutral.by_passage(parts, scope)
    others = elsewhere(model, contest.others, "test", parts, scope, n=N_ELSEWHERE, seed=entrant.seed)
    if scores[0].token_ids:
        texts = [_text_damage(model, contest.task, one) for one in scores]
    else:
        written = continuations(model, bench.openings, parts, scope, n_tokens=N_WRITTEN)
        texts = [text_damage(model, bench.openings, one).by_unit(bench.openings) for one in written]
    return [
        {
            "KL": {f"passage {number}": float(value) for number, value in enumerate(kl[index])},
            "top-1 agreement": {f"passage {number}": float(value) for number, value in enumerate(agreement[index])},
        }
        | texts[index]
        | elsewhere_values(others[index], contest.others)
        for index in range(len(parts))
    ]


def _prompted_damage(entrant: Entrant, scores: Scores) -> Values:
    """The wish stands in the prompts of the task alone, so it can break nothing but what is written there."""
    return _text_damage(entrant.bench.model, entrant.contest.task.prompted(), scores) if scores.token_ids else {}


def _text_damage(model: HookedModel, task: Task, scores: Scores) -> Values:
    prompts = {item.name: item.prompt for item in task.items("test")}
    return text_damage(model, [prompts[name] for name in scores.names], scores.token_ids).by_unit(scores.subjects)


def _curve(entrant: Entrant, key: CellKey, unsteered: Scores) -> Results:
    """The usable band of the setting that was chosen at the KL level nearest to `at_kl`."""
    bench, metric = entrant.bench, entrant.metric
    budgets = bench.spec.budgets
    if not budgets.kl:
        return {"note": "no KL level was asked for, so there is no setting to draw a curve of"}
    level = min(budgets.kl, key=lambda one: abs(math.log(one / budgets.at_kl)))
    search, note = _chosen(entrant, "kl", level, key.task)
    if search is None:
        return {"note": note}
    job = _Job(entrant, key, _variant(entrant, search))

    def effects(strengths: Sequence[float]) -> list[Interval]:
        found = _scores([dataclasses.replace(job, strength=strength) for strength in strengths], "tune")
        differences = [paired_differences(scores, unsteered, metric.name) for scores in found]
        return [paired_interval(one, seed=entrant.seed) for one in differences]

    def kl(strength: float) -> float:
        return float(bench.neutral.kl([(job.variant.steering, strength)], job.variant.scope)[0])

    found = bench.store.read(search)
    guess = found["strength"] * math.sqrt(budgets.kl_limit / level)
    band = usable_band(kl, effects, limit=budgets.kl_limit, higher_is_better=metric.higher_is_better, guess=guess)
    return {
        "setting": search.setting,
        "points": [[p.strength, p.kl, p.effect.mean, p.effect.low, p.effect.high] for p in band.points],
        "low": band.low,
        "high": band.high,
        "norms_per_strength": found["in_norms"] / found["strength"],
        "n_evaluations": band.n_evaluations,
        "note": band.note,
    }


def paired_differences(steered: Scores, unsteered: Scores, metric: str) -> Float64[np.ndarray, "subject"]:
    """Steered minus unsteered, averaged within every subject, in the order in which subjects first come.

    Items that one of the two left unjudged are left out; a subject of which none is left is dropped.
    """
    before = dict(zip(unsteered.names, unsteered.values[metric], strict=True))
    groups: dict[str, list[float]] = {}
    for name, subject, value in zip(steered.names, steered.subjects, steered.values[metric], strict=True):
        difference = float(value - before.get(name, math.nan))
        if math.isfinite(difference):
            groups.setdefault(subject, []).append(difference)
    return np.array([np.mean(values) for values in groups.values()])
