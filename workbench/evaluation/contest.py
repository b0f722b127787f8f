"""A whole comparison: tasks and data made ready, the plan, the cells, and the tables."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from workbench.evaluation.cells import CellKey, CellStore, open_store
from workbench.evaluation.damage import N_WRITTEN, openings
from workbench.evaluation.damage_table import damages
from workbench.evaluation.engine import facts_of, ground_of, run_cells
from workbench.evaluation.entrants import Contest, make_bench
from workbench.evaluation.metrics import NeutralText, Part
from workbench.evaluation.planning import Plan, make_plan
from workbench.evaluation.spec import Spec
from workbench.evaluation.tables import Cells, TaskTable, contrasts, curves, domain_counts, fronts, record_frame
from workbench.evaluation.tasks.base import FittingData
from workbench.evaluation.tasks.running import continuations
from workbench.models import HookedModel
from workbench.records import Contrast, Damage, Prompt, StrengthCurve, save_table

N_WARM = 2  # items that are scored before anything is timed
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
    facts = [facts_of(model, contest, spec, one) for contest, one in zip(contests, data, strict=True)]
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

    twins, kept = _twins(prepared), {}
    for contest, data in zip(prepared.contests, prepared.data, strict=True):
        name = contest.task.name
        grounds = kept.get(twins.get(name, name))
        if grounds is None:
            grounds = {seed: ground_of(bench, contest, data, seed) for seed in prepared.spec.seeds}
        if name in twins.values():
            kept[name] = grounds
        own = [key for key in prepared.plan.cells if key.task == name]
        run_cells(bench, contest, grounds, own, twin=twins.get(name, ""), on_cell=count)
    outcomes = tabulate(prepared, store)
    write_tables(outcomes, folder)
    return outcomes


def _twins(prepared: Prepared) -> dict[str, str]:
    """For every task that is fitted on the same data as an earlier one, that one: the same edits cost the same."""
    first: dict[tuple[FittingData, str], str] = {}
    names = [
        (contest.task.name, first.setdefault((data, contest.pooling), contest.task.name))
        for contest, data in zip(prepared.contests, prepared.data, strict=True)
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
    """How long all cells of a plan take: one pass of every kind, timed warm, times how often the plan asks for it.

    Timed are a score of the tuning items of every task, a pass over the neutral text, and the continuation of its
    openings. Good to a factor of about two: fitting is not reckoned with.
    """
    spec, model, plan = prepared.spec, prepared.model, prepared.plan
    chosen = [prompt.text for prompt in neutral][: spec.sizes.n_neutral]
    text = NeutralText(model, chosen, n_tokens=spec.sizes.n_neutral_tokens)
    none: list[Part] = [(None, 0.0)]

    def timed(work: Callable[[], object], *, warm: Callable[[], object]) -> float:
        warm()
        started = clock()
        work()
        return clock() - started

    total = plan.neutral_passes * timed(lambda: text.kl(none), warm=lambda: text.kl(none))
    if plan.writings:
        total += plan.writings * timed(
            lambda: continuations(model, openings(chosen), n_tokens=N_WRITTEN),
            warm=lambda: continuations(model, openings(chosen), n_tokens=1),
        )
    for contest in prepared.contests:
        task, n = contest.task, min(spec.sizes.n_tune, len(contest.task.items("tune")))
        score = timed(
            lambda task=task, n=n: task.score(model, "tune", n=n, seed=spec.seeds[0]),
            warm=lambda task=task: task.score(model, "tune", n=N_WARM, seed=spec.seeds[0]),
        )
        total += score / n * plan.items.get(task.name, 0.0)
    return total
