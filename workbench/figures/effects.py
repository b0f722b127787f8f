"""What steering changes beside what it costs: effect against KL, and all effects at one level of KL."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import NEUTRAL, PALETTE, SYMBOLS, axis_names, dress, joined, number, panel_grid
from workbench.records import Comparison

UNSTEERED = "unsteered"
HOVER = "%{fullData.name}<br>effect %{customdata[0]:.3g} (%{customdata[1]})<br>KL %{customdata[2]}<br>%{customdata[3]}"


def arm_name(comparison: Comparison) -> str:
    """Method and selection, `cds (magnitude)`, and what it is compared with if that is not the unsteered model."""
    name = f"{comparison.method} ({comparison.selection})" if comparison.selection else comparison.method
    return name if comparison.against == UNSTEERED else f"{name} − {comparison.against}"


def unit_of(metric: str) -> str:
    """The unit in which a metric's effects are written."""
    return "nats per token" if "loss" in metric else "difference in share"


def is_lower_better(metric: str) -> bool:
    """Whether a negative effect is the wanted one: so for losses, not for shares."""
    return "loss" in metric


def is_measured(comparison: Comparison) -> bool:
    """Whether the arm could be run, so that there is an effect with an interval."""
    return all(map(math.isfinite, (comparison.effect, comparison.low, comparison.high)))


def shows_difference(comparison: Comparison) -> bool:
    """Whether the 95 % interval of the effect leaves zero out."""
    return comparison.low > 0 or comparison.high < 0


def is_better(comparison: Comparison) -> bool:
    """Whether the effect has the wanted sign."""
    return comparison.effect < 0 if is_lower_better(comparison.metric) else comparison.effect > 0


def smallest_visible(comparison: Comparison) -> float:
    """The smallest effect that this comparison could have shown: half the width of its interval."""
    return (comparison.high - comparison.low) / 2


def reading(comparison: Comparison) -> str:
    """The comparison in a few words: better, worse, no difference shown, or not measured."""
    if not is_measured(comparison):
        return f"not measured: {comparison.note}" if comparison.note else "not measured"
    if shows_difference(comparison):
        return "better" if is_better(comparison) else "worse"
    if comparison.low == comparison.high:
        return f"no difference shown (all {comparison.n} pairs are equal)"
    return f"no difference shown (visible from ±{number(smallest_visible(comparison))})"


def of_metric(comparisons: Sequence[Comparison], metric: str | None) -> list[Comparison]:
    """The comparisons of one metric; raises ValueError where it is unknown, or where several are and none is chosen."""
    metrics = list(dict.fromkeys(comparison.metric for comparison in comparisons))
    if not metrics:
        raise ValueError("no comparison was given, so there is no effect to draw")
    if metric is None and len(metrics) > 1:
        choice = joined([repr(name) for name in metrics], last="or")
        raise ValueError(f"several metrics cannot share an axis; choose metric={choice}")
    if metric is not None and metric not in metrics:
        raise ValueError(f"metric {metric!r} was not measured; these were: {', '.join(metrics)}")
    return [comparison for comparison in comparisons if comparison.metric == (metric or metrics[0])]


