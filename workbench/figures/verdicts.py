"""What dimensions are and how sure that is: verdicts, ranks, agreement of readings, tested labels, rotated bases."""

from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.style import (
    MARGIN,
    NEUTRAL,
    PALETTE,
    SEQUENTIAL,
    dress,
    joined,
    log_ticks,
    number,
    panel_grid,
    panel_title,
    scale_bar,
)
from workbench.records import LEVEL, VERDICTS, BasisScore, ReadingAgreement, SelectionStability, Verdict, VerdictName

COLOURS = dict(zip(VERDICTS, (PALETTE[4], PALETTE[0], PALETTE[3], NEUTRAL), strict=True))
SYMBOLS = dict(zip(VERDICTS, ("square", "circle", "diamond", "circle-open"), strict=True))
SCORES = {"within": "class against other tokens of the domain", "across": "class inside the domain against outside it"}
LABEL_LOOKS = {"DCDs": (PALETTE[0], "circle", "solid"), "other dimensions": (PALETTE[1], "square", "dash")}
LOWER_IS_BETTER = ("CDS",)
UNITS = {"discriminative": "dimensions", "labelled": "fraction", "CDS": "nats per token, lower is better"}


# --- verdicts ---------------------------------------------------------------------------------------------------------


def verdict_figure(verdicts: Sequence[Verdict]) -> go.Figure | None:
    """The map of verdicts: fraction of magnitude at first token and delimiters against the AUROC of the domain.

    Error bars are 95 % bootstrap intervals over passages; dotted lines are the thresholds of the rules that the
    verdicts were reached by. Above its line a dimension is still no detector where its interval reaches 0.5 or too many
    control dimensions reach it, and beyond the other line no sink where it is not massive. None without verdicts.
    """
    if not verdicts:
        return None
    figure = go.Figure(layout={"template": "none"})
    for name in VERDICTS:
        of = [item for item in verdicts if item.verdict == name]
        if of:
            figure.add_trace(_verdict_trace(name, of))
    style = {"color": NEUTRAL, "width": 1.5, "dash": "dot"}
    for share in sorted({item.rule.min_share for item in verdicts}):
        figure.add_vline(x=share, line=style)
    for auroc in sorted({item.rule.min_auroc for item in verdicts}):
        figure.add_hline(y=auroc, line=style)
    lowest = min(0.5, *(item.low for item in verdicts if not np.isnan(item.low)))
    figure.update_xaxes(title_text="fraction of magnitude at first token and delimiters (position classes count alike)")
    figure.update_yaxes(title_text="AUROC: passages of the domain against others", range=[lowest - 0.02, 1.02])
    subtitle = f"{len(verdicts)} pairs of a domain and a dimension that is large there or massive; held-out passages"
    return dress(figure, title="Sink or detector", subtitle=subtitle, height=520)


