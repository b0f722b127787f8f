"""Where panels, axis titles and row labels of a printed figure go, in CSS pixels; works on a figure's plain layout."""

import re
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

PIXELS_PER_MM = 96 / 25.4
# Share of the type size that a letter takes on average, and the height of a line.
LETTER, LINE = 0.48, 1.3
NARROWEST_PANEL = 29 * PIXELS_PER_MM
LOWEST_PANEL = 22 * PIXELS_PER_MM
GAP = 10.0
WIDEST_LABEL = 0.5  # share of the column that labels of rows may take
TICKS = 34.0  # pixels for the labels of a numeric vertical axis

Layout = dict[str, Any]
Traces = list[dict[str, Any]]


def axis_keys(layout: Layout, letter: str) -> list[str]:
    """The names of the axes of one letter in the layout, in their order."""
    return [name for name in layout if re.fullmatch(rf"{letter}axis\d*", name)]


def is_category(axis: dict[str, Any]) -> bool:
    """Whether an axis holds names instead of numbers."""
    return axis.get("type") == "category"


def plain_text(text: str) -> str:
    """Text without markup and zero-width spaces."""
    return re.sub("<br>", " ", re.sub(r"<(?!br>).*?>|\u200b", "", text)).replace("&lt;", "<").replace("&amp;", "&")


def text_width(text: str, size: float) -> float:
    """About how wide a line of text is."""
    return len(plain_text(text)) * LETTER * size


def wrap(text: str, width: float, size: float) -> str:
    """Text broken so that every line fits the width, before a bracket if that is enough; long words stay whole."""
    start, bracket, rest = text.replace("<br>", " ").partition(" (")
    if text_width(text, size) > width and max(text_width(part, size) for part in (start, f"({rest}")) <= width:
        return f"{start}<br>({rest}" if bracket else start
    lines: list[str] = []
    for word in text.replace("<br>", " ").split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "<br>".join(lines)


def n_lines(text: str) -> int:
    """Number of lines of a text, 0 for none."""
    return text.count("<br>") + 1 if text else 0


def axis_title(layout: Layout, letter: str) -> str:
    """The title of the first axis of a letter that has one."""
    titles = [(layout[name].get("title") or {}).get("text") for name in axis_keys(layout, letter)]
    return next((title for title in titles if title), "")


def wrap_row_labels(layout: Layout, traces: Traces, column_width: float, size: float) -> tuple[float, float]:
    """Break labels of rows that are too wide for the column.

    Returns the width of the widest line and the height that the rows of one panel need; zeros where no axis has rows.
    """
    widest, height = 0.0, 0.0
    for name in axis_keys(layout, "y"):
        axis = layout[name]
        if not is_category(axis):
            continue
        labels = labels_of(axis, traces, name)
        broken = [wrap(label, WIDEST_LABEL * column_width, size) for label in labels]
        if broken != labels:
            axis |= {"tickmode": "array", "tickvals": labels, "ticktext": broken}
        widest = max([widest, *(text_width(line, size) for label in broken for line in label.split("<br>"))])
        height = max(height, len(labels) * (max(map(n_lines, broken), default=0) * LINE * size + 5))
    return widest, height


def labels_of(axis: dict[str, Any], traces: Traces, name: str) -> list[str]:
    """The labels of an axis of names, or of ticks that are given as text; empty for numbers."""
    if axis.get("ticktext") is not None:
        return [str(item) for item in axis["ticktext"]]
    found = [str(item) for item in axis.get("categoryarray", ())] if is_category(axis) else []
    for trace in traces if is_category(axis) else ():
        if trace.get(f"{name[0]}axis", name[0]) == name.replace("axis", ""):
            found += [str(item) for item in np.asarray(trace.get(name[0], ()), dtype=object).ravel()]
    return list(dict.fromkeys(found))


def name_axes(layout: Layout, traces: Traces) -> None:
    """Say of every axis with text for values that it holds names, which Plotly would guess while drawing."""
    for trace in traces:
        for letter in "xy":
            values = trace.get(letter)
            axis = layout.setdefault(f"{letter}axis{trace.get(f'{letter}axis', letter)[1:]}", {})
            if isinstance(values, list | tuple | np.ndarray) and len(values) and isinstance(values[0], str):
                axis.setdefault("type", "category")


def panel_pixels(layout: Layout) -> tuple[float, float]:
    """Width and height of the drawing area of a figure as it is on a screen."""
    margin = layout.get("margin") or {}
    height = float(layout.get("height", 450)) - float(margin.get("t", 92)) - float(margin.get("b", 56))
    return 944.0, height


def heads_of(layout: Layout) -> list[dict[str, Any]]:
    """The names above the panels."""
    return [note for note in layout.get("annotations", ()) if str(note.get("yref", "")).endswith("domain")]


def lay_grid(
    layout: Layout, inner_width: float, size: float, row_height: float, n_columns: int | None
) -> tuple[float, list[float]]:
    """Give the panels of a grid new places.

    Returns the height of the drawing area, and the place left free in the last row as [left, width, height], empty
    where the row is full.
    """
    grid = layout["meta"]["grid"]
    n_panels = int(grid["panels"])
    fitting = max(1, int((inner_width + GAP) // (NARROWEST_PANEL + GAP)))
    longest = max((text_width(str(head["text"]), size) for head in heads_of(layout)), default=0.0)
    while fitting > 1 and (inner_width - (fitting - 1) * GAP) / fitting < longest:
        fitting -= 1
    n_columns = min(n_columns or min(int(grid["columns"]), fitting), n_panels)
    n_rows = ceil(n_panels / n_columns)
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


def side_by_side(layout: Layout) -> list[tuple[str, str]]:
    """The (x, y) axes of panels that stand in one row, from the left; empty for any other arrangement."""
    x_names, y_names = axis_keys(layout, "x"), axis_keys(layout, "y")
    spans = {tuple(layout[name].get("domain", (0, 1))) for name in y_names}
    if len(x_names) < 2 or len(x_names) != len(y_names) or len(spans) > 1:
        return []
    return sorted(zip(x_names, y_names, strict=True), key=lambda pair: layout[pair[0]].get("domain", (0, 1))[0])


def lay_row(layout: Layout, panels: Sequence[tuple[str, str]], inner_width: float, height: float, size: float) -> float:
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
    n_rows = ceil(len(panels) / max(1, int((inner_width + gap) // (NARROWEST_PANEL + gap))))
    n_columns = ceil(len(panels) / n_rows)
    width = (inner_width - (n_columns - 1) * gap) / n_columns
    inner = n_rows * height + (n_rows - 1) * between
    title = axis_title(layout, "y")
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


def wrap_titles(layout: Layout, inner_height: float, inner_width: float, size: float) -> float:
    """Wrap the titles of the axes to their lengths; returns the height that those below the figure take."""
    lines = 0
    for name in axis_keys(layout, "x"):
        start, stop = layout[name].get("domain", (0, 1))
        lines = max(lines, _wrap_title(layout[name], (stop - start) * inner_width + 16, size))
    for name in axis_keys(layout, "y"):
        start, stop = layout[name].get("domain", (0, 1))
        _wrap_title(layout[name], (stop - start) * inner_height + LINE * size, size)
    return lines * LINE * size


def _wrap_title(axis: dict[str, Any], length: float, size: float) -> int:
    title = axis.get("title") or {}
    if not title.get("text"):
        return 0
    axis["title"] = title | {"text": wrap(title["text"], length, size)}
    return n_lines(axis["title"]["text"])
