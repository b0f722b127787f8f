"""Figures of a comparison: effect against damage, Pareto fronts, strength curves."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from workbench.figures.contrasts import UNSTEERED, bars, gain, hover, is_shown
from workbench.figures.style import NEUTRAL, PALETTE, SYMBOLS, axis_names, dress, joined, number, panel_grid
from workbench.records import Contrast, StrengthCurve

KL_TITLE = "KL to the unsteered model (nats per token)"


def trade_off_figure(contrasts: Sequence[Contrast], metric: str) -> go.Figure:
    """Effect of every arm on one metric against its KL, one panel per task; bars are paired 95 % intervals.

    Methods are coloured, controls grey; marks are hollow where no difference was shown. Every budget at which an arm
    was measured is a point; the prompt-only baseline, which has no KL, is a dashed line. Raises ValueError where the
    metric was not measured.
    """
    chosen = _against_unsteered(contrasts, metric)
    tasks = list(dict.fromkeys(one.task for one in chosen))
    figure, cells, height = panel_grid(
        tasks, x_title=KL_TITLE, y_title=_effect_title(chosen[0]), panel_height=250, n_columns=min(3, len(tasks))
    )
    arms = _arms(chosen)
    for arm, look in arms.items():
        figure.add_trace(_legend_entry(arm, look), row=1, col=1)
    for task, (row, column) in zip(tasks, cells, strict=True):
        for arm, look in arms.items():
            own = [one for one in chosen if (one.task, one.arm) == (task, arm) and one.kl > 0]
            figure.add_trace(_points(sorted(own, key=lambda one: one.kl), arm, look), row=row, col=column)
        _prompt_line(figure, [one for one in chosen if one.task == task and one.budget == "none"], row, column)
        _zero_line(figure, row, column)
    _log_kl(figure, chosen)
    figure.update_yaxes(range=_span([value for one in chosen for value in (one.low, one.effect, one.high)]))
    figure.update_layout(legend={"title": {"text": "arm (hollow: no difference shown)"}})
    return dress(figure, title="Effect against damage", subtitle=_subtitle(chosen[0]), height=height)


def front_figure(contrasts: Sequence[Contrast], metric: str) -> go.Figure:
    """What can be had for how much KL: the Pareto front over all arms on one metric, one panel per task.

    Effects count in the wanted direction. The stepped line is the front; arms on it are named. Raises ValueError where
    the metric was not measured.
    """
    chosen = [one for one in _against_unsteered(contrasts, metric) if one.kl > 0]
    if not chosen:
        raise ValueError(f"no arm was measured on {metric!r} at a known KL, so there is no front to draw")
    tasks = list(dict.fromkeys(one.task for one in chosen))
    title = f"gain over unsteered<br>({escape(chosen[0].unit)})"
    columns = min(3, len(tasks))
    figure, cells, height = panel_grid(tasks, x_title=KL_TITLE, y_title=title, panel_height=250, n_columns=columns)
    arms = _arms(chosen)
    for arm, look in arms.items():
        figure.add_trace(_legend_entry(arm, look), row=1, col=1)
    for task, (row, column) in zip(tasks, cells, strict=True):
        own = sorted((one for one in chosen if one.task == task), key=lambda one: (one.kl, -gain(one)))
        best, kept = -math.inf, []
        for one in own:
            if gain(one) > best:
                best = gain(one)
                kept.append(one)
        figure.add_trace(_front_line(kept, max(one.kl for one in chosen)), row=row, col=column)
        for arm, look in arms.items():
            figure.add_trace(_gain_points([one for one in own if one.arm == arm], kept, arm, look), row=row, col=column)
        _zero_line(figure, row, column)
    _log_kl(figure, chosen)
    figure.update_yaxes(range=_span([gain(one) for one in chosen]))
    figure.update_layout(legend={"title": {"text": "arm (filled: on the front)"}})
    subtitle = f"{escape(metric)}; the line joins what no other arm beats in both"
    return dress(figure, title="Pareto fronts of gain and damage", subtitle=subtitle, height=height)


def strength_figure(curves: Sequence[StrengthCurve], task: str) -> go.Figure:
    """Effect on the tuning items along the strength of every arm of one task, one panel per arm.

    Strengths are in median residual norms, so that arms share an axis. The usable band is shaded; a panel without one
    says so. Raises ValueError where the task has no curve.
    """
    chosen = [one for one in curves if one.task == task and one.strengths]
    if not chosen:
        raise ValueError(f"no strength curve was measured on {task!r}")
    first = chosen[0]
    figure, cells, height = panel_grid(
        [one.arm for one in chosen],
        x_title="strength (median residual norms)",
        y_title=f"effect ({escape(first.unit)})",
        panel_height=150,
        n_columns=min(4, len(chosen)),
    )
    for one, (row, column) in zip(chosen, cells, strict=True):
        figure.add_trace(_curve(one), row=row, col=column)
        _zero_line(figure, row, column)
        x, y = axis_names(figure, row, column)
        if math.isfinite(one.low):
            scale = one.in_norms[0] / one.strengths[0]
            band = {"x0": one.low * scale, "x1": one.high * scale, "y0": 0, "y1": 1}
            refs = {"xref": x, "yref": f"{y} domain"}
            style = {"fillcolor": PALETTE[2], "opacity": 0.16, "line": {"width": 0}, "layer": "below"}
            figure.add_shape(type="rect", **band, **refs, **style)
        else:
            place = {"x": 0.02, "y": 0.04, "xref": f"{x} domain", "yref": f"{y} domain", "xanchor": "left"}
            figure.add_annotation(text="no usable band", showarrow=False, yanchor="bottom", font={"size": 11}, **place)
    figure.update_xaxes(type="log", dtick="D2", tickformat="~g")
    better = "higher" if first.higher_is_better else "lower"
    subtitle = (
        f"{escape(task)}: {escape(first.metric)}, {better} is better; shaded: shown effect at KL below {first.limit:g}"
    )
    return dress(figure, title="Effect along the strength, on the tuning items", subtitle=subtitle, height=height)


# --- parts ------------------------------------------------------------------------------------------------------------


def _against_unsteered(contrasts: Sequence[Contrast], metric: str) -> list[Contrast]:
    chosen = [
        one for one in contrasts if one.against == UNSTEERED and one.metric == metric and math.isfinite(one.effect)
    ]
    if not chosen:
        known = joined(sorted({one.metric for one in contrasts if math.isfinite(one.effect)}), last="and")
        raise ValueError(f"nothing was measured on {metric!r}; there is {known or 'nothing at all'}")
    return chosen


def _arms(chosen: Sequence[Contrast]) -> dict[str, tuple[str, str]]:
    """Colour and symbol of every arm that has a KL: methods in colour, controls grey."""
    looks, counts = {}, {"method": 0, "control": 0}
    for one in sorted(chosen, key=lambda item: item.role != "method"):
        if one.arm not in looks and one.kl > 0:
            index = counts[one.role]
            counts[one.role] += 1
            colour = PALETTE[index % (len(PALETTE) - 1)] if one.role == "method" else NEUTRAL
            looks[one.arm] = (colour, SYMBOLS[(index + index // (len(PALETTE) - 1)) % len(SYMBOLS)])
    return looks


def _effect_title(contrast: Contrast) -> str:
    return f"steered − unsteered<br>({escape(contrast.unit)})"


def _subtitle(contrast: Contrast) -> str:
    better = "higher" if contrast.higher_is_better else "lower"
    return f"{escape(contrast.metric)}, {better} is better; bars: paired 95 % intervals over subjects"


def _legend_entry(arm: str, look: tuple[str, str]) -> go.Scatter:
    marker = {"color": look[0], "symbol": look[1], "size": 8}
    return go.Scatter(
        x=[None], y=[None], mode="markers", name=escape(arm), legendgroup=arm, marker=marker, hoverinfo="skip"
    )


def _points(own: Sequence[Contrast], arm: str, look: tuple[str, str]) -> go.Scatter:
    colour, symbol = look
    return go.Scatter(
        x=[one.kl for one in own],
        y=[one.effect for one in own],
        mode="lines+markers" if colour != NEUTRAL else "markers",
        name=escape(arm),
        legendgroup=arm,
        showlegend=False,
        line={"color": colour, "width": 1},
        marker={"color": colour, "size": 8, "symbol": [symbol if is_shown(one) else f"{symbol}-open" for one in own]},
        error_y=bars(own, colour),
        hovertext=[hover(one) for one in own],
        hoverinfo="text",
    )


def _gain_points(own: Sequence[Contrast], kept: Sequence[Contrast], arm: str, look: tuple[str, str]) -> go.Scatter:
    colour, symbol = look
    return go.Scatter(
        x=[one.kl for one in own],
        y=[gain(one) for one in own],
        mode="markers",
        name=escape(arm),
        legendgroup=arm,
        showlegend=False,
        marker={"color": colour, "size": 8, "symbol": [symbol if one in kept else f"{symbol}-open" for one in own]},
        hovertext=[hover(one) for one in own],
        hoverinfo="text",
    )


def _front_line(kept: Sequence[Contrast], last: float) -> go.Scatter:
    line = {"color": NEUTRAL, "width": 1.5, "shape": "hv"}
    x, y = [one.kl for one in kept], [gain(one) for one in kept]
    return go.Scatter(
        x=[*x, last], y=[*y, y[-1]], mode="lines", line=line, name="front", showlegend=False, hoverinfo="skip"
    )


def _curve(curve: StrengthCurve) -> go.Scatter:
    order = np.argsort(curve.strengths)
    effect = np.array(curve.effect)[order]
    ends = {
        "array": np.array(curve.effect_high)[order] - effect,
        "arrayminus": effect - np.array(curve.effect_low)[order],
        "color": PALETTE[0],
        "thickness": 1.1,
        "width": 2,
    }
    kl = np.array(curve.kl)[order]
    return go.Scatter(
        x=np.array(curve.in_norms)[order],
        y=effect,
        mode="lines+markers",
        line={"color": PALETTE[0], "width": 1},
        marker={"color": PALETTE[0], "size": 6},
        error_y=ends,
        showlegend=False,
        hovertext=[
            f"{escape(curve.arm)}, {escape(curve.setting)}<br>"
            f"strength {number(float(strength))}, KL {number(float(cost))}"
            for strength, cost in zip(np.array(curve.strengths)[order], kl, strict=True)
        ],
        hoverinfo="text",
    )


def _prompt_line(figure: go.Figure, own: Sequence[Contrast], row: int, column: int) -> None:
    x, y = axis_names(figure, row, column)
    for one in own:
        line = {"color": NEUTRAL, "width": 1.2, "dash": "dash"}
        figure.add_shape(type="line", x0=0, x1=1, y0=one.effect, y1=one.effect, xref=f"{x} domain", yref=y, line=line)
        place = {"x": 1, "y": one.effect, "xref": f"{x} domain", "yref": y, "xanchor": "right", "yanchor": "bottom"}
        figure.add_annotation(text=escape(one.arm), showarrow=False, font={"size": 10}, **place)


def _zero_line(figure: go.Figure, row: int, column: int) -> None:
    x, y = axis_names(figure, row, column)
    along = {"x0": 0, "x1": 1, "y0": 0, "y1": 0, "xref": f"{x} domain", "yref": y}
    figure.add_shape(type="line", line={"color": NEUTRAL, "width": 1.2}, layer="below", **along)


def _span(values: Sequence[float]) -> list[float]:
    """Axis limits that show zero and every value."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.06 * (high - low) or 1.0
    return [low - room, high + room]


def _log_kl(figure: go.Figure, chosen: Sequence[Contrast]) -> None:
    known = [one.kl for one in chosen if one.kl > 0]
    if known:
        ends = [math.log10(min(known)) - 0.2, math.log10(max(known)) + 0.2]
        levels = sorted({one.level for one in chosen if one.budget == "kl"})
        ticks = {"tickvals": levels, "ticktext": [f"{level:g}" for level in levels]} if levels else {}
        figure.update_xaxes(type="log", range=ends, **ticks)
