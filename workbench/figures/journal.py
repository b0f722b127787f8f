"""Figures as journals print them: a column's width, 8 points, no title, panels laid out anew for the width."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import FONT, PALETTE, place_labels, template

PIXELS_PER_MM = 96 / 25.4
PIXELS_PER_POINT = 96 / 72
LETTER, LINE = 0.48, 1.3  # mean width of a letter and height of a line, as shares of the type size
NARROWEST_PANEL, LOWEST_PANEL = 29 * PIXELS_PER_MM, 22 * PIXELS_PER_MM
GAP = 10.0
PADDING = 5.0  # of a row; given up first where the column is too short
WIDEST_LABEL = 0.5  # share of the column that labels of rows may take
TICKS = 34.0  # pixels for the labels of a numeric vertical axis
LOWEST_MAP = 96.0  # pixels that the scale beside a map needs
Layout = dict[str, Any]
Traces = list[dict[str, Any]]
MARKS = 0.7  # marks and caps beside their size on a screen
SYMBOL_WIDTH = 44  # pixels of the symbol before a legend's entry, and of the space after it


@dataclass(frozen=True)
class Preset:
    """A journal's column: width and greatest height in millimetres, type size in points, font and colours.

    `colours` take the places of `style.PALETTE`; with fewer, they repeat.
    """

    name: str
    width_mm: float
    max_height_mm: float = 225.0
    points: float = 8.0
    font: str = FONT
    colours: tuple[str, ...] = PALETTE

    @property
    def width(self) -> float:
        """Width in whole CSS pixels, of which 96 are an inch."""
        return 1.0 * round(self.width_mm * PIXELS_PER_MM)

    @property
    def type_size(self) -> float:
        """Type size in CSS pixels."""
        return self.points * PIXELS_PER_POINT


PRESETS = {
    "one-column": Preset("one-column", width_mm=85.0),
    "two-column": Preset("two-column", width_mm=175.0),
}
NARROW = Preset("narrow", width_mm=95.0, max_height_mm=math.inf, points=8.25)


def journal_figure(
    figure: go.Figure, preset: str | Preset = "two-column", *, n_columns: int | None = None
) -> go.Figure:
    """The figure as it goes into a paper: fixed size in the preset's column, every letter at 8 points, white ground.

    Title and subtitle are left out (a paper has its caption). Panels of a grid are laid out anew in `n_columns`, or in
    as many as leave each 29 mm; the legend goes into the place they leave free, or below. The figure given is not
    changed. A figure of many named rows becomes higher than the column before they overprint. Raises ValueError for an
    unknown preset.
    """
    return _printed(figure, preset_named(preset), n_columns)


def preset_named(preset: str | Preset) -> Preset:
    """A preset by its name, or as it is; raises ValueError for an unknown name."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}, or give a Preset")
    return PRESETS[preset]


def narrow_layout(figure: go.Figure) -> Layout:
    """The layout of a figure on a narrow page, as plain JSON: one or two panels beside each other, labels broken.

    It holds for the figure's own traces, has no width, title or template, and as much height as it needs.
    """
    layout = json.loads(go.Figure(layout=_printed(figure, NARROW, None).layout).to_json() or "{}")["layout"]
    layout["font"] = {"size": NARROW.type_size}
    return {name: value for name, value in layout.items() if name not in ("width", "template", "title")}


def _printed(figure: go.Figure, column: Preset, n_columns: int | None) -> go.Figure:
    plain: dict[str, Any] = _recoloured(figure, column.colours).to_plotly_json()
    traces: Traces = list(plain["data"])
    layout: Layout = dict(plain["layout"]) | {"template": template(), "title": {}}
    for trace in traces:
        _set_type(trace, column.type_size)
        _shrink_marks(trace)
    for part in [*layout.get("annotations", ()), layout.get("coloraxis", {})]:
        _set_type(part, column.type_size)
    for name in [*_axis_keys(layout, "x"), *_axis_keys(layout, "y")]:
        font = {"size": column.type_size}
        title = (layout[name].get("title") or {}) | {"font": font, "standoff": 5}
        layout[name] |= {"tickfont": font, "ticklen": 3, "title": title}
    _lay_out(layout, traces, column, n_columns)
    return go.Figure(traces, layout)


