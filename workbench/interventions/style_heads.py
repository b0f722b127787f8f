"""Style Modulation Heads: steer a persona through a few attention heads of one layer.

    z[l,h] <- z[l,h] + strength * Delta z[l,h]                                   for the chosen heads h of layer l

Delta is the mean over responses in the persona minus the mean over plain responses, averaged over response tokens.
Source: arXiv 2603.13249 and its released code (vectors not normalised, edits at the last position of every call: scope
"from_last_prompt"). Ours: the rule that picks the layer (the code plots similarities and codes no rule), and the choice
of heads by their share (`head_scores`): with few heads a z-score cannot exceed (n - 1) / sqrt(n).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, final, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from workbench.interventions.base import Scope, Steering, SteeringError
from workbench.interventions.directions import check_finite
from workbench.interventions.pairs import check_heads
from workbench.models import Call, HookedModel
from workbench.records import Site

VectorSource = Literal["response", "prompt", "last_prompt"]
BATCH = 16


@dataclass(frozen=True)
class Exchange:
    """A prompt (up to where the assistant answers) and the response that followed it, as texts."""

    prompt: str
    response: str


@dataclass(frozen=True, eq=False)
class PersonaActivations:
    """Activations of responses in a persona and of plain ones, pooled per response; float32, activation units.

    `stream_*` stacks resid_pre(0), resid_mid(0), resid_pre(1), resid_mid(1), ... along its second axis.
    """

    positive_z: Float[Tensor, "positive layer width"]
    negative_z: Float[Tensor, "negative layer width"]
    positive_stream: Float[Tensor, "positive stage d_model"]
    negative_stream: Float[Tensor, "negative stage d_model"]

    @property
    def delta_z(self) -> Float[Tensor, "layer width"]:
        return self.positive_z.mean(0) - self.negative_z.mean(0)

    @property
    def delta_stream(self) -> Float[Tensor, "stage d_model"]:
        return self.positive_stream.mean(0) - self.negative_stream.mean(0)


@dataclass(frozen=True)
class LayerMap:
    """Cosine similarities of the difference vectors along the stream, and the layer where the persona is formed.

    `similarity` is over stages (resid_pre and resid_mid of every layer in turn). `formation[l]` is the mean similarity
    of resid_mid(l) with everything after it, less its similarity with resid_pre(l): high where attention of layer l
    writes the direction that later layers keep. `layer` is its maximum.
    """

    similarity: Float64[np.ndarray, "stage stage2"]
    formation: Float64[np.ndarray, "layer"]
    layer: int


def persona_activations(
    model: HookedModel,
    positive: Sequence[Exchange],
    negative: Sequence[Exchange],
    *,
    source: VectorSource | str = "response",
) -> PersonaActivations:
    """Run exchanges again and pool their activations: over response tokens, prompt tokens, or the last prompt token."""
    if source not in get_args(VectorSource):
        raise SteeringError(f"unknown vector source {source!r}; choose one of {', '.join(get_args(VectorSource))}")
    if not positive or not negative:
        raise SteeringError("persona vectors need responses of both kinds; pass at least one of each")
    if list(positive) == list(negative):
        raise SteeringError("responses of both kinds are the same, so they show no persona; pass responses that differ")
    return PersonaActivations(
        *(_pooled(model, side, _z_sites(model), source) for side in (positive, negative)),
        *(_pooled(model, side, _stream_sites(model), source) for side in (positive, negative)),
    )


def _z_sites(model: HookedModel) -> list[Site]:
    return [Site("z", layer) for layer in range(model.n_layers)]


def _stream_sites(model: HookedModel) -> list[Site]:
    return [Site(kind, layer) for layer in range(model.n_layers) for kind in ("resid_pre", "resid_mid")]


def _pooled(
    model: HookedModel, exchanges: Sequence[Exchange], sites: Sequence[Site], source: str
) -> Float[Tensor, "exchange site width"]:
    pieces = []
    for start in range(0, len(exchanges), BATCH):
        chosen = exchanges[start : start + BATCH]
        prompts = model.tokenize([exchange.prompt for exchange in chosen]).lengths
        tokens = model.tokenize([exchange.prompt + exchange.response for exchange in chosen])
        if bool((tokens.lengths <= prompts).any()):
            raise SteeringError("an exchange has an empty response; leave it out")
        pooled: dict[Site, Tensor] = {}

        def pool(values: Tensor, site: Site, call: Call, into: dict[Site, Tensor] = pooled) -> None:
            end = call.prompt_lengths[:, None]
            if source == "response":
                mask = call.positions >= end
            elif source == "prompt":
                mask = (call.positions >= 1) & (call.positions < end)
            else:
                mask = call.positions == end - 1
            weight = mask.float() / mask.sum(dim=1, keepdim=True).clamp(min=1)
            into[site] = torch.einsum("bpw,bp->bw", torch.where(mask[..., None], values.float(), 0.0), weight)

        with model.hooked(dict.fromkeys(sites, pool)):
            model.run(tokens, prompt_lengths=prompts)
        pieces.append(torch.stack([pooled[site] for site in sites], dim=1).cpu())
    return torch.cat(pieces)


def layer_map(activations: PersonaActivations) -> LayerMap:
    """Where along the stream the persona direction is formed."""
    vectors = activations.delta_stream.double()
    unit = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    similarity = (unit @ unit.T).numpy()
    n_layers = len(vectors) // 2
    formation = np.empty(n_layers)
    for layer in range(n_layers):
        middle = 2 * layer + 1
        later = similarity[middle, middle + 1 :]
        formation[layer] = (later.mean() if len(later) else np.nan) - similarity[middle, middle - 1]
    return LayerMap(similarity, formation, int(np.nanargmax(formation)) if n_layers > 1 else 0)


@final
@dataclass(frozen=True, eq=False)
class StyleHeads(Steering):
    """Add `vectors[i]` to the output of head `heads[i]` of one layer, before the output projection."""

    vectors: Float[Tensor, "head d_head"]
    layer: int
    heads: tuple[int, ...]
    n_heads: int

    published_scope: ClassVar[Scope] = Scope("from_last_prompt")

    def __post_init__(self) -> None:
        check_finite("vectors", self.vectors)
        if len(self.vectors) != len(self.heads) or len(set(self.heads)) != len(self.heads) or not self.heads:
            raise SteeringError(f"{len(self.vectors)} vectors for heads {self.heads}; give one per distinct head")
        if not all(0 <= head < self.n_heads for head in self.heads):
            raise SteeringError(f"heads {self.heads} are out of range; this model has {self.n_heads} per layer")

    @property
    def sites(self) -> tuple[Site, ...]:
        return (Site("z", self.layer),)

    def check_model(self, model: HookedModel) -> None:
        check_heads("StyleHeads", self.n_heads, model)

    @cached_property
    def _shift(self) -> Float[Tensor, "width"]:
        added = self.vectors.new_zeros(self.n_heads, self.vectors.shape[1])
        added[list(self.heads)] = self.vectors
        return added.flatten()

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return self._shift.to(x).expand_as(x)

    @classmethod
    def fit(
        cls, model: HookedModel, activations: PersonaActivations, *, layer: int, heads: Sequence[int]
    ) -> "StyleHeads":
        """The difference vectors of the chosen heads, e.g. of `head_scores(...).top(layer, 3)`."""
        if not 0 <= layer < model.n_layers:
            raise SteeringError(f"layer {layer} is out of range; {model.name} has layers 0 to {model.n_layers - 1}")
        if len(heads) > model.n_heads:
            raise SteeringError(f"cannot choose {len(heads)} heads; {model.name} has {model.n_heads} per layer")
        vectors = activations.delta_z[layer].view(model.n_heads, model.d_head)
        wrong = [head for head in heads if not 0 <= head < model.n_heads]
        if wrong:
            raise SteeringError(f"heads {wrong} are out of range; {model.name} has heads 0 to {model.n_heads - 1}")
        return cls(vectors[list(heads)].clone(), layer, tuple(int(head) for head in heads), model.n_heads)


@final
@dataclass(frozen=True, eq=False)
class HeadAblation(Steering):
    """Scale heads, given as (layer, head), towards zero: at strength 1 their output is zero."""

    heads: tuple[tuple[int, int], ...]
    n_heads: int

    published_scope: ClassVar[Scope] = Scope("all")

    def __post_init__(self) -> None:
        if not all(0 <= head < self.n_heads for _, head in self.heads):
            raise SteeringError(f"heads {self.heads} are out of range; this model has {self.n_heads} per layer")

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("z", layer) for layer in sorted({layer for layer, _ in self.heads}))

    def check_model(self, model: HookedModel) -> None:
        check_heads("HeadAblation", self.n_heads, model)

    @cached_property
    def _factors(self) -> dict[int, Float[Tensor, "head 1"]]:
        """-1 for the chosen heads of a layer, 0 for the others."""
        factors = {site.layer: torch.zeros(self.n_heads, 1) for site in self.sites}
        for layer, head in self.heads:
            factors[layer][head] = -1.0
        return factors

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        return (x.unflatten(-1, (self.n_heads, -1)) * self._factors[site.layer].to(x)).flatten(-2)
