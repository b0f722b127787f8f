"""Figures as journals print them: a column's width, 8 points, no title, panels laid out anew for the width."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.panels import (
    LINE,
    PIXELS_PER_MM,
    TICKS,
    Layout,
    Traces,
    axis_keys,
    axis_title,
    heads_of,
    labels_of,
    lay_grid,
    lay_row,
    n_lines,
    name_axes,
    panel_pixels,
    plain_text,
    side_by_side,
    text_width,
    wrap,
    wrap_row_labels,
    wrap_titles,
)
from workbench.figures.style import place_labels, template

PIXELS_PER_POINT = 96 / 72
LOWEST_MAP = 96.0  # pixels that the scale beside a map needs
MARKS = 0.7  # marks and caps beside their size on a screen
SYMBOL_WIDTH = 44  # pixels of the symbol before a legend's entry, and of the space after it


@dataclass(frozen=True)
class Preset:
    """A journal's column: width and greatest height in millimetres, type size in points."""

    name: str
    width_mm: float
    max_height_mm: float
    points: float

    @property
    def width(self) -> float:
        """Width in whole CSS pixels, of which 96 are an inch."""
        return 1.0 * round(self.width_mm * PIXELS_PER_MM)

    @property
    def type_size(self) -> float:
        """Type size in CSS pixels."""
        return self.points * PIXELS_PER_POINT


PRESETS = {
    "one-column": Preset("one-column", width_mm=85.0, max_height_mm=225.0, points=8.0),
    "two-column": Preset("two-column", width_mm=175.0, max_height_mm=225.0, points=8.0),
}


NARROW = Preset("narrow", width_mm=95.0, max_height_mm=math.inf, points=8.25)


