"""Colours, templates, panel grids and label placement shared by all figures; nothing global is set."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from plotly.colors import sample_colorscale
from plotly.subplots import SubplotXY, make_subplots

# Okabe and Ito (2008), mid-grey in place of black and without yellow: distinct with every colour vision, and visible on
# a white and on a dark page.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#808080")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star", "pentagon", "hexagram")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
NEUTRAL = "#808080"
SEQUENTIAL = "Cividis"
# Blue through grey to amber, ever lighter, so that the sign can be read without colour too; give `zmid=0` with it.
DIVERGING = ((0.0, "#0B3D91"), (0.5, "#A6A6A6"), (1.0, "#FFE48C"))
FONT = '"Helvetica Neue", Arial, "Liberation Sans", "DejaVu Sans", sans-serif'
# Width in pixels that label placement and panel gaps reckon with; figures stretch to the page they stand in.
NOMINAL_WIDTH = 1040
MARGIN = {"l": 72, "r": 24, "t": 92, "b": 56}


def template(*, dark: bool = False) -> go.layout.Template:
    """The look of every figure, for a white or a dark page."""
    text, grid, page = ("#E6E6E6", "#3A3F47", "#16181D") if dark else ("#222222", "#E3E3E3", "#FFFFFF")
    axis = {
        "gridcolor": grid,
        "linecolor": NEUTRAL,
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": NEUTRAL,
        "title": {"standoff": 8, "font": {"size": 12}},
        "tickfont": {"size": 11},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": text},
            "paper_bgcolor": page,
            "plot_bgcolor": page,
            "colorway": list(PALETTE),
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
            "legend": {"font": {"size": 12}, "title": {"font": {"size": 12}}, "bgcolor": "rgba(0,0,0,0)"},
            "annotationdefaults": {"font": {"size": 12}, "arrowcolor": NEUTRAL, "arrowhead": 0, "arrowwidth": 1},
        }
    )


def dress(figure: go.Figure, *, title: str, subtitle: str, height: int) -> go.Figure:
    """Give a figure its template, title with subtitle, margins and height in pixels; the width is left to the page."""
    figure.update_layout(
        template=template(),
        height=height,
        margin=MARGIN,
        hovermode="closest",
        title={
            "text": f"<b>{title}</b>",
            "font": {"size": 16},
            "subtitle": {"text": subtitle, "font": {"size": 12}},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 14, "l": 12},
        },
    )
    return figure


def panel_grid(
    names: Sequence[str],
    *,
    x_title: str,
    y_title: str,
    panel_height: int,
    n_columns: int | None = None,
) -> tuple[go.Figure, list[tuple[int, int]], int]:
    """Small multiples with shared axes, one named panel each.

    Tick labels and titles stand at the left and at the lowest panel of every column only. Where the last row is not
    full, the legend goes into the free place, otherwise to the right.

    Returns the figure, the (row, column) of every panel, and the height in pixels that the whole needs.
    """
    n_columns = min(n_columns or math.ceil(math.sqrt(len(names))), len(names))
    n_rows = math.ceil(len(names) / n_columns)
    gap = 44
    inner = n_rows * panel_height + (n_rows - 1) * gap
    cells = [(index // n_columns + 1, index % n_columns + 1) for index in range(len(names))]
    specs = [[{} if (row + 1, column + 1) in cells else None for column in range(n_columns)] for row in range(n_rows)]
    horizontal, vertical = 28 / NOMINAL_WIDTH, gap / inner
    figure = make_subplots(n_rows, n_columns, specs=specs, horizontal_spacing=horizontal, vertical_spacing=vertical)
    for name, (row, column) in zip(names, cells, strict=True):
        panel_title(figure, name, row, column)
        is_first, is_lowest = (row, column) == (1, 1), (row + 1, column) not in cells
        x_axis = {"matches": None if is_first else "x", "showticklabels": is_lowest}
        y_axis = {"matches": None if is_first else "y", "showticklabels": column == 1}
        figure.update_xaxes(x_axis | ({"title": {"text": x_title}} if is_lowest else {}), row=row, col=column)
        figure.update_yaxes(y_axis | ({"title": {"text": y_title}} if column == 1 else {}), row=row, col=column)
    if n_rows * n_columns > len(names):
        width, tall = (1 - horizontal * (n_columns - 1)) / n_columns, panel_height / inner
        free = len(names) % n_columns
        left, top = free * (width + horizontal), 1 - (n_rows - 1) * (tall + vertical)
        figure.update_layout(legend={"x": left + 0.02, "y": top - 0.04, "xanchor": "left", "yanchor": "top"})
    width = (NOMINAL_WIDTH - MARGIN["l"] - MARGIN["r"]) / n_columns
    shape = {"panels": len(names), "columns": n_columns, "width": round(width), "height": panel_height}
    figure.update_layout(meta={"grid": shape})
    return figure, cells, inner + MARGIN["t"] + MARGIN["b"]


def axis_names(figure: go.Figure, row: int, column: int) -> tuple[str, str]:
    """The names by which shapes and annotations refer to a panel's axes, such as `x3`, `y3`."""
    axes = figure.get_subplot(row, column)
    assert isinstance(axes, SubplotXY)
    return axes.xaxis.plotly_name.replace("axis", ""), axes.yaxis.plotly_name.replace("axis", "")


