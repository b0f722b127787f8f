"""In which domains a dimension is active: the map of activation frequencies, domain x dimension."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float64, Int

from workbench.figures.magnitudes import word_list
from workbench.figures.style import MARGIN, NEUTRAL, SEQUENTIAL, dress, number, scale_bar

# A dimension counts as active in a domain from half of its prompts on; blocks of the map are made by this.
MOSTLY = 0.5


def frequency_figure(
    frequency: pd.DataFrame, *, at_least: float = 0.05, words: Mapping[int, Sequence[str]] | None = None
) -> go.Figure:
    """Share of each domain's prompts in which a dimension is active: one row per domain, one column per dimension.

    `frequency` has domains as index, dimensions as columns and shares in [0, 1] as values. Drawn are the dimensions
    active in at least the share `at_least` of the prompts of any domain: first those active in most prompts of every
    domain, then the others in blocks by the domain in which they are most frequent. `words` (dimension -> token texts)
    adds what fires a dimension to the hover text.

    Raises ValueError where values are no shares or no dimension is that frequent.
    """
    values = frequency.to_numpy(dtype=np.float64)
    if not values.size or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            "the frequencies must be shares between 0 and 1, with domains as index and dimensions as columns"
        )
    kept = np.flatnonzero(values.max(axis=0) >= at_least)
    if not kept.size:
        raise ValueError(f"no dimension is active in a share of {at_least} of any domain's prompts; lower `at_least`")
    order, blocks = block_order(values[:, kept])
    columns = kept[order]
    dimensions = [int(frequency.columns[index]) for index in columns]
    domains = [str(name) for name in frequency.index]
    figure = go.Figure(_heatmap(values[:, columns], domains, dimensions, words or {}), layout={"template": "none"})
    for start in np.flatnonzero(np.diff(blocks)) + 1:
        figure.add_vline(x=float(start) - 0.5, line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(type="category", title_text="dimension", tickangle=-90, showgrid=False)
    figure.update_yaxes(type="category", title_text="domain", autorange="reversed", showgrid=False, ticks="")
    n_rest = values.shape[1] - len(columns)
    subtitle = (
        f"active: more than 3 σ above the mean over dimensions; {len(columns)} dimensions, "
        f"those frequent in every domain first; {n_rest} others stay below {number(at_least)} everywhere"
    )
    height = 34 * len(domains) + MARGIN["t"] + MARGIN["b"] + 60
    return dress(figure, title="Activation frequency by domain", subtitle=subtitle, height=height)


def _heatmap(
    values: Float64[np.ndarray, "domain dimension"],
    domains: Sequence[str],
    dimensions: Sequence[int],
    words: Mapping[int, Sequence[str]],
) -> go.Heatmap:
    fired = [f"<br>fired by {word_list(words[item])}" if item in words else "" for item in dimensions]
    return go.Heatmap(
        z=values.astype(np.float32),
        x=[str(item) for item in dimensions],
        y=[escape(name) for name in domains],
        customdata=[fired] * len(domains),
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        xgap=1 if len(dimensions) <= 120 else 0,
        ygap=1,
        colorbar=scale_bar("share of<br>prompts"),
        hovertemplate="dimension %{x}<br>active in %{z:.0%} of the %{y} prompts%{customdata}<extra></extra>",
    )


def block_order(
    values: Float64[np.ndarray, "domain dimension"],
) -> tuple[Int[np.ndarray, "dimension"], Int[np.ndarray, "dimension"]]:
    """Order of the columns, and the block of each: 0 for those frequent in every domain, 1 + domain for the others."""
    everywhere = values.min(axis=0) >= MOSTLY
    blocks = np.where(everywhere, 0, 1 + values.argmax(axis=0))
    order = np.lexsort((-np.where(everywhere, values.mean(axis=0), values.max(axis=0)), blocks))
    return order, blocks[order]
