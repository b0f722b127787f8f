"""Dimensions read as detectors of token classes: their scores, and the tokens that fire them in their contexts."""

import math
import re
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from workbench.figures.html import render
from workbench.figures.magnitudes import word_list
from workbench.figures.style import DIVERGING, MARGIN, NEUTRAL, PALETTE, SYMBOLS, dress, number, scale_bar
from workbench.records import UNLABELLED, Detector, TokenColumns, TokenContext
from workbench.token_classes import visible

N_DETECTORS = 6  # drawn per domain, each with its contexts
FITTING, MAX_ROWS, MAX_TOKENS = 0, 24, 60
# A context holds at most so many tokens before its token, and so many characters before and after it.
CONTEXT_TOKENS, CONTEXT_BEFORE, CONTEXT_AFTER = 16, 60, 40
# Highlights: orange where the activation is positive, blue where it is negative.
POSITIVE, NEGATIVE = "213,94,0", "0,114,178"


def is_scored(detector: Detector) -> bool:
    """Whether the detector carries a label with a score."""
    return detector.label != UNLABELLED and not math.isnan(detector.auroc)


def best_per_domain(detectors: Sequence[Detector], n: int | None) -> list[Detector]:
    """The scored detectors, domains in their order of appearance, best first.

    With `n`, at most that many of each domain, and of every dimension only the best layer and end.
    """
    chosen: list[Detector] = []
    for domain in dict.fromkeys(detector.domain for detector in detectors):
        own = [detector for detector in detectors if detector.domain == domain and is_scored(detector)]
        own.sort(key=lambda detector: -detector.auroc)
        if n is not None:
            best: dict[int, Detector] = {}
            for detector in own:
                best.setdefault(detector.dimension, detector)
            own = list(best.values())[:n]
        chosen += own
    return chosen


def token_words(detectors: Sequence[Detector], n: int = 4) -> dict[int, tuple[str, ...]]:
    """What fires each dimension: distinct top tokens of its best-scored detector, for hover texts."""
    ranked = sorted(detectors, key=lambda detector: (not is_scored(detector), -np.nan_to_num(detector.auroc)))
    words: dict[int, tuple[str, ...]] = {}
    for detector in ranked:
        tokens = dict.fromkeys(context.token for context in detector.top_tokens)
        words.setdefault(detector.dimension, tuple(tokens)[:n])
    return words


