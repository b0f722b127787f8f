"""How large every residual dimension is, per layer and domain, and how often it is active; with captions."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float64, Int
from plotly.subplots import make_subplots

from workbench.figures.style import (
    DASHES,
    MARGIN,
    NEUTRAL,
    NOMINAL_WIDTH,
    PALETTE,
    SEQUENTIAL,
    SYMBOLS,
    dress,
    is_dwarfed,
    joined,
    layer_colours,
    log_ticks,
    number,
    panel_grid,
    panel_title,
    place_labels,
    scale_bar,
)
from workbench.records import DISCRIMINATION_GAP, OFTEN, DimensionStatistics
from workbench.token_classes import visible

# About 8 bytes of JSON each: the figure stays under half a megabyte for every model.
MAX_POINTS = 32_000
MAX_LEGEND_LAYERS, MAX_PANELS = 12, 12
PANEL_HEIGHT = 210
RARE = 0.05  # dimensions active in a smaller fraction of every domain's prompts are not drawn
UNIT = "mean |activation| (activation units)"


def magnitude_figure(
    statistics: DimensionStatistics,
    domains: Sequence[str] | None = None,
    n_named: int = 5,
    *,
    words: Mapping[int, Sequence[str]] | None = None,
) -> go.Figure:
    """Mean magnitude of every residual dimension at every layer, one panel per domain.

    The `n_named` dimensions that are largest on average over layers are named in each panel; a name in bold is among
    them in that domain only. `words` (dimension -> token texts) adds what fires a dimension to the hover text of its
    name. The axis is logarithmic where massive dimensions would flatten the rest. Where the model has more dimensions
    than can be drawn, each line is the outer envelope: the largest of every few neighbouring dimensions.

    Without `domains` the first 12 are drawn. First positions are excluded (see `first_position_figure`). Raises
    ValueError for a domain that was not measured.
    """
    shown = domain_indices(statistics, domains)
    if domains is None:
        shown = shown[:MAX_PANELS]
    values = statistics.mean_magnitude[shown]
    names = [statistics.domains[index] for index in shown]
    n_domains, n_layers, d_model = values.shape
    largest = np.argsort(-values.mean(axis=1), axis=1, kind="stable")[:, :n_named]
    is_log = is_dwarfed(values)
    y_title = UNIT.replace(" (", "<br>(")
    figure, cells, height = panel_grid(names, x_title="dimension", y_title=y_title, panel_height=PANEL_HEIGHT)
    limits = _limits(values, is_log)
    figure.update_yaxes((log_ticks(values) if is_log else {}) | {"range": limits})
    figure.update_xaxes(range=[-0.03 * d_model, 1.03 * d_model])
    n_points = max(16, MAX_POINTS // (n_domains * n_layers))
    for panel, (row, column) in enumerate(cells):
        _draw_layers(figure, values[panel], names[panel], largest[panel], n_points, (row, column), panel == 0)
        _name_largest(figure, values[panel], largest, panel, limits, is_log, (row, column), words or {})
    if n_layers > MAX_LEGEND_LAYERS:
        figure.add_trace(_layer_scale(n_layers))
    subtitle = f"residual stream after each block, excluding the first position; the {n_named} largest are named"
    if n_domains > 1:
        subtitle += ", bold where in one domain only"
    if n_domains < len(statistics.domains):
        subtitle += f"; {n_domains} of {len(statistics.domains)} domains"
    if n_points < d_model:
        subtitle += f"; outer envelope of {d_model} dimensions"
    return dress(figure, title="Dimension magnitudes per layer", subtitle=subtitle, height=height)


def first_position_figure(statistics: DimensionStatistics, domains: Sequence[str] | None = None) -> go.Figure:
    """Where the sink sits: the three largest magnitudes and the median at the first position, beside later positions.

    Means over the domains. The largest dimension is named where it begins to be the largest for a good stretch of
    layers; every point names its dimension in the hover text. Raises ValueError for a domain that was not measured.
    """
    shown = domain_indices(statistics, domains)
    sides = (
        ("first position", statistics.first_mean_magnitude[shown].mean(axis=0)),
        ("later positions", statistics.mean_magnitude[shown].mean(axis=0)),
    )
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=28 / NOMINAL_WIDTH)
    for column, (name, values) in enumerate(sides, start=1):
        _draw_extremes(figure, values, name, column)
        panel_title(figure, name, 1, column)
        _layer_axis(figure, values.shape[0], column)
    both = np.stack([values for _, values in sides])
    figure.update_yaxes(title_text=UNIT, row=1, col=1)
    is_log = is_dwarfed(both)
    drawn = np.concatenate([np.sort(both)[..., -3:], np.median(both, axis=2, keepdims=True)], axis=2)
    figure.update_yaxes((log_ticks(drawn) if is_log else {}) | {"range": _limits(drawn, is_log)})
    figure.update_layout(legend={"title": {"text": "over dimensions"}})
    of = names_or_count([statistics.domains[index] for index in shown])
    subtitle = f"residual stream after each block, mean over {of}; numbers name the largest dimension"
    return dress(figure, title="First position beside the rest", subtitle=subtitle, height=380)


def profile_figure(
    statistics: DimensionStatistics, dimension: int, *, words: Mapping[int, Sequence[str]] | None = None
) -> go.Figure:
    """Mean magnitude of one dimension over layers, one line per domain; the first position has its own panel.

    Raises ValueError where the model has no such dimension.
    """
    _, n_layers, d_model = statistics.mean_magnitude.shape
    if not 0 <= dimension < d_model:
        raise ValueError(f"dimension {dimension} does not exist; expected 0 to {d_model - 1}")
    figure = make_subplots(1, 2, column_widths=[0.6, 0.4], horizontal_spacing=84 / NOMINAL_WIDTH)
    sides = (("later positions", statistics.mean_magnitude), ("first position", statistics.first_mean_magnitude))
    for column, (side, values) in enumerate(sides, start=1):
        for index, domain in enumerate(statistics.domains):
            figure.add_trace(
                go.Scatter(
                    x=np.arange(n_layers, dtype=np.int16),
                    y=values[index, :, dimension].astype(np.float32),
                    mode="lines+markers",
                    name=escape(domain),
                    legendgroup=domain,
                    showlegend=column == 1,
                    line={"color": PALETTE[index % len(PALETTE)], "dash": DASHES[index % len(DASHES)], "width": 1.8},
                    marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8},
                    hovertemplate=f"{escape(domain)}, layer %{{x}}<br>%{{y:.3g}} at {side}<extra></extra>",
                ),
                row=1,
                col=column,
            )
        panel_title(figure, side, 1, column)
        _layer_axis(figure, n_layers, column)
        figure.update_yaxes(title_text=UNIT, rangemode="tozero", row=1, col=column)
    subtitle = "residual stream after each block; the two panels have their own scale"
    if words and dimension in words:
        subtitle += f"; fired by {word_list(words[dimension])}"
    return dress(figure, title=f"Dimension {dimension} over layers", subtitle=subtitle, height=360)


def domain_indices(statistics: DimensionStatistics, domains: Sequence[str] | None) -> list[int]:
    """Rows of the chosen domains, of all where none is chosen; raises ValueError for one that was not measured."""
    if domains is None:
        return list(range(len(statistics.domains)))
    unknown = [name for name in domains if name not in statistics.domains]
    if unknown or not domains:
        given = ", ".join(unknown) or "no domain"
        raise ValueError(f"{given} is not among the measured domains: {', '.join(statistics.domains)}")
    return [statistics.domains.index(name) for name in domains]


def outer_envelope(
    values: Float64[np.ndarray, "d_model"], n_points: int, keep: Int[np.ndarray, "named"]
) -> Int[np.ndarray, "point"]:
    """Indices of the largest value in each of at most `n_points` neighbourhoods, and of the dimensions to keep."""
    if len(values) <= n_points:
        return np.arange(len(values))
    edges = np.linspace(0, len(values), n_points + 1).astype(int)
    peaks = [start + int(np.argmax(values[start:stop])) for start, stop in pairwise(edges.tolist())]
    return np.union1d(peaks, keep)


def word_list(words: Sequence[str], n: int = 6) -> str:
    """Token texts for hover text: escaped, spaces and line breaks visible."""
    return ", ".join(f"“{escape(visible(word))}”" for word in words[:n])


def names_or_count(domains: Sequence[str]) -> str:
    """The domain if there is one, otherwise their number."""
    return escape(domains[0]) if len(domains) == 1 else f"{len(domains)} domains"


def _draw_layers(
    figure: go.Figure,
    values: Float64[np.ndarray, "layer d_model"],
    domain: str,
    largest: Int[np.ndarray, "named"],
    n_points: int,
    cell: tuple[int, int],
    is_first: bool,
) -> None:
    n_layers, d_model = values.shape
    for layer, colour in enumerate(layer_colours(n_layers)):
        drawn = outer_envelope(values[layer], n_points, largest)
        heights = values[layer, drawn].astype(np.float32)
        where = {"x0": 0, "dx": 1} if len(drawn) == d_model else {"x": drawn.astype(np.min_scalar_type(d_model))}
        hover = f"dimension %{{x}}<br>{escape(domain)}, layer {layer}<br>%{{y:.3g}}<extra></extra>"
        figure.add_trace(
            go.Scatter(
                **where,
                y=np.where(heights > 0, heights, np.float32("nan")),
                mode="lines",
                line={"color": colour, "width": 1.2},
                name=f"layer {layer}",
                legendgroup=f"layer {layer}",
                showlegend=is_first and n_layers <= MAX_LEGEND_LAYERS,
                hovertemplate=hover,
            ),
            row=cell[0],
            col=cell[1],
        )


def _name_largest(
    figure: go.Figure,
    values: Float64[np.ndarray, "layer d_model"],
    largest: Int[np.ndarray, "domain named"],
    panel: int,
    limits: list[float],
    is_log: bool,
    cell: tuple[int, int],
    words: Mapping[int, Sequence[str]],
) -> None:
    dimensions = largest[panel]
    peaks = values[:, dimensions].max(axis=0)
    heights = np.log10(np.maximum(peaks, 1e-30)) if is_log else peaks
    n_columns = max(column for _, column in [cell, (1, int(np.ceil(np.sqrt(len(largest)))))])
    width = (NOMINAL_WIDTH - MARGIN["l"]) / n_columns
    rise = (heights - limits[0]) / (limits[1] - limits[0]) * PANEL_HEIGHT
    spots = place_labels(dimensions / values.shape[1] * width, rise, panel_width=width)
    for dimension, peak, height, (right, down) in zip(dimensions, peaks, heights, spots, strict=True):
        is_own = len(largest) > 1 and int((largest == dimension).sum()) == 1
        fired = f"<br>fired by {word_list(words[int(dimension)])}" if int(dimension) in words else ""
        figure.add_annotation(
            x=int(dimension),
            y=float(height),
            ax=int(right),
            ay=int(down),
            text=f"<b>{dimension}</b>" if is_own else str(dimension),
            hovertext=f"dimension {dimension}: {number(float(peak))} at its highest layer{fired}",
            font={"size": 11},
            row=cell[0],
            col=cell[1],
        )


def _limits(values: Float64[np.ndarray, "domain layer d_model"], is_log: bool) -> list[float]:
    """Axis limits (in powers of ten where logarithmic) with room for the names above the highest point."""
    if not is_log:
        return [0.0, float(values.max()) * 1.3 or 1.0]
    low, high = np.log10(values[values > 0].min()), np.log10(values.max())
    return [float(low - 0.05 * (high - low)), float(high + 0.28 * (high - low))]


def _layer_scale(n_layers: int) -> go.Scatter:
    """An empty trace that carries the colour scale of the layers."""
    colours = layer_colours(n_layers)
    marks = np.linspace(0, 1, n_layers)
    marker = {"colorscale": list(zip(marks.tolist(), colours, strict=True)), "cmin": 0, "cmax": n_layers - 1}
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker=marker | {"color": [0], "colorbar": scale_bar("layer", length=0.6)},
    )


def _draw_extremes(figure: go.Figure, values: Float64[np.ndarray, "layer d_model"], side: str, column: int) -> None:
    n_layers = values.shape[0]
    order = np.argsort(-values, axis=1, kind="stable")
    layers = np.arange(n_layers, dtype=np.int16)
    for rank, name in enumerate(("largest", "second", "third")[: values.shape[1]]):
        dimensions = order[:, rank]
        named = _named_layers(dimensions) if rank == 0 else []
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=values[layers, dimensions].astype(np.float32),
                customdata=dimensions.astype(np.int32),
                text=[str(dimensions[layer]) if layer in named else "" for layer in layers],
                textposition=["top center" if layer == 0 else "top left" for layer in layers],
                mode="lines+markers+text" if rank == 0 else "lines+markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": PALETTE[rank], "dash": DASHES[rank]},
                marker={"symbol": SYMBOLS[rank], "size": 8},
                cliponaxis=False,
                hovertemplate=f"dimension %{{customdata}}<br>{side}, layer %{{x}}<br>%{{y:.3g}}<extra>{name}</extra>",
            ),
            row=1,
            col=column,
        )
    figure.add_trace(
        go.Scatter(
            x=layers,
            y=np.median(values, axis=1).astype(np.float32),
            mode="lines",
            name="median",
            legendgroup="median",
            showlegend=column == 1,
            line={"color": NEUTRAL, "dash": "dot"},
            hovertemplate=f"median over dimensions<br>{side}, layer %{{x}}<br>%{{y:.3g}}<extra></extra>",
        ),
        row=1,
        col=column,
    )


def _named_layers(dimensions: Int[np.ndarray, "layer"]) -> list[int]:
    """Layers at which one dimension begins to be the largest for at least an eighth of the layers."""
    changes = np.flatnonzero(np.diff(dimensions)) + 1
    starts = [0, *changes.tolist()]
    stops = [*changes.tolist(), len(dimensions)]
    return [start for start, stop in zip(starts, stops, strict=True) if stop - start >= len(dimensions) / 8]


def _layer_axis(figure: go.Figure, n_layers: int, column: int) -> None:
    """An axis of layers with at most a dozen labels."""
    step = max(1, -(-n_layers // 12))
    figure.update_xaxes(title_text="layer", dtick=step, range=[-0.4, n_layers - 0.6], row=1, col=column)


# --- frequencies ------------------------------------------------------------------------------------------------------


def frequency_figure(
    frequency: pd.DataFrame, *, at_least: float = RARE, words: Mapping[int, Sequence[str]] | None = None
) -> go.Figure | None:
    """Fraction of each domain's prompts in which a dimension is active: one row per domain, one column per dimension.

    `frequency` has domains as index, dimensions as columns and fractions in [0, 1] as values. Drawn are the dimensions
    active in at least the fraction `at_least` of the prompts of any domain: first those active in most prompts of every
    domain, then the others in blocks by the domain in which they are most frequent. `words` (dimension -> token texts)
    adds what fires a dimension to the hover text.

    None where no dimension is that frequent. Raises ValueError where values are no fractions.
    """
    values = frequency.to_numpy(dtype=np.float64)
    if not values.size or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            "the frequencies must be fractions between 0 and 1, with domains as index and dimensions as columns"
        )
    kept = np.flatnonzero(values.max(axis=0) >= at_least)
    if not kept.size:
        return None
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
        colorbar=scale_bar("fraction of<br>prompts"),
        hovertemplate="dimension %{x}<br>active in %{z:.0%} of the %{y} prompts%{customdata}<extra></extra>",
    )


def block_order(
    values: Float64[np.ndarray, "domain dimension"],
) -> tuple[Int[np.ndarray, "dimension"], Int[np.ndarray, "dimension"]]:
    """Order of the columns, and the block of each: 0 for those frequent in every domain, 1 + domain for the others."""
    everywhere = values.min(axis=0) >= OFTEN
    blocks = np.where(everywhere, 0, 1 + values.argmax(axis=0))
    order = np.lexsort((-np.where(everywhere, values.mean(axis=0), values.max(axis=0)), blocks))
    return order, blocks[order]


# --- captions ---------------------------------------------------------------------------------------------------------


def largest_dimensions(statistics: DimensionStatistics, n: int = 3) -> tuple[int, int, list[int]]:
    """How many domains share the set of n largest dimensions that most do, of how many, and that set."""
    values = statistics.mean_magnitude.mean(axis=1)
    tops = [frozenset(row[:n].tolist()) for row in np.argsort(-values, axis=1, kind="stable")]
    ((common, count),) = Counter(tops).most_common(1)
    return count, len(tops), sorted(common)


def magnitude_caption(statistics: DimensionStatistics, n: int = 3) -> str:
    """Whether the domains share their largest dimensions, and how far these stand above the rest."""
    values = statistics.mean_magnitude.mean(axis=1)
    tops = [frozenset(row[:n].tolist()) for row in np.argsort(-values, axis=1, kind="stable")]
    n_domains = len(tops)
    ratio = float(np.median(values.max(axis=1) / np.maximum(np.median(values, axis=1), 1e-30)))
    height = f"The largest dimension is {number(ratio)} times the median dimension (median over the domains)."
    if n_domains == 1:
        largest = joined([str(item) for item in sorted(tops[0])])
        domain = statistics.domains[0]
        return f"In {domain} the {_word(n)} largest dimensions on average over layers are {largest}. {height}"
    (common, count), *_ = Counter(tops).most_common(1)
    everywhere = [str(item) for item in sorted(frozenset.intersection(*tops))]
    if count == 1:
        among = f"{joined(everywhere)} {'is' if len(everywhere) == 1 else 'are'}" if everywhere else "none is"
        return (
            f"No two of the {n_domains} domains share the same {_word(n)} largest dimensions; {among} among them in "
            f"every domain. {height}"
        )
    named = joined([str(item) for item in sorted(common)])
    others = [name for name, top in zip(statistics.domains, tops, strict=True) if top != common]
    rest = f"; {joined(others)} {'differs' if len(others) == 1 else 'differ'}" if others else ""
    reading = (
        "what is largest says little about the domain"
        if count == n_domains
        else "what is largest depends in part on the domain"
    )
    shared = f"{count} of {n_domains} domains share the same {_word(n)} largest dimensions ({named}){rest}"
    return f"{shared}: {reading}. {height}"


def first_position_caption(statistics: DimensionStatistics) -> str:
    """Whether the first position carries magnitudes that later positions do not."""
    first = statistics.first_mean_magnitude.mean(axis=0)
    later = statistics.mean_magnitude.mean(axis=0)
    layer = int(np.argmax(first.max(axis=1)))
    dimension = int(first[layer].argmax())
    here, there = float(first[layer].max()), float(later[layer].max())
    ratio = here / there if there > 0 else math.inf
    seen = (
        f"The first position is largest at layer {layer} in dimension {dimension} ({number(here)} activation units); "
        f"the largest of the later positions there is {number(there)} in dimension {int(later[layer].argmax())}"
    )
    if ratio >= 3:
        return f"{seen}: {number(ratio)} times less, so the first position is reported separately."
    if ratio > 1.1:
        return f"{seen}: somewhat less, so the first position stands out only a little."
    return f"{seen}: no less, so no sink shows at the first position."


def profile_caption(statistics: DimensionStatistics, dimension: int) -> str:
    """In which domain and layer a dimension is largest, and whether it stands out there."""
    values = statistics.mean_magnitude[:, :, dimension]
    means = values.mean(axis=1)
    order = np.argsort(-means, kind="stable")
    best = int(order[0])
    layer = int(values[best].argmax())
    seen = (
        f"Dimension {dimension} is largest in {statistics.domains[best]}: {number(float(means[best]))} activation "
        f"units on average over layers, {number(float(values[best, layer]))} at layer {layer}"
    )
    if len(means) == 1:
        return f"{seen}."
    next_best = float(means[order[1]])
    ratio = float(means[best]) / next_best if next_best > 0 else math.inf
    if ratio >= 1.5:
        return f"{seen}; that is {number(ratio)} times the next domain ({statistics.domains[int(order[1])]})."
    spread = float(means[best]) / max(float(means.min()), 1e-30)
    if spread < 1.5:
        return f"{seen}; the domains hardly differ (largest beside smallest: {number(spread)} times)."
    return f"{seen}; {statistics.domains[int(order[1])]} comes close (ratio {number(ratio)})."


def frequency_caption(frequency: pd.DataFrame) -> str:
    """How many dimensions are active everywhere, and how many belong to one domain."""
    values = frequency.to_numpy(dtype=float)
    n_domains, n_dimensions = values.shape
    n_active = int((values.max(axis=0) > 0).sum())
    n_everywhere = int((values.min(axis=0) >= OFTEN).sum())
    start = (
        f"{n_active} of {n_dimensions} dimensions are active in at least one prompt, {n_everywhere or 'none'} of them "
        "in at least half of the prompts of every domain"
    )
    if n_domains == 1:
        return f"{start}."
    elsewhere = (values.sum(axis=0) - values) / (n_domains - 1)
    is_own = values - elsewhere > DISCRIMINATION_GAP + 1e-9
    if not is_own.any():
        return f"{start}; none exceeds the mean of the other domains by {DISCRIMINATION_GAP:.0%} in any domain."
    counts = [f"{name} {count}" for name, count in zip(frequency.index, is_own.sum(axis=1), strict=True) if count]
    n_own = int(is_own.any(axis=0).sum())
    verb = "exceeds" if n_own == 1 else "exceed"
    return (
        f"{start}; {n_own} {verb} the mean of the other domains by over {DISCRIMINATION_GAP:.0%} in at least one "
        f"domain ({joined(counts)})."
    )


def _word(n: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[n] if n < len(words) else str(n)
