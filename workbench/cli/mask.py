"""`workbench mask` and `workbench mask-exam`: what the model loses when single residual dimensions are masked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workbench.cli.options import MOST, PlanOnly, RunFolder, SpecFile, SpecOptions, TextOptions, check_file
from workbench.records import TokenSet

if TYPE_CHECKING:
    import pandas as pd

    from workbench.comparison.spec import MaskingSpec
    from workbench.costs import PassKind
    from workbench.masking.exam import MaskedAccuracy
    from workbench.masking.tables import CriticalityPlan
    from workbench.models import HookedModel
    from workbench.records import ChoiceItem, MaskingResult, MaskMode, Prompt
    from workbench.study import Settings

RankingPath = Literal["screened", "full"]
Stage = Callable[[str, int, int], None]
Say = Callable[[str], None]
Found = tuple[dict[str, "pd.DataFrame"], Callable[[Path], None]]  # tables by title, and how to save everything
N_ITEMS = 24
EXAM_TITLE = "Exam items of test (fractions; log-odds in nats)"
N_EXCLUDING_SINKS = 8
N_SUBJECTS = 57  # of MMLU, for plans of a specification that names no subjects


def check_folder(out: Path | None) -> Path | None:
    """Raise unless `out` is free or an empty folder."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder; name a new one with --out")
    return check_file(out)


def mask(
    options: TextOptions,
    dimensions: Annotated[
        str | None, typer.Option("--dimensions", help="Mask these, such as 3,17 or 0-31; without it, rank them all.")
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="zero, mean (per position class), resample, or all.")] = "zero",
    path: Annotated[
        RankingPath,
        typer.Option("--path", help="Ranking: screened (gradients, then the best m) or full (mask every one)."),
    ] = "screened",
    k: Annotated[int, typer.Option("--k", min=1, max=MOST, help="Top dimensions that the ranking is to hold.")] = 10,
    m: Annotated[
        int, typer.Option("--m", min=1, max=MOST, help="Screened: dimensions per domain that are masked exactly.")
    ] = 32,
    passages: Annotated[
        int, typer.Option("--passages", min=2, max=MOST, help="Passages per domain, of identify and of test.")
    ] = 24,
    masked_at: Annotated[TokenSet, typer.Option("--masked-at", help="Tokens that are masked.")] = "all tokens",
    counted_at: Annotated[
        TokenSet, typer.Option("--counted-at", help="Tokens whose predictions count.")
    ] = "all tokens",
    exam: Annotated[
        str, typer.Option("--exam", help="'builtin', a file of questions, or 'none'; accuracy under masking.")
    ] = "none",
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for records and tables.", callback=check_folder)
    ] = None,
) -> None:
    """Mask dimensions and measure the loss: of chosen ones, or rank all and test the top on held-out text."""
    modes = read_modes(mode)
    chosen = None if dimensions is None else read_dimensions(dimensions)
    settings = options.settings()
    questions = read_questions(exam, settings)
    plan = read_plan(path, modes, k=k, m=m, passages=passages, sets=(masked_at, counted_at))
    _perform(settings, modes, plan, (exam, questions), chosen, out)


def _perform(
    settings: "Settings",
    modes: tuple["MaskMode", ...],
    plan: "CriticalityPlan",
    exam: "tuple[str, Sequence[ChoiceItem]]",
    chosen: Sequence[int] | None,
    folder: Path | None,
) -> None:
    """Load passages and model, mask, print, and write into the folder if one is named."""
    from workbench.cli import output
    from workbench.runs import new_run_folder
    from workbench.study import load_passages, open_model

    output.no_other_bars()
    loaded = open_model(settings)
    check_dimensions(chosen or [], loaded.d_model)
    work = Work(loaded, load_passages(settings, loaded), exam_of(loaded, *exam), modes, plan, settings)
    with output.progress_bars() as (stage, console):
        if chosen is None:
            tables, save = _experiment(work, stage, console.print)
        else:
            tables, save = _mask_chosen(work, chosen, stage, console.print)
    _print(tables)
    if folder is not None:
        with new_run_folder(folder) as unfinished:
            save(unfinished)
        typer.echo(f"\nrecords and tables: {folder}")


def _print(tables: Mapping[str, "pd.DataFrame"]) -> None:
    for title, table in tables.items():
        typer.echo(f"\n{title}\n{table.to_string(index=False, float_format=lambda value: f'{value:+.4f}')}")


