"""`workbench study`, `find`, `label` and `doctor`. Heavy imports stand inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import K, Quick, SelectionName, Table, TextOptions, check_file


def study(
    options: TextOptions,
    k: K = 8,
    quick: Quick = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.", callback=check_file)] = Path("runs/study"),
) -> None:
    """The main job: find, label and steer, and write a run folder with a report."""
    from workbench.runs import check_output

    check_output(out)
    from workbench.cli import output
    from workbench.runs import read_run
    from workbench.study import perform

    settings = options.settings(k=k, preset="quick" if quick else "full")
    with output.progress_bars() as (stage, console):
        perform(
            settings, out, progress=stage, on_estimate=lambda estimate: console.print(output.estimate_line(estimate))
        )
    finished = read_run(out)
    output.print_overview(finished.dcds)
    output.print_detectors(finished.detectors)
    output.print_effects(finished.contrasts)
    typer.echo(f"tables: {out / 'tables'}\nreport: {out / 'report.html'}")


def find(options: TextOptions, k: K = 8, selection: SelectionName = "magnitude", out: Table = None) -> None:
    """Find the domain-critical dimensions (DCDs) of every domain."""
    from workbench.cli import jobs, output
    from workbench.dimensions import dcd_frame

    with output.progress_bars() as (stage, _):
        found = jobs.find(options.settings(k=k), selection, stage)
    output.print_dcds(found.dcds, selection)
    jobs.write_table(dcd_frame(found.dcds), out)


def label(options: TextOptions, k: K = 8, selection: SelectionName = "magnitude", out: Table = None) -> None:
    """Label the DCDs by the words that fire them, scored on held-out documents."""
    from workbench import study
    from workbench.cli import jobs, output
    from workbench.dimensions.detectors import detector_frame

    settings = options.settings(k=k)
    with output.progress_bars() as (stage, _):
        found = jobs.find(settings, selection, stage)
        detectors = study.label(found.model, found.prompts, found.statistics, found.dcds, settings, stage)
    output.print_detectors(detectors)
    jobs.write_table(detector_frame(detectors), out)


def doctor(
    architectures: Annotated[bool, typer.Option("--architectures", help="List the supported architectures.")] = False,
) -> None:
    """Check the installation: versions, device, built-in model, cache, figure export."""
    from workbench.cli.jobs import builtin_model_check
    from workbench.cli.output import no_other_bars
    from workbench.environment import environment_checks

    if architectures:
        from workbench.models.listing import supported_families

        typer.echo("\n".join(supported_families()))
        return
    no_other_bars()
    checks = [*environment_checks(), builtin_model_check()]
    for check in checks:
        mark = "ok  " if check.is_ok else "FAIL" if check.needed else "-   "
        typer.echo(f"{mark} {check.name}: {check.detail}")
    if not all(check.is_ok for check in checks if check.needed):
        raise typer.Exit(1)


def models() -> None:
    """List the models that can be used here without a download."""
    from workbench.models.listing import available_models

    listed = available_models()
    width = max(len(model.name) for model in listed)
    for model in listed:
        typer.echo(f"{'ok' if model.is_ready else '-':4}{model.name:{width}}  {model.detail}")
    typer.echo("A folder, a GGUF file or an adapter folder can be named by its path instead.")
