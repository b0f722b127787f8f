"""`workbench mask`: what the model loses when single dimensions of the residual stream are masked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

    from workbench.dimensions.masking_records import CriticalityPlan
    from workbench.models import HookedModel
    from workbench.records import ChoiceItem, MaskingResult, MaskMode, Prompt, TokenSet
    from workbench.study import Settings

Stage = Callable[[str, int, int], None]
Say = Callable[[str], None]
Found = tuple[dict[str, "pd.DataFrame"], Callable[[Path], None]]  # tables by title, and how to save everything
N_ITEMS = 24
N_SPARED = 8


def mask(
    dimensions: Annotated[
        str | None, typer.Option("--dimensions", help="Mask these, such as 3,17 or 0-31; without it, rank them all.")
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="zero, mean (per position class), resample, or all.")] = "zero",
    path: Annotated[
        str, typer.Option("--path", help="Ranking: screened (gradients, then the best m) or full (mask every one).")
    ] = "screened",
    k: Annotated[int, typer.Option("--k", help="Top dimensions that the ranking is to hold.")] = 10,
    m: Annotated[int, typer.Option("--m", help="Screened: dimensions per domain that are masked exactly.")] = 32,
    passages: Annotated[int, typer.Option("--passages", help="Passages per domain, of identify and of test.")] = 24,
    masked_at: Annotated[
        str, typer.Option("--masked-at", help="all tokens, after the first token, or without high-norm tokens.")
    ] = "all tokens",
    counted_at: Annotated[
        str, typer.Option("--counted-at", help="Tokens whose predictions count: the same three choices.")
    ] = "all tokens",
    exam: Annotated[
        str, typer.Option("--exam", help="'builtin', a file of questions, or 'none'; accuracy under masking.")
    ] = "none",
    model: Annotated[str, typer.Option("--model", help="'builtin', 'planted', a folder, or a hub id.")] = "builtin",
    corpus: Annotated[str, typer.Option("--corpus", help="'builtin', a folder, a .jsonl file, or hf:...")] = "builtin",
    domains: Annotated[str | None, typer.Option("--domains", help="Domains of the corpus, or its path.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same tables.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts longer than the context.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Allow downloads from the hub.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for records and tables.")] = None,
) -> None:
    """Mask dimensions and measure the loss: of chosen ones, or rank all and test the top on held-out text."""
    from workbench.cli import jobs
    from workbench.study import Settings

    modes = read_modes(mode)
    source, names = jobs.source_and_domains(corpus, domains)
    settings = Settings(
        model, source, names, seed=seed, device=device, dtype=dtype, truncate=truncate, allow_download=download
    )
    sets = read_tokens(masked_at, "--masked-at"), read_tokens(counted_at, "--counted-at")
    plan = read_plan(path, modes, k=k, m=m, passages=passages, sets=sets)
    items = read_items(exam, settings)
    folder = None if out is None else check_folder(out)
    chosen = None if dimensions is None else read_dimensions(dimensions)
    _perform(settings, modes, plan, items, chosen, folder)


def _perform(
    settings: "Settings",
    modes: tuple["MaskMode", ...],
    plan: "CriticalityPlan",
    items: Sequence["ChoiceItem"],
    chosen: Sequence[int] | None,
    folder: Path | None,
) -> None:
    """Load passages and model, mask, print, and write into the folder if one is named."""
    from workbench.cli import output
    from workbench.study import load_passages, open_model

    load_passages(settings)  # a mistake in the corpus shows before the model is loaded
    output.no_other_bars()
    loaded = open_model(settings)
    check_dimensions(chosen or [], loaded.d_model)
    work = Work(loaded, load_passages(settings, loaded), modes, plan, settings)
    with output.progress_bars() as (stage, console):
        if chosen is None:
            tables, save = _experiment(work, items, stage, console.print)
        else:
            tables, save = _mask_chosen(work, chosen, stage, console.print)
    _print(tables)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        save(folder)
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


def read_tokens(text: str, option: str) -> "TokenSet":
    """The set of tokens that an option names."""
    from workbench.records import TOKEN_SETS

    for known in TOKEN_SETS:
        if known == text:
            return known
    raise ValueError(f"{option} {text!r} is no set of tokens; choose one of {', '.join(map(repr, TOKEN_SETS))}")


def read_plan(
    path: str,
    modes: Sequence["MaskMode"],
    *,
    k: int,
    m: int,
    passages: int,
    sets: tuple["TokenSet", "TokenSet"] = ("all tokens", "all tokens"),
) -> "CriticalityPlan":
    """The plan of an experiment: every asked mode ranks, and zero beside it; `sets` are masked and counted."""
    from workbench.dimensions.masking_records import CriticalityPlan

    if path not in ("screened", "full"):
        raise ValueError(f"unknown path {path!r}; choose screened or full")
    if k < 1 or m < 1:
        raise ValueError(f"k is {k} and m is {m}; at least 1 is needed")
    if passages < 2:
        raise ValueError(f"--passages is {passages}; at least 2 per domain are needed for an interval")
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
        n_spared=min(N_SPARED, passages) if path == "full" and set(sets) == {"all tokens"} else 0,
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


def read_items(exam: str, settings: "Settings") -> list["ChoiceItem"]:
    """The exam items asked for; raises where there is no exam for the model."""
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


def check_folder(out: Path) -> Path:
    """Raise unless `out` is free or an empty folder."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not an empty folder; name a new one with --out")
    return out