def detector_figure(detectors: Sequence[Detector], n_per_domain: int | None = FITTING) -> go.Figure | None:
    """Score of every labelled detector with its interval, grouped by domain; chance is the line at one half.

    Hollow marks are detectors whose interval reaches down to chance. `n_per_domain` keeps the best dimensions of each
    domain (None: all detectors), by default as many as give about 24 rows. Where no detector carries a label, the
    figure says so; None without detectors.
    """
    if not detectors:
        return None
    n_domains = len({detector.domain for detector in detectors if is_scored(detector)})
    if n_per_domain == FITTING:
        n_per_domain = min(N_DETECTORS, max(1, MAX_ROWS // max(1, n_domains)))
    shown = best_per_domain(detectors, n_per_domain)
    n_scored = sum(map(is_scored, detectors))
    figure = go.Figure(layout={"template": "none"})
    names = [_name(detector, index) for index, detector in enumerate(shown)]
    for number_of_domain, domain in enumerate(dict.fromkeys(detector.domain for detector in shown)):
        rows = [index for index, detector in enumerate(shown) if detector.domain == domain]
        figure.add_trace(_domain_scores([shown[i] for i in rows], [names[i] for i in rows], number_of_domain))
    figure.add_vline(x=0.5, line={"color": NEUTRAL, "dash": "dash", "width": 1})
    lowest = min([detector.low for detector in shown if not math.isnan(detector.low)], default=0.5)
    figure.update_xaxes(
        title_text="AUROC of the token class on held-out documents (0.5 = chance)",
        range=[min(0.38, lowest - 0.02), 1.02],
    )
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names[::-1], range=[-0.7, len(names) - 0.3]
    )
    figure.update_yaxes(title_text="token class · dimension, layer, end", tickfont={"size": 11})
    if not shown:
        figure.add_annotation(
            text="no detector carries a label", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False
        )
        figure.update_yaxes(showticklabels=False, range=[0, 1])
    kept = (
        "" if len(shown) == n_scored else f"the {n_per_domain} best dimensions of each domain, each at its best layer; "
    )
    counts = f"{n_scored} labelled, {len(detectors) - n_scored} unlabelled"
    subtitle = f"{kept}{counts}; bars: 95 % interval over documents; ↑ ↓: read at the high or the low end"
    height = max(220, 21 * len(shown) + MARGIN["t"] + MARGIN["b"] + 20)
    return dress(figure, title="Detectors: token classes read from one dimension", subtitle=subtitle, height=height)


def _name(detector: Detector, index: int) -> str:
    # Zero-width spaces keep two detectors of equal description apart on a category axis.
    end = "↑" if detector.end == "high" else "↓"
    text = f"{escape(detector.label)} ·\u00a0{detector.dimension}\u00a0L{detector.layer}\u00a0{end}"
    return text + "\u200b" * index


def _domain_scores(detectors: Sequence[Detector], names: Sequence[str], index: int) -> go.Scatter:
    score = np.array([detector.auroc for detector in detectors])
    low = np.nan_to_num(np.array([detector.low for detector in detectors]), nan=0.0)
    high = np.nan_to_num(np.array([detector.high for detector in detectors]), nan=1.0)
    symbol = SYMBOLS[index % len(SYMBOLS)]
    colour = PALETTE[index % len(PALETTE)]
    return go.Scatter(
        x=score,
        y=list(names),
        mode="markers",
        name=escape(detectors[0].domain),
        marker={"color": colour, "size": 8, "symbol": [symbol if bound > 0.5 else f"{symbol}-open" for bound in low]},
        error_x={"array": high - score, "arrayminus": score - low, "color": colour, "thickness": 1.2, "width": 3},
        customdata=[
            [
                f"{number(detector.low)} to {number(detector.high)}",
                word_list(list(dict.fromkeys(context.token for context in detector.top_tokens))),
                word_list(detector.promoted),
                detector.n_tokens,
            ]
            for detector in detectors
        ],
        hovertemplate=(
            "%{y}<br>AUROC %{x:.3f} (%{customdata[0]})<br>%{customdata[3]} tokens of the class"
            "<br>fired by %{customdata[1]}<br>promotes %{customdata[2]}<extra>%{fullData.name}</extra>"
        ),
    )


def contexts_html(detector: Detector, n_shown: int | None = None) -> Markup:
    """The top tokens of a detector in their contexts, as an HTML fragment for notebooks and reports.

    The token is highlighted, orange where its activation is positive and blue where negative, stronger the larger it is
    beside the largest of the list. Spaces of the token, line breaks and runs of spaces are shown as signs. All of it is
    escaped and styled inline, so the fragment needs no style sheet and no script.
    """
    contexts = detector.top_tokens[:n_shown]
    largest = max((abs(context.value) for context in contexts if math.isfinite(context.value)), default=0.0)
    label = f"Top tokens of dimension {detector.dimension} at layer {detector.layer}, {detector.end} end"
    return render("contexts.html.j2", label=label, contexts=[_context(context, largest) for context in contexts])


def _context(context: TokenContext, largest: float) -> dict[str, object]:
    strength = abs(context.value) / largest if largest and math.isfinite(context.value) else 0.0
    return {
        "value": number(context.value),
        "colour": POSITIVE if context.value >= 0 else NEGATIVE,
        "opacity": f"{0.12 + 0.48 * strength:.2f}",
        "left": _pieces(_left(context)),
        "token": visible(context.token),
        "right": _pieces(_right(context)),
        "place": f"{context.prompt}, token {context.position}",
    }


def _left(context: TokenContext) -> str:
    """The text before a token from the beginning of a word on, after an ellipsis where the document starts earlier."""
    before = context.before
    if context.position <= CONTEXT_TOKENS and len(before) < CONTEXT_BEFORE:
        return before
    space = re.search(r"\s", before)
    return f"… {before[space.end() :]}" if space else f"…{before}"


def _right(context: TokenContext) -> str:
    """The text after a token; a word that the recorded length has cut is left to an ellipsis."""
    after = context.after
    if len(after) < CONTEXT_AFTER:
        return after
    words = re.match(r".*\s", after, re.DOTALL)
    return f"{words.group()}…" if words else f"{after}…"


def _pieces(text: str) -> list[tuple[str, bool]]:
    """Text cut where line breaks, tabs and runs of spaces stand as signs (True); single spaces stay spaces."""
    pieces = re.split(r"([\n\r\t]+|[ \u00b7]{2,})", text)
    return [(visible(piece) if index % 2 else piece, bool(index % 2)) for index, piece in enumerate(pieces) if piece]


def detector_caption(detectors: Sequence[Detector]) -> str:
    """How many detectors carry a label, how many are better than chance, and the best one."""
    scored = [detector for detector in detectors if is_scored(detector)]
    if not detectors:
        return "No dimension was read as a detector."
    if not scored:
        return f"None of the {len(detectors)} dimension-and-layer readings carries a label."
    above = sum(detector.low > 0.5 for detector in scored)
    best = max(scored, key=lambda detector: detector.auroc)
    return (
        f"{len(scored)} of {len(detectors)} dimension-and-layer readings carry a label; {above or 'none'} of these "
        f"have an interval above chance. The best is dimension {best.dimension}, layer {best.layer} for {best.label} "
        f"in {best.domain}: AUROC {best.auroc:.2f} ({best.low:.2f} to {best.high:.2f}). The best of many scores is "
        "an optimistic number."
    )


# --- along a text -----------------------------------------------------------------------------------------------------


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
