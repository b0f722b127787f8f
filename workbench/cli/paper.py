"""`workbench figures` and `workbench paper`: a run's figures and report redrawn, and in a journal's size."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import Run, words


def figures(
    run_folder: Run,
    only: Annotated[
        str, typer.Option("--only", help="Figures, separated by commas; an unknown name lists all. No report then.")
    ] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Write the figures here instead of into RUN.")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Every file by itself, with plotly.js in it (5 MB).")] = False,
) -> None:
    """Redraw the figures and the report of a run from its records, without a model."""
    from workbench.report import write_figures, write_report

    names = words(only)
    if names or out is not None or alone:
        paths = write_figures(run_folder, out, only=names, alone=alone)
    else:
        report = write_report(run_folder)
        paths = [*sorted((run_folder / "figures").glob("*.html")), report]
    typer.echo("\n".join(map(str, paths)) or f"{run_folder} holds nothing that these figures need")


def paper(
    run_folder: Run,
    out: Annotated[Path, typer.Option("--out", help="Folder for the figures.")] = Path("figures"),
    preset: Annotated[
        str | None, typer.Option("--preset", help="one-column or two-column; every figure's own by default.")
    ] = None,
) -> None:
    """Write a run's figures as PDF, SVG, PNG and HTML, its tables as CSV, LaTeX and Markdown, with a gallery."""
    from workbench.report import write_paper

    paths, obstacle = write_paper(run_folder, out, preset=preset)
    typer.echo("\n".join(str(path) for path in paths))
    if obstacle:
        typer.echo(obstacle, err=True)
