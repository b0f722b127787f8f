"""Dimensions read as detectors of token classes: their scores, and the tokens that fire them in their contexts."""

import math
import re
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from workbench.figures.magnitudes import visible, word_list
from workbench.figures.style import MARGIN, NEUTRAL, PALETTE, SYMBOLS, dress, number
from workbench.records import Detector, TokenContext

UNLABELLED = "unlabelled"
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


def detector_figure(detectors: Sequence[Detector], n_per_domain: int | None = None) -> go.Figure:
    """Score of every labelled detector with its interval, grouped by domain; chance is the line at one half.

    Hollow marks are detectors whose interval reaches down to chance. `n_per_domain` keeps the best dimensions of each
    domain. Where no detector carries a label, the figure says so.
    """
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


def contexts_html(detector: Detector, n_shown: int | None = None) -> str:
    """The top tokens of a detector in their contexts, as an HTML fragment for notebooks and reports.

    The token is highlighted, orange where its activation is positive and blue where negative, stronger the larger it is
    beside the largest of the list. Spaces of the token, line breaks and runs of spaces are shown as signs. All of it is
    escaped and styled inline, so the fragment needs no style sheet and no script.
    """
    contexts = detector.top_tokens[:n_shown]
    largest = max((abs(context.value) for context in contexts if math.isfinite(context.value)), default=0.0)
    rows = "".join(_context_row(context, largest) for context in contexts)
    if not rows:
        return "<p>No token was recorded.</p>"
    cell = "padding:2px 8px;text-align:left;font-weight:600"
    heads = "".join(f'<th scope="col" style="{cell}">{head}</th>' for head in ("activation", "context", "document"))
    label = escape(
        f"Top tokens of dimension {detector.dimension} at layer {detector.layer}, {detector.end} end", quote=True
    )
    return (
        f'<table aria-label="{label}" style="border-collapse:collapse;font-size:13px;width:100%">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _context_row(context: TokenContext, largest: float) -> str:
    share = abs(context.value) / largest if largest and math.isfinite(context.value) else 0.0
    colour = POSITIVE if context.value >= 0 else NEGATIVE
    cell = "padding:2px 8px;text-align:left;vertical-align:top"
    mark = (
        f'<mark style="background:rgba({colour},{0.12 + 0.48 * share:.2f});color:inherit;border-radius:3px;'
        f'padding:0 2px;outline:1px solid rgba({colour},0.7)" title="activation {number(context.value)}">'
        f"{escape(visible(context.token))}</mark>"
    )
    text = f"{_surroundings(_left(context))}{mark}{_surroundings(_right(context))}"
    return (
        f'<tr><td style="{cell};white-space:nowrap;font-variant-numeric:tabular-nums">{number(context.value)}</td>'
        f'<td style="{cell};font-family:ui-monospace,Menlo,Consolas,monospace;white-space:pre-wrap;'
        f'overflow-wrap:anywhere">{text}</td>'
        f'<td style="{cell};white-space:nowrap">{escape(context.prompt)}, token {context.position}</td></tr>'
    )


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


def _surroundings(text: str) -> str:
    """Escaped text with line breaks, tabs and runs of spaces as pale signs; single spaces stay spaces."""

    def sign(match: re.Match[str]) -> str:
        return f'<span style="opacity:.55">{visible(match.group())}</span>'

    return re.sub(r"[\n\r\t]+|[ \u00b7]{2,}", sign, escape(text))
