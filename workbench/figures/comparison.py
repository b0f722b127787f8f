"""What steering changes and what it breaks: effect against KL, fronts, forests, strengths, damage; with captions.

A study and a comparison are drawn by the same functions. Units and the wanted direction come with the record. Marks are
hollow where no difference is detected; methods are coloured, controls grey.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import NEUTRAL, PALETTE, SYMBOLS, axis_names, dress, joined, number, panel_grid
from workbench.records import LEVEL, Contrast, Damage, StrengthCurve

UNSTEERED = "unsteered"
KL_TITLE = "KL to the unsteered model (nats per token)"
ROW = 19  # pixels per row of a forest
DAMAGE_ROW, TICKS = 17, 26  # pixels per arm; and of the values and title of an axis above the next panel
TOWARDS = {"up": " (damage →)", "down": " (← damage)", "": ""}
Looks = dict[str, tuple[str, str]]  # arm -> colour and symbol


# --- effects ----------------------------------------------------------------------------------------------------------


def trade_off_figure(
    contrasts: Sequence[Contrast], metric: str, tasks: Sequence[str] | None = None
) -> go.Figure | None:
    """Effect of every arm on one metric against its KL, one panel per task; bars are paired 95 % intervals.

    Arms at the same level of KL are set side by side around it; the hover text has the measured KL. The prompt-only
    baseline, which has no KL, is a dashed line. None where no arm was measured; ValueError for an unknown metric.
    """
    chosen = _against_unsteered(contrasts, metric, tasks)
    measured = [one for one in chosen if is_measured(one)]
    if not measured:
        return None
    figure, cells, height, names = _task_grid(chosen, KL_TITLE, f"steered − unsteered<br>({escape(chosen[0].unit)})")
    looks = _looks([one for one in measured if one.kl > 0])
    for arm, look in looks.items():
        figure.add_trace(_legend_entry(arm, look), row=1, col=1)
    for task, (row, column) in zip(names, cells, strict=True):
        own = [one for one in measured if one.task == task]
        for index, (arm, look) in enumerate(looks.items()):
            shift = 0.0 if len(looks) == 1 else 0.2 * (index / (len(looks) - 1) - 0.5)
            points = sorted((one for one in own if one.arm == arm and one.kl > 0), key=lambda one: one.kl)
            figure.add_trace(_effect_points(points, look, shift), row=row, col=column)
        _prompt_lines(figure, [one for one in own if one.budget == "none"], row, column)
        _zero_line(figure, "y", row, column)
        if not own:
            x, y = (f"{name} domain" for name in axis_names(figure, row, column))
            figure.add_annotation(text="no arm could be run", x=0.5, y=0.7, xref=x, yref=y, showarrow=False)
    _log_kl(figure, measured)
    figure.update_yaxes(range=_span([value for one in measured for value in (one.low, one.effect, one.high)]))
    figure.update_layout(legend={"title": {"text": "arm (hollow: not detected)"}})
    return dress(figure, title="Effect of steering against its cost", subtitle=_subtitle(chosen[0]), height=height)


def trade_off_caption(contrasts: Sequence[Contrast], metric: str, tasks: Sequence[str] | None = None) -> str:
    """Whether any arm differs from the unsteered model, in which direction, and how many would by chance."""
    everything = _against_unsteered(contrasts, metric, tasks)
    chosen = [one for one in everything if is_measured(one)]
    unit, n_missing = everything[0].unit, len(everything) - len(chosen)
    tail = f" {n_missing} of {len(everything)} could not be run (the table says why)." if n_missing else ""
    if not chosen:
        return f"No arm could be run, so nothing is known about {metric}.{tail}"
    different = [one for one in chosen if excludes_zero(one)]
    if not different:
        least = number(min(one.minimum_detectable_effect for one in chosen))
        return (
            f"No arm differs from unsteered in {metric}: all {len(chosen)} intervals cover zero; the narrowest has a "
            f"minimum detectable difference of {least} ({unit}).{tail}"
        )
    better = [one for one in different if gain(one) > 0]
    seen = (
        f"In {metric}, {len(different)} of {len(chosen)} intervals exclude zero: {len(better)} better and "
        f"{len(different) - len(better)} worse than unsteered, where about {LEVEL * len(chosen):.0f} would by chance"
    )
    adjusted = [one for one in different if math.isfinite(one.q)]
    if adjusted:
        seen += f"; {sum(map(is_shown, adjusted))} remain after adjustment for their number"
    if not better:
        return f"{seen}; no arm improves on the unsteered model.{tail}"
    best = max(better, key=lambda one: abs(one.effect))
    at = f" at KL {number(best.kl)}" if math.isfinite(best.kl) else ""
    where = best.domain or best.task
    return f"{seen}; the largest improvement is {number(best.effect)} ({unit}; {best.arm} in {where}{at}).{tail}"


def front_figure(contrasts: Sequence[Contrast], metric: str, tasks: Sequence[str] | None = None) -> go.Figure | None:
    """How much gain is to be had for how much KL: the Pareto front over all arms on one metric, one panel per task.

    Effects count in the wanted direction. The stepped line is the front; marks on it are filled. None where no arm was
    measured at a known KL; raises ValueError for an unknown metric.
    """
    chosen = [one for one in _against_unsteered(contrasts, metric, tasks) if is_measured(one) and one.kl > 0]
    if not chosen:
        return None
    figure, cells, height, names = _task_grid(chosen, KL_TITLE, f"gain over unsteered<br>({escape(chosen[0].unit)})")
    looks = _looks(chosen)
    for arm, look in looks.items():
        figure.add_trace(_legend_entry(arm, look), row=1, col=1)
    last = max(one.kl for one in chosen)
    for task, (row, column) in zip(names, cells, strict=True):
        own = sorted((one for one in chosen if one.task == task), key=lambda one: (one.kl, -gain(one)))
        kept, best = [], -math.inf
        for one in own:
            if gain(one) > best:
                best = gain(one)
                kept.append(one)
        line = {"color": NEUTRAL, "width": 1.5, "shape": "hv"}
        steps = {"x": [*(one.kl for one in kept), last], "y": [*map(gain, kept), gain(kept[-1])]}
        plain = {"mode": "lines", "name": "front", "showlegend": False, "hoverinfo": "skip"}
        figure.add_trace(go.Scatter(**steps, line=line, **plain), row=row, col=column)
        for arm, look in looks.items():
            points = [one for one in own if one.arm == arm]
            marks = [one in kept for one in points]
            figure.add_trace(_marks(points, [one.kl for one in points], map(gain, points), look, marks), row, column)
        _zero_line(figure, "y", row, column)
    _log_kl(figure, chosen)
    figure.update_yaxes(range=_span(list(map(gain, chosen))))
    figure.update_layout(legend={"title": {"text": "arm (filled: on the front)"}})
    subtitle = f"{escape(metric)}; the line joins what no other arm beats in both"
    return dress(figure, title="Pareto fronts of gain and damage", subtitle=subtitle, height=height)


def front_caption(contrasts: Sequence[Contrast], metric: str, tasks: Sequence[str] | None = None) -> str:
    """How to read a front."""
    return (
        "Gain is the effect in the wanted direction. An arm off the line is beaten by another in gain and damage "
        "alike, as far as means tell; intervals are in the figure of effects."
    )


def forest_figure(
    contrasts: Sequence[Contrast], metric: str, *, budget: str, level: float, tasks: Sequence[str] | None = None
) -> go.Figure | None:
    """All arms against the unsteered model on one metric at one budget, one panel per task, with the prompt-only arm.

    Arms that could not be run are named as such. None where nothing was measured there.
    """
    chosen = [one for one in _against_unsteered(contrasts, metric, tasks) if _is_at(one, budget, level)]
    title = f"Effects at {budget_name(budget, level)}"
    return _forest_grid(chosen, lambda one: one.arm, title, "steered − unsteered")


def forest_caption(
    contrasts: Sequence[Contrast], metric: str, *, budget: str, level: float, tasks: Sequence[str] | None = None
) -> str:
    """For every arm at one budget: on how many tasks it is better, worse, or shows no difference."""
    chosen = [one for one in _against_unsteered(contrasts, metric, tasks) if _is_at(one, budget, level)]
    return (
        f"Better, worse, not detected, in numbers of tasks at {budget_name(budget, level)}: "
        f"{_tally(chosen, lambda one: one.arm)}. Each arm is compared with the unsteered model, so this does not rank "
        "the arms."
    )


def difference_figure(
    contrasts: Sequence[Contrast], metric: str, *, budget: str, level: float, tasks: Sequence[str] | None = None
) -> go.Figure | None:
    """Differences between two arms on one metric at one budget, one panel per task; None where there are none."""
    title = f"Arm against arm at {budget_name(budget, level)}"
    return _forest_grid(_pairs(contrasts, metric, budget, level, tasks), _pair_name, title, "difference of effects")


def difference_caption(
    contrasts: Sequence[Contrast], metric: str, *, budget: str, level: float, tasks: Sequence[str] | None = None
) -> str:
    """For every pair of arms at one budget: on how many tasks the first is better, worse, or neither."""
    chosen = _pairs(contrasts, metric, budget, level, tasks)
    at, measured = budget_name(budget, level), sum(map(is_measured, chosen))
    if not any(map(is_shown, chosen)):
        return f"No two arms differ detectably at {at} in {metric}: {measured} differences were measured."
    return f"First arm better, worse, not detected, in numbers of tasks at {at}: {_tally(chosen, _pair_name)}."


def domain_forest_figure(
    contrasts: Sequence[Contrast], metric: str, *, arm: str, against: str, kind: str, budget: str, level: float
) -> go.Figure | None:
    """One arm against another in every domain of one kind of task at one budget, sorted by effect.

    The figure behind a statement such as "better in 34 of 57 subjects". None where nothing was measured.
    """
    chosen = sorted(_by_domain(contrasts, metric, arm, against, kind, budget, level), key=gain)
    if not chosen:
        return None
    marks, effects = [is_shown(one) for one in chosen], [one.effect for one in chosen]
    names = [escape(one.domain) for one in chosen]
    trace = _marks(chosen, effects, names, (PALETTE[0], "circle"), marks).update(error_x=_bars(chosen, PALETTE[0]))
    figure = go.Figure(trace)
    figure.update_xaxes(title={"text": f"{escape(arm)} − {escape(against)} ({escape(chosen[0].unit)})"})
    figure.update_yaxes(title={"text": "domain"}, type="category", range=[-0.7, len(chosen) - 0.3], dtick=1)
    figure.update_yaxes(tickfont={"size": 11})
    figure.add_shape(type="line", x0=0, x1=0, y0=0, y1=1, yref="y domain", line=_grey_line(), layer="below")
    title = f"{escape(arm)} against {escape(against)}, domain by domain"
    subtitle = f"{escape(metric)} at {budget_name(budget, level)}; bars: paired 95 % interval; hollow: not detected"
    return dress(figure, title=title, subtitle=subtitle, height=ROW * len(chosen) + 190)


def domain_forest_caption(
    contrasts: Sequence[Contrast], metric: str, *, arm: str, against: str, kind: str, budget: str, level: float
) -> str:
    """In how many domains the arm is ahead, and in how many it is shown to be better or worse."""
    chosen = _by_domain(contrasts, metric, arm, against, kind, budget, level)
    ahead = sum(gain(one) > 0 for one in chosen)
    better, worse = (sum(one.verdict == word for one in chosen) for word in ("better", "worse"))
    return (
        f"{arm} is ahead of {against} in {ahead} of {len(chosen)} domains on {metric} at "
        f"{budget_name(budget, level)}; shown better in {better}, worse in {worse} (filled marks)."
    )


def strength_figure(curves: Sequence[StrengthCurve], task: str) -> go.Figure | None:
    """Effect on the tuning items along the strength of every arm of one task, one panel per arm.

    Strengths are in median residual norms, so that arms share an axis. The usable band is shaded; a panel without one
    is marked. None where the task has no curve.
    """
    chosen = [one for one in curves if one.task == task and one.strengths]
    if not chosen:
        return None
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
        _zero_line(figure, "y", row, column)
        x, y = axis_names(figure, row, column)
        if math.isfinite(one.low):
            scale = one.in_norms[0] / one.strengths[0]
            band = {"x0": one.low * scale, "x1": one.high * scale, "y0": 0, "y1": 1, "xref": x, "yref": f"{y} domain"}
            style = {"fillcolor": PALETTE[2], "opacity": 0.16, "line": {"width": 0}, "layer": "below"}
            figure.add_shape(type="rect", **band, **style)
        else:
            place = {"x": 0.02, "y": 0.04, "xref": f"{x} domain", "yref": f"{y} domain", "xanchor": "left"}
            figure.add_annotation(text="no usable band", showarrow=False, yanchor="bottom", font={"size": 11}, **place)
    figure.update_xaxes(type="log", dtick="D2", tickformat="~g")
    better = "higher" if first.higher_is_better else "lower"
    subtitle = (
        f"{escape(task)}: {escape(first.metric)}, {better} is better; shaded: detected effect at KL below "
        f"{first.limit:g}"
    )
    return dress(figure, title="Effect along the strength, on the tuning items", subtitle=subtitle, height=height)


def strength_caption(curves: Sequence[StrengthCurve], task: str) -> str:
    """How many arms have a usable band of strengths."""
    chosen = [one for one in curves if one.task == task and one.strengths]
    n_usable = sum(math.isfinite(one.low) for one in chosen)
    return (
        f"{n_usable} of {len(chosen)} arms have a usable band of strengths on {task}: a wanted effect below the limit "
        "of damage. Effects are on tuning items, from which strengths may be chosen."
    )


# --- damage -----------------------------------------------------------------------------------------------------------


def damage_figure(damages: Sequence[Damage], task: str, *, budget: str, level: float) -> go.Figure | None:
    """Change of every measure of damage under every arm of one task at one budget, each panel in its own unit.

    Bars are paired 95 % intervals; filled marks are changes whose interval excludes zero, diamonds are single numbers
    without an interval. Controls are grey, methods stand above them. None where nothing was measured there.
    """
    chosen = _damages_at(damages, task, budget, level)
    if not chosen:
        return None
    measures = list(dict.fromkeys(one.measure for one in chosen))
    arms = [arm for role in ("control", "method") for arm in reversed(_damage_arms(chosen, role))]
    panel_height = DAMAGE_ROW * len(arms) + TICKS + 14
    figure, cells, height = panel_grid(
        measures, x_title="", y_title="arm", panel_height=panel_height, n_columns=min(3, len(measures))
    )
    for measure, (row, column) in zip(measures, cells, strict=True):
        own = {one.arm: one for one in chosen if one.measure == measure}
        for role, colour in (("control", NEUTRAL), ("method", PALETTE[0])):
            rows = [own[arm] for arm in arms if arm in own and own[arm].role == role]
            figure.add_trace(_damage_rows(rows, colour), row=row, col=column)
        first = next(iter(own.values()))
        title = {"text": f"{escape(first.unit or 'change')}{TOWARDS[first.worse]}", "standoff": 2}
        figure.update_xaxes({"title": title, "matches": None, "showticklabels": True}, row=row, col=column)
        _zero_line(figure, "x", row, column)

    def shorten(axis: Any) -> None:  # at its foot stand the panel's own values and unit
        axis.domain = [axis.domain[0] + TICKS / height, axis.domain[1]]

    figure.for_each_yaxis(shorten)
    categories = {"type": "category", "categoryorder": "array", "categoryarray": [escape(arm) for arm in arms]}
    figure.update_yaxes(range=[-0.7, len(arms) - 0.3], dtick=1, **categories)
    subtitle = (
        f"{escape(task)} at {budget_name(budget, level)}: steered − unsteered; filled: interval without zero; "
        "diamond: one number, no interval; controls grey"
    )
    return dress(figure, title="What steering breaks", subtitle=subtitle, height=height)


def damage_caption(damages: Sequence[Damage], task: str, *, budget: str, level: float) -> str:
    """Which arms break most and least at the budget, counted in measures that are shown to be worse.

    Length, whose change is no damage by itself, is not counted.
    """
    chosen = [one for one in _damages_at(damages, task, budget, level) if one.worse]
    counts = {arm: sum(_is_worse(one) for one in chosen if one.arm == arm) for arm in _damage_arms(chosen)}
    n_measures, where = len({one.measure for one in chosen}), f"{task} at {budget_name(budget, level)}"
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


# --- what a contrast says ---------------------------------------------------------------------------------------------


def gain(contrast: Contrast) -> float:
    """The effect in the wanted direction."""
    return contrast.effect if contrast.higher_is_better else -contrast.effect


def is_measured(contrast: Contrast) -> bool:
    """Whether the arm could be run, so that there is an effect."""
    return math.isfinite(contrast.effect)


def is_shown(contrast: Contrast) -> bool:
    """Whether a difference was detected, in either direction."""
    return contrast.verdict in ("better", "worse")


def excludes_zero(one: Contrast | Damage) -> bool:
    """Whether the 95 % interval leaves zero out."""
    return one.low > 0 or one.high < 0


def budget_name(budget: str, level: float) -> str:
    """A budget in words: `KL 0.1`, `edit 0.2`."""
    return f"{'KL' if budget == 'kl' else budget} {level:g}"


def middle_budget(effects: Sequence[Contrast] | Sequence[Damage]) -> tuple[str, float] | None:
    """The budget that figures of a single one are drawn at: the middle level of KL, or the first of all."""
    levels = sorted({one.level for one in effects if one.budget == "kl"})
    if levels:
        return "kl", levels[len(levels) // 2]
    return next(((one.budget, one.level) for one in effects if one.budget != "none"), None)


def reading(contrast: Contrast) -> str:
    """The verdict with what it hangs on: the minimum detectable difference, or why nothing was measured."""
    if contrast.verdict == "not measured":
        return f"not measured: {contrast.note}" if contrast.note else "not measured"
    if is_shown(contrast):
        return contrast.verdict
    if contrast.low == contrast.high:
        return f"not detected (all {contrast.n} pairs are equal)"
    return f"not detected (minimum detectable difference {number(contrast.minimum_detectable_effect)})"


# --- parts ------------------------------------------------------------------------------------------------------------


def _against_unsteered(contrasts: Sequence[Contrast], metric: str, tasks: Sequence[str] | None) -> list[Contrast]:
    chosen = [one for one in contrasts if one.against == UNSTEERED and one.metric == metric]
    if not chosen:
        known = joined(sorted({one.metric for one in contrasts}), last="and") or "nothing at all"
        raise ValueError(f"nothing was measured on {metric!r}; there is {known}")
    return [one for one in chosen if tasks is None or one.task in tasks]


def _pairs(
    contrasts: Sequence[Contrast], metric: str, budget: str, level: float, tasks: Sequence[str] | None
) -> list[Contrast]:
    chosen = [one for one in contrasts if one.against != UNSTEERED and one.metric == metric]
    return [one for one in chosen if _is_at(one, budget, level) and (tasks is None or one.task in tasks)]


def _by_domain(
    contrasts: Sequence[Contrast], metric: str, arm: str, against: str, kind: str, budget: str, level: float
) -> list[Contrast]:
    wanted = (arm, against, metric, budget, level, kind)
    return [
        one
        for one in contrasts
        if (one.arm, one.against, one.metric, one.budget, one.level, one.task.split("/")[0]) == wanted
        and one.domain
        and is_measured(one)
    ]


def _is_at(contrast: Contrast, budget: str, level: float) -> bool:
    """Whether a contrast is of the budget, or of an arm that has none."""
    return (contrast.budget, contrast.level) == (budget, level) or contrast.budget == "none"


def _pair_name(contrast: Contrast) -> str:
    return f"{contrast.arm} − {contrast.against}"


def _tally(contrasts: Sequence[Contrast], name: Callable[[Contrast], str]) -> str:
    parts = []
    for arm in dict.fromkeys(map(name, contrasts)):
        own = [one for one in contrasts if name(one) == arm and is_measured(one)]
        better, worse = (sum(one.verdict == word for one in own) for word in ("better", "worse"))
        parts.append(f"{arm} {better}, {worse}, {len(own) - better - worse}")
    return "; ".join(parts)


def _task_grid(
    chosen: Sequence[Contrast], x_title: str, y_title: str
) -> tuple[go.Figure, list[tuple[int, int]], int, list[str]]:
    """One panel per task; tasks of one kind are named by their domain."""
    tasks = list(dict.fromkeys(one.task for one in chosen))
    columns = 3 if len(tasks) > 4 else min(2, len(tasks))
    titles = {"x_title": x_title, "y_title": y_title}
    return (*panel_grid(_panel_names(tasks), **titles, panel_height=220, n_columns=columns), tasks)


def _panel_names(tasks: Sequence[str]) -> list[str]:
    kinds = {task.split("/")[0] for task in tasks}
    return [task.split("/", 1)[1] if len(kinds) == 1 and "/" in task else task for task in tasks]


def _forest_grid(
    chosen: Sequence[Contrast], name: Callable[[Contrast], str], title: str, axis: str
) -> go.Figure | None:
    measured = [one for one in chosen if is_measured(one)]
    if not measured:
        return None
    rows = list(dict.fromkeys(map(name, sorted(chosen, key=lambda one: one.role != "method"))))
    tasks = list(dict.fromkeys(one.task for one in chosen))
    figure, cells, height = panel_grid(
        _panel_names(tasks),
        x_title=f"{axis} ({escape(chosen[0].unit)})",
        y_title="arm",
        panel_height=22 * len(rows) + 30,
        n_columns=min(3, len(tasks)),
    )
    looks = _looks(chosen, name)
    for task, (row, column) in zip(tasks, cells, strict=True):
        for arm in rows:
            own = [one for one in chosen if (one.task, name(one)) == (task, arm)]
            ran = [one for one in own if is_measured(one)]
            marks = [is_shown(one) for one in ran]
            trace = _marks(ran, [one.effect for one in ran], [escape(arm)] * len(ran), looks[arm], marks)
            figure.add_trace(trace.update(error_x=_bars(ran, looks[arm][0])), row=row, col=column)
            if not ran:
                figure.add_trace(_not_run(own, arm), row=row, col=column)
        _zero_line(figure, "x", row, column)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=[escape(arm) for arm in rows[::-1]])
    figure.update_yaxes(range=[-0.6, len(rows) - 0.4], tickfont={"size": 11})
    figure.update_xaxes(range=_span([value for one in measured for value in (one.low, one.effect, one.high)]))
    return dress(figure, title=title, subtitle=f"{_subtitle(chosen[0])}; hollow: not detected", height=height)


def _looks(contrasts: Sequence[Contrast], name: Callable[[Contrast], str] = lambda one: one.arm) -> Looks:
    """Colour and symbol of every arm: methods in colour, controls grey."""
    looks: Looks = {}
    counts = {"method": 0, "control": 0}
    for one in sorted(contrasts, key=lambda item: item.role != "method"):
        if name(one) not in looks:
            index = counts[one.role]
            counts[one.role] += 1
            colour = PALETTE[index % (len(PALETTE) - 1)] if one.role == "method" else NEUTRAL
            looks[name(one)] = (colour, SYMBOLS[len(looks) % len(SYMBOLS)])
    return looks


def _subtitle(contrast: Contrast) -> str:
    better = "higher" if contrast.higher_is_better else "lower"
    return f"{escape(contrast.metric)}, {better} is better; bars: paired 95 % interval"


def _legend_entry(arm: str, look: tuple[str, str]) -> go.Scatter:
    marker = {"color": look[0], "symbol": look[1], "size": 8}
    shown = {"name": escape(arm), "legendgroup": arm, "hoverinfo": "skip"}
    return go.Scatter(x=[None], y=[None], mode="markers", marker=marker, **shown)


def _marks(own: Sequence[Contrast], x: Any, y: Any, look: tuple[str, str], is_filled: Sequence[bool]) -> go.Scatter:
    """The marks of one arm, filled or hollow, with everything known of a contrast in the hover text."""
    colour, symbol = look
    symbols = [symbol if filled else f"{symbol}-open" for filled in is_filled]
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="markers",
        name=escape(own[0].arm) if own else "",
        legendgroup=own[0].arm if own else "",
        showlegend=False,
        marker={"color": colour, "size": 8, "symbol": symbols},
        hovertext=[_hover(one) for one in own],
        hoverinfo="text",
    )


def _effect_points(own: Sequence[Contrast], look: tuple[str, str], shift: float) -> go.Scatter:
    cost = np.array([one.kl for one in own])
    trace = _marks(own, cost * 10**shift, [one.effect for one in own], look, [is_shown(one) for one in own])
    mode = "markers" if look[0] == NEUTRAL else "lines+markers"
    line = {"color": look[0], "width": 1}
    return trace.update(mode=mode, line=line, meta={"x": cost.tolist()}, error_y=_bars(own, look[0]))


def _bars(own: Sequence[Contrast], colour: str) -> dict[str, Any]:
    """Error bars that reach from end to end of the intervals."""
    above = np.nan_to_num([one.high - one.effect for one in own])
    below = np.nan_to_num([one.effect - one.low for one in own])
    return {"array": above, "arrayminus": below, "color": colour, "thickness": 1.1, "width": 3}


def _hover(contrast: Contrast) -> str:
    note = f"<br>{escape(contrast.note)}" if contrast.note else ""
    budget = "" if contrast.budget == "none" else f"{contrast.budget} {contrast.level:g}, {escape(contrast.setting)}, "
    return (
        f"<b>{escape(contrast.arm)}</b> on {escape(contrast.task)}<br>{number(contrast.effect)} "
        f"({number(contrast.low)} to {number(contrast.high)}), n = {contrast.n}, q = {number(contrast.q)}<br>"
        f"{budget}KL {number(contrast.kl)}, strength {number(contrast.strength)} "
        f"({number(contrast.in_norms)} residual norms)<br>{escape(reading(contrast))}{note}"
    )


def _not_run(own: Sequence[Contrast], arm: str) -> go.Scatter:
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


def _curve(curve: StrengthCurve) -> go.Scatter:
    order = np.argsort(curve.strengths)
    names = ("strengths", "effect", "effect_low", "effect_high", "kl", "in_norms")
    strengths, effect, low, high, kl, in_norms = (np.array(getattr(curve, name))[order] for name in names)
    ends = {"array": high - effect, "arrayminus": effect - low, "color": PALETTE[0], "thickness": 1.1, "width": 2}
    return go.Scatter(
        x=in_norms,
        y=effect,
        mode="lines+markers",
        line={"color": PALETTE[0], "width": 1},
        marker={"color": PALETTE[0], "size": 6},
        error_y=ends,
        showlegend=False,
        hovertext=[
            f"{escape(curve.arm)}, {escape(curve.setting)}<br>strength {number(float(strength))}, KL "
            f"{number(float(cost))}"
            for strength, cost in zip(strengths, kl, strict=True)
        ],
        hoverinfo="text",
    )


def _damages_at(damages: Sequence[Damage], task: str, budget: str, level: float) -> list[Damage]:
    """The measured rows of a task at a budget, with those of arms that have none (the prompt-only baseline)."""
    chosen = [one for one in damages if one.task == task and math.isfinite(one.difference)]
    return [one for one in chosen if (one.budget, one.level) == (budget, level) or one.budget == "none"]


def _damage_arms(chosen: Sequence[Damage], role: str = "") -> list[str]:
    return list(dict.fromkeys(one.arm for one in chosen if role in ("", one.role)))


def _is_worse(one: Damage) -> bool:
    return one.low > 0 if one.worse == "up" else one.high < 0


def _damage_rows(rows: Sequence[Damage], colour: str) -> go.Scatter:
    symbols = ["diamond-open" if math.isnan(one.low) else "circle" if excludes_zero(one) else "circle-open"
               for one in rows]  # fmt: skip
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
        marker={"color": colour, "size": 7, "symbol": symbols},
        error_x=bars,
        showlegend=False,
        hovertext=[_damage_hover(one) for one in rows],
        hoverinfo="text",
    )


def _damage_hover(one: Damage) -> str:
    interval = "one number, no interval" if math.isnan(one.low) else f"{number(one.low)} to {number(one.high)}"
    return (
        f"<b>{escape(one.arm)}</b>, {escape(one.measure)}<br>{number(one.value)} against {number(one.unsteered)} "
        f"unsteered<br>change {number(one.difference)} ({interval}), n = {one.n}"
    )


def _prompt_lines(figure: go.Figure, own: Sequence[Contrast], row: int, column: int) -> None:
    x, y = axis_names(figure, row, column)
    for one in own:
        across = {"x0": 0, "x1": 1, "y0": one.effect, "y1": one.effect, "xref": f"{x} domain", "yref": y}
        figure.add_shape(type="line", line={"color": NEUTRAL, "width": 1.2, "dash": "dash"}, **across)
        place = {"x": 1, "y": one.effect, "xref": f"{x} domain", "yref": y, "xanchor": "right", "yanchor": "bottom"}
        figure.add_annotation(text=escape(one.arm), showarrow=False, font={"size": 10}, **place)


def _grey_line() -> dict[str, object]:
    return {"color": NEUTRAL, "width": 1.2}


def _zero_line(figure: go.Figure, axis: str, row: int, column: int) -> None:
    """A line where a panel's `axis` is zero."""
    x, y = axis_names(figure, row, column)
    along = {"x0": 0, "x1": 0, "y0": 0, "y1": 1} if axis == "x" else {"x0": 0, "x1": 1, "y0": 0, "y1": 0}
    refs = {"xref": x, "yref": f"{y} domain"} if axis == "x" else {"xref": f"{x} domain", "yref": y}
    figure.add_shape(type="line", line=_grey_line(), layer="below", **along, **refs)


def _span(values: Sequence[float]) -> list[float]:
    """Axis limits that show zero and every value."""
    known = [0.0, *filter(math.isfinite, values)]
    low, high = min(known), max(known)
    room = 0.06 * (high - low) or 1.0
    return [low - room, high + room]


def _log_kl(figure: go.Figure, chosen: Sequence[Contrast]) -> None:
    known = [one.kl for one in chosen if one.kl > 0]
    if known:
        levels = sorted({one.level for one in chosen if one.budget == "kl"})
        ends = [math.log10(min([*known, *levels])) - 0.2, math.log10(max([*known, *levels])) + 0.2]
        ticks = {"tickvals": levels, "ticktext": [f"{level:g}" for level in levels]} if levels else {}
        figure.update_xaxes(type="log", range=ends, **ticks)