def _recoloured(figure: go.Figure, colours: Sequence[str]) -> go.Figure:
    """A copy in which the colours of the palette are replaced by others."""
    if tuple(colours) == PALETTE:
        return go.Figure(figure)
    text = figure.to_json() or "{}"
    for index, colour in enumerate(PALETTE):
        text = text.replace(colour, f"@{index}@")
    for index in range(len(PALETTE)):
        text = text.replace(f"@{index}@", colours[index % len(colours)])
    return go.Figure(json.loads(text))


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
    _name_axes(layout, traces)
    labels, rows, n_labels = _wrap_row_labels(layout, traces, column.width, size)
    grid = (layout.get("meta") or {}).get("grid")
    titles = {letter: _axis_title(layout, letter) for letter in "xy"}
    is_row = _side_by_side(layout)
    left = max(labels, TICKS) + 8 + (1 if grid else 2) * LINE * size * bool(titles["y"])
    right = 12 + (5.2 * size if any(map(_has_bar, traces)) else 0)
    width = column.width - left - right
    free: list[float] = []
    if grid:
        height, free = _lay_grid(layout, width, size, rows, n_columns)
    else:
        height = rows or _height(layout, width)
        height = max(height, LOWEST_MAP) if any(map(_has_bar, traces)) else height
        if is_row:
            height = _lay_row(layout, is_row, width, height, size)
    top = 8 + LINE * size * bool(_heads_of(layout))
    bottom = 10 + 1.2 * size
    if grid:
        bottom += _one_title_each(layout, titles, height, width, size, max(labels, TICKS) + 8)
    else:
        bottom += _wrap_titles(layout, height, width, size)
    bottom += _tick_height(layout, traces, width, size)
    below = _legend(layout, traces, (width, height), free, size)
    lowest = height * (1 - PADDING * n_labels / rows) if rows else 0.0  # rows without the space between them
    height = max(lowest, min(height, column.max_height_mm * PIXELS_PER_MM - top - bottom - below))
    layout |= {
        "width": int(column.width),
        "height": round(top + height + bottom + below),
        "margin": {"l": left, "r": right, "t": top, "b": bottom + below, "pad": 0},
        "font": {"color": "#000000", "size": size, "family": column.font},
    }
    _place_names(layout, width, height, size)


def _has_bar(trace: dict[str, Any]) -> bool:
    is_map = trace.get("type") in ("heatmap", "contour") and trace.get("showscale", True)
    return bool(is_map or (trace.get("marker") or {}).get("colorbar"))


def _tick_height(layout: Layout, traces: Traces, width: float, size: float) -> float:
    """How much higher turned labels of the horizontal axes are than a line; those that would not fit are turned."""
    found = 0.0
    for name in _axis_keys(layout, "x"):
        names = _labels_of(layout[name], traces, name)
        longest = max((_text_width(label, size) for label in names), default=0.0)
        if len(names) * (longest + 6) > width and layout[name].get("tickangle") is None:
            layout[name]["tickangle"] = -90
        angle = abs(math.radians(float(layout[name].get("tickangle") or 0)))
        found = max(found, longest * math.sin(angle))
    return found


def _height(layout: Layout, inner_width: float) -> float:
    """Height of the drawing area of a figure that is no grid, by its shape on a screen."""
    wide, high = _panel_pixels(layout)
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
    return _n_lines(title["x"]) * LINE * size


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
    widest = max(_text_width(name, size) for name in names.values()) + SYMBOL_WIDTH
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
    widths = [_text_width(name, size) + SYMBOL_WIDTH for name in names]
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
        longest = max(len(_plain_text(str(note["text"]))) for note in own)
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


# --- where panels, titles and labels go, in CSS pixels --------------------------------------------------------------


def _axis_keys(layout: Layout, letter: str) -> list[str]:
    """The names of the axes of one letter in the layout, in their order."""
    return [name for name in layout if re.fullmatch(rf"{letter}axis\d*", name)]


def _is_category(axis: dict[str, Any]) -> bool:
    """Whether an axis holds names instead of numbers."""
    return axis.get("type") == "category"


def _plain_text(text: str) -> str:
    """Text without markup and zero-width spaces."""
    return re.sub("<br>", " ", re.sub(r"<(?!br>).*?>|\u200b", "", text)).replace("&lt;", "<").replace("&amp;", "&")


def _text_width(text: str, size: float) -> float:
    """About how wide a line of text is."""
    return len(_plain_text(text)) * LETTER * size


