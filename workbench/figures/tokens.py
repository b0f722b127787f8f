"""Activations of chosen dimensions along the tokens of one prompt."""

from html import escape

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import DIVERGING, MARGIN, dress, number, scale_bar
from workbench.records import TokenColumns
from workbench.token_classes import visible

MAX_TOKENS = 60


def token_figure(columns: TokenColumns, prompt: str, *, start: int = 0, n_tokens: int = 32) -> go.Figure:
    """Activation of every collected (layer, dimension) at up to `n_tokens` tokens of one prompt, from token `start` on.

    Colours are centred at zero and clipped at the largest magnitude beside the first position, whose sink would
    drown the rest; the hover text has every value. Raises ValueError for an unknown prompt or a place outside it.
    """
    if prompt not in columns.prompts:
        known = ", ".join(columns.prompts[:3])
        raise ValueError(
            f"prompt {prompt!r} was not collected; these were: {known} ... ({len(columns.prompts)} in all)"
        )
    rows = np.flatnonzero(np.asarray(columns.prompt_index) == columns.prompts.index(prompt))
    if not 0 <= start < len(rows):
        raise ValueError(f"prompt {prompt} has {len(rows)} tokens; start={start} is outside")
    if not 1 <= n_tokens <= MAX_TOKENS:
        raise ValueError(f"n_tokens is {n_tokens}; between 1 and {MAX_TOKENS} can be read")
    rows = rows[start : start + n_tokens]
    positions = np.asarray(columns.positions)[rows]
    values = columns.values[rows].T
    later = values[:, positions > 0]
    bound = float(np.abs(later if later.size else values).max()) or 1.0
    tokens = [escape(visible(columns.token_text[row])) for row in rows]
    names = [f"layer {layer}, dimension {dimension}" for layer, dimension in columns.columns]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=np.arange(len(rows)),
            y=names,
            customdata=[[f"{token}<br>position {position}" for token, position in zip(tokens, positions, strict=True)]]
            * len(names),
            hovertemplate="%{customdata}<br>%{y}<br>activation %{z:.3g}<extra></extra>",
            colorscale=[list(step) for step in DIVERGING],
            zmid=0,
            zmin=-bound,
            zmax=bound,
            xgap=1,
            ygap=1,
            colorbar=scale_bar("activation<br>(activation<br>units)"),
        ),
        layout={"template": "none"},
    )
    figure.update_xaxes(
        title_text="token", tickvals=np.arange(len(rows)), ticktext=tokens, tickangle=-90, showgrid=False
    )
    figure.update_yaxes(type="category", autorange="reversed", title_text="read at", showgrid=False, ticks="")
    clipped = f"; the first position is clipped at {number(bound)}" if (positions == 0).any() else ""
    subtitle = f"{escape(prompt)}, tokens {start} to {start + len(rows) - 1}{clipped}"
    height = 26 * len(names) + MARGIN["t"] + MARGIN["b"] + 90
    return dress(figure, title="Activations along a text", subtitle=subtitle, height=height)