# --- options ----------------------------------------------------------------------------------------------------------


def read_modes(text: str) -> tuple["MaskMode", ...]:
    """The mask modes of an option; zero always among them where all are asked for."""
    from workbench.records import MASK_MODES

    if text == "all":
        return MASK_MODES
    for mode in MASK_MODES:
        if mode == text:
            return (mode,)
    raise ValueError(f"unknown mask mode {text!r}; choose one of {', '.join(MASK_MODES)}, or all")


def read_plan(
    path: RankingPath,
    modes: Sequence["MaskMode"],
    *,
    k: int,
    m: int,
    passages: int,
    sets: tuple[TokenSet, TokenSet] = ("all tokens", "all tokens"),
) -> "CriticalityPlan":
    """The plan of an experiment: every asked mode ranks, and zero beside it; `sets` are masked and counted."""
    from workbench.masking.tables import CriticalityPlan

    wanted = tuple(dict.fromkeys(("zero", *modes)))
    return CriticalityPlan(
        path,
        modes=wanted,
        ranked=wanted,
        exhaustive=wanted if path == "full" else (),
        n_identify=passages,
        n_test=passages,
        n_items=N_ITEMS,
        k=k,
        m=m,
        n_excluding_sinks=min(N_EXCLUDING_SINKS, passages) if path == "full" and set(sets) == {"all tokens"} else 0,
        masked_at=sets[0],
        counted_at=sets[1],
    )


def read_dimensions(text: str) -> list[int]:
    """Numbers and ranges separated by commas, such as `3,17,40-47`, in order and each once."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ValueError(f"cannot read dimensions {text!r}; expected numbers and ranges such as 3,17,40-47")
        if last and int(last) < int(first):
            raise ValueError(f"range {part.strip()} of --dimensions is empty; give the smaller number first")
        found += range(int(first), int(last or first) + 1)
    return sorted(set(found))


def check_dimensions(dimensions: Sequence[int], d_model: int) -> None:
    """Raise where one is no dimension of the model."""
    wrong = [dimension for dimension in dimensions if dimension >= d_model]
    if wrong:
        raise ValueError(f"dimension {wrong[0]} is out of range; this model has 0 to {d_model - 1}")


def read_questions(exam: str, settings: "Settings") -> list["ChoiceItem"]:
    """The questions asked for, before the model is loaded; raises where there is no exam for the model."""
    from workbench.study.settings import exam_items
    from workbench.tasks.loaders import load_questions

    if exam == "none":
        return []
    if exam != "builtin":
        return load_questions(exam)
    items = exam_items(settings)
    if not items:
        raise ValueError(
            f"there is no exam for model {settings.model!r}: the built-in one is in the built-in model's chat format; "
            "name a file of questions with --exam FILE"
        )
    return items


def exam_of(model: "HookedModel", exam: str, questions: Sequence["ChoiceItem"]) -> list["ChoiceItem"]:
    """The exam as it is put to a model: questions of a file in its chat format, built-in ones as they stand."""
    from workbench.masking.measure import choice_items
    from workbench.tasks.files import exam_task

    if exam in ("none", "builtin"):
        return list(questions)
    return choice_items(exam_task(model, questions, "").item_set.items)


# --- work -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The model, the passages and the exam, the modes asked for, and how much is to be done."""

    model: "HookedModel"
    prompts: Sequence["Prompt"]
    items: Sequence["ChoiceItem"]
    modes: tuple["MaskMode", ...]
    plan: "CriticalityPlan"
    settings: "Settings"


def _title(plan: "CriticalityPlan") -> str:
    title = "Increase of token loss on test (nats per token)"
    if plan.masked_at == plan.counted_at == "all tokens":
        return title
    return f"{title}; masked at {plan.masked_at}, losses of what is predicted at {plan.counted_at}"