def journal_figure(figure: go.Figure, preset: str = "two-column", *, n_columns: int | None = None) -> go.Figure:
    """The figure as it goes into a paper: fixed size in the preset's column, every letter at 8 points, white ground.

    Title and subtitle are left out (a paper has its caption). Panels of a grid are laid out anew in `n_columns`, or in
    as many as leave each 29 mm; the legend goes into the place they leave free, or below. The figure given is not
    changed. Raises ValueError for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    return _printed(figure, PRESETS[preset], n_columns)


def narrow_layout(figure: go.Figure) -> Layout:
    """The layout of a figure on a narrow page, as plain JSON: one or two panels beside each other, labels broken.

    It holds for the figure's own traces, has no width, title or template, and as much height as it needs.
    """
    layout = json.loads(go.Figure(layout=_printed(figure, NARROW, None).layout).to_json() or "{}")["layout"]
    layout["font"] = {"size": NARROW.type_size}
    return {name: value for name, value in layout.items() if name not in ("width", "template", "title")}


def _printed(figure: go.Figure, column: Preset, n_columns: int | None) -> go.Figure:
    plain: dict[str, Any] = figure.to_plotly_json()
    traces: Traces = list(plain["data"])
    layout: Layout = dict(plain["layout"]) | {"template": template(), "title": {}}
    for trace in traces:
        _set_type(trace, column.type_size)
        _shrink_marks(trace)
    for part in [*layout.get("annotations", ()), layout.get("coloraxis", {})]:
        _set_type(part, column.type_size)
    for name in [*axis_keys(layout, "x"), *axis_keys(layout, "y")]:
        font = {"size": column.type_size}
        title = (layout[name].get("title") or {}) | {"font": font, "standoff": 5}
        layout[name] |= {"tickfont": font, "ticklen": 3, "title": title}
    _lay_out(layout, traces, column, n_columns)
    return go.Figure(traces, layout)


def size_of(figure: go.Figure) -> tuple[int, int]:
    """Width and height of a journal figure in CSS pixels."""
    layout = figure.to_dict()["layout"]
    return layout["width"], layout["height"]


def _set_type(node: Any, size: float) -> None:
    """Give every font of a part of the figure one size; notes get a font if they have none."""
    if isinstance(node, list | tuple):
        for item in node:
            _set_type(item, size)
    elif isinstance(node, dict):
        if "text" in node and "showarrow" in node:
            node.setdefault("font", {})
        for name, value in node.items():
            if name.endswith("font") and isinstance(value, dict):
                value["size"] = size
            elif isinstance(value, dict | list | tuple):
                _set_type(value, size)


def _shrink_marks(trace: dict[str, Any]) -> None:
    marker = trace.get("marker") or {}
    if isinstance(marker.get("size"), int | float):
        marker["size"] = MARKS * marker["size"]
    for name in ("error_x", "error_y"):
        bars = trace.get(name) or {}
        if "width" in bars:
            bars["width"] = MARKS * bars["width"]
    for bar in (trace.get("colorbar"), marker.get("colorbar")):
        if bar:
            bar["thickness"] = 8


def _lay_out(layout: Layout, traces: Traces, column: Preset, n_columns: int | None) -> None:
    size = column.type_size
    name_axes(layout, traces)
    labels, rows = wrap_row_labels(layout, traces, column.width, size)
    grid = (layout.get("meta") or {}).get("grid")
    titles = {letter: axis_title(layout, letter) for letter in "xy"}
    is_row = side_by_side(layout)
    left = max(labels, TICKS) + 8 + (1 if grid else 2) * LINE * size * bool(titles["y"])
    right = 12 + (5.2 * size if any(map(_has_bar, traces)) else 0)
    width = column.width - left - right
    free: list[float] = []
    if grid:
        height, free = lay_grid(layout, width, size, rows, n_columns)
    else:
        height = rows or _height(layout, width)
        height = max(height, LOWEST_MAP) if any(map(_has_bar, traces)) else height
        if is_row:
            height = lay_row(layout, is_row, width, height, size)
    top = 8 + LINE * size * bool(heads_of(layout))
    bottom = 10 + 1.2 * size
    if grid:
        bottom += _one_title_each(layout, titles, height, width, size, max(labels, TICKS) + 8)
    else:
        bottom += wrap_titles(layout, height, width, size)
    bottom += _tick_height(layout, traces, width, size)
    below = _legend(layout, traces, (width, height), free, size)
    height = min(height, column.max_height_mm * PIXELS_PER_MM - top - bottom - below)
    layout |= {
        "width": int(column.width),
        "height": round(top + height + bottom + below),
        "margin": {"l": left, "r": right, "t": top, "b": bottom + below, "pad": 0},
        "font": {"color": "#000000", "size": size},
    }
    _place_names(layout, width, height, size)


def _has_bar(trace: dict[str, Any]) -> bool:
    is_map = trace.get("type") in ("heatmap", "contour") and trace.get("showscale", True)
    return bool(is_map or (trace.get("marker") or {}).get("colorbar"))


def _tick_height(layout: Layout, traces: Traces, width: float, size: float) -> float:
    """How much higher turned labels of the horizontal axes are than a line; those that would not fit are turned."""
    found = 0.0
    for name in axis_keys(layout, "x"):
        names = labels_of(layout[name], traces, name)
        longest = max((text_width(label, size) for label in names), default=0.0)
        if len(names) * (longest + 6) > width and layout[name].get("tickangle") is None:
            layout[name]["tickangle"] = -90
        angle = abs(math.radians(float(layout[name].get("tickangle") or 0)))
        found = max(found, longest * math.sin(angle))
    return found


def _height(layout: Layout, inner_width: float) -> float:
    """Height of the drawing area of a figure that is no grid, by its shape on a screen."""
    wide, high = panel_pixels(layout)
    return min(max(high * inner_width / wide, 34 * PIXELS_PER_MM), high)


def _one_title_each(
    layout: Layout, titles: dict[str, str], height: float, width: float, size: float, labels: float
) -> float:
    """One title for all horizontal axes of a grid and one for all vertical ones; returns the height of the former."""
    title = {letter: wrap(titles[letter], length, size) for letter, length in (("x", width), ("y", height))}
    common = {"xref": "paper", "yref": "paper", "showarrow": False, "font": {"size": size}}
    below = {"x": 0.5, "y": 0, "xanchor": "center", "yanchor": "top", "yshift": -1.2 * size - 8}
    beside = {"x": 0, "y": 0.5, "xanchor": "right", "yanchor": "middle", "textangle": -90, "xshift": 4 - labels}
    notes = [common | {"text": title["x"]} | below, common | {"text": title["y"]} | beside]
    layout["annotations"] = [*layout.get("annotations", ()), *(note for note in notes if note["text"])]
    return n_lines(title["x"]) * LINE * size


def _legend(layout: Layout, traces: Traces, sizes: tuple[float, float], free: list[float], size: float) -> float:
    """Put the legend into the free place of a grid, or in rows below; returns the height that it takes there."""
    names = {
        trace.get("legendgroup") or trace["name"]: trace["name"]
        for trace in traces
        if trace.get("showlegend", True) and trace.get("name") and trace.get("type") != "heatmap"
    }
    if layout.get("showlegend") is False or (len(names) < 2 and not layout.get("showlegend")):
        return 0.0
    width, height = sizes
    title = ((layout.get("legend") or {}).get("title") or {}).get("text") or ""
    widest = max(text_width(name, size) for name in names.values()) + SYMBOL_WIDTH
    line = 1.3 * size + 3
    look: dict[str, Any] = {"font": {"size": size}, "bgcolor": "rgba(0,0,0,0)", "tracegroupgap": 0}
    if free and widest <= free[1] and (len(names) + 1.5 * bool(title)) * line <= free[2]:
        text = wrap(title, free[1] - 12, size)
        place = {"x": (free[0] + 6) / width, "xanchor": "left", "y": free[2] / height, "yanchor": "top"}
        layout["legend"] = look | place | {"title": {"text": text, "font": {"size": size}}}
        return 0.0
    n_rows = _legend_rows(list(names.values()), any(trace.get("legendgroup") for trace in traces), width, size)
    n_rows += bool(title)
    place = {"xref": "container", "yref": "container", "x": 0.5, "xanchor": "center", "y": 0, "yanchor": "bottom"}
    layout["legend"] = (
        look | place | {"orientation": "h", "title": {"text": title, "side": "top", "font": {"size": size}}}
    )
    return n_rows * line + 8


def _legend_rows(names: Sequence[str], is_grouped: bool, width: float, size: float) -> int:
    """Rows that a horizontal legend takes: groups follow each other closely, single entries get equal columns."""
    widths = [text_width(name, size) + SYMBOL_WIDTH for name in names]
    n_rows, used = 1, 0.0
    for own in widths if is_grouped else [max(widths)] * len(widths):
        n_rows, used = (n_rows + 1, own) if used and used + own > width else (n_rows, used + own)
    return n_rows


def _place_names(layout: Layout, inner_width: float, inner_height: float, size: float) -> None:
    """Find new places for the names that point at spikes, panel by panel."""
    notes = [note for note in layout.get("annotations", ()) if note.get("showarrow", True) and "ax" in note]
    for x_name, y_name in sorted({(note["xref"], note["yref"]) for note in notes}):
        own = [note for note in notes if (note["xref"], note["yref"]) == (x_name, y_name)]
        x_axis, y_axis = (layout.get(f"{name[0]}axis{name[1:]}", {}) for name in (x_name, y_name))
        if "range" not in x_axis or "range" not in y_axis:
            continue
        x, width = _pixels(x_axis, [note["x"] for note in own], inner_width)
        y, height = _pixels(y_axis, [note["y"] for note in own], inner_height)
        longest = max(len(plain_text(str(note["text"]))) for note in own)
        label = 0.556 * size * longest + 3  # the width of a digit
        spots = place_labels(x, y, panel_width=width, panel_height=height, label_width=label, label_height=1.2 * size)
        for note, (right, down) in zip(own, spots.tolist(), strict=True):
            note |= {"ax": right, "ay": down}


def _pixels(axis: dict[str, Any], values: Sequence[float | int], inner: float) -> tuple[np.ndarray, float]:
    """Where values lie along an axis in pixels from its start, and its length."""
    start, stop = axis.get("domain", (0.0, 1.0))
    low, high = axis["range"]
    length = (stop - start) * inner
    return (np.array(values, dtype=float) - low) / (high - low) * length, length
