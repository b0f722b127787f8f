"""Figures as files for a paper: PDF, SVG and PNG in a journal's size, HTML to explore, CSV with what is drawn."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.io import write_images

from workbench.figures.html import figure_title, share_plotly, write_figure
from workbench.figures.journal import PIXELS_PER_MM, Preset, journal_figure, preset_named, size_of
from workbench.figures.style import number
from workbench.records import write_whole
from workbench.records.tables import write_csv

VECTOR_AND_RASTER = ("pdf", "svg", "png")
DOTS_PER_INCH = 300
MAX_TABLE_ROWS = 100  # of a table for LaTeX and Markdown; the CSV holds all


@dataclass(frozen=True)
class Drawing:
    """A figure ready to be written: `name` is its file name, `call` the Python that makes it, `preset` its column.

    `kind` is its entry in the catalogue.
    """

    name: str
    figure: go.Figure
    caption: str
    call: str
    preset: str = "two-column"
    kind: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(f"figure name {self.name!r} is no file name; use small letters, digits and single hyphens")
        preset_named(self.preset)


def export_obstacle() -> str | None:
    """What has to be installed before PDF, SVG and PNG can be written, as one line; None where nothing is missing."""
    missing = []
    if find_spec("kaleido") is None:
        missing.append("pip install 'dcd-workbench[export]'")
        is_browser_there = True
    else:
        from choreographer.browsers.chromium import Chromium

        found = Chromium.find_browser(skip_local=False)
        is_browser_there = found is not None and Path(found).exists()
    if not is_browser_there:
        missing.append("install Chrome or Chromium (Debian, Ubuntu: apt install chromium)")
    if not missing:
        return None
    return f"PDF, SVG and PNG were not written, HTML and CSV were; for these, {' and '.join(missing)}"


def export_figures(
    drawings: Sequence[Drawing], folder: str | Path, manifest: Mapping[str, Any], *, preset: str | Preset | None = None
) -> tuple[list[Path], str | None]:
    """Write every drawing as PDF, SVG, PNG (300 dots per inch), HTML and CSV, and a `manifest.json` beside them.

    `manifest` says what the figures were drawn from; names, captions, calls and sizes are added to it. `preset`
    overrides the drawings' own. Returns the paths, and what is amiss: what has to be installed where only HTML and CSV
    could be written, or which figures are higher than a page. Raises ValueError where two drawings have one name.
    """
    names = [drawing.name for drawing in drawings]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"several figures have the name {', '.join(twice)}; file names must differ")
    columns = [preset_named(preset or drawing.preset) for drawing in drawings]
    printed = [journal_figure(drawing.figure, column) for drawing, column in zip(drawings, columns, strict=True)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    obstacle = export_obstacle()
    formats = () if obstacle else VECTOR_AND_RASTER
    paths = [path for drawing in drawings for path in _write_data(drawing, folder)]
    data = {name: [path.name for path in paths if path.stem == name] for name in names}
    if formats:
        paths += _write_printed(names, printed, folder)
    listed = [
        {
            "name": drawing.name,
            "title": figure_title(drawing.figure),
            "caption": drawing.caption,
            "call": drawing.call,
            "preset": column.name,
            "width_mm": column.width_mm,
            "height_mm": round(size_of(figure)[1] / PIXELS_PER_MM, 1),
            "fits": size_of(figure)[1] <= column.max_height_mm * PIXELS_PER_MM + 1,
            "files": [*(f"{drawing.name}.{kind}" for kind in formats), *data[drawing.name]],
        }
        for drawing, figure, column in zip(drawings, printed, columns, strict=True)
    ]
    path = folder / "manifest.json"
    text = json.dumps({**manifest, "figures": listed}, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, text + "\n")
    high = [item["name"] for item in listed if not item["fits"]]
    if high and not obstacle:
        obstacle = f"higher than the column allows, so that rows do not overprint: {', '.join(high)}; try two-column"
    return [*paths, path], obstacle


def _write_data(drawing: Drawing, folder: Path) -> list[Path]:
    path = folder / f"{drawing.name}.html"
    page = write_figure(drawing.figure, path, caption=drawing.caption, plotly=share_plotly(folder))
    return [page, *write_tables(figure_frame(drawing.figure), folder / drawing.name)]


def write_tables(frame: pd.DataFrame, path: Path) -> list[Path]:
    """Write a table as CSV, and for a paper as LaTeX (booktabs) and Markdown where it has at most 100 rows.

    `path` is without a suffix. Text is escaped; numbers have three significant digits outside the CSV.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f"{path.name}.csv")]
    write_csv(frame, written[0])
    if len(frame) <= MAX_TABLE_ROWS:
        shown = frame.map(_shown)
        texts = {"tex": shown.to_latex(index=False, escape=True), "md": _markdown(shown)}
        for kind, text in texts.items():
            written.append(path.with_name(f"{path.name}.{kind}"))
            write_whole(written[-1], text)
    return written


def _shown(value: object) -> str:
    return number(float(value)) if isinstance(value, float) else str(value)