def _mask_chosen(work: Work, dimensions: Sequence[int], stage: Stage, say: Say) -> Found:
    import pandas as pd

    from workbench.dimensions.masking import choice_frame
    from workbench.masking.experiment import exam_passages, sample_prompts
    from workbench.masking.measure import mask_choices, mask_dimensions
    from workbench.records import save_record

    reference = sample_prompts(work.prompts, "identify", work.plan.n_identify)
    test = sample_prompts(work.prompts, "test", work.plan.n_test)
    items = _test_items(work)
    say(_estimate(work, {"masked": len(work.modes) * (1 + len(dimensions)) * (len(test) + exam_passages(items))}))
    options: dict[str, Any] = {"reference": reference, "seed": work.settings.seed}
    losses, exams = {}, {}
    for mode in work.modes:
        losses[mode] = mask_dimensions(
            work.model,
            test,
            dimensions,
            mode=mode,
            masked_at=work.plan.masked_at,
            counted_at=work.plan.counted_at,
            truncate=work.settings.truncate,
            progress=lambda done, total, mode=mode: stage(f"mask {mode}", done, total),
            **options,
        )
        if items:
            bar = lambda done, total, mode=mode: stage(f"exam {mode}", done, total)  # noqa: E731
            exams[mode] = mask_choices(work.model, items, dimensions, mode=mode, progress=bar, **options)
    tables = {_title(work.plan): pd.DataFrame([row for result in losses.values() for row in chosen_rows(result)])}
    if exams:
        frames = [choice_frame(result).assign(masked_to=mode) for mode, result in exams.items()]
        tables[EXAM_TITLE] = pd.concat(frames, ignore_index=True)

    def save(folder: Path) -> None:
        from workbench.records.tables import write_csv

        for name, table in zip(("loss_increases", "exam"), tables.values(), strict=False):
            write_csv(table, folder / f"{name}.csv")
        for mode, result in losses.items():
            save_record(result, folder / f"test-{mode}.safetensors")
        for mode, result in exams.items():
            save_record(result, folder / f"exam-{mode}.safetensors")

    return tables, save


def _test_items(work: Work) -> list["ChoiceItem"]:
    """The first items of *test* of every subject."""
    from workbench.masking.experiment import sample_items

    return sample_items(work.items, dict.fromkeys(item.domain for item in work.items), work.plan.n_items)


def chosen_rows(result: "MaskingResult") -> list[dict[str, str | int | float]]:
    """One row per domain and dimension: the mean loss increase over passages with its 95 % Student interval."""
    import numpy as np

    from workbench.dimensions.masking import masked_domains, mean_interval

    rows: list[dict[str, str | int | float]] = []
    for domain in masked_domains(result):
        of_domain = np.array(result.domains) == domain
        for index, dimension in enumerate(result.dimensions):
            mean, low, high = mean_interval(result.loss_increase[index, of_domain])
            head = {"masked_to": result.mode, "domain": domain, "dimension": dimension}
            rows.append(head | {"loss_increase": mean, "low": low, "high": high, "n": int(of_domain.sum())})
    return rows


def _experiment(work: Work, stage: Stage, say: Say) -> Found:
    import pandas as pd

    from workbench.costs import masking_passages
    from workbench.masking.experiment import measure_criticality, planned_costs
    from workbench.masking.tables import criticality_tables, exam_summary, loss_increase_table, save_criticality

    known = {prompt.domain for prompt in work.prompts}
    if work.items and not known & {item.domain for item in work.items}:
        raise ValueError(
            f"the exam has no item of the domains {', '.join(sorted(known))}; name a file whose subjects are these, or "
            "the dimensions to mask with --dimensions"
        )
    say(_estimate(work, masking_passages(planned_costs(work.plan, work.prompts, work.items, work.model.d_model))))
    result = measure_criticality(
        work.model,
        work.prompts,
        work.items,
        plan=work.plan,
        seed=work.settings.seed,
        truncate=work.settings.truncate,
        progress=lambda done, total: stage("masking", done, total),
    )
    tables = {_title(work.plan): loss_increase_table(result)}
    exam = pd.DataFrame(exam_summary(result))
    if not exam.empty:
        tables[EXAM_TITLE] = exam

    def save(folder: Path) -> None:
        from workbench.records.tables import write_csv

        save_criticality(result, folder / "records")
        for name, table in criticality_tables(result).items():
            write_csv(table, folder / f"{name}.csv")

    return tables, save


def _estimate(work: Work, passages: Mapping["PassKind", float]) -> str:
    """Forward passes and, from timed ones, about how long they take."""
    from workbench.cli.compare import duration
    from workbench.costs import seconds_of

    seconds = seconds_of(work.model, work.prompts, passages, truncate=work.settings.truncate)
    n_passes = sum(passages.values())
    return (
        f"estimate: at most {n_passes:,.0f} forward passes, about {duration(seconds)}; nothing is written on interrupt"
    )


