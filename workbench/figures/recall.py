"""What the screened path finds of the truth, against its cost; drawn from one tidy table."""

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.columns import floats, row_list, where
from workbench.figures.style import DASHES, NEUTRAL, PALETTE, SYMBOLS, dress

GOAL_RECALL, GOAL_COST = 0.9, 0.2


def recall_figure(recall: pd.DataFrame) -> go.Figure:
    """How much of the true top k the screened path finds against what it costs, one line per setting of its estimate.

    `recall` has columns setting, m, domain, recall, fraction (of the exhaustive cost). Lines are the worst domain,
    faint marks all domains; the dotted lines are the goal.
    """
    settings = list(dict.fromkeys(recall["setting"]))
    figure = go.Figure(layout={"template": "none"})
    for index, setting in enumerate(settings):
        own = where(recall, "setting", setting)
        colour = PALETTE[index % len(PALETTE)]
        worst = _worst_domain(own)
        figure.add_scatter(
            x=floats(own, "fraction"),
            y=floats(own, "recall"),
            mode="markers",
            marker={"color": colour, "size": 5, "opacity": 0.35, "symbol": SYMBOLS[index % len(SYMBOLS)]},
            legendgroup=setting,
            showlegend=False,
            customdata=list(zip(own["domain"], own["m"], strict=True)),
            hovertemplate="%{customdata[0]}, m = %{customdata[1]}<br>recall %{y:.0%} at %{x:.1%}<extra></extra>",
        )
        figure.add_scatter(
            x=floats(worst, "fraction"),
            y=floats(worst, "recall"),
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
    figure.update_xaxes(title_text="cost, as a share of masking every dimension", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(title_text="recall of the true top 10", tickformat=".0%", range=[-0.03, 1.05])
    figure.update_layout(showlegend=True, legend={"title": {"text": "estimate (line: worst domain)"}})
    subtitle = "m candidates are masked exactly; faint marks are single domains; dotted: the goal"
    return dress(figure, title="Finding the needed dimensions without masking all", subtitle=subtitle, height=420)


def recall_caption(recall: pd.DataFrame) -> str:
    """The cheapest setting that reaches the goal in every domain, or how far the best is from it."""
    rows = row_list(_worst_domain(recall))
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
    for row in row_list(recall):
        groups.setdefault((row["setting"], row["m"]), []).append(row)
    rows = [
        [setting, m, min(row["recall"] for row in own), float(np.mean([row["fraction"] for row in own]))]
        for (setting, m), own in groups.items()
    ]
    return pd.DataFrame(rows, columns=["setting", "m", "recall", "fraction"])