def against_unsteered(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those whose effect is a difference to the unsteered model."""
    return [comparison for comparison in comparisons if comparison.against == UNSTEERED]


def between_arms(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those whose effect is a difference between two arms at the same level of KL."""
    return [comparison for comparison in comparisons if comparison.against != UNSTEERED]


def effect_figure(comparisons: Sequence[Comparison], metric: str | None = None) -> go.Figure:
    """Effect of every steered arm on one metric against its KL to the unsteered model, one panel per domain.

    Arms that share a level of KL are set side by side around it; the hover text has the measured KL. Bars are paired
    95 % intervals; marks are hollow where the interval covers zero. Differences between arms, and arms that could not
    be run, are left out. Raises ValueError where there are several metrics and none is chosen.
    """
    chosen = of_metric(against_unsteered(comparisons), metric)
    metric = chosen[0].metric
    domains = list(dict.fromkeys(comparison.domain for comparison in chosen))
    measured = [comparison for comparison in chosen if is_measured(comparison)]
    arms = list(dict.fromkeys(map(arm_name, measured)))
    y_title = f"steered − unsteered<br>({unit_of(metric)})"
    x_title = "KL to the unsteered model (nats per token)"
    figure, cells, height = panel_grid(domains, x_title=x_title, y_title=y_title, panel_height=210)
    for index, arm in enumerate(arms):
        figure.add_trace(_legend_entry(arm, index), row=1, col=1)
    for domain, (row, column) in zip(domains, cells, strict=True):
        for index, arm in enumerate(arms):
            own = [item for item in measured if item.domain == domain and arm_name(item) == arm]
            shift = 0.0 if len(arms) == 1 else 0.2 * (index / (len(arms) - 1) - 0.5)
            figure.add_trace(
                _arm_curve(sorted(own, key=lambda item: item.budget), arm, index, shift), row=row, col=column
            )
        _zero_line(figure, "y", row, column)
    _say_where_empty(figure, domains, measured, cells)
    levels = sorted({comparison.budget for comparison in chosen})
    known = [*levels, *(comparison.kl for comparison in measured if comparison.kl > 0)]
    ends = [math.log10(min(known)) - 0.16, math.log10(max(known)) + 0.16]
    labels = [f"{level:g}" for level in levels]
    figure.update_xaxes(type="log", tickvals=levels, ticktext=labels, range=ends)
    figure.update_yaxes(range=_span(measured))
    figure.update_layout(legend={"title": {"text": "arm (hollow: no difference shown)"}})
    return dress(figure, title="Effect of steering against its cost", subtitle=_subtitle(metric), height=height)


def forest_figure(comparisons: Sequence[Comparison], budget: float, metric: str | None = None) -> go.Figure:
    """Effects of all arms on one metric at one level of KL with their intervals, one panel per domain.

    Marks are hollow where the interval covers zero. Arms that could not be run are named as such. Raises ValueError
    where no comparison has that level, or where there are several metrics and none is chosen.
    """
    chosen = _at_level(of_metric(against_unsteered(comparisons), metric), budget)
    return _forest(chosen, f"Effects at KL {budget:g} nats per token", "steered − unsteered")


def difference_figure(comparisons: Sequence[Comparison], budget: float, metric: str | None = None) -> go.Figure:
    """Differences between arms on one metric at one level of KL with their intervals, one panel per domain.

    Raises ValueError where no two arms were compared at that level, or several metrics are given and none is chosen.
    """
    chosen = _at_level(of_metric(between_arms(comparisons), metric), budget)
    return _forest(chosen, f"Arm against arm at KL {budget:g} nats per token", "difference of effects")


def _at_level(comparisons: Sequence[Comparison], budget: float) -> list[Comparison]:
    chosen = [comparison for comparison in comparisons if comparison.budget == budget]
    if not chosen:
        levels = ", ".join(f"{level:g}" for level in sorted({comparison.budget for comparison in comparisons}))
        raise ValueError(f"nothing was compared at KL {budget:g}; the levels are {levels}")
    return chosen


def _forest(chosen: Sequence[Comparison], title: str, axis: str) -> go.Figure:
    metric = chosen[0].metric
    arms = list(dict.fromkeys(map(arm_name, chosen)))
    domains = list(dict.fromkeys(comparison.domain for comparison in chosen))
    figure, cells, height = panel_grid(
        domains,
        x_title=f"{axis} ({unit_of(metric)})",
        y_title="arm",
        panel_height=22 * len(arms) + 30,
        n_columns=min(3, len(domains)),
    )
    measured = [comparison for comparison in chosen if is_measured(comparison)]
    for domain, (row, column) in zip(domains, cells, strict=True):
        for index, arm in enumerate(arms):
            own = [item for item in chosen if item.domain == domain and arm_name(item) == arm]
            figure.add_trace(_arm_row([item for item in own if is_measured(item)], arm, index), row=row, col=column)
            if not any(map(is_measured, own)):
                figure.add_trace(_not_run(own, arm), row=row, col=column)
        _zero_line(figure, "x", row, column)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[escape(arm) for arm in arms[::-1]])
    figure.update_yaxes(range=[-0.6, len(arms) - 0.4], tickfont={"size": 11})
    figure.update_xaxes(range=_span(measured))
    return dress(figure, title=title, subtitle=f"{_subtitle(metric)}; hollow: no difference shown", height=height)


def _subtitle(metric: str) -> str:
    better = "lower" if is_lower_better(metric) else "higher"
    return f"{escape(metric)}, {better} is better; bars: paired 95 % interval"