def _verdict_trace(name: VerdictName, verdicts: Sequence[Verdict]) -> go.Scatter:
    auroc = np.array([item.auroc for item in verdicts])
    return go.Scatter(
        x=[item.share_first + item.share_delimiter for item in verdicts],
        y=auroc,
        mode="markers",
        name=f"{name} ({len(verdicts)})",
        marker={"color": COLOURS[name], "symbol": SYMBOLS[name], "size": 9, "line": {"width": 1}},
        error_y={
            "array": np.array([item.high for item in verdicts]) - auroc,
            "arrayminus": auroc - np.array([item.low for item in verdicts]),
            "color": COLOURS[name],
            "thickness": 0.8,
            "width": 0,
        },
        customdata=[_evidence(item) for item in verdicts],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _evidence(item: Verdict) -> str:
    lines = [
        f"<b>dimension {item.dimension}, {escape(item.domain)}: {item.verdict}</b>",
        f"first token {number(item.share_first)}, delimiters {number(item.share_delimiter)} of magnitude",
        f"constancy {number(item.constancy)}, massive by: {escape(', '.join(item.massive)) or 'no criterion'}",
        f"AUROC {number(item.auroc)} [{number(item.low)}, {number(item.high)}], "
        f"reached by {number(100 * item.control_share)} % of controls",
        f"masked to zero {number(item.cost_zero)}, to mean {number(item.cost_mean)} nats per token",
    ]
    return "<br>".join([*lines, *([f"fires on {escape(item.label)}"] if item.label else [])])


def verdict_caption(verdicts: Sequence[Verdict]) -> str:
    """Counts of verdicts, and what zero costs against the mean where both were measured."""
    counts = Counter(item.verdict for item in verdicts)
    text = joined([f"{counts[name]} {name}" for name in VERDICTS])
    text = f"Of {len(verdicts)} judged pairs of domain and dimension: {text}."
    known = [item for item in verdicts if not (np.isnan(item.cost_zero) or np.isnan(item.cost_mean))]
    sinks = [item for item in known if item.verdict in ("sink", "both")]
    if not known:
        return f"{text} The cost of masking was not measured."
    if sinks:
        zero, mean = (np.median([getattr(item, name) for item in sinks]) for name in ("cost_zero", "cost_mean"))
        text += (
            f" Masking a sink costs {number(float(zero))} nats per token at zero and {number(float(mean))} at the mean "
            "of its position class (medians)."
        )
    return text


# --- stability --------------------------------------------------------------------------------------------------------


def rank_figure(selections: Sequence[SelectionStability], selection: str = "magnitude") -> go.Figure | None:
    """Where every selected dimension ranks when passages are resampled, one panel per domain, one row per dimension.

    Marks are ranks, whiskers 95 % intervals over resampled passages; the number after them is the dimension.
    """
    selections = [item for item in selections if item.selection == selection]
    if not selections:
        return None
    domains = list(dict.fromkeys(item.domain for item in selections))
    n_rows, highest = max(item.rank for item in selections), max(item.rank_high for item in selections)
    figure, cells, height = panel_grid(
        domains, x_title="rank in resamples", y_title="rank", panel_height=22 * n_rows, n_columns=min(len(domains), 4)
    )
    shown: set[str] = set()
    for domain, (row, column) in zip(domains, cells, strict=True):
        own = [item for item in selections if item.domain == domain]
        for is_larger, name, colour, symbol in (
            (True, "larger than elsewhere (p ≤ 0.05)", PALETTE[0], "circle"),
            (False, "not shown to be larger", PALETTE[1], "diamond-open"),
        ):
            of = [item for item in own if (item.p_value <= LEVEL) == is_larger]
            if of:
                figure.add_trace(_rank_trace(of, name, colour, symbol, name not in shown), row=row, col=column)
                shown.add(name)
        figure.add_trace(_rank_names(own), row=row, col=column)
    figure.update_yaxes(range=[n_rows + 0.6, 0.4], dtick=1 if n_rows <= 16 else None)
    room = 1.35 * np.log10(max(highest, 10))  # for the numbers
    figure.update_xaxes(log_ticks(np.array([1.0, max(highest, 10)])) | {"range": [-0.1, room]})
    subtitle = (
        f"whiskers: 95 % of {selections[0].n_resamples} bootstraps of passages; numbers are dimensions; "
        f"p adjusted over all domains and dimensions"
    )
    title = f"How sure the ranks are ({selection})"
    return dress(figure, title=title, subtitle=subtitle, height=height)


def _rank_trace(
    selections: Sequence[SelectionStability], name: str, colour: str, symbol: str, is_shown: bool
) -> go.Scatter:
    rank = [item.rank for item in selections]
    return go.Scatter(
        x=rank,
        y=rank,
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=is_shown,
        marker={"color": colour, "symbol": symbol, "size": 8, "line": {"width": 1.5, "color": colour}},
        error_x={
            "array": [item.rank_high - item.rank for item in selections],
            "arrayminus": [item.rank - item.rank_low for item in selections],
            "color": colour,
            "thickness": 1.5,
            "width": 0,
        },
        customdata=[
            f"dimension {item.dimension}: rank {item.rank}, 95 % in {item.rank_low} to {item.rank_high}<br>"
            f"selected in {item.frequency:.0%} of resamples, p = {number(item.p_value)}"
            for item in selections
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _rank_names(selections: Sequence[SelectionStability]) -> go.Scatter:
    """The dimensions, each after the end of its whisker."""
    return go.Scatter(
        x=[max(item.rank, item.rank_high) for item in selections],
        y=[item.rank for item in selections],
        mode="text",
        text=[f"\u2003{item.dimension}" for item in selections],
        textposition="middle right",
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
    )


def rank_caption(selections: Sequence[SelectionStability], selection: str = "magnitude") -> str:
    """How many are nearly always selected, and how many are larger than elsewhere."""
    selections = [item for item in selections if item.selection == selection]
    n, sure = len(selections), sum(item.frequency >= 0.95 for item in selections)
    larger = sum(item.p_value <= LEVEL for item in selections)
    return (
        f"{sure} of {n} selected dimensions are selected again in at least 95 % of resamples; {larger} are larger in "
        f"their domain than in the others at a family-wise level of 5 %. A sure rank alone shows no domain."
    )


# --- readings ---------------------------------------------------------------------------------------------------------


def agreement_figure(agreements: Sequence[ReadingAgreement]) -> go.Figure | None:
    """Shared fraction of the selected sets between every two readings, averaged over domains."""
    if not agreements:
        return None
    names, values = _agreement_matrix(agreements)
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale=SEQUENTIAL,
            xgap=1,
            ygap=1,
            texttemplate="%{z:.2f}",
            textfont={"size": 10},
            colorbar=scale_bar("shared<br>fraction"),
            hovertemplate="%{y}<br>%{x}<br>Jaccard %{z:.2f}<extra></extra>",
        ),
        layout={"template": "none"},
    )
    figure.update_xaxes(tickangle=-45, showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    n_domains = len({item.domain for item in agreements})
    subtitle = f"Jaccard index of the top {agreements[0].k} dimensions of a domain, mean over {n_domains} domains"
    height = 26 * len(names) + MARGIN["t"] + MARGIN["b"] + 150
    return dress(figure, title="Agreement of readings", subtitle=subtitle, height=height)


def agreement_caption(agreements: Sequence[ReadingAgreement]) -> str:
    """The readings that agree best and worst with the default."""
    names, values = _agreement_matrix(agreements)
    others = values[0, 1:]
    if not np.isfinite(others).any():
        return "No reading could be compared with the default."
    best, worst = int(np.nanargmax(others)), int(np.nanargmin(others))
    return (
        f"Against the reading “{names[0]}”, “{names[1 + best]}” shares most ({number(float(others[best]))}) and "
        f"“{names[1 + worst]}” least ({number(float(others[worst]))})."
    )


def _agreement_matrix(agreements: Sequence[ReadingAgreement]) -> tuple[list[str], np.ndarray]:
    names = list(dict.fromkeys(name for item in agreements for name in (item.first, item.second)))
    found: dict[tuple[int, int], list[float]] = {}
    for item in agreements:
        if not np.isnan(item.jaccard):
            found.setdefault((names.index(item.first), names.index(item.second)), []).append(item.jaccard)
    values = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(values, 1.0)
    for (a, b), of in found.items():
        values[a, b] = values[b, a] = np.mean(of)
    return names, values


# --- labels -----------------------------------------------------------------------------------------------------------


def label_curve_figure(curve: pd.DataFrame) -> go.Figure | None:
    """Held-out score against the fraction of dimensions labelled, from `labels.label_curve`: DCDs beside the others."""
    if curve.empty:
        return None
    present = set(curve["score"].tolist())
    names = [name for name in SCORES if name in present]
    titles = [SCORES[name] for name in names]
    figure, cells, height = panel_grid(
        titles, x_title="fraction of dimensions labelled", y_title="mean held-out AUROC", panel_height=300, n_columns=2
    )
    for group, look in LABEL_LOOKS.items():
        for name, (row, column) in zip(names, cells, strict=True):
            of = curve.query(f"group == {group!r} and score == {name!r}")
            for trace in _band(of, group, look, is_first=(row, column) == cells[0]):
                figure.add_trace(trace, row=row, col=column)
    figure.add_hline(y=0.5, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[-0.05, 1.08], tickformat=".0%", dtick=0.25)
    figure.update_yaxes(range=[min(0.45, *map(float, curve["low"].tolist())) - 0.02, 1.02])
    subtitle = (
        "labelled from the best score on identify downwards; bands: 95 % over resampled dimensions; dotted: chance"
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.16, "x": 0, "xanchor": "left", "yanchor": "top"})
    return dress(figure, title="Labels on held-out passages", subtitle=subtitle, height=height + 40)


def _band(of: pd.DataFrame, group: str, look: tuple[str, str, str], *, is_first: bool) -> list[go.Scatter]:
    colour, symbol, dash = look
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    share = of["share"].tolist()
    band = go.Scatter(
        x=share + share[::-1],
        y=of["high"].tolist() + of["low"].tolist()[::-1],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.18)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=group,
    )
    line = go.Scatter(
        x=share,
        y=of["mean"],
        mode="lines+markers",
        marker={"size": 5, "symbol": symbol},
        line={"color": colour, "width": 2, "dash": dash},
        name=group,
        legendgroup=group,
        showlegend=is_first,
        hovertemplate=f"{group}<br>%{{x:.0%}} labelled, mean AUROC %{{y:.3f}}<extra></extra>",
    )
    return [band, line]


