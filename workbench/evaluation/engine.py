"""Running a comparison cell by cell: what is fitted, searched, chosen and reported stays apart.

    search   one setting (layer, or number of units) of one arm at one budget: the strength, and the score on *tune*
    test     the setting of best primary metric on *tune*, scored once on *test*
    curve    effect and damage along the strengths of that setting on *tune*, with the usable band

A finished cell is never run again. Everything that a cell holds follows from the specification and the weights.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from jaxtyping import Float64

from workbench.evaluation.arm_kinds import PROMPT_ONLY, UNSTEERED, settings_of, unmet
from workbench.evaluation.bands import usable_band
from workbench.evaluation.budgets import Budget, find_strengths
from workbench.evaluation.cells import CellKey
from workbench.evaluation.damage import (
    N_ELSEWHERE,
    N_WRITTEN,
    Values,
    elsewhere,
    elsewhere_values,
    text_damage,
)
from workbench.evaluation.entrants import Bench, Contest, Entrant
from workbench.evaluation.methods import Ground, Variant
from workbench.evaluation.metrics import Part
from workbench.evaluation.planning import TaskFacts, arms_of_spec, searched_layers
from workbench.evaluation.spec import Spec
from workbench.evaluation.statistics import Interval, paired_interval
from workbench.evaluation.strengths import EditSize, edit_size
from workbench.evaluation.tasks.base import FittingData, Scores, Task, TaskError, check_subjects
from workbench.evaluation.tasks.running import continuations
from workbench.models import HookedModel
from workbench.records import BudgetKind, Split
from workbench.steering import Scope, steer

Results = Mapping[str, Any]  # what the file of a cell holds
FIRST_NORM = 0.3  # where searches start: the norm of the edit at KL 0.1, as a share of the median residual norm


def facts_of(model: HookedModel, contest: Contest, spec: Spec, data: FittingData) -> TaskFacts:
    """Which arms can run on a task, and how much work it is; nothing is run.

    Raises `TaskError` where the task has no *tune* or *test* items, or those of a single subject.
    """
    splits: tuple[Split, ...] = ("tune", "test")
    items = {split: contest.task.items(split) for split in splits}
    for split in splits:
        check_subjects(contest.task.name, split, items[split])
    every = [item.prompt for chosen in items.values() for item in chosen]
    lengths = [len(model.tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in every]
    has_words = True
    try:
        contest.task.prompted()
    except TaskError:
        has_words = False
    reasons = {arm.name: unmet(arm, data, has_words=has_words, lengths=lengths) for arm in arms_of_spec(spec)}
    n_tune, n_test = len(items["tune"]), len(items["test"])
    n_elsewhere = N_ELSEWHERE * len(contest.others)
    return TaskFacts(contest.task.name, reasons, n_tune, n_test, contest.n_positions, contest.n_new, n_elsewhere)


def run_cells(
    bench: Bench,
    contest: Contest,
    data: FittingData,
    cells: Sequence[CellKey],
    *,
    on_cell: Callable[[CellKey], None] | None = None,
) -> None:
    """Run the cells of one task that are not in the store yet; `on_cell` is called for every one, new or old.

    Call it without steering on the model. Interrupted at any point, it goes on from the cells that are there.
    """
    spec, model = bench.spec, bench.model
    layers = searched_layers(spec.sizes, model.n_layers)
    scope = Scope(spec.scope)  # pyright: ignore[reportArgumentType]
    arms = {arm.name: arm for arm in arms_of_spec(spec)}
    for seed in spec.seeds:
        ground = Ground(model, data, layers, spec.k, seed, contest.pooling, scope, spec.sizes.n_fit)
        groups: dict[tuple[str, int], list[CellKey]] = {}
        for key in cells:
            if key.seed == seed:
                groups.setdefault((key.arm, key.draw), []).append(key)
        for (name, draw), keys in groups.items():
            missing = [key for key in keys if key not in bench.store]
            if missing:
                _run_arm(Entrant(bench, contest, ground, arms[name], draw, seed), missing)
            for key in keys:
                if on_cell is not None:
                    on_cell(key)


def _run_arm(entrant: Entrant, missing: Sequence[CellKey]) -> None:
    store = entrant.bench.store
    if entrant.arm.name in (UNSTEERED, PROMPT_ONLY):
        for key in missing:
            is_prompted = entrant.arm.name == PROMPT_ONLY
            scores = entrant.baseline("test", is_prompted=is_prompted)
            damage = _prompted_damage(entrant, scores) if is_prompted else _damage(entrant, scores, None, 0.0)
            store.write(key, {**_scored(scores), "damage": damage})
        return
    for kind, level in entrant.bench.spec.budgets.levels():
        keys = [key for key in missing if (key.stage, key.budget, key.level) == ("search", kind, level)]
        for key, found in _search(entrant, kind, level, keys):
            store.write(key, found)
    for key in missing:
        if key.stage == "test":
            store.write(key, _test(entrant, key))
    for key in missing:
        if key.stage == "curve":
            store.write(key, _curve(entrant, key))


# --- search -----------------------------------------------------------------------------------------------------------


def _search(
    entrant: Entrant, kind: BudgetKind, level: float, keys: Sequence[CellKey]
) -> Iterator[tuple[CellKey, Results]]:
    """Strength, size and score on *tune* of every setting; one that cannot be fitted says why."""
    try:
        variants = entrant.variants(kind, level) if keys else {}
    except ValueError as error:
        note = " ".join(str(error).split())
        yield from ((key, {"reached": False, "note": note}) for key in keys)
        return
    if not keys:
        return
    chosen = [variants[key.setting] for key in keys]
    neutral = entrant.bench.neutral
    sizes = [edit_size(entrant.bench.model, one.steering, neutral.tokens, one.scope) for one in chosen]
    if any(size.in_norms == 0 for size in sizes):
        note = "its edit is zero on the neutral text, so no strength has any size"
        yield from ((key, {"reached": False, "note": note}) for key in keys)
        return
    budgets = _strengths(entrant.bench, chosen, sizes, kind, level)
    for key, variant, size, budget in zip(keys, chosen, sizes, budgets, strict=True):
        found: dict[str, Any] = {
            "strength": budget.strength,
            "kl": budget.kl,
            "reached": budget.reached,
            "monotone": budget.monotone,
            "in_norms": size.in_norms * budget.strength,
            "in_sds": size.in_sds * budget.strength,
            "n_coordinates": size.n_coordinates,
            "note": budget.problem,
        }
        if budget.reached:
            found["tune"] = entrant.score("tune", variant, budget.strength).mean(entrant.metric.name)
        yield key, found


def _strengths(
    bench: Bench, variants: Sequence[Variant], sizes: Sequence[EditSize], kind: BudgetKind, level: float
) -> list[Budget]:
    """The strength of every variant at a budget, with the KL that it costs there."""

    def kl(indices: Sequence[int], strengths: Sequence[float]) -> list[float]:
        parts: list[Part] = [(variants[i].steering, s) for i, s in zip(indices, strengths, strict=True)]
        return bench.neutral.kl(parts, variants[0].scope).tolist()

    if kind == "edit":
        strengths = [level / size.in_norms for size in sizes]
        costs = kl(range(len(variants)), strengths)
        return [Budget(level, s, cost, True, True, ((s, cost),)) for s, cost in zip(strengths, costs, strict=True)]
    target = bench.spec.budgets.at_kl if kind == "coordinates" else level
    guesses = [FIRST_NORM * math.sqrt(target / 0.1) / size.in_norms for size in sizes]
    return find_strengths(kl, target, guesses)


def _chosen(entrant: Entrant, kind: BudgetKind, level: float, task: str) -> tuple[CellKey | None, str]:
    """The search cell of best primary metric on *tune* among those that reached the budget, or why there is none."""
    arm, bench = entrant.arm, entrant.bench
    heads = bench.model.n_layers * bench.model.n_heads
    notes, found = [], {}
    for setting in settings_of(arm, entrant.ground.layers, bench.spec.k, heads):
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


def _test(entrant: Entrant, key: CellKey) -> Results:
    search, note = _chosen(entrant, key.budget, key.level, key.task)
    if search is None:
        return {"reached": False, "note": note}
    found = dict(entrant.bench.store.read(search))
    del found["tune"]
    variant = entrant.variants(key.budget, key.level)[search.setting]
    scores = entrant.score("test", variant, found["strength"])
    damage = _damage(entrant, scores, variant, found["strength"])
    return {"setting": search.setting, **found, **_scored(scores), "damage": damage}


def _scored(scores: Scores) -> Results:
    values = {name: column.tolist() for name, column in scores.values.items()}
    return {"names": list(scores.names), "subjects": list(scores.subjects), "values": values}


def _damage(entrant: Entrant, scores: Scores, variant: Variant | None, strength: float) -> Values:
    """What an arm breaks at its strength: on neutral text, in what it writes, on the other domains."""
    bench, contest = entrant.bench, entrant.contest
    model = bench.model
    part: Part = (None, 0.0) if variant is None else (variant.steering, strength)
    kl, agreement = bench.neutral.by_passage([part], entrant.ground.scope if variant is None else variant.scope)
    with nullcontext() if variant is None else steer(model, variant.steering, strength, variant.scope):
        written = [] if scores.token_ids else continuations(model, bench.openings, n_tokens=N_WRITTEN)
        found = elsewhere(model, contest.others, "test", n=N_ELSEWHERE, seed=entrant.seed)
    values: Values = {
        "KL": {f"passage {index}": float(value) for index, value in enumerate(kl[0])},
        "top-1 agreement": {f"passage {index}": float(value) for index, value in enumerate(agreement[0])},
    }
    if scores.token_ids:
        values |= _text_damage(model, contest.task, scores)
    else:
        values |= text_damage(model, bench.openings, written).by_unit(bench.openings)
    return values | elsewhere_values(found, contest.others)


def _prompted_damage(entrant: Entrant, scores: Scores) -> Values:
    """The wish stands in the prompts of the task alone, so it can break nothing but what is written there."""
    return _text_damage(entrant.bench.model, entrant.contest.task.prompted(), scores) if scores.token_ids else {}


def _text_damage(model: HookedModel, task: Task, scores: Scores) -> Values:
    prompts = {item.name: item.prompt for item in task.items("test")}
    return text_damage(model, [prompts[name] for name in scores.names], scores.token_ids).by_unit(scores.subjects)


def _curve(entrant: Entrant, key: CellKey) -> Results:
    """The usable band of the setting that was chosen at the KL level nearest to `at_kl`."""
    bench, metric = entrant.bench, entrant.metric
    budgets = bench.spec.budgets
    if not budgets.kl:
        return {"note": "no KL level was asked for, so there is no setting to draw a curve of"}
    level = min(budgets.kl, key=lambda one: abs(math.log(one / budgets.at_kl)))
    search, note = _chosen(entrant, "kl", level, key.task)
    if search is None:
        return {"note": note}
    variant = entrant.variants("kl", level)[search.setting]
    unsteered = entrant.baseline("tune")

    def effect(strength: float) -> Interval:
        differences = paired_differences(entrant.score("tune", variant, strength), unsteered, metric.name)
        return paired_interval(differences, seed=entrant.seed)

    def kl(strength: float) -> float:
        return float(bench.neutral.kl([(variant.steering, strength)], variant.scope)[0])

    found = bench.store.read(search)
    guess = found["strength"] * math.sqrt(budgets.kl_limit / level)
    band = usable_band(kl, effect, limit=budgets.kl_limit, higher_is_better=metric.higher_is_better, guess=guess)
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
