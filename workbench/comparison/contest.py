"""A whole comparison: tasks and data made ready, the plan, the cells, and the tables."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from workbench.comparison.damage import N_ELSEWHERE, N_WRITTEN, openings
from workbench.comparison.damage_table import damages
from workbench.comparison.entrants import Bench, Contest, make_bench
from workbench.comparison.fitting import unmet
from workbench.comparison.plan import Plan, TaskFacts, arms_of_spec, make_plan, searched_layers
from workbench.comparison.run import N_TOGETHER, run_cells
from workbench.comparison.spec import Spec
from workbench.comparison.store import CellKey, CellStore, open_store
from workbench.comparison.tables import Cells, TaskTable, contrasts, curves, domain_counts, fronts, record_frame
from workbench.interventions import FitContext, FittingData
from workbench.models import HookedModel
from workbench.records import Contrast, Damage, Prompt, Split, StrengthCurve, save_table
from workbench.tasks.base import TaskError, check_subjects, score_parts
from workbench.tasks.metrics import NeutralText, Part
from workbench.tasks.scoring import continuations

N_TIMED = 5  # items of every task that are scored to see how long it takes
CellProgress = Callable[[int, int], None]  # (cells done, cells in all)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A comparison that is ready to run: every task with its fitting data, and the plan."""

    spec: Spec
    model: HookedModel
    contests: tuple[Contest, ...]
    data: tuple[FittingData, ...]
    plan: Plan


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The tables of a comparison; `frames` holds them by name, ready to be written as CSV."""

    contrasts: tuple[Contrast, ...]
    curves: tuple[StrengthCurve, ...]
    frames: dict[str, pd.DataFrame]
    damages: tuple[Damage, ...] = ()


def prepare(spec: Spec, model: HookedModel, contests: Sequence[Contest]) -> Prepared:
    """Take the fitting data of every task and lay out the cells; no arm is fitted or scored yet."""
    data = tuple(contest.task.fitting(model) for contest in contests)
    twins = _twins(contests, data)
    facts = [
        _facts_of(model, contest, spec, one, is_twin=contest.task.name in twins)
        for contest, one in zip(contests, data, strict=True)
    ]
    plan = make_plan(spec, facts, n_layers=model.n_layers, n_heads=model.n_layers * model.n_heads)
    return Prepared(spec, model, tuple(contests), data, plan)


def run_prepared(
    prepared: Prepared, folder: Path, neutral: Sequence[Prompt], *, progress: CellProgress | None = None
) -> Outcomes:
    """Run what is missing in the folder, then write its tables.

    Raises `CellError` where the folder belongs to another specification or to other weights.
    """
    store = open_store(folder, prepared.spec, prepared.model.fingerprint)
    bench = make_bench(prepared.model, prepared.spec, store, neutral)
    n_cells, n_done = len(prepared.plan.cells), 0

    def count(key: CellKey) -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done, n_cells)

    twins, kept = _twins(prepared.contests, prepared.data), {}
    for contest, data in zip(prepared.contests, prepared.data, strict=True):
        name = contest.task.name
        contexts = kept.get(twins.get(name, name))
        if contexts is None:
            contexts = {seed: _context_of(bench, contest, data, seed) for seed in prepared.spec.seeds}
        if name in twins.values():
            kept[name] = contexts
        own = [key for key in prepared.plan.cells if key.task == name]
        layers = searched_layers(prepared.spec.sizes, prepared.model.n_layers)
        run_cells(bench, contest, contexts, layers, own, twin=twins.get(name, ""), on_cell=count)
    outcomes = tabulate(prepared, store)
    write_tables(outcomes, folder)
    return outcomes


def _facts_of(
    model: HookedModel, contest: Contest, spec: Spec, data: FittingData, *, is_twin: bool = False
) -> TaskFacts:
    """Which arms can run on a task, and how much work it is; nothing is run. `is_twin`: as in `TaskFacts`.

    Raises `TaskError` where the task has no *tune* or *test* items, or those of a single subject.
    """
    splits: tuple[Split, ...] = ("tune", "test")
    items = {split: contest.task.items(split) for split in splits}
    for split in splits:
        check_subjects(contest.task.name, split, items[split])
    every = [item.prompt for chosen in items.values() for item in chosen]
    lengths = [len(model.tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in every]
    has_instruction = True
    try:
        contest.task.prompted()
    except TaskError:
        has_instruction = False
    reasons = {
        arm.name: unmet(arm, data, has_instruction=has_instruction, lengths=lengths) for arm in arms_of_spec(spec)
    }
    return TaskFacts(
        contest.task.name,
        reasons,
        len(items["tune"]),
        len(items["test"]),
        contest.n_positions,
        contest.n_new,
        n_elsewhere=N_ELSEWHERE * len(contest.others),
        n_fit=min(spec.sizes.n_fit, len(data.positive)),
        is_twin=is_twin,
    )


def _context_of(bench: Bench, contest: Contest, data: FittingData, seed: int) -> FitContext:
    """What all arms of a task are fitted on, with one seed."""
    sizes = bench.spec.sizes
    return FitContext(
        bench.model,
        data,
        seed=seed,
        pooling=contest.pooling,
        n_fit=sizes.n_fit,
        n_optimisation_prompts=sizes.n_optimisation_prompts,
        n_optimisation_steps=sizes.n_optimisation_steps,
    )


def _twins(contests: Sequence[Contest], data: Sequence[FittingData]) -> dict[str, str]:
    """For every task that is fitted on the same data as an earlier one, that one: the same edits cost the same."""
    first: dict[tuple[FittingData, str], str] = {}
    names = [
        (contest.task.name, first.setdefault((one, contest.pooling), contest.task.name))
        for contest, one in zip(contests, data, strict=True)
    ]
    return {name: twin for name, twin in names if name != twin}


def tabulate(prepared: Prepared, store: CellStore) -> Outcomes:
    """All tables of the finished cells; cells of the folder that the plan does not hold are left out."""
    wanted = set(prepared.plan.cells)
    cells = {key: results for key, results in store.all().items() if key in wanted}
    tasks = [TaskTable(one.task.name, one.domain, one.task.metrics) for one in prepared.contests]
    found = contrasts(cells, tasks, seed=prepared.spec.seeds[0])
    broken = damages(cells, tasks, seed=prepared.spec.seeds[0])
    drawn = curves(cells, tasks, limit=prepared.spec.budgets.kl_limit)
    matrix = prepared.plan.matrix
    rows = [(task, arm, reason or "runs") for task, reasons in matrix.items() for arm, reason in reasons.items()]
    frames = {
        "contrasts": record_frame(Contrast, found),
        "domains": domain_counts(found),
        "fronts": fronts(found),
        "damage": record_frame(Damage, broken),
        "bands": pd.DataFrame(
            [(one.task, one.arm, one.setting, one.low, one.high, one.n_evaluations, one.note) for one in drawn],
            columns=pd.Index(["task", "arm", "setting", "low", "high", "n_evaluations", "note"]),
        ),
        "applicability": pd.DataFrame(rows, columns=pd.Index(["task", "arm", "status"])),
        "settings": settings_frame(cells),
    }
    return Outcomes(tuple(found), tuple(drawn), frames, tuple(broken))


def settings_frame(cells: Cells) -> pd.DataFrame:
    """Every setting that was searched: strength, KL, size of the edit, score on *tune*."""
    names = ("strength", "kl", "reached", "in_norms", "in_sds", "n_coordinates", "tune", "note")
    keys = ("task", "arm", "draw", "setting", "budget", "level", "seed")
    rows = [
        [*(getattr(key, name) for name in keys), *(results.get(name) for name in names)]
        for key, results in sorted(cells.items())
        if key.stage == "search"
    ]
    return pd.DataFrame(rows, columns=pd.Index([*keys, *names]))


def write_tables(outcomes: Outcomes, folder: Path) -> None:
    """Write every table as CSV, and the records that figures are drawn from."""
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for name, frame in outcomes.frames.items():
        temporary = tables / f"{name}.tmp"
        frame.to_csv(temporary, index=False)
        temporary.replace(tables / f"{name}.csv")
    save_table(list(outcomes.contrasts), folder / "contrasts.json")
    save_table(list(outcomes.curves), folder / "curves.json")
    save_table(list(outcomes.damages), folder / "damage.json")


def seconds_of(
    prepared: Prepared, neutral: Sequence[Prompt], *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """How long all cells of a plan take: one pass of every kind, timed, times how often the plan asks for it.

    Passes are timed as they are run, several arms side by side: over the neutral text, the continuation of its
    openings, and per task a score of some tuning items and a pass over texts to fit on. Right to about a third.
    """
    spec, model, plan = prepared.spec, prepared.model, prepared.plan
    chosen = [prompt.text for prompt in neutral][: spec.sizes.n_neutral]
    text = NeutralText(model, chosen, n_tokens=spec.sizes.n_neutral_tokens)
    parts: list[Part] = [(None, 0.0)] * N_TOGETHER

    def timed(work: Callable[[], object]) -> float:
        started = clock()
        work()
        return (clock() - started) / N_TOGETHER

    text.kl(parts)  # warm
    total = plan.neutral_passes * timed(lambda: text.kl(parts))
    if plan.writings:
        total += plan.writings * timed(lambda: continuations(model, openings(chosen), parts, n_tokens=N_WRITTEN))
    for contest, data in zip(prepared.contests, prepared.data, strict=True):
        work, task = plan.work[contest.task.name], contest.task
        n = min(N_TIMED, spec.sizes.n_tune, len(task.items("tune")))
        texts = model.tokenize(data.positive[:N_TOGETHER], truncate=True)
        options = {"n": n, "seed": spec.seeds[0]}
        score = timed(lambda task=task, options=options: score_parts(task, model, "tune", parts, "all", **options))
        run = timed(lambda texts=texts: model.logits(texts))
        total += work.n_items * score / n + work.n_passes * run
    return total
