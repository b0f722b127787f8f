"""Contrasts as rows with intervals: one arm domain by domain, and all arms of a task beside each other."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import NEUTRAL, PALETTE, dress, number
from workbench.records import Contrast

UNSTEERED = "unsteered"
ROW = 19  # pixels per row


def domain_forest_figure(
    contrasts: Sequence[Contrast], arm: str, against: str, *, metric: str, budget: str, level: float
) -> go.Figure:
    """One arm against another in every domain at one budget, sorted by effect, with the count of domains ahead.

    The figure behind a statement such as "better in 34 of 57 subjects". Raises ValueError where there is nothing.
    """
    chosen = [
        one
        for one in contrasts
        if (one.arm, one.against, one.metric, one.budget, one.level) == (arm, against, metric, budget, level)
        and one.domain
        and math.isfinite(one.effect)
    ]
    if not chosen:
        raise ValueError(f"{arm} and {against} were not compared on {metric!r} at {budget} {level:g} in any domain")
    chosen.sort(key=gain)
    ahead = sum(gain(one) > 0 for one in chosen)
    words = [sum(one.verdict == word for one in chosen) for word in ("better", "worse")]
    figure = go.Figure(_forest_rows(chosen, [one.domain for one in chosen], PALETTE[0]))
    subtitle = (
        f"{escape(metric)} at {budget} {level:g}: ahead in {ahead} of {len(chosen)} domains; "
        f"shown better in {words[0]}, worse in {words[1]} (filled marks)"
    )
    title = f"{escape(arm)} against {escape(against)}, domain by domain"
    return _forest(figure, chosen, f"{arm} − {against}", title, subtitle)


def arm_forest_figure(contrasts: Sequence[Contrast], task: str, *, metric: str, budget: str, level: float) -> go.Figure:
    """All arms of one task at one budget against the unsteered model, methods first, with the prompt-only baseline.

    Raises ValueError where nothing was measured there.
    """
    found = [
        one
        for one in contrasts
        if (one.task, one.against, one.metric) == (task, UNSTEERED, metric)
        and ((one.budget, one.level) == (budget, level) or one.budget == "none")
        and math.isfinite(one.effect)
    ]
    if not found:
        raise ValueError(f"no arm was measured on {task!r}, {metric!r} at {budget} {level:g}")
    found = [one for role in ("control", "method") for one in found if one.role == role]
    figure = go.Figure()
    for role, colour in (("control", NEUTRAL), ("method", PALETTE[0])):
        own = [one for one in found if one.role == role]
        if own:
            figure.add_trace(_forest_rows(own, [one.arm for one in own], colour))
    better = "higher" if found[0].higher_is_better else "lower"
    subtitle = f"{escape(metric)}, {better} is better; {budget} {level:g}; hollow: no difference shown; controls grey"
    return _forest(figure, found, "steered − unsteered", f"All arms on {escape(task)}", subtitle)


# --- parts, shared with the other figures of a comparison -------------------------------------------------------------


def gain(contrast: Contrast) -> float:
    """The effect in the wanted direction."""
    return contrast.effect if contrast.higher_is_better else -contrast.effect


def is_shown(contrast: Contrast) -> bool:
    """Whether a difference was shown, in either direction."""
    return contrast.verdict in ("better", "worse")


def hover(contrast: Contrast) -> str:
    """A contrast in full, for the label that opens under the pointer."""
    note = f"<br>{escape(contrast.note)}" if contrast.note else ""
    budget = "" if contrast.budget == "none" else f"{contrast.budget} {contrast.level:g}, {escape(contrast.setting)}, "
    return (
        f"<b>{escape(contrast.arm)}</b> on {escape(contrast.task)}<br>{number(contrast.effect)} "
        f"({number(contrast.low)} to {number(contrast.high)}), n = {contrast.n}, q = {number(contrast.q)}<br>"
        f"{budget}KL {number(contrast.kl)}, strength {number(contrast.strength)} "
        f"({number(contrast.in_norms)} residual norms)<br>{contrast.verdict} "
        f"(visible from ±{number(contrast.minimum_detectable_effect)}){note}"
    )


def bars(own: Sequence[Contrast], colour: str) -> dict[str, Any]:
    """Error bars that reach from end to end of the intervals."""
    above = np.array([one.high - one.effect for one in own])
    below = np.array([one.effect - one.low for one in own])
    return {"array": above, "arrayminus": below, "color": colour, "thickness": 1.1, "width": 3}


def _forest_rows(own: Sequence[Contrast], names: Sequence[str], colour: str) -> go.Scatter:
    return go.Scatter(
        x=[one.effect for one in own],
        y=[escape(name) for name in names],
        mode="markers",
        marker={"color": colour, "size": 8, "symbol": ["circle" if is_shown(one) else "circle-open" for one in own]},
        error_x=bars(own, colour),
        showlegend=False,
        hovertext=[hover(one) for one in own],
        hoverinfo="text",
    )


def _forest(figure: go.Figure, own: Sequence[Contrast], axis: str, title: str, subtitle: str) -> go.Figure:
    figure.update_xaxes(title={"text": f"{escape(axis)} ({escape(own[0].unit)})"})
    figure.update_yaxes(type="category", range=[-0.7, len(own) - 0.3], dtick=1, tickfont={"size": 11})
    line = {"color": NEUTRAL, "width": 1.5}
    figure.add_shape(type="line", x0=0, x1=0, y0=0, y1=1, yref="y domain", line=line, layer="below")
    return dress(figure, title=title, subtitle=subtitle, height=ROW * len(own) + 190)