def label_curve_caption(curve: pd.DataFrame) -> str:
    """The mean scores where all are labelled, DCDs beside the others."""
    last = curve.sort_values("share").groupby(["score", "group"], sort=False).tail(1)
    texts = []
    for name, words in SCORES.items():
        of = last.query(f"score == {name!r}").sort_values("group")
        values = [
            f"{number(mean)} [{number(low)}, {number(high)}] for {group}"
            for group, mean, low, high in of[["group", "mean", "low", "high"]].to_numpy().tolist()
        ]
        if values:
            texts.append(f"{words}: {joined(values)}")
    return f"Mean AUROC of the labels on held-out passages: {'; '.join(texts)}."


# --- rotations --------------------------------------------------------------------------------------------------------


def basis_figure(scores: Sequence[BasisScore]) -> go.Figure | None:
    """Every measure in the coordinate basis beside rotated ones; each mark is one basis, the mean over domains."""
    if not scores:
        return None
    table = _basis_means(scores)
    figure = make_subplots(1, len(table.index), horizontal_spacing=0.08)
    for column, measure in enumerate(table.index, start=1):
        rotated = table.loc[measure].drop("coordinate").to_numpy()
        spread = np.linspace(-0.3, 0.3, len(rotated)) if len(rotated) > 1 else np.zeros(1)
        marks = (
            (spread, rotated, f"{len(rotated)} random rotations", NEUTRAL, "circle", 7),
            (np.zeros(1), [table.loc[measure, "coordinate"]], "coordinate basis", PALETTE[0], "diamond", 13),
        )
        for x, y, name, colour, symbol, size in marks:
            marker = {"color": colour, "symbol": symbol, "size": size}
            figure.add_trace(
                go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker, showlegend=column == 1),
                row=1,
                col=column,
            )
        panel_title(figure, measure, 1, column)
        figure.update_yaxes(title_text=UNITS.get(measure), row=1, col=column)
    figure.update_xaxes(visible=False, range=[-0.6, 0.6])
    figure.update_layout(legend={"orientation": "h", "y": -0.06, "x": 0, "yanchor": "top"})
    n_domains = len({item.domain for item in scores})
    subtitle = f"the same selection, labels and steering in every basis; means over {n_domains} domains"
    return dress(figure, title="Is the coordinate basis special?", subtitle=subtitle, height=400)


def basis_caption(scores: Sequence[BasisScore]) -> str:
    """In how many rotations each measure is beaten by the coordinate basis."""
    table = _basis_means(scores)
    texts = []
    for measure in table.index:
        rotated = table.loc[measure].drop("coordinate").dropna().to_numpy()
        sign = -1 if measure in LOWER_IS_BETTER else 1
        beaten = int((sign * (table.loc[measure, "coordinate"] - rotated) > 0).sum())
        texts.append(f"{measure} in {beaten} of {len(rotated)}")
    return f"The coordinate basis is better than random rotations (means over domains): {joined(texts)}."


def _basis_means(scores: Sequence[BasisScore]) -> pd.DataFrame:
    """Mean over domains, one row per measure in order of appearance, one column per basis."""
    measures, bases = (list(dict.fromkeys(getattr(item, name) for item in scores)) for name in ("measure", "basis"))
    values: dict[tuple[str, str], list[float]] = {}
    for item in scores:
        if not np.isnan(item.value):
            values.setdefault((item.measure, item.basis), []).append(item.value)
    means = [[float(np.mean(values.get((name, basis), [np.nan]))) for basis in bases] for name in measures]
    return pd.DataFrame(means, index=pd.Index(measures), columns=pd.Index(bases))