def _span(comparisons: Sequence[Comparison]) -> list[float]:
    """Axis limits that show zero and every interval."""
    ends = [0.0, *(value for item in comparisons for value in (item.low, item.effect, item.high))]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 1.0
    return [low - room, high + room]


def _zero_line(figure: go.Figure, axis: str, row: int, column: int) -> None:
    x, y = axis_names(figure, row, column)
    along = {"x0": 0, "x1": 0, "y0": 0, "y1": 1} if axis == "x" else {"x0": 0, "x1": 1, "y0": 0, "y1": 0}
    refs = {"xref": x, "yref": f"{y} domain"} if axis == "x" else {"xref": f"{x} domain", "yref": y}
    figure.add_shape(type="line", line={"color": NEUTRAL, "width": 1.5}, layer="below", **along, **refs)


def _say_where_empty(
    figure: go.Figure, domains: Sequence[str], measured: Sequence[Comparison], cells: Sequence[tuple[int, int]]
) -> None:
    for domain, (row, column) in zip(domains, cells, strict=True):
        if not any(comparison.domain == domain for comparison in measured):
            x, y = (f"{name} domain" for name in axis_names(figure, row, column))
            figure.add_annotation(text="no arm could be run", x=0.5, y=0.7, xref=x, yref=y, showarrow=False)


def _mark(comparison: Comparison, index: int) -> str:
    symbol = SYMBOLS[index % len(SYMBOLS)]
    return symbol if shows_difference(comparison) else f"{symbol}-open"


def _hover(comparison: Comparison) -> list[str | float]:
    note = f"<br>{escape(comparison.note)}" if comparison.note else ""
    where = f"layer {comparison.layer}, strength {number(comparison.strength)}, n = {comparison.n}"
    return [
        comparison.effect,
        f"{number(comparison.low)} to {number(comparison.high)}",
        number(comparison.kl),
        f"{where}<br>{reading(comparison)}{note}",
    ]


def _intervals(own: Sequence[Comparison], colour: str) -> dict[str, object]:
    return {
        "array": np.array([item.high - item.effect for item in own]),
        "arrayminus": np.array([item.effect - item.low for item in own]),
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _legend_entry(arm: str, index: int) -> go.Scatter:
    marker = {"color": PALETTE[index % len(PALETTE)], "size": 8, "symbol": SYMBOLS[index % len(SYMBOLS)]}
    name = escape(arm)
    return go.Scatter(x=[None], y=[None], mode="markers", name=name, legendgroup=arm, marker=marker, hoverinfo="skip")


def _arm_curve(own: Sequence[Comparison], arm: str, index: int, shift: float) -> go.Scatter:
    colour = PALETTE[index % len(PALETTE)]
    cost = np.array([item.kl if item.kl > 0 else item.budget for item in own])
    return go.Scatter(
        x=cost * 10**shift,
        meta={"x": cost.tolist()},
        y=np.array([item.effect for item in own]),
        mode="lines+markers",
        name=escape(arm),
        legendgroup=arm,
        showlegend=False,
        line={"color": colour, "width": 1},
        marker={"color": colour, "size": 8, "symbol": [_mark(item, index) for item in own]},
        error_y=_intervals(own, colour),
        customdata=[_hover(item) for item in own],
        hovertemplate=f"{HOVER}<extra></extra>",
    )


def _not_run(own: Sequence[Comparison], arm: str) -> go.Scatter:
    return go.Scatter(
        x=[0.0],
        y=[escape(arm)],
        mode="text",
        text=["not run\u2002"],
        textposition="middle left",
        textfont={"size": 11, "color": NEUTRAL},
        showlegend=False,
        hovertext=[escape(f"{arm}: {reading(own[0]) if own else 'not measured'}")],
        hoverinfo="text",
    )


def _arm_row(own: Sequence[Comparison], arm: str, index: int) -> go.Scatter:
    colour = PALETTE[index % len(PALETTE)]
    return go.Scatter(
        x=np.array([item.effect for item in own]),
        y=[escape(arm)] * len(own),
        mode="markers",
        name=escape(arm),
        showlegend=False,
        marker={"color": colour, "size": 8, "symbol": [_mark(item, index) for item in own]},
        error_x=_intervals(own, colour),
        customdata=[_hover(item) for item in own],
        hovertemplate=f"{HOVER}<extra></extra>",
    )
