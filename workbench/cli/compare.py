"""`workbench compare`: the matrix and the plan first, then cells that survive an interruption, tables and a report."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import PlanOnly, Quick, RunFolder, SpecOptions, words
from workbench.cli.terminal import drawn_on, plain

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.comparison.plan import Plan
    from workbench.comparison.run import Run
    from workbench.comparison.spec import ModelShape, ModelSpec, Spec, TaskSpec

N_PRINTED = 24  # printed at the end; the tables hold all


def compare(
    options: SpecOptions,
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", exists=True, dir_okay=False, help="TOML file; see specs/ for examples."),
    ] = None,
    methods: Annotated[str, typer.Option("--methods", help="Without SPEC: methods, separated by commas.")] = "",
    tasks: Annotated[
        str, typer.Option("--tasks", help="Without SPEC: tasks, separated by commas: KIND, KIND:ABOUT or KIND=FILE.")
    ] = "",
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, max=2**32 - 1, help="Instead of the seeds of SPEC.")
    ] = None,
    out: RunFolder = None,
    quick: Quick = False,
    plan: PlanOnly = False,
) -> None:
    """Compare steering methods and controls on tasks, at budgets fixed beforehand."""
    from workbench.cli.output import no_other_bars
    from workbench.comparison.api import prepare_spec
    from workbench.comparison.plan import plan_without_weights
    from workbench.comparison.store import check_folder

    whole = _overridden(_read(spec, methods, tasks), options, seed)
    chosen = whole.quick() if quick else whole
    if plan:
        made, shape = plan_without_weights(chosen)
        print_plan(made, whole, chosen)
        print_cost(chosen.model, shape, made.n_positions, made.n_generated)
        return
    no_other_bars()
    folder = out or Path("runs") / f"compare-{chosen.name}"
    check_folder(folder, chosen)
    run = prepare_spec(chosen)
    check_folder(folder, chosen, run.model.fingerprint)
    print_plan(run.plan, whole, chosen)
    _run(run, folder)


def _read(spec: Path | None, methods: str, tasks: str) -> "Spec":
    from workbench.comparison.api import task_entry
    from workbench.comparison.spec import SpecError, read_spec, spec_from

    if spec is not None:
        if methods or tasks:
            raise SpecError("SPEC names the methods and tasks; leave --methods and --tasks out, or leave SPEC out")
        return read_spec(spec)
    if not methods or not tasks:
        raise SpecError("name a SPEC file, or both --methods and --tasks")
    content = {
        "name": "command-line",
        "methods": words(methods),
        "tasks": [_given(task_entry(task)) for task in words(tasks)],
    }
    return spec_from(content, "command line")


def _given(entry: "TaskSpec") -> dict[str, object]:
    """What a task entry says, without what it leaves open."""
    return {name: value for name, value in vars(entry).items() if value not in ("", (), "builtin")}


def _overridden(spec: "Spec", options: SpecOptions, seed: int | None) -> "Spec":
    model = overridden_model(spec.model, options)
    return dataclasses.replace(spec, model=model, seeds=spec.seeds if seed is None else (seed,))


def overridden_model(spec: "ModelSpec", options: SpecOptions) -> "ModelSpec":
    """The model of a specification, with what options say instead."""
    names = ("device", "dtype", "attention", "bos", "shown_as")
    given = {"name": options.model, **{name: getattr(options, name) for name in names}}
    changed = {name: value for name, value in given.items() if value}
    model = dataclasses.replace(spec, **changed, download=spec.download or options.download)
    return dataclasses.replace(model, shape=None, revision="") if options.model else model


def _run(run: "Run", folder: Path) -> None:
    from workbench.cli.output import progress_bars
    from workbench.comparison.run import run_comparison, seconds_of
    from workbench.corpus import neutral_prompts
    from workbench.report import write_report

    with progress_bars() as (stage, console):
        neutral = neutral_prompts()
        seconds = seconds_of(run, neutral)
        console.print(
            f"estimate: about {duration(seconds)} if nothing is finished yet; an interrupt keeps finished cells"
        )
        outcomes = run_comparison(run, folder, neutral, progress=lambda done, total: stage("cells", done, total))
    page = write_report(folder)
    print_differences(outcomes.contrasts)
    typer.echo(f"\nreport: {page}\ntables: {folder / 'tables'}")


def duration(seconds: float) -> str:
    """Seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# --- what is printed --------------------------------------------------------------------------------------------------