def wrap(text: str, width: float, size: float) -> str:
    """Text broken so that every line fits the width, before a bracket if that is enough; long words stay whole."""
    start, bracket, rest = text.replace("<br>", " ").partition(" (")
    if _text_width(text, size) > width and max(_text_width(part, size) for part in (start, f"({rest}")) <= width:
        return f"{start}<br>({rest}" if bracket else start
    lines: list[str] = []
    for word in text.replace("<br>", " ").split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "<br>".join(lines)


def _n_lines(text: str) -> int:
    """Number of lines of a text, 0 for none."""
    return text.count("<br>") + 1 if text else 0


def _axis_title(layout: Layout, letter: str) -> str:
    """The title of the first axis of a letter that has one."""
    titles = [(layout[name].get("title") or {}).get("text") for name in _axis_keys(layout, letter)]
    return next((title for title in titles if title), "")


def _wrap_row_labels(layout: Layout, traces: Traces, column_width: float, size: float) -> tuple[float, float, int]:
    """Break labels of rows that are too wide for the column.

    Returns the width of the widest line, the height that the rows of one panel need and their number; zeros without.
    """
    widest, height, n_rows = 0.0, 0.0, 0
    for name in _axis_keys(layout, "y"):
        axis = layout[name]
        if not _is_category(axis):
            continue
        labels = _labels_of(axis, traces, name)
        broken = [wrap(label, WIDEST_LABEL * column_width, size) for label in labels]
        if broken != labels:
            axis |= {"tickmode": "array", "tickvals": labels, "ticktext": broken}
        widest = max([widest, *(_text_width(line, size) for label in broken for line in label.split("<br>"))])
        height = max(height, len(labels) * (max(map(_n_lines, broken), default=0) * LINE * size + PADDING))
        n_rows = max(n_rows, len(labels))
    return widest, height, n_rows


def _labels_of(axis: dict[str, Any], traces: Traces, name: str) -> list[str]:
    """The labels of an axis of names, or of ticks that are given as text; empty for numbers."""
    if axis.get("ticktext") is not None:
        return [str(item) for item in axis["ticktext"]]
    found = [str(item) for item in axis.get("categoryarray", ())] if _is_category(axis) else []
    for trace in traces if _is_category(axis) else ():
        if trace.get(f"{name[0]}axis", name[0]) == name.replace("axis", ""):
            found += [str(item) for item in np.asarray(trace.get(name[0], ()), dtype=object).ravel()]
    return list(dict.fromkeys(found))


def _name_axes(layout: Layout, traces: Traces) -> None:
    """Say of every axis with text for values that it holds names, which Plotly would guess while drawing."""
    for trace in traces:
        for letter in "xy":
            values = trace.get(letter)
            axis = layout.setdefault(f"{letter}axis{trace.get(f'{letter}axis', letter)[1:]}", {})
            if isinstance(values, list | tuple | np.ndarray) and len(values) and isinstance(values[0], str):
                axis.setdefault("type", "category")


def _panel_pixels(layout: Layout) -> tuple[float, float]:
    """Width and height of the drawing area of a figure as it is on a screen."""
    margin = layout.get("margin") or {}
    height = float(layout.get("height", 450)) - float(margin.get("t", 92)) - float(margin.get("b", 56))
    return 944.0, height


def _heads_of(layout: Layout) -> list[dict[str, Any]]:
    """The names above the panels."""
    return [note for note in layout.get("annotations", ()) if str(note.get("yref", "")).endswith("domain")]