# --- work -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """The model and the passages, the modes asked for, and how much is to be done."""

    model: "HookedModel"
    prompts: Sequence["Prompt"]
    modes: tuple["MaskMode", ...]
    plan: "CriticalityPlan"
    settings: "Settings"


def _title(plan: "CriticalityPlan") -> str:
    title = "Rise of token loss on test (nats per token)"
    if plan.masked_at == plan.counted_at == "all tokens":
        return title
    return f"{title}; masked at {plan.masked_at}, losses of what is predicted at {plan.counted_at}"


def _mask_chosen(work: Work, dimensions: Sequence[int], stage: Stage, say: Say) -> Found:
    import pandas as pd

    from workbench.masking.experiment import sample_prompts
    from workbench.masking.measure import mask_dimensions
    from workbench.records import save_masking

    reference = sample_prompts(work.prompts, "identify", work.plan.n_identify)
    test = sample_prompts(work.prompts, "test", work.plan.n_test)
    say(_estimate(work, float(len(work.modes) * len(test) * (1 + len(dimensions)))))
    results = {
        mode: mask_dimensions(
            work.model,
            test,
            dimensions,
            mode=mode,
            masked_at=work.plan.masked_at,
            counted_at=work.plan.counted_at,
            reference=reference,
            seed=work.settings.seed,
            truncate=work.settings.truncate,
            progress=lambda done, total, mode=mode: stage(f"mask {mode}", done, total),
        )
        for mode in work.modes
    }
    table = pd.DataFrame([row for result in results.values() for row in chosen_rows(result)])

    def save(folder: Path) -> None:
        table.to_csv(folder / "drops.csv", index=False)
        for mode, result in results.items():
            save_masking(result, folder / f"test-{mode}.safetensors")

    return {_title(work.plan): table}, save


def chosen_rows(result: "MaskingResult") -> list[dict[str, str | int | float]]:
    """One row per domain and dimension: the mean rise over passages with its 95 % Student interval."""
    import numpy as np

    from workbench.dimensions.loss_increases import masked_domains, mean_interval

    rows: list[dict[str, str | int | float]] = []
    for domain in masked_domains(result):
        own = np.array(result.domains) == domain
        for index, dimension in enumerate(result.dimensions):
            rise, low, high = mean_interval(result.loss_increase[index, own])
            head = {"masked_to": result.mode, "domain": domain, "dimension": dimension}
            rows.append(head | {"rise": rise, "low": low, "high": high, "n": int(own.sum())})
    return rows


def _experiment(work: Work, items: Sequence["ChoiceItem"], stage: Stage, say: Say) -> Found:
    import pandas as pd

    from workbench.dimensions.masking_records import save_criticality
    from workbench.dimensions.masking_tables import criticality_tables, drop_table, exam_summary
    from workbench.masking.experiment import measure_criticality, planned_costs

    known = {prompt.domain for prompt in work.prompts}
    if items and not known & {item.domain for item in items}:
        raise ValueError(
            f"the exam has no item of the domains {', '.join(sorted(known))}; name a file whose subjects are these"
        )
    say(_estimate(work, sum(planned_costs(work.plan, work.prompts, items, work.model.d_model).values())))
    result = measure_criticality(
        work.model,
        work.prompts,
        items,
        plan=work.plan,
        seed=work.settings.seed,
        truncate=work.settings.truncate,
        progress=lambda done, total: stage("masking", done, total),
    )
    tables = {_title(work.plan): drop_table(result)}
    exam = pd.DataFrame(exam_summary(result))
    if not exam.empty:
        tables["Exam items of test, all domains together (fractions; log-odds in nats)"] = exam

    def save(folder: Path) -> None:
        save_criticality(result, folder / "records")
        for name, table in criticality_tables(result).items():
            table.to_csv(folder / f"{name}.csv", index=False)

    return tables, save


def _estimate(work: Work, n_passes: float) -> str:
    """Forward passes and, from a timed batch, about how long they take."""
    from workbench.costs import seconds_per_passage

    seconds = n_passes * seconds_per_passage(work.model, work.prompts, truncate=work.settings.truncate)
    minutes, rest = divmod(round(seconds), 60)
    return f"estimate: at most {n_passes:,.0f} forward passes, about {minutes} min {rest} s; Ctrl-C leaves nothing"
