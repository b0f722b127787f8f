"""What masking shows: drop by rank, magnitude against drop, agreement of rankings, recall of screening.

Each figure is drawn from one tidy table, and each caption is computed from the same table."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float64

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

GOAL_RECALL, GOAL_COST = 0.9, 0.2  # what screening is held to; drawn and named as the goal
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
    rows = _where(drops, "ranked_by", "zero")
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
        own = _where(rows, "masked_to", mode)
        for index, domain in enumerate(domains):
            shift = 0.5 * ((index + 0.5) / len(domains) - 0.5)
            trace = _drop_marks(_where(own, "domain", domain), domain, index, ranks, shift)
            figure.add_trace(trace.update(showlegend=column == 1), row=row, col=column)
        figure.add_trace(_drop_means(_where(own, "domain", MEAN), ranks).update(showlegend=column == 1), row, column)
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
    drop, low, high = (_floats(own, name) for name in ("loss_increase", "low", "high"))
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
    of_mean = _where(_where(drops, "ranked_by", "zero"), "domain", MEAN)
    means = {(row["masked_to"], int(row["rank"])): row for row in _row_list(of_mean)}
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
        n = sum(not row["verified"] for row in _row_list(drops))
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
    sizes = _floats(masked, "magnitude")
    floor = float(sizes[sizes > 0].min()) if (sizes > 0).any() else 1.0  # zero has no place on a logarithmic axis
    masked = masked.assign(magnitude=np.maximum(sizes, floor))
    limits = {
        "x": _limits(np.log10(_floats(masked, "magnitude")), above=0.08),
        "y": _limits(_floats(masked, "test"), above=0.3),
    }
    y_title = DROP.replace(" on test (", " on test<br>(")
    figure, cells, height = panel_grid(
        domains, x_title="mean magnitude (activation units)", y_title=y_title, panel_height=210
    )
    for panel, (domain, (row, column)) in enumerate(zip(domains, cells, strict=True)):
        for index, mode in enumerate(modes):
            own = _where(_where(masked, "domain", domain), "masked_to", mode)
            trace = go.Scatter(
                x=_floats(own, "magnitude"),
                y=_floats(own, "test"),
                mode="markers",
                name=NAMES.get(str(mode), str(mode)),
                legendgroup=mode,
                showlegend=panel == 0,
                marker={"color": PALETTE[index % len(PALETTE)], "symbol": SYMBOLS[index], "size": 7, "opacity": 0.85},
                customdata=own["dimension"].to_list(),
                hovertemplate="dimension %{customdata}<br>magnitude %{x:.3g}<br>cost %{y:.3f} nats<extra></extra>",
            )
            figure.add_trace(trace, row=row, col=column)
        worst = _where(_where(masked, "domain", domain), "masked_to", "zero")
        named = sorted(_row_list(worst), key=lambda item: -item["test"])[:n_named]
        _name_points(figure, named, limits, row, column)
        _zero_line(figure, row, column)
    figure.update_yaxes(range=limits["y"])
    figure.update_xaxes(log_ticks(_floats(masked, "magnitude")) | {"range": limits["x"]})
    figure.update_layout(legend={"title": {"text": "masked entries are"}})
    subtitle = f"every dimension that was masked on test; the {n_named} that cost most at zero are named"
    return dress(figure, title="Large, or needed?", subtitle=subtitle, height=height)


def _limits(values: np.ndarray, *, above: float) -> list[float]:
    """Axis limits with the given fraction of the values' range free above them, for names."""
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
    zero = _where(masked, "masked_to", "zero")
    domains = list(dict.fromkeys(zero["domain"]))
    same, shared = [], set()
    specific = []
    for domain in domains:
        own = _where(zero, "domain", domain)
        records = _row_list(own)
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
    rows = _where(agreement, "ranked_by", ranked_by)
    readings = list(dict.fromkeys(rows["tokens"]))
    domains = list(dict.fromkeys(rows["domain"]))
    figure, cells, height = panel_grid(
        [f"magnitude: {reading}" for reading in readings],
        x_title="k",
        y_title="shared fraction<br>of the top k",
        panel_height=230,
        n_columns=2,
    )
    for panel, (reading, (row, column)) in enumerate(zip(readings, cells, strict=True)):
        of_reading = _where(rows, "tokens", reading)
        for trace in _chance_band(_where(of_reading, "domain", domains[0])):
            figure.add_trace(trace.update(showlegend=panel == 0 and bool(trace.name)), row=row, col=column)
        for index, domain in enumerate(domains):
            own = _where(of_reading, "domain", domain)
            trace = go.Scatter(
                x=own["k"].to_list(),
                y=_floats(own, "overlap"),
                mode="lines+markers",
                name=escape(domain),
                legendgroup=domain,
                showlegend=panel == 0,
                line={"color": PALETTE[index % len(PALETTE)], "width": 1.5, "dash": DASHES[index // len(PALETTE)]},
                marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 6},
                customdata=_floats(own, "p"),
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
    low, high, chance = (_floats(own, name) for name in ("low", "high", "chance"))
    plain = {"mode": "lines", "hoverinfo": "skip", "legendgroup": "chance"}
    return [
        go.Scatter(x=k, y=low, line={"width": 0}, **plain),
        go.Scatter(x=k, y=high, line={"width": 0}, fill="tonexty", fillcolor="rgba(128,128,128,0.25)", **plain),
        go.Scatter(x=k, y=chance, line={"color": NEUTRAL, "dash": "dot", "width": 1.5}, name="chance", **plain),
    ]


def overlap_caption(agreement: pd.DataFrame, *, k: int = 10, ranked_by: str = "zero", path: str = "full") -> str:
    """Overlap at one k beside chance, in how many domains it is beyond chance, and the rank correlation."""
    rows = _where(agreement, "ranked_by", ranked_by)
    at = max(int(item) for item in rows["k"] if item <= k)
    first = next(iter(rows["tokens"]))
    at_k = _where(rows, "k", at)
    own = _where(at_k, "tokens", first)
    n = len(own)
    beyond = int((_floats(own, "p") < 0.05 / n).sum())
    readings = []
    for reading in dict.fromkeys(rows["tokens"]):
        mean = _floats(_where(at_k, "tokens", reading), "overlap").mean()
        readings.append(f"{reading} {mean:.0%}")
    ranked = " (screened ranking)" if path == "screened" else ""
    return (
        f"At k = {at} the largest dimensions and those needed most{ranked} share, as a mean over {n} domains, "
        f"{_floats(own, 'overlap').mean():.0%}, by chance {_floats(own, 'chance').mean():.1%}; {beyond} of {n} domains "
        f"are beyond chance (hypergeometric p below 0.05 / {n}). By tokens: {joined(readings)}. Over all dimensions "
        f"the rank correlation is {number(float(_floats(own, 'spearman').mean()))}."
    )


def _zero_line(figure: go.Figure, row: int, column: int) -> None:
    x, y = axis_names(figure, row, column)
    line = {"color": NEUTRAL, "width": 1, "dash": "dot"}
    figure.add_shape(type="line", x0=0, x1=1, y0=0, y1=0, xref=f"{x} domain", yref=y, line=line, layer="below")


# --- recall -----------------------------------------------------------------------------------------------------------


def recall_figure(recall: pd.DataFrame) -> go.Figure:
    """How much of the true top k the screened path finds against what it costs, one line per setting of its estimate.

    `recall` has columns setting, m, domain, recall, fraction (of the exhaustive cost). Lines are the worst domain,
    faint marks all domains; the dotted lines are the goal.
    """
    settings = list(dict.fromkeys(recall["setting"]))
    figure = go.Figure(layout={"template": "none"})
    for index, setting in enumerate(settings):
        own = _where(recall, "setting", setting)
        colour = PALETTE[index % len(PALETTE)]
        worst = _worst_domain(own)
        figure.add_scatter(
            x=_floats(own, "fraction"),
            y=_floats(own, "recall"),
            mode="markers",
            marker={"color": colour, "size": 5, "opacity": 0.35, "symbol": SYMBOLS[index % len(SYMBOLS)]},
            legendgroup=setting,
            showlegend=False,
            customdata=list(zip(own["domain"], own["m"], strict=True)),
            hovertemplate="%{customdata[0]}, m = %{customdata[1]}<br>recall %{y:.0%} at %{x:.1%}<extra></extra>",
        )
        figure.add_scatter(
            x=_floats(worst, "fraction"),
            y=_floats(worst, "recall"),
            mode="lines+markers",
            name=escape(setting),
            legendgroup=setting,
            line={"color": colour, "width": 2, "dash": DASHES[index % len(DASHES)]},
            marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8},
            customdata=worst["m"].to_list(),
            hovertemplate="m = %{customdata}<br>worst domain %{y:.0%} at %{x:.1%}<extra></extra>",
        )
    for axis, value in (("y", GOAL_RECALL), ("x", GOAL_COST)):
        line = {"color": NEUTRAL, "dash": "dot", "width": 1.5}
        figure.add_hline(y=value, line=line) if axis == "y" else figure.add_vline(x=value, line=line)
    figure.update_xaxes(
        title_text="cost, as a fraction of masking every dimension", tickformat=".0%", rangemode="tozero"
    )
    figure.update_yaxes(title_text="recall of the true top 10", tickformat=".0%", range=[-0.03, 1.05])
    figure.update_layout(showlegend=True, legend={"title": {"text": "estimate (line: worst domain)"}})
    subtitle = "m candidates are masked exactly; faint marks are single domains; dotted: the goal"
    return dress(figure, title="Finding the needed dimensions without masking all", subtitle=subtitle, height=420)


def recall_caption(recall: pd.DataFrame) -> str:
    """The cheapest setting that reaches the goal in every domain, or how far the best is from it."""
    rows = _row_list(_worst_domain(recall))
    reached = [row for row in rows if row["recall"] >= GOAL_RECALL - 1e-9 and row["fraction"] <= GOAL_COST]
    n = len(set(recall["domain"]))
    if reached:
        best = min(reached, key=lambda row: row["fraction"])
        return (
            f"Recall of {GOAL_RECALL:.0%} in every one of {n} domains is reached from {best['fraction']:.1%} of the "
            f"exhaustive cost on ({best['setting']}, m = {best['m']}: {best['recall']:.0%} in the worst domain)."
        )
    within = [row for row in rows if row["fraction"] <= GOAL_COST]
    if not within:
        return (
            f"Every setting costs more than {GOAL_COST:.0%} of masking all dimensions, so the goal cannot be met here."
        )
    best = max(within, key=lambda row: row["recall"])
    return (
        f"No setting finds {GOAL_RECALL:.0%} of the top 10 in every one of {n} domains at {GOAL_COST:.0%} of the "
        f"exhaustive cost; the best there is {best['recall']:.0%} ({best['setting']}, m = {best['m']}, "
        f"{best['fraction']:.1%} of the cost)."
    )


def _worst_domain(recall: pd.DataFrame) -> pd.DataFrame:
    """One row per setting and m: the recall of the worst domain, and the mean cost."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in _row_list(recall):
        groups.setdefault((row["setting"], row["m"]), []).append(row)
    rows = [
        [setting, m, min(row["recall"] for row in own), float(np.mean([row["fraction"] for row in own]))]
        for (setting, m), own in groups.items()
    ]
    return pd.DataFrame(rows, columns=["setting", "m", "recall", "fraction"])


# --- exam -------------------------------------------------------------------------------------------------------------


def exam_figure(exam: pd.DataFrame) -> go.Figure | None:
    """Change of accuracy on an exam when one dimension is set to zero: faint marks are subjects, wide lines their mean.

    `exam` has columns subject, role, rank, dimension, unmasked, masked (accuracies as fractions), one row per subject
    and dimension; random dimensions are averaged within a subject. None without rows.
    """
    changes = _exam_changes(exam)
    if not changes:
        return None
    figure = go.Figure(layout={"template": "none"})
    for at, (label, subjects) in enumerate(changes.items()):
        spread = np.linspace(-0.25, 0.25, len(subjects)) if len(subjects) > 1 else np.zeros(1)
        figure.add_scatter(
            x=at + spread,
            y=list(subjects.values()),
            mode="markers",
            name="subject",
            showlegend=at == 0,
            marker={"color": PALETTE[0], "size": 6, "opacity": 0.55},
            text=[escape(name) for name in subjects],
            hovertemplate=f"%{{text}}<br>{escape(label)}<br>change %{{y:.1%}}<extra></extra>",
        )
        figure.add_scatter(
            x=[at - 0.4, at + 0.4],
            y=[float(np.mean(list(subjects.values())))] * 2,
            mode="lines",
            name="mean of the subjects",
            showlegend=at == 0,
            line={"color": PALETTE[4], "width": 3},
            hovertemplate="mean %{y:.1%}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    names = [escape(label).replace("dimension ", "dimension<br>") for label in changes]
    figure.update_xaxes(title_text="masked dimension", tickvals=list(range(len(names))), ticktext=names)
    figure.update_xaxes(range=[-0.6, len(names) - 0.4])
    figure.update_yaxes(title_text="masked − unmasked accuracy<br>(fraction of questions)", tickformat=".0%")
    subtitle = "ranked by accuracy on identify questions, measured on test questions; set to zero at every block output"
    return dress(figure, title="Exam accuracy without one dimension", subtitle=subtitle, height=420)


def exam_caption(exam: pd.DataFrame) -> str:
    """The mean change of accuracy for every dimension that was masked."""
    changes = _exam_changes(exam)
    means = [f"{label} {number(100 * float(np.mean(list(own.values()))))}" for label, own in changes.items()]
    n_subjects = len(set(exam["subject"]))
    unmasked = np.mean([row["unmasked"] for row in _row_list(exam.drop_duplicates("subject"))])
    return (
        f"Mean change of accuracy over {n_subjects} subjects, in percentage points of {unmasked:.0%} unmasked: "
        f"{joined(means)}."
    )


def _exam_changes(exam: pd.DataFrame) -> dict[str, dict[str, float]]:
    """What was masked -> subject -> change of accuracy."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in _row_list(exam):
        names = {"rank": f"rank {row['rank']}", "named": f"dimension {row['dimension']}"}
        own = found.setdefault(names.get(str(row["role"]), "random"), {})
        own.setdefault(str(row["subject"]), []).append(float(row["masked"]) - float(row["unmasked"]))
    return {label: {name: float(np.mean(own)) for name, own in subjects.items()} for label, subjects in found.items()}


# --- rows and columns of a table --------------------------------------------------------------------------------------


def _where(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """The rows with one value in one column."""
    return pd.DataFrame(table.loc[table[column] == value])


def _floats(table: pd.DataFrame, column: str) -> Float64[np.ndarray, "row"]:
    """One column as numbers."""
    return np.asarray(table[column], dtype=np.float64)


def _row_list(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain dictionaries."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]
