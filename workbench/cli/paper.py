"""`workbench paper`: the figures of a run in a journal's size."""

from pathlib import Path
from typing import Annotated

import typer


def paper(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the figures.")] = Path("figures"),
    preset: Annotated[
        str | None, typer.Option("--preset", help="one-column or two-column; every figure's own by default.")
    ] = None,
) -> None:
    """Write the paper's figures of a run as PDF, SVG, PNG, HTML and CSV, with a manifest and a gallery."""
    from workbench.report import write_paper

    paths, obstacle = write_paper(run_folder, out, preset=preset)
    typer.echo("\n".join(str(path) for path in paths))
    if obstacle:
        typer.echo(obstacle, err=True)