def _lay_grid(
    layout: Layout, inner_width: float, size: float, row_height: float, n_columns: int | None
) -> tuple[float, list[float]]:
    """Give the panels of a grid new places.

    Returns the height of the drawing area, and the place left free in the last row as [left, width, height], empty
    where the row is full.
    """
    grid = layout["meta"]["grid"]
    n_panels = int(grid["panels"])
    fitting = max(1, int((inner_width + GAP) // (NARROWEST_PANEL + GAP)))
    longest = max((_text_width(str(head["text"]), size) for head in _heads_of(layout)), default=0.0)
    while fitting > 1 and (inner_width - (fitting - 1) * GAP) / fitting < longest:
        fitting -= 1
    n_columns = min(n_columns or min(int(grid["columns"]), fitting), n_panels)
    n_rows = math.ceil(n_panels / n_columns)
    width = (inner_width - (n_columns - 1) * GAP) / n_columns
    height = row_height or max(LOWEST_PANEL, float(grid["height"]) / float(grid["width"]) * width)
    between = LINE * size + 10
    inner = n_rows * height + (n_rows - 1) * between
    for index in range(n_panels):
        row, column = divmod(index, n_columns)
        suffix = "" if index == 0 else str(index + 1)
        left, top = column * (width + GAP), inner - row * (height + between)
        is_lowest = index + n_columns >= n_panels
        _place(layout[f"xaxis{suffix}"], left / inner_width, width / inner_width, is_lowest)
        _place(layout[f"yaxis{suffix}"], (top - height) / inner, height / inner, column == 0)
    n_free = n_rows * n_columns - n_panels
    free = [inner_width - n_free * (width + GAP) + GAP, n_free * (width + GAP) - GAP, height] if n_free else []
    return inner, free


def _place(axis: dict[str, Any], start: float, length: float, is_labelled: bool) -> None:
    axis["domain"] = [max(0.0, start), min(1.0, start + length)]
    axis["showticklabels"] = is_labelled
    axis.pop("title", None)


def _side_by_side(layout: Layout) -> list[tuple[str, str]]:
    """The (x, y) axes of panels that stand in one row, from the left; empty for any other arrangement."""
    x_names, y_names = _axis_keys(layout, "x"), _axis_keys(layout, "y")
    spans = {tuple(layout[name].get("domain", (0, 1))) for name in y_names}
    if len(x_names) < 2 or len(x_names) != len(y_names) or len(spans) > 1:
        return []
    return sorted(zip(x_names, y_names, strict=True), key=lambda pair: layout[pair[0]].get("domain", (0, 1))[0])


def _lay_row(
    layout: Layout, panels: Sequence[tuple[str, str]], inner_width: float, height: float, size: float
) -> float:
    """Place panels side by side with room for their own titles, in several rows where they would be too narrow.

    Returns the height of the drawing area.
    """
    gaps = [_gap(layout[y], size) for _, y in panels[1:]]
    lengths = [layout[x]["domain"][1] - layout[x]["domain"][0] for x, _ in panels]
    room = inner_width - sum(gaps)
    widths = [room * length / sum(lengths) for length in lengths]
    if min(widths) >= NARROWEST_PANEL:
        left = 0.0
        for (x, _), width, gap in zip(panels, widths, [*gaps, 0.0], strict=True):
            layout[x]["domain"] = [left / inner_width, min(1.0, (left + width) / inner_width)]
            left += width + gap
        return height
    gap, between = TICKS + 2 * LINE * size, 2.5 * LINE * size + 2 * GAP
    n_rows = math.ceil(len(panels) / max(1, int((inner_width + gap) // (NARROWEST_PANEL + gap))))
    n_columns = math.ceil(len(panels) / n_rows)
    width = (inner_width - (n_columns - 1) * gap) / n_columns
    inner = n_rows * height + (n_rows - 1) * between
    title = _axis_title(layout, "y")
    for index, (x, y) in enumerate(panels):
        row, column = divmod(index, n_columns)
        left, top = column * (width + gap), inner - row * (height + between)
        right = min(1.0, (left + width) / inner_width)
        layout[x] |= {"domain": [left / inner_width, right], "anchor": y.replace("axis", "")}
        layout[y] |= {"domain": [max(0.0, (top - height) / inner), top / inner], "showticklabels": True}
        layout[y]["title"] = layout[y].get("title") or {"text": title}
    return inner


def _gap(axis: dict[str, Any], size: float) -> float:
    """Room before a panel for the labels and the title of its vertical axis."""
    if axis.get("showticklabels") is False:
        return GAP
    return TICKS + (2 * LINE if (axis.get("title") or {}).get("text") else 1) * size


def _wrap_titles(layout: Layout, inner_height: float, inner_width: float, size: float) -> float:
    """Wrap the titles of the axes to their lengths; returns the height that those below the figure take."""
    lines = 0
    for name in _axis_keys(layout, "x"):
        start, stop = layout[name].get("domain", (0, 1))
        lines = max(lines, _wrap_title(layout[name], (stop - start) * inner_width + 16, size))
    for name in _axis_keys(layout, "y"):
        start, stop = layout[name].get("domain", (0, 1))
        _wrap_title(layout[name], (stop - start) * inner_height + LINE * size, size)
    return lines * LINE * size


def _wrap_title(axis: dict[str, Any], length: float, size: float) -> int:
    title = axis.get("title") or {}
    if not title.get("text"):
        return 0
    axis["title"] = title | {"text": wrap(title["text"], length, size)}
    return _n_lines(axis["title"]["text"])
