"""A run for a paper: every figure in a journal's size with its data, tables for LaTeX and Markdown, and a gallery."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from workbench.environment import library_versions
from workbench.figures import Drawing, Section, draw, export_figures, figure_fragment, share_plotly, write_page
from workbench.figures.export import write_tables
from workbench.figures.journal import Preset
from workbench.records import folder_lock, write_whole
from workbench.report.study import blocks
from workbench.runs import Run

# Before the calls of the gallery.
PREAMBLE = """\
from pathlib import Path
from workbench.figures import *
from workbench.runs import Run

run = Run(Path("{folder}"))
"""
TABLES = ("dcds", "verdicts", "detectors", "primary", "damage")  # of a run, beside those behind the figures


def write_paper(
    run_folder: str | Path, out: str | Path, *, preset: str | Preset | None = None
) -> tuple[list[Path], str | None]:
    """Write the figures and tables of a study, a comparison or a masked exam into `out`, with a manifest and a gallery.

    Returns the paths, and one line on what to install where only HTML and tables could be written. Raises ValueError
    where there is nothing to draw, and `LockedError` where another process writes `out`.
    """
    run, out = Run(Path(run_folder)), Path(out)
    drawings = draw(run)
    if not drawings:
        raise ValueError(
            f"{run.folder} holds no records to draw; make a run with: workbench study or workbench compare"
        )
    tables = run_tables(run)
    with folder_lock(out):
        paths, obstacle = export_figures(drawings, out, _manifest(run), preset=preset)
        paths += [path for name, frame in tables.items() for path in write_tables(frame, out / "tables" / name)]
        gallery = write_gallery(drawings, run.folder, out / "gallery.html")
        return [*paths, gallery, _write_index(drawings, out)], obstacle


def run_tables(run: Run) -> dict[str, pd.DataFrame]:
    """The records of a run that papers print as tables, without what only pages show."""
    frames = {}
    for name in TABLES:
        if run.has(name) and getattr(run, name):
            frame = pd.DataFrame([vars(one) for one in getattr(run, name)])
            kept = [
                column for column in frame if not isinstance(frame[column].iloc[0], tuple | dict) and column != "rule"
            ]
            frames["contrasts" if name == "primary" else name] = frame[kept]
    if run.has("exam"):
        frames["exam"] = run.exam
    return frames


def write_gallery(drawings: Sequence[Drawing], run_folder: Path, path: Path) -> Path:
    """One page with all figures, each with its caption and the call that makes it."""
    preamble = PREAMBLE.format(folder=f"runs/{run_folder.resolve().name}")
    (lead,) = blocks("gallery.html.j2", ["lead"], {"preamble": preamble})
    code = Markup('<pre tabindex="0" role="region" aria-label="Call that makes {}"><code>{}</code></pre>')
    sections = [
        Section(
            drawing.name,
            drawing.name.replace("-", " ").capitalize(),
            code.format(drawing.name, drawing.call)
            + figure_fragment(drawing.figure, name=drawing.name, caption=drawing.caption),
        )
        for drawing in drawings
    ]
    return write_page(path, title="Gallery of figures", lead=lead, sections=sections, plotly=share_plotly(path.parent))


def _write_index(drawings: Sequence[Drawing], out: Path) -> Path:
    lines = ["# Figures", "", "Written by `make figures`; data, sizes and hashes stand in `manifest.json`.", ""]
    for drawing in drawings:
        lines += [f"## {drawing.name}", "", f"![{drawing.caption}]({drawing.name}.png)", "", drawing.caption, ""]
        lines += [f"`{drawing.call}`", ""]
    path = out / "README.md"
    write_whole(path, "\n".join(lines))
    return path


def _manifest(run: Run) -> dict[str, Any]:
    """What the figures were drawn from and with; no path of this machine."""
    kept = ("written", "preset", "settings", "seeds", "model", "data", "versions")
    folder = run.folder / "records" if run.is_study else run.folder
    files = sorted(folder.rglob("*")) if run.is_study else sorted([*folder.glob("*.json"), *folder.glob("*.csv")])
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }
    said = run.manifest or {"plan": run.plan}
    return {
        "run": {name: said[name] for name in (*kept, "plan") if name in said},
        "records": hashes,
        "drawn_with": library_versions(),
    }
