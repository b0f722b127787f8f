"""What steering breaks: every measure of damage beside the unsteered model, one panel per measure."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import NEUTRAL, PALETTE, axis_names, dress, joined, number, panel_grid
from workbench.records import Damage

ROW = 17  # pixels per arm
TICKS = 26  # pixels that the values of an axis and its title take above the next panel
TOWARDS = {"up": " (damage →)", "down": " (← damage)", "": ""}


def damage_figure(damages: Sequence[Damage], task: str, *, budget: str, level: float) -> go.Figure:
    """Change of every measure of damage under every arm of one task at one budget, each panel in its own unit.

    Bars are paired 95 % intervals; filled marks are changes whose interval leaves zero out, diamonds are single
    numbers without an interval. Controls are grey, methods stand above them. Raises ValueError where nothing was
    measured there.
    """
    chosen = _chosen(damages, task, budget, level)
    measures = list(dict.fromkeys(one.measure for one in chosen))
    arms = [arm for role in ("control", "method") for arm in reversed(_arms(chosen, role))]
    figure, cells, height = panel_grid(
        measures, x_title="", y_title="arm", panel_height=ROW * len(arms) + TICKS + 14, n_columns=min(3, len(measures))
    )
    for measure, (row, column) in zip(measures, cells, strict=True):
        own = {one.arm: one for one in chosen if one.measure == measure}
        for role, colour in (("control", NEUTRAL), ("method", PALETTE[0])):
            rows = [own[arm] for arm in arms if arm in own and own[arm].role == role]
            figure.add_trace(_rows(rows, colour), row=row, col=column)
        first = next(iter(own.values()))
        title = {"text": f"{escape(first.unit or 'change')}{TOWARDS[first.worse]}", "standoff": 2}
        figure.update_xaxes({"title": title, "matches": None, "showticklabels": True}, row=row, col=column)
        _zero_line(figure, row, column)
    _leave_room(figure, height)
    categories = {"type": "category", "categoryorder": "array", "categoryarray": [escape(arm) for arm in arms]}
    figure.update_yaxes(range=[-0.7, len(arms) - 0.3], dtick=1, **categories)
    subtitle = (
        f"{escape(task)} at {budget} {level:g}: steered − unsteered; filled: interval without zero; "
        "diamond: one number, no interval; controls grey"
    )
    return dress(figure, title="What steering breaks", subtitle=subtitle, height=height)


def damage_caption(damages: Sequence[Damage], task: str, *, budget: str, level: float) -> str:
    """Which arms break most and least at the budget, counted in measures that are shown to be worse.

    Length, whose change is no damage by itself, is not counted. Raises as `damage_figure`.
    """
    chosen = [one for one in _chosen(damages, task, budget, level) if one.worse]
    counts = {arm: sum(_is_worse(one) for one in chosen if one.arm == arm) for arm in _arms(chosen)}
    n_measures = len({one.measure for one in chosen})
    where = f"{task} at {budget} {level:g}"
    if not any(counts.values()):
        return f"On {where} no arm is shown to be worse than the unsteered model in any of {n_measures} measures."
    most, least = max(counts.values()), min(counts.values())
    if most == least:
        return f"On {where} every arm is shown to be worse in {most} of {n_measures} measures."
    ends = [joined([arm for arm, count in counts.items() if count == end]) for end in (most, least)]
    return (
        f"On {where} most is broken by {ends[0]}, shown to be worse in {most} of {n_measures} measures; least by "
        f"{ends[1]}, in {least}."
    )


def _chosen(damages: Sequence[Damage], task: str, budget: str, level: float) -> list[Damage]:
    """The measured rows of a task at a budget, with those of arms that have none (the prompt-only baseline)."""
    chosen = [
        one
        for one in damages
        if one.task == task
        and ((one.budget, one.level) == (budget, level) or one.budget == "none")
        and math.isfinite(one.difference)
    ]
    if not chosen:
        raise ValueError(f"no damage was measured on {task!r} at {budget} {level:g}")
    return chosen


def _arms(chosen: Sequence[Damage], role: str = "") -> list[str]:
    return list(dict.fromkeys(one.arm for one in chosen if role in ("", one.role)))


def _is_shown(one: Damage) -> bool:
    return one.low > 0 or one.high < 0


def _is_worse(one: Damage) -> bool:
    return one.low > 0 if one.worse == "up" else one.high < 0


def _mark(one: Damage) -> str:
    if math.isnan(one.low):
        return "diamond-open"
    return "circle" if _is_shown(one) else "circle-open"


def _rows(rows: Sequence[Damage], colour: str) -> go.Scatter:
    bars: dict[str, Any] = {
        "array": np.nan_to_num([one.high - one.difference for one in rows]).tolist(),
        "arrayminus": np.nan_to_num([one.difference - one.low for one in rows]).tolist(),
        "color": colour,
        "thickness": 1.1,
        "width": 2,
    }
    return go.Scatter(
        x=[one.difference for one in rows],
        y=[escape(one.arm) for one in rows],
        mode="markers",
        marker={"color": colour, "size": 7, "symbol": [_mark(one) for one in rows]},
        error_x=bars,
        showlegend=False,
        hovertext=[_hover(one) for one in rows],
        hoverinfo="text",
    )


def _hover(one: Damage) -> str:
    interval = "one number, no interval" if math.isnan(one.low) else f"{number(one.low)} to {number(one.high)}"
    return (
        f"<b>{escape(one.arm)}</b>, {escape(one.measure)}<br>{number(one.value)} against {number(one.unsteered)} "
        f"unsteered<br>change {number(one.difference)} ({interval}), n = {one.n}"
    )


def _zero_line(figure: go.Figure, row: int, column: int) -> None:
    x, y = axis_names(figure, row, column)
    line = {"color": NEUTRAL, "width": 1.2}
    figure.add_shape(type="line", x0=0, x1=0, y0=0, y1=1, xref=x, yref=f"{y} domain", line=line, layer="below")


def _leave_room(figure: go.Figure, height: int) -> None:
    """Shorten every panel at its foot, where its own values and unit stand."""

    def shorten(axis: Any) -> None:
        low, high = axis.domain
        axis.domain = [low + TICKS / height, high]

    figure.for_each_yaxis(shorten)
