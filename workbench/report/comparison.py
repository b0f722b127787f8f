"""A comparison as one HTML page: the plan, the differences found, the figures and the tables, from its folder alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.figures import Drawing, Section, figure_fragment, share_plotly, write_page
from workbench.figures.comparison import excludes_zero
from workbench.figures.html import Table
from workbench.figures.style import number
from workbench.records import Contrast, Damage, describe
from workbench.report.study import blocks
from workbench.runs import Run

N_ROWS = 400  # rows of a table on the page; the CSV holds all
SECTIONS = (
    ("plan", "What was compared"),
    ("differences", "Summary of differences"),
    ("damage", "Effect against damage"),
    ("breakage", "What steering breaks"),
    ("arms", "All arms at one budget"),
    ("domains", "Domain by domain"),
    ("strengths", "Strengths and usable bands"),
    ("tables", "All contrasts"),
)
COLUMNS = (
    *("task", "arm", "metric", "budget", "level", "against", "setting", "strength", "kl", "effect", "low", "high", "q"),
    *("n", "verdict", "minimum_detectable_effect", "note"),
)


def write_comparison_page(run: Run, drawings: Sequence[Drawing], path: Path) -> Path:
    """Write the page of a comparison from its figures, drawn already, and its records and tables."""
    drawn: dict[str, list[Any]] = {}
    for one in drawings:
        drawn.setdefault(one.kind, []).append(figure_fragment(one.figure, name=one.name, caption=one.caption))
    lead, *sections = blocks("comparison.html.j2", ("lead", *(name for name, _ in SECTIONS)), _values(run, drawn))
    titles = zip(SECTIONS, sections, strict=True)
    present = [Section(name, title, body) for (name, title), body in titles if body.strip()]
    name = run.plan.get("name", run.folder.name)
    title = f"Comparison {name} on {run.model_name}"
    return write_page(path, title=title, lead=lead, sections=present, plotly=share_plotly(path.parent))


def _values(run: Run, drawn: dict[str, list[Any]]) -> dict[str, Any]:
    primary = run.primary
    different = sorted((one for one in primary if one.verdict in ("better", "worse")), key=lambda one: -abs(one.effect))
    matrix, reasons = _matrix(run.frame("applicability"))
    frames = {name: frame_table(run.frame(name), label) for name, label in (
        ("fronts", "Points on the front and hypervolume per arm"),
        ("domains", "Domains ahead and behind, with the sign test"),
        ("bands", "Usable bands of the strength"),
    )}  # fmt: skip
    rows = [tuple(_text(getattr(one, column)) for column in COLUMNS) for one in primary]
    return {
        "run": run,
        "drawn": drawn,
        "findings": findings(primary),
        "matrix": matrix,
        "reasons": reasons,
        "differences": {
            role: [describe(one) for one in different if one.role == role] for role in ("method", "control")
        },
        "n_undetected": sum(one.verdict == "no difference shown" for one in primary),
        "damage_tables": _damage_tables(run.damage if run.has("damage") else ()),
        "frames": frames,
        "contrasts": Table("Contrasts on the primary metric of every task", COLUMNS, rows[:N_ROWS]),
        "n_contrasts": len(rows),
    }


def findings(primary: Sequence[Contrast]) -> list[str]:
    """Per opponent, how many comparisons of methods show a difference."""
    methods = [one for one in primary if one.role == "method"]
    found = []
    for against in dict.fromkeys(one.against for one in methods):
        own = [one for one in methods if one.against == against]
        counts = [sum(one.verdict == word for one in own) for word in ("better", "worse", "no difference shown")]
        left = len(own) - sum(counts)
        missing = f" {left} could not be measured." if left else ""
        found.append(
            f"{counts[0]} of {len(own)} comparisons with {against} show a better method, {counts[1]} a worse one, "
            f"{counts[2]} no difference.{missing}"
        )
    return found


def _matrix(frame: pd.DataFrame) -> tuple[Table | None, list[str]]:
    """Which arm runs on which task, and the numbered reasons why one does not."""
    if frame.empty:
        return None, []
    status = {(str(row["task"]), str(row["arm"])): str(row["status"]) for row in frame.to_dict("records")}
    tasks, arms = (list(dict.fromkeys(str(item) for item in frame[name])) for name in ("task", "arm"))
    reasons = list(dict.fromkeys(text for text in status.values() if text != "runs"))
    marks = {text: f"n/a [{index}]" for index, text in enumerate(reasons, start=1)} | {"runs": "runs"}
    rows = [(arm, *(marks.get(status.get((task, arm), ""), "–") for task in tasks)) for arm in arms]
    return Table("Which arm runs on which task", ("arm", *tasks), rows), reasons


def _damage_tables(damages: Sequence[Damage]) -> list[Table]:
    """Per task one row per arm and budget and one column per measure: the change, marked where it is shown."""
    tables = []
    for task in dict.fromkeys(one.task for one in damages):
        own = [one for one in damages if one.task == task]
        measures = list(dict.fromkeys(one.measure for one in own))
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for one in own:
            at = "" if one.budget == "none" else f"{one.budget} {one.level:g}"
            change = f"{number(one.difference)}{' *' if excludes_zero(one) else ''}"
            rows.setdefault((one.arm, at), {})[one.measure] = change
        cells = [(*head, *(row.get(measure, "") for measure in measures)) for head, row in rows.items()]
        tables.append(Table(f"Damage on {task}", ("arm", "budget", *measures), cells))
    return tables


def frame_table(frame: pd.DataFrame, label: str) -> Table | None:
    """A data frame as a table of texts; None where it has no rows."""
    if frame.empty:
        return None
    rows = [tuple(_text(value) for value in row) for row in frame.itertuples(index=False)]
    return Table(label, tuple(map(str, frame.columns)), rows)


def _text(value: object) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return number(float(value)) if isinstance(value, int | float) else str(value)
