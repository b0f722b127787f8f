"""Running a comparison cell by cell: what is fitted, searched, chosen and reported stays apart.

    search   one setting (layer, or number of units) of one arm at one budget: the strength, and the score on *tune*
    test     the setting of best primary metric on *tune*, scored once on *test*
    curve    effect and damage along the strengths of that setting on *tune*, with the usable band

Several arms are run side by side, since a model takes hardly longer for more rows of a batch. Which ones is settled by
the plan, not by what is there already, so that an interrupted run ends with the same numbers to the last bit. A
finished cell is never written again. Everything that a cell holds follows from the specification and the weights.
`NotApplicable` is a result; any other exception ends the run, names the cell and leaves what is finished.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from workbench.comparison.budgets import Budget, EditSize, edit_sizes, find_strengths, usable_band
from workbench.comparison.damage import Values, off_target_scores, off_target_values, prefixes, text_damage
from workbench.comparison.fitting import fit_arm, scope_of, unmet
from workbench.comparison.plan import (
    N_CONTINUED,
    N_OFF_TARGET_ITEMS,
    Plan,
    TaskFacts,
    arms_of_spec,
    make_plan,
    searched_layers,
)
from workbench.comparison.spec import Spec, SpecError
from workbench.comparison.store import CellError, CellFailedError, CellKey, CellStore, open_store
from workbench.comparison.tables import Outcomes, TaskTable, tabulate, write_tables
from workbench.interventions import (
    PROMPT_ONLY,
    UNSTEERED,
    FitContext,
    FittingData,
    MethodCard,
    Scope,
    Setting,
    Steering,
)
from workbench.models import HookedModel, provenance
from workbench.records import (
    BudgetKind,
    CellResult,
    CurveResult,
    NotApplicable,
    PooledRows,
    Prompt,
    ScoreResult,
    SearchResult,
    Split,
    folder_lock,
    to_plain,
    write_json,
)
from workbench.statistics import Interval, paired_interval
from workbench.tasks.base import Metric, Scores, Task, TaskError, check_subjects, score_parts
from workbench.tasks.metrics import PLAIN, NeutralText, Part
from workbench.tasks.scoring import continuations

N_TOGETHER = 6  # arms (draws) that are run side by side
N_TIMED = 5  # items of every task that are scored to see how long it takes
FIRST_NORM = 0.3  # where searches start: the norm of the edit at KL 0.1, as a fraction of the median residual norm
CellProgress = Callable[[int, int], None]  # (cells done, cells in all)


@dataclass(frozen=True, eq=False)
class ComparisonTask:
    """One task of a comparison: the domain it is about ("" if none), and how directions are pooled over tokens.

    `n_new` tokens are generated and `n_positions` run per item, as the plan assumes. `off_target` are tasks of one kind
    on other domains, which no arm is chosen by: they show what steering breaks there. With `collected` rows of a corpus
    arms are fitted on those, *identify* rows of the domain against all others. Nothing is searched where settings and
    strengths are those of an earlier task, `settings_from`, that is fitted on the same data.
    """

    task: Task
    domain: str
    pooling: Literal["mean", "last"]
    n_positions: float
    n_new: int
    off_target: tuple[Task, ...] = ()
    collected: PooledRows | None = None
    settings_from: "ComparisonTask | None" = None

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def searched(self) -> "ComparisonTask":
        """The task that settings are searched and chosen on."""
        return self.settings_from or self

    @property
    def metric(self) -> Metric:
        """The one that settings are chosen by."""
        return self.searched.task.metrics[0]


@dataclass(frozen=True, eq=False)
class Run:
    """A comparison that is ready to run: every task with its fitting data, and the plan.

    `rivals` are as in `contrasts`; `n_together` arms are run side by side. `starts_at_direction`: searches start where
    an edit has the norm of the direction itself, for runs whose arms are all parts of one direction; else at a
    fraction of the residual norm.
    """

    spec: Spec
    model: HookedModel
    tasks: tuple[ComparisonTask, ...]
    data: tuple[FittingData, ...]
    plan: Plan
    rivals: Mapping[str, Sequence[str]] | None = None
    n_together: int = N_TOGETHER
    starts_at_direction: bool = False

    @property
    def layers(self) -> tuple[int, ...]:
        return searched_layers(self.spec.sizes, self.model.n_layers)

    @property
    def tables(self) -> list[TaskTable]:
        """What tables need to know of the tasks."""
        return [TaskTable(one.name, one.domain, one.task.metrics) for one in self.tasks]


def prepare(spec: Spec, model: HookedModel, tasks: Sequence[ComparisonTask]) -> Run:
    """Take the fitting data of every task and lay out the cells; no arm is fitted or scored yet."""
    data = tuple(one.task.fitting(model) for one in tasks)
    reused = _tasks_with_same_fit_data(tasks, data)
    facts = [
        _facts_of(model, one, spec, its_data, reuses_budgets=one.name in reused)
        for one, its_data in zip(tasks, data, strict=True)
    ]
    plan = make_plan(spec, facts, n_layers=model.n_layers, n_heads=model.n_layers * model.n_heads)
    return Run(spec, model, tuple(tasks), data, plan)


def run_comparison(
    run: Run, folder: Path, neutral: Sequence[Prompt], *, progress: CellProgress | None = None
) -> Outcomes:
    """Run what is missing in the folder, then write its tables.

    Raises `CellError` where the folder belongs to another specification or to other weights, and where a cell fails;
    `LockedError` where another process runs it.
    """
    with folder_lock(folder):
        return _run_in(run, folder, neutral, progress)


def _run_in(run: Run, folder: Path, neutral: Sequence[Prompt], progress: CellProgress | None) -> Outcomes:
    context = make_context(run, open_store(folder, run.spec, run.model.fingerprint), neutral)
    n_cells, n_done = len(run.plan.cells), 0

    def count(key: CellKey) -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done, n_cells)

    reused, kept = _tasks_with_same_fit_data(run.tasks, run.data), {}
    for one, data in zip(run.tasks, run.data, strict=True):
        first = reused.get(one.name, one.name)
        if first not in kept:
            kept[first] = {seed: _fit_context(run, one, data, seed) for seed in run.spec.seeds}
        own = [key for key in run.plan.cells if key.task == one.name]
        run_cells(context, one, kept[first], own, budgets_from=reused.get(one.name, ""), on_cell=count)
        if first not in reused.values():
            del kept[first]
    outcomes = tabulate_run(run, context.store)
    write_tables(outcomes, folder)
    write_json(folder / "plan.json", _plan_facts(run))
    return outcomes


def _plan_facts(run: Run) -> dict[str, Any]:
    """What a comparison set out to do, in plain values, for whoever reads its folder."""
    spec = run.spec
    return {
        "name": spec.name,
        "model": {"name": run.model.name, "fingerprint": run.model.fingerprint, **provenance(run.model)},
        "methods": list(spec.methods),
        "tasks": [one.name for one in run.tasks],
        "budgets": [list(level) for level in spec.budgets.levels()],
        "layers": list(run.plan.layers),
        "k": spec.k,
        "seeds": list(spec.seeds),
        "n_cells": len(run.plan.cells),
        "sizes": to_plain(spec.sizes),
    }


def tabulate_run(run: Run, store: CellStore) -> Outcomes:
    """All tables of the finished cells; cells of the folder that the plan does not hold are left out."""
    wanted = set(run.plan.cells)
    cells = {key: result for key, result in store.all().items() if key in wanted}
    spec = run.spec
    return tabulate(
        cells, run.tables, run.plan.matrix, seed=spec.seeds[0], kl_limit=spec.budgets.kl_limit, rivals=run.rivals
    )


def _facts_of(
    model: HookedModel, task: ComparisonTask, spec: Spec, data: FittingData, *, reuses_budgets: bool
) -> TaskFacts:
    """Which arms can run on a task, and how much work it is; nothing is run.

    Raises `TaskError` where the task has no *tune* or *test* items, or those of a single subject.
    """
    splits: tuple[Split, ...] = ("tune", "test") if task.settings_from is None else ("test",)
    items = {split: task.task.items(split) for split in splits}
    for split in splits:
        check_subjects(task.name, split, items[split])
    prompts = [item.prompt for chosen in items.values() for item in chosen]
    lengths = [len(model.text.ids(prompt)) for prompt in prompts]
    is_prompted = has_instruction(task.task)
    reasons = {arm.name: unmet(arm, data, has_instruction=is_prompted, lengths=lengths) for arm in arms_of_spec(spec)}
    return TaskFacts(
        task.name,
        reasons,
        len(items.get("tune", ())),
        len(items["test"]),
        task.n_positions,
        task.n_new,
        n_off_target=N_OFF_TARGET_ITEMS * len(task.off_target),
        n_fit=min(spec.sizes.n_fit, len(data.positive)),
        reuses_budgets=reuses_budgets,
        is_searched=task.settings_from is None,
    )


def has_instruction(task: Task) -> bool:
    """Whether a task has a prompt-only baseline."""
    try:
        task.prompted()
    except TaskError:
        return False
    return True


def _fit_context(run: Run, task: ComparisonTask, data: FittingData, seed: int) -> FitContext:
    """What all arms of a task are fitted on, with one seed."""
    sizes = run.spec.sizes
    context = FitContext(
        run.model,
        data,
        seed=seed,
        pooling=task.pooling,
        n_fit=sizes.n_fit,
        n_optimisation_prompts=sizes.n_optimisation_prompts,
        n_optimisation_steps=sizes.n_optimisation_steps,
    )
    if task.collected is None:
        return context
    return dataclasses.replace(context, collected=task.collected, domain=task.domain)


def _tasks_with_same_fit_data(tasks: Sequence[ComparisonTask], data: Sequence[FittingData]) -> dict[str, str]:
    """For every task that is fitted on the same data as an earlier one, that one: the same edits cost the same."""
    first: dict[tuple[FittingData, str], str] = {}
    names = [
        (one.name, first.setdefault((its_data, one.pooling), one.name))
        for one, its_data in zip(tasks, data, strict=True)
    ]
    return {name: earlier for name, earlier in names if name != earlier}


# --- cells ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EvaluationContext:
    """What all tasks of a run share: its cells, the neutral text that damage is measured on, and prefixes of it.

    Every arm continues the prefixes where its task generates nothing.
    """

    run: Run
    store: CellStore
    neutral: NeutralText
    prefixes: tuple[str, ...]

    @property
    def model(self) -> HookedModel:
        return self.run.model

    @property
    def spec(self) -> Spec:
        return self.run.spec

    def n_items(self, split: Split) -> int:
        """How many items of a split are scored at most."""
        return self.spec.sizes.n_tune if split == "tune" else self.spec.sizes.n_test


def make_context(run: Run, store: CellStore, neutral: Sequence[Prompt]) -> EvaluationContext:
    """Choose the neutral text of a comparison; which passages is settled by the first seed."""
    if len(neutral) < 2:
        raise SpecError(f"{len(neutral)} neutral passages are too few to measure damage on; give at least 2")
    sizes = run.spec.sizes
    order = np.random.default_rng([run.spec.seeds[0], 1]).permutation(len(neutral))
    texts = [neutral[index].text for index in order[: sizes.n_neutral]]
    measured = NeutralText(run.model, texts, n_tokens=sizes.n_neutral_tokens)
    return EvaluationContext(run, store, measured, prefixes(texts))


@dataclass(frozen=True, eq=False)
class ArmRun:
    """One arm (one draw) on one task with one seed; strengths are those of `budgets_from` where that is not ""."""

    context: EvaluationContext
    task: ComparisonTask
    fits: FitContext
    arm: MethodCard
    draw: int
    seed: int
    budgets_from: str = ""

    @property
    def scope(self) -> Scope:
        """Everybody edits the same tokens, but methods whose vectors stand at absolute positions of the prompt."""
        return scope_of(self.arm, self.context.spec.scope)

    def fitted(self, key: CellKey) -> Steering:
        """The arm at the setting of a search cell. Raises `NotApplicable` where the data do not allow it."""
        setting = dataclasses.replace(self._settings(key.budget, key.level)[key.setting], draw=self.draw)
        return fit_arm(self.arm, self.fits, setting).steering

    def _settings(self, kind: BudgetKind, level: float) -> dict[str, Setting]:
        """All settings by name; at a budget of coordinates with that many units."""
        spec, exact_k = self.context.spec, int(level) if kind == "coordinates" else None
        settings = self.arm.settings(self.context.run.layers, spec.k, self.fits.n_heads, exact_k)
        return {setting.name: setting for setting in settings}

    def search_keys(self, kind: BudgetKind, level: float) -> list[CellKey]:
        """The search cells that the setting at a budget is chosen from."""
        name = self.task.searched.name
        return [
            CellKey(name, self.arm.name, self.draw, "search", setting, kind, level, self.seed)
            for setting in self._settings(kind, level)
        ]

    def baseline(self, split: Split, *, is_prompted: bool = False) -> Scores:
        task = self.task.task.prompted() if is_prompted else self.task.task
        return task.score(self.context.model, split, n=self.context.n_items(split), seed=self.seed)


Cell = tuple[ArmRun, CellKey]


@dataclass(frozen=True, eq=False)
class _Trial:
    """A fitted setting of an arm at a strength, for the cell it is run for."""

    arm_run: ArmRun
    key: CellKey
    steering: Steering
    strength: float = 1.0

    @property
    def part(self) -> Part:
        return self.steering, self.strength


@contextmanager
def _naming(keys: Sequence[CellKey]) -> Iterator[None]:
    """Name the cells that an error comes from, and keep what the user did wrong apart from what broke."""
    try:
        yield
    except (CellError, CellFailedError):
        raise
    except Exception as error:
        more = f" and {len(keys) - 1} beside it" if len(keys) > 1 else ""
        kind = CellError if isinstance(error, ValueError) else CellFailedError
        raise kind(f"cell {keys[0].path.with_suffix('')}{more}: {type(error).__name__}: {error}") from error


def run_cells(
    context: EvaluationContext,
    task: ComparisonTask,
    fits: Mapping[int, FitContext],
    cells: Sequence[CellKey],
    *,
    budgets_from: str = "",
    on_cell: Callable[[CellKey], None] | None = None,
) -> None:
    """Run the cells of one task that are not in the store yet; `on_cell` is called for every one, new or old.

    `fits` are by seed. `budgets_from` is a task that was run before and is fitted on the same: its strengths are taken
    over. Call it without steering on the model. Interrupted at any point, it resumes from the cells that are there.
    """
    arms = {arm.name: arm for arm in arms_of_spec(context.spec)}
    for seed, its_fits in fits.items():
        groups: dict[tuple[str, int], list[CellKey]] = {}
        for key in cells:
            if key.seed == seed:
                groups.setdefault((key.arm, key.draw), []).append(key)
        runs = [
            (ArmRun(context, task, its_fits, arms[name], draw, seed, budgets_from), keys)
            for (name, draw), keys in groups.items()
        ]
        for key in _finished(runs):
            if on_cell is not None:
                on_cell(key)


def _finished(runs: Sequence[tuple[ArmRun, list[CellKey]]]) -> Iterator[CellKey]:
    """The cells of all arms, each as soon as it is in the store."""
    baselines = [run for run in runs if run[0].arm.name in (UNSTEERED, PROMPT_ONLY)]
    steered = [run for run in runs if run not in baselines]
    for arm_run, keys in baselines:
        for key in keys:
            if key not in arm_run.context.store:
                with _naming([key]):
                    result = _baseline(arm_run)
                arm_run.context.store.write(key, result)
            yield key
    n_together = runs[0][0].context.run.n_together if runs else 1
    for start in range(0, len(steered), n_together):
        yield from _together(steered[start : start + n_together])


def _together(runs: Sequence[tuple[ArmRun, list[CellKey]]]) -> Iterator[CellKey]:
    """Some arms side by side, budget by budget."""
    context = runs[0][0].context
    cells = [(arm_run, key) for arm_run, keys in runs for key in keys]
    for kind, level in context.spec.budgets.levels():
        for stage, measure in (("search", _search), ("test", _test)):
            own = [cell for cell in cells if (cell[1].stage, cell[1].budget, cell[1].level) == (stage, kind, level)]
            missing = [key for _, key in own if key not in context.store]
            if missing:
                with _naming(missing):
                    found = measure(own)
                for key in missing:
                    context.store.write(key, found[key])
            yield from (key for _, key in own)
    unsteered = cache(lambda: runs[0][0].baseline("tune"))
    for arm_run, key in cells:
        if key.stage == "curve":
            if key not in context.store:
                with _naming([key]):
                    curve = _curve(arm_run, key, unsteered())
                context.store.write(key, curve)
            yield key


def _by_scope(trials: Sequence[_Trial]) -> list[list[_Trial]]:
    """Trials that edit the same tokens, and so can be run side by side."""
    groups: dict[Scope, list[_Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.arm_run.scope, []).append(trial)
    return list(groups.values())


def _scores(trials: Sequence[_Trial], split: Split) -> list[Scores]:
    """Scores of the task under trials of one scope."""
    arm_run, parts = trials[0].arm_run, [trial.part for trial in trials]
    context, n = arm_run.context, arm_run.context.n_items(split)
    return score_parts(arm_run.task.task, context.model, split, parts, arm_run.scope, n=n, seed=arm_run.seed)


# --- search -----------------------------------------------------------------------------------------------------------


def _search(cells: Sequence[Cell]) -> Mapping[CellKey, CellResult]:
    """Strength, size and score on *tune* of every setting; one that is not applicable says why."""
    found = _reused_budgets(cells) or _budgets(cells)
    trials = []
    for arm_run, key in cells:
        if found[key].is_reached:
            with _naming([key]):
                trials.append(_Trial(arm_run, key, arm_run.fitted(key), found[key].strength))
    for same in _by_scope(trials):
        for trial, scores in zip(same, _scores(same, "tune"), strict=True):
            tune = scores.mean(trial.arm_run.task.metric.name)
            found[trial.key] = dataclasses.replace(found[trial.key], tune=tune)
    return found


def _reused_budgets(cells: Sequence[Cell]) -> dict[CellKey, SearchResult]:
    """What the same settings cost in a task that is fitted on the same data; empty where there is none."""
    earlier = {
        key: dataclasses.replace(key, task=arm_run.budgets_from) for arm_run, key in cells if arm_run.budgets_from
    }
    if not cells or len(earlier) < len(cells):
        return {}
    store = cells[0][0].context.store
    if any(known not in store for known in earlier.values()):
        return {}
    return {key: dataclasses.replace(store.search(known), tune=math.nan) for key, known in earlier.items()}


def _budgets(cells: Sequence[Cell]) -> dict[CellKey, SearchResult]:
    """The strength of every setting at its budget, what it costs and how large it is."""
    found: dict[CellKey, SearchResult] = {}
    trials = []
    for arm_run, key in cells:
        try:
            with _naming([key]):
                trials.append(_Trial(arm_run, key, arm_run.fitted(key)))
        except CellError as error:
            if not isinstance(error.__cause__, NotApplicable):
                raise
            found[key] = SearchResult.unreached(" ".join(str(error.__cause__).split()))
    for same in _by_scope(trials):
        context, scope = same[0].arm_run.context, same[0].arm_run.scope
        sizes = edit_sizes(context.model, [trial.steering for trial in same], context.neutral.tokens, scope)
        zero = SearchResult.unreached("its edit is zero on the neutral text, so no strength has any size")
        found |= {trial.key: zero for trial in same}
        sized = [(trial, size) for trial, size in zip(same, sizes, strict=True) if size.in_norms > 0]
        for (trial, size), budget in zip(sized, _strengths(sized), strict=True):
            found[trial.key] = SearchResult(
                is_reached=budget.reached,
                strength=budget.strength,
                kl=budget.kl,
                in_norms=size.in_norms * budget.strength,
                in_sds=size.in_sds * budget.strength,
                n_coordinates=size.n_coordinates,
                tune=math.nan,
                note=budget.problem,
            )
    return found


def _strengths(sized: Sequence[tuple[_Trial, EditSize]]) -> list[Budget]:
    """The strengths of trials of one scope at one budget, with the KL that they cost there."""
    if not sized:
        return []
    first = sized[0][0]
    context, scope = first.arm_run.context, first.arm_run.scope
    kind, level = first.key.budget, first.key.level

    def kl(indices: Sequence[int], strengths: Sequence[float]) -> list[float]:
        parts: list[Part] = [(sized[i][0].steering, s) for i, s in zip(indices, strengths, strict=True)]
        return context.neutral.kl(parts, scope).tolist()

    if kind == "edit":
        strengths = [level / size.in_norms for _, size in sized]
        costs = kl(range(len(sized)), strengths)
        return [Budget(level, s, cost, True, True, ((s, cost),)) for s, cost in zip(strengths, costs, strict=True)]
    target = context.spec.budgets.at_kl if kind == "coordinates" else level
    return find_strengths(kl, target, [_guess(trial, size, target) for trial, size in sized])


def _guess(trial: _Trial, size: EditSize, target: float) -> float:
    """Where a search starts: from the KL level before, as KL grows with the square of the strength, or from a norm."""
    arm_run, key = trial.arm_run, trial.key
    run, levels = arm_run.context.run, arm_run.context.spec.budgets.kl
    if key.budget == "kl" and key.level != levels[0]:
        level = levels[levels.index(key.level) - 1]
        before = arm_run.context.store.search(dataclasses.replace(key, level=level))
        if before.is_reached:
            return before.strength * math.sqrt(target / (level if run.starts_at_direction else before.kl))
    if run.starts_at_direction:
        layer = trial.steering.sites[0].layer
        return float(arm_run.fits.directions[layer].norm()) / float(trial.steering.direction.norm())  # pyright: ignore[reportAttributeAccessIssue]
    return FIRST_NORM * math.sqrt(target / 0.1) / size.in_norms


def _chosen(arm_run: ArmRun, kind: BudgetKind, level: float) -> tuple[CellKey | None, str]:
    """The search cell of best primary metric on *tune* among those that reached the budget, or why there is none."""
    notes, found = [], {}
    for key in arm_run.search_keys(kind, level):
        result = arm_run.context.store.search(key)
        notes.append(result.note)
        if result.is_reached and math.isfinite(result.tune):
            found[key] = result.tune
    if not found:
        return None, next(filter(None, notes), "no setting could be judged on the tuning items")
    best = max if arm_run.task.metric.higher_is_better else min
    return best(found, key=lambda key: found[key]), ""


# --- test and curve ---------------------------------------------------------------------------------------------------


def _baseline(arm_run: ArmRun) -> ScoreResult:
    """The unsteered model, or the model with the instruction in its prompts."""
    is_prompted = arm_run.arm.name == PROMPT_ONLY
    scores = arm_run.baseline("test", is_prompted=is_prompted)
    if is_prompted:  # it acts on the prompts of the task alone, so it can break nothing but what is generated there
        task = arm_run.task.task.prompted()
        damage = _text_damage(arm_run.context.model, task, scores) if scores.token_ids else {}
    else:
        damage = _damage(arm_run, PLAIN, arm_run.scope, [scores])[0]
    return _scored(ScoreResult.unmeasured(""), scores, damage)


def _test(cells: Sequence[Cell]) -> Mapping[CellKey, CellResult]:
    """The setting chosen on *tune* of every arm, scored on *test*, with what it breaks."""
    found: dict[CellKey, ScoreResult] = {}
    trials = []
    for arm_run, key in cells:
        search, note = _chosen(arm_run, key.budget, key.level)
        found[key] = ScoreResult.unmeasured(note)
        if search is not None:
            known = arm_run.context.store.search(search)
            sizes = {name: getattr(known, name) for name in ("strength", "kl", "in_norms", "in_sds", "note")}
            found[key] = dataclasses.replace(found[key], setting=search.setting, **sizes)
            trials.append(_Trial(arm_run, key, arm_run.fitted(search), known.strength))
    for same in _by_scope(trials):
        scores = _scores(same, "test")
        damages = _damage(same[0].arm_run, [trial.part for trial in same], same[0].arm_run.scope, scores)
        for trial, one, damage in zip(same, scores, damages, strict=True):
            found[trial.key] = _scored(found[trial.key], one, damage)
    return found


def _scored(result: ScoreResult, scores: Scores, damage: Values) -> ScoreResult:
    values = {name: tuple(column.tolist()) for name, column in scores.values.items()}
    return dataclasses.replace(result, names=scores.names, subjects=scores.subjects, values=values, damage=damage)


def _damage(arm_run: ArmRun, parts: Sequence[Part], scope: Scope, scores: Sequence[Scores]) -> list[Values]:
    """What every part breaks: on neutral text, in what it generates, on the other domains."""
    context, task = arm_run.context, arm_run.task
    model = context.model
    kl, agreement = context.neutral.by_passage(parts, scope)
    others = off_target_scores(model, task.off_target, parts, scope, seed=arm_run.seed)
    if scores[0].token_ids:
        texts = [_text_damage(model, task.task, one) for one in scores]
    else:
        generated = continuations(model, context.prefixes, parts, scope, n_tokens=N_CONTINUED)
        texts = [text_damage(model, context.prefixes, one).by_unit(context.prefixes) for one in generated]
    return [
        {
            "KL": {f"passage {number}": float(value) for number, value in enumerate(kl[index])},
            "top-1 agreement": {f"passage {number}": float(value) for number, value in enumerate(agreement[index])},
        }
        | texts[index]
        | off_target_values(others[index], task.off_target)
        for index in range(len(parts))
    ]


def _text_damage(model: HookedModel, task: Task, scores: Scores) -> Values:
    prompts = {item.name: item.prompt for item in task.items("test")}
    return text_damage(model, [prompts[name] for name in scores.names], scores.token_ids).by_unit(scores.subjects)


def _curve(arm_run: ArmRun, key: CellKey, unsteered: Scores) -> CurveResult:
    """The usable band of the setting that was chosen at the KL level nearest to `at_kl`."""
    context, metric = arm_run.context, arm_run.task.metric
    budgets = context.spec.budgets
    if not budgets.kl:
        return CurveResult.unmeasured("no KL level was asked for, so there is no setting to draw a curve of")
    level = min(budgets.kl, key=lambda one: abs(math.log(one / budgets.at_kl)))
    search, note = _chosen(arm_run, "kl", level)
    if search is None:
        return CurveResult.unmeasured(note)
    trial = _Trial(arm_run, key, arm_run.fitted(search))

    def effects(strengths: Sequence[float]) -> list[Interval]:
        found = _scores([dataclasses.replace(trial, strength=strength) for strength in strengths], "tune")
        differences = [paired_differences(scores, unsteered, metric.name) for scores in found]
        return [paired_interval(one, seed=arm_run.seed) for one in differences]

    def kl(strength: float) -> float:
        return float(context.neutral.kl([(trial.steering, strength)], arm_run.scope)[0])

    found = context.store.search(search)
    guess = found.strength * math.sqrt(budgets.kl_limit / level)
    band = usable_band(kl, effects, limit=budgets.kl_limit, higher_is_better=metric.higher_is_better, guess=guess)
    return CurveResult(
        setting=search.setting,
        strengths=tuple(point.strength for point in band.points),
        kl=tuple(point.kl for point in band.points),
        effect=tuple(point.effect.mean for point in band.points),
        effect_low=tuple(point.effect.low for point in band.points),
        effect_high=tuple(point.effect.high for point in band.points),
        low=band.low,
        high=band.high,
        norms_per_strength=found.in_norms / found.strength,
        n_evaluations=band.n_evaluations,
        note=band.note,
    )


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


# --- time -------------------------------------------------------------------------------------------------------------


def seconds_of(run: Run, neutral: Sequence[Prompt], *, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long all cells of a plan take: one pass of every kind, timed, times how often the plan asks for it.

    Passes are timed as they are run, several arms side by side: over the neutral text, the continuation of its
    prefixes, and per task a score of some tuning items and a pass over texts to fit on. Right to about a third.
    """
    spec, model, plan = run.spec, run.model, run.plan
    chosen = [prompt.text for prompt in neutral][: spec.sizes.n_neutral]
    text = NeutralText(model, chosen, n_tokens=spec.sizes.n_neutral_tokens)
    parts: list[Part] = [(None, 0.0)] * N_TOGETHER

    def timed(work: Callable[[], object]) -> float:
        started = clock()
        work()
        return (clock() - started) / N_TOGETHER

    text.kl(parts)  # warm
    total = plan.neutral_passes * timed(lambda: text.kl(parts))
    if plan.continuations:
        begun = prefixes(chosen)
        total += plan.continuations * timed(lambda: continuations(model, begun, parts, n_tokens=N_CONTINUED))
    for one, data in zip(run.tasks, run.data, strict=True):
        work, task = plan.work[one.name], one.task
        n = min(N_TIMED, spec.sizes.n_tune, len(task.items("tune")))
        texts = model.tokenize(data.positive[:N_TOGETHER], truncate=True)
        options = {"n": n, "seed": spec.seeds[0]}
        score = timed(lambda task=task, options=options: score_parts(task, model, "tune", parts, "all", **options))
        passed = timed(lambda texts=texts: model.logits(texts))
        total += work.n_items * score / n + work.n_passes * passed
    return total
