"""The dimension card: everything known of one residual dimension in one domain, as a value."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from workbench.explorer.material import ExplorerError, Material
from workbench.figures.detectors import CONTEXT_AFTER, CONTEXT_BEFORE, CONTEXT_TOKENS
from workbench.records import ENDS, UNLABELLED, Detector, Dimension, TokenContext, Verdict

N_CONTEXTS = 8
N_AFTER = 10  # tokens after the one that fires


@dataclass(frozen=True)
class DimensionCard:
    """One dimension seen from one domain and layer.

    `profile` and `first_profile` are mean magnitudes in activation units, of the tokens after the first and of the
    first. `contexts` holds the tokens that fire it most at its high and at its low end, empty where the texts are not
    at hand. `detectors` are its labelled readings in this domain, `is_read` says whether labels were looked for.
    `verdict` is None where none was reached.
    """

    model: str
    domain: str
    layer: int
    dimension: int
    evidence: Dimension
    domains: tuple[str, ...]
    profile: Float64[np.ndarray, "domain layer"]
    first_profile: Float64[np.ndarray, "domain layer"]
    contexts: tuple[tuple[TokenContext, ...], tuple[TokenContext, ...]]
    detectors: tuple[Detector, ...]
    is_read: bool
    promoted: tuple[str, ...]
    suppressed: tuple[str, ...]
    verdict: Verdict | None


def dimension_card(material: Material, dimension: int, domain: str, layer: int | None = None) -> DimensionCard:
    """The card of one dimension; by default at the layer with its best-scored label, or else its largest magnitude."""
    statistics = material.statistics
    if domain not in statistics.domains:
        raise ExplorerError(f"unknown domain {domain!r}; choose one of {', '.join(statistics.domains)}")
    if not 0 <= dimension < material.d_model:
        raise ExplorerError(f"dimension {dimension} does not exist; {material.name} has 0 to {material.d_model - 1}")
    own = [found for found in material.detectors if (found.domain, found.dimension) == (domain, dimension)]
    labelled = [found for found in own if found.label != UNLABELLED]
    profile = statistics.mean_magnitude[:, :, dimension]
    if layer is None:
        best = max(labelled, key=lambda found: found.auroc, default=None)
        layer = int(profile[statistics.domains.index(domain)].argmax()) if best is None else best.layer
    if not 0 <= layer < material.n_layers:
        raise ExplorerError(f"layer {layer} does not exist; {material.name} has 0 to {material.n_layers - 1}")
    promoted, suppressed = _words(material, dimension)
    return DimensionCard(
        model=material.name,
        domain=domain,
        layer=layer,
        dimension=dimension,
        evidence=material.evidence[domain, dimension],
        domains=statistics.domains,
        profile=profile,
        first_profile=statistics.first_mean_magnitude[:, :, dimension],
        contexts=(
            _contexts(material, domain, layer, 0, dimension),
            _contexts(material, domain, layer, 1, dimension),
        ),
        detectors=tuple(sorted(labelled, key=lambda found: (found.layer, ENDS.index(found.end)))),
        is_read=bool(own),
        promoted=promoted,
        suppressed=suppressed,
        verdict=next(
            (each for each in material.verdicts if (each.domain, each.dimension) == (domain, dimension)), None
        ),
    )


def _words(material: Material, dimension: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Logit lens of the dimension, from the model or from what a detector of it recorded."""
    if material.model is not None:
        return material.model.promoted_tokens(dimension)
    recorded = [found for found in material.detectors if found.dimension == dimension]
    return (recorded[0].promoted, recorded[0].suppressed) if recorded else ((), ())


def _contexts(material: Material, domain: str, layer: int, end: int, dimension: int) -> tuple[TokenContext, ...]:
    """The top tokens of one end with the text around them, from the prompts or from what a detector recorded."""
    if material.model is None or not material.prompts:
        place = (domain, layer, ENDS[end], dimension)
        for found in material.detectors:
            if (found.domain, found.layer, found.end, found.dimension) == place:
                return found.top_tokens[:N_CONTEXTS]
        return ()
    top = material.statistics.top
    cell = (material.statistics.domains.index(domain), layer, end, slice(N_CONTEXTS), dimension)
    fields = (
        top.value[cell].tolist(),
        top.prompt[cell].tolist(),
        top.position[cell].tolist(),
        top.token[cell].tolist(),
    )
    rows = zip(*fields, strict=True)
    return tuple(_context(material, *row) for row in rows if row[1] >= 0)


def _context(material: Material, value: float, prompt: int, position: int, token: int) -> TokenContext:
    assert material.model is not None
    model, address = material.model, material.prompts[prompt]
    ids = model.tokenize([address.text], truncate=True, literal=True).ids[0].tolist()
    if position >= len(ids) or ids[position] != token:
        raise ExplorerError(f"{address.name} is not the text that the statistics were collected on; collect them again")
    texts = model.token_texts(ids)
    for index in range(len(model.text.prefix)):
        texts[index] = ""
    return TokenContext(
        token=texts[position],
        before="".join(texts[max(0, position - CONTEXT_TOKENS) : position])[-CONTEXT_BEFORE:],
        after="".join(texts[position + 1 : position + 1 + N_AFTER])[:CONTEXT_AFTER],
        value=value,
        prompt=address.name,
        position=position,
    )
