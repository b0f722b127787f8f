"""The dimension card as HTML: styled inline, without script or request, for notebooks, exports and single files."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from markupsafe import Markup

from workbench.explorer.cards import DimensionCard
from workbench.figures import contexts_html
from workbench.figures.html import render
from workbench.figures.style import PALETTE, number
from workbench.records import ENDS, UNLABELLED, Detector, Verdict
from workbench.token_classes import visible

TEMPLATES = Path(__file__).parent / "templates"
WIDTH, HEIGHT = 300, 190  # of a profile in pixels
LEFT, RIGHT, TOP, BOTTOM = 46, WIDTH - 12, 12, HEIGHT - 34


def card_html(card: DimensionCard) -> Markup:
    """The card as an HTML fragment; it fits light and dark pages and any width."""
    chosen = card.domains.index(card.domain)
    order = [*(index for index in range(len(card.domains)) if index != chosen), chosen]
    sides = ((card.profile, "tokens after the first"), (card.first_profile, "first position"))
    words = (("promotes", card.promoted), ("suppresses", card.suppressed))
    return render(
        "card.html.j2",
        TEMPLATES,
        card=card,
        title=f"Dimension {card.dimension} in {card.domain}, layer {card.layer}",
        facts=_facts(card),
        profiles=[_profile(values, order, card.layer, name) for values, name in sides],
        keys=[{"domain": name, "colour": PALETTE[at % len(PALETTE)]} for at, name in enumerate(card.domains)],
        lens=[(name, list(map(visible, found))) for name, found in words] if card.promoted else [],
        ends=[(end, _contexts(card, at)) for at, end in enumerate(ENDS)],
    )


def card_page(card: DimensionCard) -> Markup:
    """The card as one HTML file that opens anywhere, offline, and prints."""
    model = "the built-in model" if card.model == "builtin" else card.model
    title = f"Dimension {card.dimension} of {model}"
    return render("card_page.html.j2", TEMPLATES, title=title, card=card_html(card))


def compared_html(prompt: str, plain: str, steered: str) -> Markup:
    """Two continuations of a prompt side by side; what the steered one says differently is marked."""
    common = next((at for at, (a, b) in enumerate(zip(plain, steered, strict=False)) if a != b), None)
    common = min(len(plain), len(steered)) if common is None else common
    pieces = {"same": steered[:common], "changed": steered[common:]}
    return render("compared.html.j2", TEMPLATES, prompt=prompt, plain=plain, steered=steered, **pieces)


def _facts(card: DimensionCard) -> list[str]:
    found = card.evidence
    return [
        f"magnitude {number(found.magnitude)} in {card.domain}, {number(found.magnitude_elsewhere)} elsewhere "
        f"(activation units, mean over layers; rank {found.rank})",
        f"active in {found.frequency:.0%} of its passages, {found.frequency_elsewhere:.0%} elsewhere",
        f"large in {found.reach}",
        _verdict(card.verdict),
    ]


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


def _contexts(card: DimensionCard, end: int) -> Markup | None:
    if not card.contexts[end]:
        return None
    place = (card.domain, card.layer, card.dimension, ENDS[end], UNLABELLED)
    return contexts_html(Detector(*place, math.nan, math.nan, math.nan, 0, card.contexts[end], (), ()))


def _profile(
    values: Float64[np.ndarray, "domain layer"], order: Sequence[int], layer: int, name: str
) -> dict[str, Any]:
    """One line per domain, the last of `order` in front and thick; the layer of the card is the dashed line."""
    largest, n_layers = float(values.max()) or 1.0, values.shape[1]
    step, scale = (RIGHT - LEFT) / max(n_layers - 1, 1), (BOTTOM - TOP) / largest
    lines = []
    for index in order:
        points = " ".join(
            f"{LEFT + at * step:.1f},{BOTTOM - value * scale:.1f}" for at, value in enumerate(values[index])
        )
        width, opacity = (3, 1) if index == order[-1] else (1.3, 0.75)
        colour = PALETTE[index % len(PALETTE)]
        lines.append({"points": points, "colour": colour, "width": width, "opacity": opacity})
    every = max(1, math.ceil(n_layers / 8))
    levels = [(f"{BOTTOM - part * (BOTTOM - TOP) + 4:.1f}", number(part * largest)) for part in (0.0, 0.5, 1.0)]
    return {
        **{"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        "name": name,
        "says": f"Mean magnitude at {name}: {number(float(values[order[-1], layer]))} at layer {layer}",
        "here": f"{LEFT + layer * step:.1f}",
        "layers": [(f"{LEFT + at * step:.1f}", str(at)) for at in range(0, n_layers, every)],
        "heights": levels,
        "lines": lines,
    }
