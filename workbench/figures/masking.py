"""What masking shows: drop by rank, magnitude against drop, agreement of rankings.

Each figure is drawn from one tidy table, and each caption is computed from the same table."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.columns import floats, row_list, where
from workbench.figures.style import (
    DASHES,
    NEUTRAL,
    PALETTE,
    SYMBOLS,
    axis_names,
    dress,
    joined,
    log_ticks,
    number,
    panel_grid,
    place_labels,
)

MEAN, RANDOM = "mean", 0  # the row that averages the domains, and the rank of random dimensions
DROP = "increase of token loss on test (nats per token)"
NAMES = {
    "zero": "set to zero",
    "mean": "set to the mean of the position class",
    "resample": "taken from another domain",
}


def drop_figure(drops: pd.DataFrame) -> go.Figure:
    """What masking the dimension at each rank costs on held-out passages, one panel per way of masking.

    `drops` has columns masked_to, ranked_by, domain, rank, dimension, loss_increase, low, high; rank 0 are random ones.
    Small marks are domains with the 95 % interval over their passages, the wide line is the mean of the domains. Only
    the ranking by zero masking is drawn.
    """
    rows = where(drops, "ranked_by", "zero")
    modes = list(dict.fromkeys(rows["masked_to"]))
    domains = [name for name in dict.fromkeys(rows["domain"]) if name != MEAN]
    ranks = sorted({int(rank) for rank in rows["rank"]}, key=lambda rank: (rank == RANDOM, rank))
    figure, cells, height = panel_grid(
        [NAMES.get(str(mode), str(mode)) for mode in modes],
        x_title="rank of the masked dimension on identify",
        y_title="increase of token loss<br>(nats per token)",
        panel_height=300,
        n_columns=len(modes),
    )
    for (row, column), mode in zip(cells, modes, strict=True):
        own = where(rows, "masked_to", mode)
        for index, domain in enumerate(domains):
            shift = 0.5 * ((index + 0.5) / len(domains) - 0.5)
            trace = _drop_marks(where(own, "domain", domain), domain, index, ranks, shift)
            figure.add_trace(trace.update(showlegend=column == 1), row=row, col=column)
        figure.add_trace(_drop_means(where(own, "domain", MEAN), ranks).update(showlegend=column == 1), row, column)
        _zero_line(figure, row, column)
    figure.update_xaxes(tickvals=list(range(len(ranks))), ticktext=[_rank_name(rank) for rank in ranks])
    figure.update_layout(legend={"title": {"text": "domain"}})
    subtitle = (
        "one dimension masked at every block output; bars are 95 % intervals over passages; ranked by zero masking"
    )
    return dress(figure, title="What masking one dimension costs, by rank", subtitle=subtitle, height=height)


def _rank_name(rank: int) -> str:
    return "random" if rank == RANDOM else str(rank)


def _drop_marks(own: pd.DataFrame, domain: str, index: int, ranks: Sequence[int], shift: float) -> go.Scatter:
    drop, low, high = (floats(own, name) for name in ("loss_increase", "low", "high"))
    return go.Scatter(
        x=[ranks.index(int(rank)) + shift for rank in own["rank"]],
        y=drop,
        error_y={"type": "data", "array": high - drop, "arrayminus": drop - low, "thickness": 1, "width": 2},
        mode="markers",
        name=escape(domain),
        legendgroup=domain,
        marker={"color": PALETTE[index % len(PALETTE)], "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7},
        customdata=[
            f"{_rank_name(int(rank))}, dimension {dimension}" if dimension >= 0 else "random dimensions"
            for rank, dimension in zip(own["rank"], own["dimension"], strict=True)
        ],
        hovertemplate=f"{escape(domain)}<br>rank %{{customdata}}<br>%{{y:.3f}} nats per token<extra></extra>",
    )


def _drop_means(own: pd.DataFrame, ranks: Sequence[int]) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for rank, drop in zip(own["rank"], own["loss_increase"], strict=True):
        place = ranks.index(int(rank))
        x += [place - 0.4, place + 0.4, None]
        y += [float(drop), float(drop), None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": NEUTRAL, "width": 3},
        name="mean of the domains",
        hovertemplate="mean of the domains: %{y:.3f} nats per token<extra></extra>",
    )


def drop_caption(drops: pd.DataFrame, *, path: str) -> str:
    """How the cost falls with rank, whether it is more than that of random dimensions, and what is left of it under the
    mean; `path` is `full` or `screened`."""
    of_mean = where(where(drops, "ranked_by", "zero"), "domain", MEAN)
    means = {(row["masked_to"], int(row["rank"])): row for row in row_list(of_mean)}
    ranks = sorted(rank for mode, rank in means if mode == "zero" and rank != RANDOM)
    costs = [f"rank {rank} {number(means['zero', rank]['loss_increase'])}" for rank in ranks]
    first = means["zero", ranks[0]]
    parts = [
        f"Setting one dimension to zero costs, as a mean over the domains, {joined(costs)} nats per token on test "
        f"(rank {ranks[0]}: 95 % {number(first['low'])} to {number(first['high'])} over domains)."
    ]
    if ("zero", RANDOM) in means:
        parts.append(f"Random dimensions cost {number(means['zero', RANDOM]['loss_increase'])}.")
    if ("mean", ranks[0]) in means:
        left = means["mean", ranks[0]]["loss_increase"]
        share = left / first["loss_increase"] if first["loss_increase"] > 0 else math.nan
        kept = f", {share:.0%} of it" if math.isfinite(share) else ""
        meaning = ""
        if math.isfinite(share):
            meaning = (
                ": most of the cost is that of losing a constant, not of losing content"
                if share < 0.5
                else ": most of the cost is that of losing what varies, not a constant"
            )
        parts.append(
            f"Set to the mean of its position class, the same rank-{ranks[0]} dimension costs {number(left)}{kept}"
            f"{meaning}."
        )
    if path == "screened":
        n = sum(not row["verified"] for row in row_list(drops))
        parts.append(
            "The ranking is screened: gradients rank all dimensions, and only the first of every domain are masked on "
            "identify" + ("; ranks further down are the estimate's." if n else ".")
        )
    return " ".join(parts)


def magnitude_drop_figure(masked: pd.DataFrame, n_named: int = 3) -> go.Figure:
    """Cost of masking against magnitude, one panel per domain, one mark per measured dimension and way of masking.

    `masked` has columns masked_to, domain, dimension, magnitude, test. The `n_named` dimensions that cost most under
    zero masking are named; a magnitude of zero is drawn at the smallest one above it.
    """
    domains = list(dict.fromkeys(masked["domain"]))
    modes = list(dict.fromkeys(masked["masked_to"]))
    sizes = floats(masked, "magnitude")
    floor = float(sizes[sizes > 0].min()) if (sizes > 0).any() else 1.0  # zero has no place on a logarithmic axis
    masked = masked.assign(magnitude=np.maximum(sizes, floor))
    limits = {
        "x": _limits(np.log10(floats(masked, "magnitude")), above=0.08),
        "y": _limits(floats(masked, "test"), above=0.3),
    }
    y_title = DROP.replace(" on test (", " on test<br>(")
    figure, cells, height = panel_grid(
        domains, x_title="mean magnitude (activation units)", y_title=y_title, panel_height=210
    )
    for panel, (domain, (row, column)) in enumerate(zip(domains, cells, strict=True)):
        for index, mode in enumerate(modes):
            own = where(where(masked, "domain", domain), "masked_to", mode)
            trace = go.Scatter(
                x=floats(own, "magnitude"),
                y=floats(own, "test"),
                mode="markers",
                name=NAMES.get(str(mode), str(mode)),
                legendgroup=mode,
                showlegend=panel == 0,
                marker={"color": PALETTE[index % len(PALETTE)], "symbol": SYMBOLS[index], "size": 7, "opacity": 0.85},
                customdata=own["dimension"].to_list(),
                hovertemplate="dimension %{customdata}<br>magnitude %{x:.3g}<br>cost %{y:.3f} nats<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=column)
        worst = where(where(masked, "domain", domain), "masked_to", "zero")
        named = sorted(row_list(worst), key=lambda item: -item["test"])[:n_named]
        _name_points(figure, named, limits, row, column)
        _zero_line(figure, row, column)
    figure.update_yaxes(range=limits["y"])
    figure.update_xaxes(log_ticks(floats(masked, "magnitude")) | {"range": limits["x"]})
    figure.update_layout(legend={"title": {"text": "masked entries are"}})
    subtitle = f"every dimension that was masked on test; the {n_named} that cost most at zero are named"
    return dress(figure, title="Large, or needed?", subtitle=subtitle, height=height)


def _limits(values: np.ndarray, *, above: float) -> list[float]:
    """Axis limits with the given share of the values' range free above them, for names."""
    low, high = float(values.min()), float(values.max())
    length = (high - low) or 1.0
    return [low - 0.08 * length, high + above * length]