def panel_title(figure: go.Figure, text: str, row: int, column: int) -> None:
    """Write a panel's name above its left corner."""
    x, y = axis_names(figure, row, column)
    figure.add_annotation(
        text=f"<b>{escape(text)}</b>",
        x=0,
        y=1,
        xref=f"{x} domain",
        yref=f"{y} domain",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": 13},
    )


def layer_colours(n_layers: int) -> list[str]:
    """One colour per layer, dark to light, the palest and the darkest tones left out so that both pages show them."""
    shares = np.linspace(0.28, 0.88, n_layers) if n_layers > 1 else np.array([0.4])
    return [str(colour) for colour in sample_colorscale("Viridis", shares.tolist())]


def place_labels(
    x: Float[np.ndarray, "label"],
    y: Float[np.ndarray, "label"],
    *,
    panel_width: float,
    panel_height: float = math.inf,
    label_width: float = 34.0,
    label_height: float = 15.0,
) -> Int[np.ndarray, "label xy"]:
    """Offsets in pixels (right, down) for the labels of spikes that end at pixel (x, y), y upwards.

    Labels do not overlap each other, stay within the panel's width and, where there is room, below its upper edge and
    off the other spikes.
    """
    # A label in place blocks at most three of these heights, so that three per label always leave one free.
    heights = range(-16, -16 - 14 * 3 * len(x), -14)
    offsets = [(dx, dy) for dy in heights for dx in (0, 26, -26, 46, -46, 66, -66)]
    offsets += [(dx, -2) for dx in (26, -26, 46, -46, 66, -66, 90, -90)]  # beside, where the panel is too low
    placed: list[tuple[float, float]] = []
    chosen = np.zeros((len(x), 2), dtype=int)
    for index in np.argsort(-y, kind="stable"):
        others = np.arange(len(x)) != index
        free = []
        for dx, dy in offsets:
            a, b = x[index] + dx, y[index] - dy
            is_inside = dx == 0 or label_width / 2 <= a <= panel_width - label_width / 2
            if is_inside and all(abs(a - c) >= label_width or abs(b - d) >= label_height for c, d in placed):
                is_crossed = (np.abs(x[others] - a) < label_width / 2) & (y[others] > b - label_height)
                excess = max(0.0, b - panel_height)  # half a label fits between a panel and its name
                free.append(((excess, bool(is_crossed.any())), dx, dy))
        _, dx, dy = min(free, key=lambda spot: spot[0], default=((0.0, True), *offsets[0]))
        placed.append((float(x[index] + dx), float(y[index] - dy)))
        chosen[index] = dx, dy
    return chosen


def scale_bar(title: str, *, length: float = 1.0) -> dict[str, object]:
    """A colour bar with its title."""
    return {
        "title": {"text": title, "font": {"size": 12}},
        "tickfont": {"size": 11},
        "thickness": 12,
        "outlinewidth": 0,
        "len": length,
    }


def log_ticks(values: Float[np.ndarray, "..."]) -> dict[str, object]:
    """A logarithmic axis with labels at the powers of ten, or at 1, 2 and 5 times them over less than 1.5 decades."""
    positive = values[values > 0]
    low, high = np.log10([positive.min(), positive.max()]) if positive.size else (0.0, 0.0)
    if not 0.5 <= high - low < 1.5:
        return {"type": "log", "dtick": 1 if high > low + 1 else None, "minor": {"ticks": "outside", "ticklen": 2}}
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    near = [tick for tick in ticks if low - 0.2 <= math.log10(tick) <= high + 0.2]
    return {"type": "log", "tickvals": near, "ticktext": [f"{tick:g}" for tick in near]}


def is_dwarfed(values: Float[np.ndarray, "..."]) -> bool:
    """Whether the largest value is so far above the typical one that a linear axis would flatten the rest."""
    positive = values[values > 0]
    return bool(positive.size and positive.max() > 10 * np.median(positive))


def number(value: float) -> str:
    """A number at three significant digits with a true minus sign, for text and labels."""
    if math.isnan(value):
        return "–"
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "−")


def joined(words: Sequence[str], *, last: str = "and") -> str:
    """`a, b and c`."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)
