"""What a run shows: one HTML page, its figures one by one, and everything for a paper; read from its folder, no model.

A study, a comparison and a masked exam are read and drawn by the same functions (`workbench.runs.Run`,
`workbench.figures.FIGURES`); each figure is drawn once.
"""

from collections.abc import Collection
from pathlib import Path

from workbench.figures import Drawing, draw, share_plotly, write_figure
from workbench.report.comparison import write_comparison_page
from workbench.report.paper import write_gallery, write_paper
from workbench.report.study import write_study_page
from workbench.runs import Run

__all__ = ["write_figures", "write_gallery", "write_paper", "write_report"]


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run folder, and every figure into `figures/`; returns the path of the report.

    Parts that the folder does not hold are named in the text. Raises ValueError where it holds no record at all, and
    `FigureError` where a figure fails.
    """
    run = Run(Path(run_folder))
    drawings = draw(run)
    write_page = write_study_page if run.is_study or not run.has("contrasts") else write_comparison_page
    path = write_page(run, drawings, run.folder / "report.html")
    _write(drawings, run.folder / "figures", share_plotly(run.folder))
    return path


def write_figures(
    run_folder: str | Path, out: str | Path | None = None, *, only: Collection[str] = (), alone: bool = False
) -> list[Path]:
    """Write the figures of a run, or those of the kinds in `only`, as HTML into `out` (by default its `figures/`).

    They share one plotly.js in `assets/`, unless each is to be a file of its own (`alone`, 5 MB each).
    """
    run = Run(Path(run_folder))
    drawings = draw(run, only)
    folder = Path(out) if out is not None else run.folder / "figures"
    shared = None if alone else share_plotly(run.folder if out is None else folder)
    return _write(drawings, folder, shared)


def _write(drawings: list[Drawing], folder: Path, plotly: Path | None) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [write_figure(one.figure, folder / f"{one.name}.html", caption=one.caption, plotly=plotly)
            for one in drawings]  # fmt: skip
