"""`workbench mask-exam`: exam accuracy with single dimensions masked, as in the masking table of the CDS paper."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.comparison.masked_exam import MaskedAccuracy

N_SUBJECTS = 57  # of MMLU, for plans of a specification that names no subjects


def mask_exam(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="TOML file, such as specs/gemma-2-2b-it-masking.toml.")],
    model: Annotated[str, typer.Option("--model", help="Instead of the model of SPEC.")] = "",
    data: Annotated[str, typer.Option("--data", help="Instead of the questions of SPEC: a file, or hf:...")] = "",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.")] = "",
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Print passes, memory and time only; no weights needed.")
    ] = False,
    download: Annotated[bool, typer.Option("--download", help="Allow downloads from the hub.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; an unfinished one goes on.")] = None,
) -> None:
    """Mask dimensions one by one and measure the accuracy on an exam, with time and memory printed first."""
    from workbench.cli.compare import overridden_model, print_cost
    from workbench.cli.output import no_other_bars, progress_bars
    from workbench.comparison.catalogue import open_model, shape_of
    from workbench.comparison.masked_exam import measure_masked_exam, n_passes
    from workbench.comparison.spec import read_masking_spec
    from workbench.comparison.store import check_folder

    chosen = read_masking_spec(spec)
    one = overridden_model(chosen.model, model, device, dtype, download)
    chosen = dataclasses.replace(chosen, model=one, data=data or chosen.data)
    folder = out or Path("runs") / f"mask-exam-{chosen.name}"
    if not plan:
        check_folder(folder, chosen)
    shape = shape_of(chosen.model)
    n_subjects = len(chosen.subjects) or N_SUBJECTS
    passes = n_passes(chosen, shape.hidden_size, n_subjects)
    typer.echo(f"plan: {passes:,} questions in {n_subjects} subjects, masked and unmasked")
    print_cost(chosen.model, shape, float(passes * chosen.n_positions))
    if plan:
        return
    no_other_bars()
    loaded = open_model(chosen.model)
    with progress_bars() as (stage, _):
        rows = measure_masked_exam(loaded, chosen, folder, progress=lambda done, of: stage("subjects", done, of))
    _report(rows, folder, chosen.seed)


def _report(rows: "Sequence[MaskedAccuracy]", folder: Path, seed: int) -> None:
    """Write the rows of every subject and their summary, and print the summary."""
    from workbench.comparison.masked_exam import MaskedAccuracy, exam_table
    from workbench.comparison.tables import record_frame
    from workbench.records.tables import write_csv

    write_csv(record_frame(MaskedAccuracy, rows), folder / "subjects.csv")
    table = exam_table(rows, seed=seed)
    write_csv(table, folder / "table.csv")
    typer.echo(f"\n{table.to_string(index=False, float_format=lambda value: f'{value:.4f}')}\n\ntables: {folder}")