def _markdown(frame: pd.DataFrame) -> str:
    rows = [list(map(str, frame.columns)), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    escaped = [[re.sub(r"([|<>*_`])", r"\\\1", str(cell)) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def _write_printed(names: Sequence[str], printed: Sequence[go.Figure], folder: Path) -> list[Path]:
    """One start of the browser for all files, which is what takes the time."""
    jobs = [(figure, folder / f"{name}.{kind}") for name, figure in zip(names, printed, strict=True)
            for kind in VECTOR_AND_RASTER]  # fmt: skip
    write_images(
        [figure for figure, _ in jobs],
        [path for _, path in jobs],
        width=[size_of(figure)[0] for figure, _ in jobs],
        height=[size_of(figure)[1] for figure, _ in jobs],
        scale=[DOTS_PER_INCH / 96 if path.suffix == ".png" else 1 for _, path in jobs],
    )
    missing = [path.name for _, path in jobs if not path.is_file() or not path.stat().st_size]
    if missing:
        raise OSError(f"the browser did not write {', '.join(missing)}; try again, or check it with: workbench doctor")
    return [path for _, path in jobs]


def figure_frame(figure: go.Figure) -> pd.DataFrame:
    """Everything a figure draws as a tidy table: one row per point or cell, columns named by the axes with units.

    `panel` and `series` say where a point belongs; `low` and `high` bound it where the figure shows intervals. A trace
    whose points are set aside so that they do not hide each other holds their true places in `meta["x"]`.
    """
    layout = figure.to_plotly_json()["layout"]
    heads = {
        (note["xref"].removesuffix(" domain"), note["yref"].removesuffix(" domain")): _plain(note["text"])
        for note in layout.get("annotations", ())
        if str(note.get("xref", "")).endswith("domain") and str(note.get("yref", "")).endswith("domain")
    }
    titles = {letter: _axis_title(layout, letter) for letter in "xy"}
    parts = []
    for trace in figure.to_plotly_json()["data"]:
        place = (trace.get("xaxis", "x"), trace.get("yaxis", "y"))
        part = _map_frame(trace, titles) if trace["type"] == "heatmap" else _points_frame(trace, titles)
        if len(part):
            part.insert(0, "series", _plain(str(trace.get("name") or "")))
            part.insert(0, "panel", heads.get(place, ""))
            parts.append(part)
    if not parts:
        return pd.DataFrame(columns=list(titles.values()))
    table = pd.concat(parts, ignore_index=True)
    empty = [name for name in ("panel", "series") if not any(np.asarray(table[name], dtype=object))]
    return table.drop(columns=empty)


def _plain(text: str) -> str:
    shown = re.sub(r"<.*?>|\u200b", "", re.sub("<br>|\u00a0", " ", text))
    return shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&#x27;", "'")


def _axis_title(layout: Mapping[str, Any], letter: str) -> str:
    for name, axis in layout.items():
        if re.fullmatch(rf"{letter}axis\d*", name) and (axis.get("title") or {}).get("text"):
            return _plain(axis["title"]["text"])
    return letter


def _points_frame(trace: Mapping[str, Any], titles: Mapping[str, str]) -> pd.DataFrame:
    y = _array(trace.get("y", ()))
    x = _array(trace["x"]) if trace.get("x") is not None else trace.get("x0", 0) + np.arange(len(y))
    x = np.asarray((trace.get("meta") or {}).get("x", x))
    if trace.get("mode") == "text" or trace.get("hoverinfo") == "skip" or not len(y):
        return pd.DataFrame()
    columns: dict[str, Any] = {titles["x"]: _named(x), titles["y"]: _named(y)}
    for name, centre in (("error_x", x), ("error_y", y)):
        bars = trace.get(name) or {}
        if bars.get("array") is not None:
            more = _array(bars["array"])
            less = more if bars.get("arrayminus") is None else _array(bars["arrayminus"])
            columns |= {"low": centre - less, "high": centre + more}
    return pd.DataFrame(columns)


def _map_frame(trace: Mapping[str, Any], titles: Mapping[str, str]) -> pd.DataFrame:
    z = _array(trace["z"])
    n_rows, n_columns = z.shape
    x = _array(trace["x"]) if trace.get("x") is not None else np.arange(n_columns)
    y = _array(trace["y"]) if trace.get("y") is not None else np.arange(n_rows)
    value = _plain(((trace.get("colorbar") or {}).get("title") or {}).get("text") or "value")
    columns = {titles["y"]: np.repeat(_named(y), n_columns), titles["x"]: np.tile(_named(x), n_rows), value: z.ravel()}
    return pd.DataFrame(columns)


def _array(values: Any) -> np.ndarray:
    """The values of a trace, which Plotly's JSON packs where they are numbers."""
    if not isinstance(values, Mapping):
        return np.asarray(values)
    unpacked = np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"])
    return unpacked.reshape([int(length) for length in str(values.get("shape", unpacked.size)).split(",")])


def _named(values: np.ndarray) -> np.ndarray:
    """Names without markup; numbers as they are."""
    is_text = values.dtype.kind in "OUS" and any(isinstance(item, str) for item in values.ravel())
    return np.array([_plain(str(item)) for item in values.ravel()], dtype=object) if is_text else values