# --- the exam of a specification --------------------------------------------------------------------------------------


def mask_exam(
    spec: SpecFile,
    options: SpecOptions,
    data: Annotated[str, typer.Option("--data", help="Instead of the questions of SPEC: a file, or hf:...")] = "",
    plan: PlanOnly = False,
    out: RunFolder = None,
) -> None:
    """Mask dimensions one by one and measure the accuracy on an exam, with time and memory printed first."""
    from workbench.cli.compare import overridden_model, print_cost
    from workbench.comparison.plan import shape_of
    from workbench.comparison.spec import read_masking_spec
    from workbench.comparison.store import check_folder
    from workbench.masking.exam import n_questions

    read = read_masking_spec(spec)
    source = overridden_model(read.model, options)
    chosen = replace(read, model=source, data=data or read.data)
    folder = out or Path("runs") / f"mask-exam-{chosen.name}"
    if not plan:
        check_folder(folder, chosen)
    shape = shape_of(source)
    n_subjects = len(chosen.subjects) or N_SUBJECTS
    sizes: dict[str, Any] = {name: getattr(chosen, name) for name in ("n_candidates", "n_identify", "n_test")}
    n_masked = len(chosen.ranks) + len(chosen.dimensions) + chosen.n_random
    passes = n_questions(shape.hidden_size, n_subjects, n_masked=n_masked, **sizes)
    typer.echo(f"plan: {passes:,} questions in {n_subjects} subjects, masked and unmasked")
    print_cost(source, shape, float(passes * chosen.n_positions))
    if plan:
        return
    _perform_exam(chosen, folder, sizes)


def _perform_exam(spec: "MaskingSpec", folder: Path, sizes: dict[str, Any]) -> None:
    """Run the subjects that the folder does not hold yet, and write and print their table."""
    from workbench.cli.output import no_other_bars, progress_bars
    from workbench.comparison.api import open_model
    from workbench.comparison.store import open_store
    from workbench.masking.exam import measure_masked_exam
    from workbench.records import folder_lock, save_table
    from workbench.tasks.files import exam_task
    from workbench.tasks.loaders import load_questions

    no_other_bars()
    loaded = open_model(spec.model)
    questions = load_questions(
        spec.data, subjects=spec.subjects or None, seed=spec.seed, allow_download=spec.model.download
    )
    tasks = {subject: exam_task(loaded, questions, subject) for subject in dict.fromkeys(q.domain for q in questions)}
    sizes |= {"ranks": spec.ranks, "dimensions": spec.dimensions, "n_random": spec.n_random, "seed": spec.seed}
    open_store(folder, spec, loaded.fingerprint)
    finished = _finished(folder / "subjects")
    with folder_lock(folder), progress_bars() as (stage, _):

        def keep(subject: str, rows: "list[MaskedAccuracy]") -> None:
            finished[subject] = rows
            name = "".join(sign if sign.isalnum() else "_" for sign in subject)
            name = f"{list(tasks).index(subject):03d}-{name}"
            save_table(rows, folder / "subjects" / f"{name}.json")
            stage("subjects", len(finished), len(tasks))

        rows = measure_masked_exam(loaded, tasks, finished=dict(finished), on_subject=keep, **sizes)
    _report(rows, folder, spec.seed)


def _finished(folder: Path) -> "dict[str, list[MaskedAccuracy]]":
    """The rows of the subjects that a run folder holds: one file each, written whole or not at all."""
    from workbench.masking.exam import MaskedAccuracy
    from workbench.records import load_table

    folder.mkdir(exist_ok=True)
    files = [load_table(path, MaskedAccuracy) for path in sorted(folder.glob("*.json"))]
    return {rows[0].subject: rows for rows in files}


def _report(rows: "Sequence[MaskedAccuracy]", folder: Path, seed: int) -> None:
    """Write the rows of every subject and their summary, and print the summary."""
    import pandas as pd

    from workbench.masking.exam import masked_exam_table
    from workbench.records.tables import write_csv

    write_csv(pd.DataFrame([asdict(row) for row in rows]), folder / "subjects.csv")
    table = masked_exam_table(rows, seed=seed)
    write_csv(table, folder / "table.csv")
    _print({"Accuracy with one dimension masked, means over subjects": table})
    typer.echo(f"\ntables: {folder}")
