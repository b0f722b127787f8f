"""Which dimensions were selected in which domain, and whether they are more frequent there than elsewhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from workbench.figures.magnitudes import word_list
from workbench.figures.style import DIVERGING, MARGIN, dress, number, scale_bar
from workbench.records import Dimension


def dcd_figure(
    dcds: Sequence[Dimension], selection: str | None = None, *, words: Mapping[int, Sequence[str]] | None = None
) -> go.Figure | None:
    """Domain by dimension: the rank of every DCD, coloured by its frequency in the domain minus that elsewhere.

    Colours are centred at zero; a place is empty where the dimension was not selected in the domain. Dimensions
    selected in most domains come first. `words` (dimension -> token texts) adds what fires a dimension to the hover
    text. Draws one `selection`, by default that of the first record. None without DCDs; raises ValueError for a
    selection that none was made by.
    """
    if not dcds:
        return None
    found = list(dict.fromkeys(dcd.selection for dcd in dcds))
    selection = selection or found[0]
    chosen = [dcd for dcd in dcds if dcd.selection == selection]
    if not chosen:
        raise ValueError(f"no dimension was selected by {selection}; there are: {', '.join(found)}")
    domains = list(dict.fromkeys(dcd.domain for dcd in dcds))
    counts = Counter(dcd.dimension for dcd in chosen)
    first = {dcd.dimension: domains.index(dcd.domain) for dcd in reversed(chosen)}
    dimensions = sorted(counts, key=lambda item: (-counts[item], first[item], item))
    gap, rank, hover = _places(chosen, domains, dimensions, words or {})
    figure = go.Figure(
        go.Heatmap(
            z=gap,
            x=[str(item) for item in dimensions],
            y=[escape(name) for name in domains],
            text=rank,
            texttemplate="%{text}",
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=[list(step) for step in DIVERGING],
            zmid=0,
            zmin=-1,
            zmax=1,
            xgap=1,
            ygap=1,
            hoverongaps=False,
            colorbar=scale_bar("frequency here −<br>elsewhere"),
        ),
        layout={"template": "none"},
    )
    figure.update_xaxes(type="category", title_text="dimension", tickangle=-90, showgrid=False)
    figure.update_yaxes(type="category", title_text="domain", autorange="reversed", showgrid=False, ticks="")
    subtitle = (
        f"selection by {selection}; numbers: rank in the domain; frequency: fraction of prompts in which the dimension "
        "is active"
    )
    height = 34 * len(domains) + MARGIN["t"] + MARGIN["b"] + 60
    return dress(figure, title="Domain-critical dimensions", subtitle=subtitle, height=height)


def _places(
    dcds: Sequence[Dimension],
    domains: Sequence[str],
    dimensions: Sequence[int],
    words: Mapping[int, Sequence[str]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference of frequencies, rank and hover text at [domain, dimension]; NaN and "" where none was selected."""
    gap = np.full((len(domains), len(dimensions)), np.nan, dtype=np.float32)
    rank = np.full(gap.shape, "", dtype=object)
    hover = np.full(gap.shape, "", dtype=object)
    for dcd in dcds:
        place = domains.index(dcd.domain), dimensions.index(dcd.dimension)
        gap[place] = dcd.frequency - dcd.frequency_elsewhere
        rank[place] = str(dcd.rank)
        hover[place] = _hover(dcd, words)
    return gap, rank, hover


def _hover(dcd: Dimension, words: Mapping[int, Sequence[str]]) -> str:
    fired = f"<br>fired by {word_list(words[dcd.dimension])}" if dcd.dimension in words else ""
    return (
        f"dimension {dcd.dimension}, rank {dcd.rank} in {escape(dcd.domain)}<br>"
        f"active in {dcd.frequency:.0%} of its prompts, elsewhere {dcd.frequency_elsewhere:.0%}<br>"
        f"magnitude {number(dcd.magnitude)}, elsewhere {number(dcd.magnitude_elsewhere)}<br>large in {dcd.reach}{fired}"
    )


def dcd_caption(dcds: Sequence[Dimension]) -> str:
    """How many of the selected dimensions are large everywhere, how many in their domain only."""
    by_magnitude = [dcd for dcd in dcds if dcd.selection == "magnitude"] or list(dcds)
    if not by_magnitude:
        return "No dimension was selected in any domain."
    counts = Counter(dcd.reach for dcd in by_magnitude)
    distinct, n = len({dcd.dimension for dcd in by_magnitude}), len(by_magnitude)
    return (
        f"Selection by {by_magnitude[0].selection} names {n} dimensions over all domains, {distinct} of them distinct. "
        f"Of the {n}, {counts['every domain']} are large in every domain, {counts['this domain']} in this domain more "
        f"than elsewhere, {counts['some domains']} in some domains and {counts['no domain']} in none."
    )
