"""The dimension card as HTML: styled inline, without script or request, for notebooks, exports and single files."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from workbench.explorer.cards import DimensionCard
from workbench.figures import contexts_html
from workbench.figures.style import PALETTE, number
from workbench.records import ENDS, Detector, TokenContext, Verdict
from workbench.token_classes import visible

ASSETS = Path(__file__).parent / "assets"
# Refuses every request and every script: the card has none.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 34  # margins of a profile in pixels


def card_html(card: DimensionCard) -> str:
    """The card as an HTML fragment; it fits light and dark pages and any width."""
    title = f"Dimension {card.dimension} in {card.domain}, layer {card.layer}"
    style = (ASSETS / "card.css").read_text(encoding="utf-8")
    return (
        f'<article class="dimension-card" aria-label="{escape(title, quote=True)}"><style>{style}</style>'
        f"<h3>{escape(title)}</h3><p class='facts'>{_facts(card)}</p>"
        f'<div class="pair"><section><h4>Mean magnitude over layers (activation units)</h4>{_profiles(card)}</section>'
        f"<section><h4>Label</h4>{_labels(card)}<h4>Logit lens</h4>{_lens(card)}</section></div>"
        f'<div class="pair">{_end(card, 0)}{_end(card, 1)}</div></article>'
    )


def card_page(card: DimensionCard) -> str:
    """The card as one HTML file that opens anywhere, offline, and prints."""
    title = escape(f"Dimension {card.dimension} of {_model_name(card)}")
    style = "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:24px auto;padding:0 16px}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{style}</style></head>'
        f"<body><main><h1>{title}</h1>{card_html(card)}</main></body></html>\n"
    )


def compared_html(prompt: str, plain: str, steered: str) -> str:
    """Two continuations of a prompt side by side; what the steered one says differently is marked."""
    common = next((at for at, (a, b) in enumerate(zip(plain, steered, strict=False)) if a != b), None)
    common = min(len(plain), len(steered)) if common is None else common
    head, rest = escape(steered[:common]), escape(steered[common:])
    start = f'<span class="prompt">{escape(prompt)}</span>'
    changed = f"<mark>{rest}</mark>" if rest else ""
    note = "" if steered != plain else '<p class="note">The same text; move the slider further.</p>'
    return (
        f'<div class="pair"><section><h4>Unsteered</h4><p class="text">{start}{escape(plain)}</p></section>'
        f'<section><h4>Steered</h4><p class="text steered">{start}{head}{changed}</p>{note}</section></div>'
    )


def _model_name(card: DimensionCard) -> str:
    return "the built-in model" if card.model == "builtin" else card.model


def _facts(card: DimensionCard) -> str:
    found = card.evidence
    facts = [
        f"magnitude {number(found.magnitude)} in {card.domain}, {number(found.magnitude_elsewhere)} elsewhere "
        f"(activation units, mean over layers; rank {found.rank})",
        f"active in {found.frequency:.0%} of its passages, {found.frequency_elsewhere:.0%} elsewhere",
        f"large in {found.reach}",
        _verdict(card.verdict),
    ]
    return "".join(f"<span>{escape(fact)}</span>" for fact in facts)


def _verdict(found: Verdict | None) -> str:
    if found is None:
        return "no verdict reached"
    evidence = [f"{found.share_first:.0%} of its magnitude at the first token"]
    if not math.isnan(found.auroc):
        evidence.append(f"AUROC of the domain {found.auroc:.2f} ({found.low:.2f} to {found.high:.2f}) on held-out text")
    if not math.isnan(found.control_share):
        evidence.append(f"{found.control_share:.0%} of control dimensions reach it")
    if not math.isnan(found.cost_zero):
        evidence.append(f"masked to zero: {number(found.cost_zero)} nats per token")
    return f"verdict: {found.verdict} ({'; '.join(evidence)})"


def _labels(card: DimensionCard) -> str:
    if not card.detectors:
        why = "no token class passed" if card.is_read else "labels were not looked for on this dimension"
        return f'<p class="note">Unlabelled: {why}.</p>'
    rows = "".join(_label_row(found, card.layer) for found in card.detectors)
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("layer", "end", "fires on", "AUROC, 95 % interval"))
    return f'<table class="labels"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'


def _label_row(found: Detector, layer: int) -> str:
    here = ' class="here"' if found.layer == layer else ""
    score = f"{found.auroc:.2f} ({found.low:.2f} to {found.high:.2f})"
    return f"<tr{here}><td>{found.layer}</td><td>{found.end}</td><td>{escape(found.label)}</td><td>{score}</td></tr>"


def _lens(card: DimensionCard) -> str:
    if not card.promoted:
        return '<p class="note">Not recorded.</p>'
    return "".join(
        f"<p class='lens'>{name} {' '.join(f'<code>{escape(visible(word))}</code>' for word in words)}</p>"
        for name, words in (("promotes", card.promoted), ("suppresses", card.suppressed))
    )


def _end(card: DimensionCard, end: int) -> str:
    name, contexts = ENDS[end], card.contexts[end]
    table = '<p class="note">The texts are not at hand.</p>'
    if contexts:
        table = contexts_html(_as_detector(card, end, contexts))
    heading = f"Top tokens, {name} end"
    return f'<section class="contexts"><h4>{heading}</h4>{table}</section>'


def _as_detector(card: DimensionCard, end: int, contexts: tuple[TokenContext, ...]) -> Detector:
    place = (card.domain, card.layer, card.dimension, ENDS[end])
    return Detector(*place, "unlabelled", math.nan, math.nan, math.nan, 0, contexts, (), ())


# --- profiles ---------------------------------------------------------------------------------------------------------


def _profiles(card: DimensionCard) -> str:
    chosen = card.domains.index(card.domain)
    order = [*(index for index in range(len(card.domains)) if index != chosen), chosen]
    keys = "".join(
        f'<li{" class=here" if index == chosen else ""}><i style="background:{PALETTE[index % len(PALETTE)]}"></i>'
        f"{escape(card.domains[index])}</li>"
        for index in range(len(card.domains))
    )
    later = _profile_svg(card.profile, order, card.layer, "tokens after the first")
    first = _profile_svg(card.first_profile, order, card.layer, "first position")
    return f'<div class="profiles">{later}{first}</div><ul class="keys">{keys}</ul>'


def _profile_svg(values: Float64[np.ndarray, "domain layer"], order: Sequence[int], layer: int, name: str) -> str:
    """One line per domain, the last of `order` in front and thick; the layer of the card is the dashed line."""
    width, height = 300, 190
    largest = float(values.max()) or 1.0
    n_layers = values.shape[1]
    step = (width - LEFT - RIGHT) / max(n_layers - 1, 1)
    scale = (height - TOP - BOTTOM) / largest
    lines = []
    for index in order:
        points = [
            f"{LEFT + at * step:.1f},{height - BOTTOM - value * scale:.1f}" for at, value in enumerate(values[index])
        ]
        thick = index == order[-1]
        shape = (
            f'<polyline points="{" ".join(points)}" fill="none" stroke="{PALETTE[index % len(PALETTE)]}" '
            f'stroke-width="{3 if thick else 1.3}" opacity="{1 if thick else 0.75}"/>'
        )
        lines.append(shape)
    here = LEFT + layer * step
    says = f"Mean magnitude at {name}: {number(float(values[order[-1], layer]))} at layer {layer}"
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(says, quote=True)}">'
        f'<line x1="{here:.1f}" x2="{here:.1f}" y1="{TOP}" y2="{height - BOTTOM}" class="at"/>'
        f"{_axes(width, height, largest, n_layers, step)}{''.join(lines)}"
        f'<text x="{LEFT + 4}" y="{TOP}" class="name">{escape(name)}</text></svg>'
    )


def _axes(width: int, height: int, largest: float, n_layers: int, step: float) -> str:
    bottom = height - BOTTOM
    every = max(1, math.ceil(n_layers / 8))
    layers = "".join(
        f'<text x="{LEFT + at * step:.1f}" y="{bottom + 14}" text-anchor="middle">{at}</text>'
        for at in range(0, n_layers, every)
    )
    heights = "".join(
        f'<text x="{LEFT - 5}" y="{bottom - share * (bottom - TOP) + 4:.1f}" text-anchor="end">'
        f"{number(share * largest)}</text>"
        for share in (0.0, 0.5, 1.0)
    )
    return (
        f'<path d="M{LEFT} {TOP}V{bottom}H{width - RIGHT}" class="axis"/>{layers}{heights}'
        f'<text x="{(LEFT + width - RIGHT) / 2:.0f}" y="{height - 4}" text-anchor="middle">layer</text>'
    )