def _name_points(
    figure: go.Figure, named: Sequence[dict[str, Any]], limits: dict[str, list[float]], row: int, column: int
) -> None:
    """The dimensions above their marks, off each other."""
    grid = figure.to_dict()["layout"]["meta"]["grid"]
    x, y = (np.array([float(item[name]) for item in named]) for name in ("magnitude", "test"))
    places = {"x": np.log10(x), "y": y}
    right, up = (
        (places[axis] - limits[axis][0]) / (limits[axis][1] - limits[axis][0]) * grid[length]
        for axis, length in (("x", "width"), ("y", "height"))
    )
    spots = place_labels(right, up, panel_width=float(grid["width"]), panel_height=float(grid["height"]))
    for item, at, (ax, ay) in zip(named, places["x"].tolist(), spots.tolist(), strict=True):
        figure.add_annotation(
            text=str(item["dimension"]), x=at, y=item["test"], ax=ax, ay=ay, font={"size": 11}, row=row, col=column
        )


def magnitude_drop_caption(masked: pd.DataFrame) -> str:
    """In how many domains the largest measured dimension is the one that costs most, and how specific the worst are."""
    zero = where(masked, "masked_to", "zero")
    domains = list(dict.fromkeys(zero["domain"]))
    same, shared = [], set()
    specific = []
    for domain in domains:
        own = where(zero, "domain", domain)
        records = row_list(own)
        worst = max(records, key=lambda row: row["test"])
        largest = max(records, key=lambda row: row["magnitude"])
        if worst["dimension"] == largest["dimension"]:
            same.append(domain)
        shared.add(int(worst["dimension"]))
        if float(worst["specificity"]) > 0.5 * float(worst["test"]):
            specific.append(domain)
    found = (
        f"In {len(same)} of {len(domains)} domains the largest of the measured dimensions is also the one that "
        f"costs most at zero. The worst dimensions of the {len(domains)} domains are {len(shared)} different ones "
        f"({joined([str(item) for item in sorted(shared)])})"
    )
    if len(domains) == 1:
        return f"{found}."
    own = f"in {joined(specific)}" if specific else "in no domain"
    return f"{found}; {own} is more than half of that cost the domain's own, above the mean of the other domains."