def print_plan(plan: "Plan", whole: "Spec", chosen: "Spec") -> None:
    """The applicability matrix with its reasons, how much there is to do, and what a quick run leaves out."""
    from rich.table import Table
    from rich.text import Text

    from workbench.comparison.spec import left_out

    matrix = _grouped(plan)
    reasons = list(dict.fromkeys(reason for row in matrix.values() for reason in row.values() if reason))
    table = Table(title="Which arm runs on which task", title_justify="left")
    table.add_column("arm", no_wrap=True)
    for task in matrix:
        table.add_column(Text(plain(task)), overflow="fold")
    for arm in next(iter(matrix.values())):
        marks = [row[arm] for row in matrix.values()]
        table.add_row(
            Text(plain(arm)), *(Text(f"n/a ({reasons.index(mark) + 1})" if mark else "runs") for mark in marks)
        )
    console = _console()
    console.print(table)
    for index, reason in enumerate(reasons, start=1):
        console.print(f"n/a ({index}) because {plain(reason)}", markup=False, highlight=False)
    layers = ", ".join(map(str, plan.layers))
    typer.echo(
        f"plan: {len(plan.cells)} cells, layers {layers}; {plan.n_positions:,.0f} token positions and "
        f"{plan.n_generated:,.0f} generated tokens"
    )
    if chosen != whole:
        typer.echo(f"quick: {left_out(whole, chosen)}")


def _grouped(plan: "Plan") -> dict[str, dict[str, str]]:
    """The matrix with tasks of one kind that treat all arms alike as one column."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for task, row in plan.matrix.items():
        groups.setdefault((task.split("/")[0], tuple(row.values())), []).append(task)
    arms = list(next(iter(plan.matrix.values())))
    return {
        tasks[0] if len(tasks) == 1 else f"{kind} ({len(tasks)} tasks)": dict(zip(arms, marks, strict=True))
        for (kind, marks), tasks in groups.items()
    }


def print_cost(model: "ModelSpec", shape: "ModelShape", n_positions: float, n_generated: float = 0.0) -> None:
    """Memory and time from the shape of a model, without its weights."""
    from workbench.comparison.plan import memory_bytes, seconds_from_shape

    parts = memory_bytes(shape, model.dtype, n_positions=512)
    held = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
    seconds = seconds_from_shape(shape, model.teraflops, n_positions, n_generated)
    where = f"device_map {model.device_map!r}" if model.device_map else model.device
    typer.echo(f"model: {model.name}, {shape.n_parameters / 1e9:.3g} B weights, {model.dtype}, {where}")
    typer.echo(f"memory: about {sum(parts.values()) / 2**30:.1f} GiB ({held})")
    typer.echo(
        f"time: about {duration(seconds)} if the device sustains {model.teraflops:g} TFLOP/s (an assumption, "
        "model.teraflops); right to an order of magnitude"
    )


def print_differences(contrasts: Sequence[object]) -> None:
    """The differences that were shown, methods first, and how many comparisons show none."""
    from workbench.records import Contrast, describe

    own = [one for one in contrasts if isinstance(one, Contrast) and one.is_primary]
    shown = sorted((one for one in own if one.verdict in ("better", "worse")), key=lambda one: one.role != "method")
    for one in shown[:N_PRINTED]:
        typer.echo(describe(one))
    if len(shown) > N_PRINTED:
        typer.echo(f"... and {len(shown) - N_PRINTED} more")
    counts = {word: sum(one.verdict == word for one in own) for word in ("no difference shown", "not measured")}
    typer.echo(f"{len(shown)} differences shown; " + ", ".join(f"{count} {word}" for word, count in counts.items()))


def _console() -> "Console":
    from rich.console import Console

    from workbench.cli.output import PLAIN_WIDTH

    console = Console(file=drawn_on(sys.stdout))
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