def overlap_figure(agreement: pd.DataFrame, ranked_by: str = "zero") -> go.Figure:
    """Overlap@k of magnitude with masking against k, one line per domain, one panel per choice of tokens.

    `agreement` has columns ranked_by, tokens, domain, k, overlap, chance, low, high. The band is the central 95 % of
    overlaps of random rankings, the dotted line their mean.
    """
    rows = where(agreement, "ranked_by", ranked_by)
    readings = list(dict.fromkeys(rows["tokens"]))
    domains = list(dict.fromkeys(rows["domain"]))
    figure, cells, height = panel_grid(
        [f"magnitude: {reading}" for reading in readings],
        x_title="k",
        y_title="shared share<br>of the top k",
        panel_height=230,
        n_columns=2,
    )
    for panel, (reading, (row, column)) in enumerate(zip(readings, cells, strict=True)):
        of_reading = where(rows, "tokens", reading)
        for trace in _chance_band(where(of_reading, "domain", domains[0])):
            figure.add_trace(trace.update(showlegend=panel == 0 and bool(trace.name)), row=row, col=column)
        for index, domain in enumerate(domains):
            own = where(of_reading, "domain", domain)
            trace = go.Scatter(
                x=own["k"].to_list(),
                y=floats(own, "overlap"),
                mode="lines+markers",
                name=escape(domain),
                legendgroup=domain,
                showlegend=panel == 0,
                line={"color": PALETTE[index % len(PALETTE)], "width": 1.5, "dash": DASHES[index // len(PALETTE)]},
                marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 6},
                customdata=floats(own, "p"),
                hovertemplate=f"{escape(domain)}<br>k %{{x}}: %{{y:.0%}}<br>p %{{customdata:.2g}}<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=column)
    ks = sorted({int(k) for k in rows["k"]})
    shown = [k for k in ks if k & (k - 1) == 0]
    figure.update_xaxes(type="log", tickvals=shown, ticktext=[str(k) for k in shown])
    figure.update_yaxes(range=[-0.03, 1.05], tickformat=".0%")
    figure.update_layout(legend={"title": {"text": "domain"}})
    subtitle = "largest dimensions against those whose masking to zero costs most; band: 95 % of random rankings"
    return dress(figure, title="Does magnitude find what is needed?", subtitle=subtitle, height=height)


def _chance_band(own: pd.DataFrame) -> list[go.Scatter]:
    k = own["k"].to_list()
    low, high, chance = (floats(own, name) for name in ("low", "high", "chance"))
    plain = {"mode": "lines", "hoverinfo": "skip", "legendgroup": "chance"}
    return [
        go.Scatter(x=k, y=low, line={"width": 0}, **plain),
        go.Scatter(x=k, y=high, line={"width": 0}, fill="tonexty", fillcolor="rgba(128,128,128,0.25)", **plain),
        go.Scatter(x=k, y=chance, line={"color": NEUTRAL, "dash": "dot", "width": 1.5}, name="chance", **plain),
    ]


def overlap_caption(agreement: pd.DataFrame, *, k: int = 10, ranked_by: str = "zero", path: str = "full") -> str:
    """Overlap at one k beside chance, in how many domains it is beyond chance, and the rank correlation."""
    rows = where(agreement, "ranked_by", ranked_by)
    at = max(int(item) for item in rows["k"] if item <= k)
    first = next(iter(rows["tokens"]))
    at_k = where(rows, "k", at)
    own = where(at_k, "tokens", first)
    n = len(own)
    beyond = int((floats(own, "p") < 0.05 / n).sum())
    readings = []
    for reading in dict.fromkeys(rows["tokens"]):
        mean = floats(where(at_k, "tokens", reading), "overlap").mean()
        readings.append(f"{reading} {mean:.0%}")
    ranked = " (screened ranking)" if path == "screened" else ""
    return (
        f"At k = {at} the largest dimensions and those needed most{ranked} share, as a mean over {n} domains, "
        f"{floats(own, 'overlap').mean():.0%}, by chance {floats(own, 'chance').mean():.1%}; {beyond} of {n} domains "
        f"are beyond chance (hypergeometric p below 0.05 / {n}). By tokens: {joined(readings)}. Over all dimensions "
        f"the rank correlation is {number(float(floats(own, 'spearman').mean()))}."
    )


def _zero_line(figure: go.Figure, row: int, column: int) -> None:
    x, y = axis_names(figure, row, column)
    line = {"color": NEUTRAL, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0, x1=1, y0=0, y1=0, xref=f"{x} domain", yref=y, line=line, layer="below")
