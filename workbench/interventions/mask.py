"""Masks: single dimensions of the residual stream, or its massive entries, set to a value at every block output.

Zero, the mean of the position class, or the values of other text are all rows of one table (`Replacement`): for every
layer a few vectors of the residual stream, and for every position of a prompt the number of the vector that replaces
it. A mean over all positions would destroy an attention sink just as zero does, because the first token is unlike all
others; means are therefore taken per position class. Masks can also exclude the first token, or all tokens of high
norm. `DimensionMask` and `GatedMask` apply such a table, like any steering, through `steer`.

`MassiveToValue` sets massive entries to their mean or to zero, as Sun et al. (2024, arXiv 2402.17762) do: an entry is
one dimension of one hidden state, massive or not token by token, and the mean is over the massive entries of the same
layer, dimension and position (first or later) in a reference text. The published finding: with means the model hardly
changes, with zeros it breaks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.activations import capture, stream
from workbench.dimensions.masking import POSITION_CLASSES, is_delimiter
from workbench.dimensions.massive import MassiveCriterion, criterion_named
from workbench.interventions.base import Steering, SteeringError, SteeringHandle, steer
from workbench.interventions.stacked import RowVariants
from workbench.models import HookedModel
from workbench.models.batches import BATCH_SIZE, cut
from workbench.records import MASK_MODES, TOKEN_SETS, MaskMode, Prompt, Site, Tokens, TokenSet

FIRST, DELIMITER, REST = range(len(POSITION_CLASSES))
KEPT = -1  # the source of a position that is not masked
Groups = dict[tuple[str, int], tuple[int, ...]]
N_SOURCES = 256  # tokens per domain and position class that are kept to be resampled
HIGH_NORM = 10.0  # times the median norm of the tokens of the same passage and layer
SetTo = Literal["mean", "zero"]


@final
@dataclass(frozen=True, eq=False)
class Replacement:
    """Vectors of the residual stream that stand in for masked entries, and the rule that picks one per position.

    `values[layer, source]` are block outputs in activation units. `groups[(domain, class)]` are the sources that may
    stand in for a position of that class in a prompt of that domain; where there are several, one is drawn per position
    from `seed` and the name of the prompt, so that the draw does not depend on batching.
    """

    mode: MaskMode
    values: Float[Tensor, "layer source d_model"]
    groups: Groups
    seed: int

    def sources(self, classes: Int[np.ndarray, "pos"], prompt: Prompt) -> Int[Tensor, "pos"]:
        """The source of every position of one prompt, from the position classes."""
        rng = np.random.default_rng([self.seed, *prompt.name.encode()])
        draws = rng.random(len(classes))
        chosen = np.zeros(len(classes), dtype=np.int64)
        for index in np.unique(classes).tolist():
            pool = np.array(self.groups[prompt.domain, index])
            chosen[classes == index] = pool[(draws[classes == index] * len(pool)).astype(np.int64)]
        return torch.from_numpy(chosen).to(self.values.device)


@final
@dataclass(frozen=True, eq=False)
class DimensionMask(Steering):
    """At strength 1, dimension `dimensions[row]` of every row takes the values of its sources at every block output.

    `sources[row, position]` are rows of `values`, by absolute position; where they are `KEPT`, and beyond their end,
    nothing changes. The batch must have as many rows.
    """

    values: Float[Tensor, "layer source d_model"]
    sources: Int[Tensor, "row pos"]
    dimensions: Int[Tensor, "row"]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("resid_post", layer) for layer in range(len(self.values)))

    @property
    def reach(self) -> int:
        return self.sources.shape[1]

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        sources, dimensions = _at(self.sources, positions), self.dimensions[: len(x)]
        rows = torch.arange(len(x), device=x.device)
        wanted = self.values[site.layer][sources.clamp(min=0), dimensions[:, None]].to(x.dtype)
        delta = torch.zeros_like(x)
        delta[rows, :, dimensions] = torch.where(sources == KEPT, 0.0, wanted - x[rows, :, dimensions])
        return delta


@final
@dataclass(frozen=True, eq=False)
class GatedMask(Steering):
    """At strength 1, every dimension moves towards the values of its sources as far as its gate is closed.

    `gates[row, d]` is 1 where dimension d stays as it is and 0 where it is masked; gradients flow to the gates. Values
    and sources are those of `DimensionMask`.
    """

    values: Float[Tensor, "layer source d_model"]
    sources: Int[Tensor, "row pos"]
    gates: Float[Tensor, "row d_model"]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("resid_post", layer) for layer in range(len(self.values)))

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        sources = _at(self.sources, positions)
        closed = (1.0 - self.gates[: len(x)])[:, None] * (sources != KEPT)[..., None]
        return closed * (self.values[site.layer][sources.clamp(min=0)].to(x.dtype) - x)


def _at(sources: Int[Tensor, "row place"], positions: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The sources at absolute positions, `KEPT` on padding and beyond the table; a single token may probe it."""
    if len(positions) != len(sources) and positions.numel() != 1:
        raise SteeringError(f"the mask is made for {len(sources)} rows, but the batch has {len(positions)}")
    is_known = (positions >= 0) & (positions < sources.shape[1])
    found = sources[: len(positions)].gather(1, positions.clamp(0, sources.shape[1] - 1))
    return torch.where(is_known, found, KEPT)


@final
@dataclass(frozen=True, eq=False)
class RowMasks(RowVariants):
    """One dimension masked alone per variant, with sources that differ from row to row."""

    values: Float[Tensor, "layer source d_model"]
    sources: Int[Tensor, "row pos"]
    dimensions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.dimensions)

    def steering(self, rows: Sequence[int], variants: slice) -> DimensionMask:
        chosen = torch.tensor(self.dimensions[variants], device=self.sources.device)
        sources = self.sources[list(rows)].repeat(len(chosen), 1)
        return DimensionMask(self.values, sources, chosen.repeat_interleave(len(rows)))


def make_replacement(
    model: HookedModel,
    mode: MaskMode,
    prompts: Sequence[Prompt],
    reference: "Sequence[Prompt] | Replacement",
    *,
    seed: int = 0,
    truncate: bool = False,
) -> Replacement:
    """What to mask `prompts` with: `mean` and `resample` take their values from the text of `reference`.

    A replacement made before, in the same mode and for the same domains, is returned unchanged.
    `mean`: the mean over all tokens of one position class, every domain of the reference counting once. `resample`: the
    entries of a random token of the same class from another domain, the same token at all layers. A class that the
    reference lacks is replaced as `rest`. Memory: layers x sources x d_model floats, at most 256 sources per domain and
    class. Raises for an unknown mode and where there is nothing to take values from.
    """
    domains = tuple(dict.fromkeys(prompt.domain for prompt in prompts))
    classes = range(len(POSITION_CLASSES))
    if mode not in MASK_MODES:
        raise ValueError(f"unknown mask mode {mode!r}; choose one of {', '.join(MASK_MODES)}")
    if isinstance(reference, Replacement):
        if reference.mode != mode or not {(domain, index) for domain in domains for index in classes} <= set(
            reference.groups
        ):
            raise ValueError(f"the replacement was made for mode {reference.mode!r} or for other domains; make it anew")
        return reference
    if mode == "zero":
        zero = torch.zeros(model.n_layers, 1, model.d_model, device=model.device, dtype=model.dtype)
        return Replacement(mode, zero, {(domain, index): (0,) for domain in domains for index in classes}, seed)
    if not reference:
        raise ValueError(
            f"mode {mode!r} takes its values from other text; pass reference=[...] with prompts of identify"
        )
    if mode == "resample":
        single_domain = [domain for domain in domains if all(prompt.domain == domain for prompt in reference)]
        if single_domain:
            raise ValueError(f"the reference holds no domain other than {single_domain[0]!r}; resampling needs one")
    reservoirs = _reservoirs(model, reference, seed, truncate)
    if mode == "mean":
        values = torch.stack([_class_mean(reservoirs, index) for index in classes], dim=1)
        groups = {(domain, index): (index,) for domain in domains for index in classes}
    else:
        values, groups = _resampling(reservoirs, domains)
    return Replacement(mode, values.to(model.device, model.dtype), groups, seed)


def row_sources(
    model: HookedModel,
    tokens: Tokens,
    prompts: Sequence[Prompt],
    replacement: Replacement,
    masked_at: TokenSet = "all tokens",
) -> Int[Tensor, "row pos"]:
    """The source of every token of right-padded prompts, `KEPT` outside the tokens that are masked."""
    classes = position_classes(model, tokens.ids, tokens.positions)
    chosen = [replacement.sources(row, prompt) for row, prompt in zip(classes, prompts, strict=True)]
    return torch.stack(chosen).where(tokens_in(model, tokens, masked_at), KEPT)


def position_classes(
    model: HookedModel, ids: Int[Tensor, "*shape"], positions: Int[Tensor, "*shape"]
) -> Int[np.ndarray, "*shape"]:
    """Index in `POSITION_CLASSES` of every token: first token, delimiter, rest; `positions` are absolute."""
    distinct, inverse = np.unique(ids.cpu().numpy(), return_inverse=True)
    delimiter = np.array([is_delimiter(text) for text in model.token_texts(distinct.tolist())])
    classes = np.where(delimiter[inverse.reshape(ids.shape)], DELIMITER, REST)
    classes[positions.cpu().numpy() == 0] = FIRST
    return classes


def tokens_in(model: HookedModel, tokens: Tokens, chosen: TokenSet) -> Bool[Tensor, "row pos"]:
    """Which real tokens of every row belong to a set.

    A token is of high norm where its norm exceeds ten times the median norm of its row at some layer, which takes a
    forward pass to see; such tokens and the first are left out of `without high-norm tokens`.
    """
    if chosen not in TOKEN_SETS:
        raise ValueError(f"unknown set of tokens {chosen!r}; choose one of {', '.join(TOKEN_SETS)}")
    if chosen == "all tokens":
        return tokens.mask
    later = tokens.positions > 0
    return later & ~_has_high_norm(model, tokens) if chosen == "without high-norm tokens" else later


def _has_high_norm(model: HookedModel, tokens: Tokens) -> Bool[Tensor, "row pos"]:
    found = torch.zeros_like(tokens.mask)
    for rows in cut(len(found), BATCH_SIZE):
        part = Tokens(tokens.ids[rows], tokens.mask[rows])
        norms = capture(model, part, model.residual_sites()).float().norm(dim=-1).masked_fill(~part.mask, torch.nan)
        found[rows] = has_high_norm(norms).any(dim=0)
    return found


def has_high_norm(norms: Float[Tensor, "*row pos"]) -> Bool[Tensor, "*row pos"]:
    """Where a norm exceeds ten times the median of its row; NaN is left out."""
    return norms > HIGH_NORM * norms.nanmedian(dim=-1, keepdim=True).values


class _ReservoirSample:
    """Tokens of one domain and position class: their sum in float64, and a uniform sample of at most 256 of them."""

    def __init__(self, n_layers: int, d_model: int) -> None:
        self.total = torch.zeros(n_layers, d_model, dtype=torch.float64)
        self.count = 0
        self.values = torch.zeros(n_layers, 0, d_model)
        self.keys = torch.zeros(0)

    def add(self, found: Float[Tensor, "layer token d_model"], rng: np.random.Generator) -> None:
        """The sample is made of the tokens with the smallest random keys."""
        self.total += found.double().sum(dim=1)
        self.count += found.shape[1]
        keys = torch.cat([self.keys, torch.from_numpy(rng.random(found.shape[1])).float()])
        kept = keys.argsort()[:N_SOURCES]
        self.values, self.keys = torch.cat([self.values, found.float()], dim=1)[:, kept], keys[kept]


Reservoirs = dict[tuple[str, int], _ReservoirSample]


def _reservoirs(model: HookedModel, reference: Sequence[Prompt], seed: int, truncate: bool) -> Reservoirs:
    """One sample per domain and position class of the reference."""
    rng = np.random.default_rng(seed)
    reservoirs: Reservoirs = {}
    for batch in stream(model, reference, model.residual_sites(), truncate=truncate):
        classes = position_classes(model, batch.token_ids, batch.positions)
        values = batch.values.cpu()
        for index in np.unique(classes).tolist():
            reservoir = reservoirs.setdefault((batch.domain, index), _ReservoirSample(model.n_layers, model.d_model))
            reservoir.add(values[:, torch.from_numpy(np.flatnonzero(classes == index))], rng)
    return reservoirs


def _class_mean(reservoirs: Reservoirs, index: int) -> Float[Tensor, "layer d_model"]:
    """Mean over domains of the mean over their tokens of one class; over `rest` if there is none of that class."""
    means = [reservoir.total / reservoir.count for (_, of_class), reservoir in reservoirs.items() if of_class == index]
    return torch.stack(means).mean(dim=0) if means or index == REST else _class_mean(reservoirs, REST)


def _resampling(reservoirs: Reservoirs, domains: Sequence[str]) -> tuple[Float[Tensor, "layer source d_model"], Groups]:
    places: Groups = {}
    n_sources = 0
    for key, reservoir in reservoirs.items():
        places[key] = tuple(range(n_sources, n_sources + reservoir.values.shape[1]))
        n_sources += reservoir.values.shape[1]
    groups = {
        (domain, index): _of_others(places, domain, index) or _of_others(places, domain, REST)
        for domain in domains
        for index in range(len(POSITION_CLASSES))
    }
    return torch.cat([reservoir.values for reservoir in reservoirs.values()], dim=1), groups


def _of_others(places: Groups, domain: str, index: int) -> tuple[int, ...]:
    """Sources of one class from all domains but one."""
    found = [sources for (owner, of_class), sources in places.items() if owner != domain and of_class == index]
    return tuple(source for sources in found for source in sources)


# --- massive entries --------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, eq=False)
class MassiveToValue(Steering):
    """At strength 1 every massive entry becomes `values[layer, place, d]`; place 0 is the first position, 1 the later.

    An entry without a value (NaN: none was massive there in the reference text) stays as it is. `layers` are the block
    outputs that hold massive entries.
    """

    criterion: MassiveCriterion
    layers: tuple[int, ...]
    values: Float[Tensor, "layer place d_model"]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site("resid_post", layer) for layer in self.layers)

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        of_layer = self.values[self.layers.index(site.layer)].to(x.device)
        wanted = of_layer[(positions != 0).long()]
        is_set = self.criterion.entries(x) & ~wanted.isnan()
        return torch.where(is_set, wanted - x, 0.0)


def fit_massive(
    model: HookedModel,
    reference: Sequence[Prompt],
    *,
    to: SetTo = "mean",
    criterion: str | MassiveCriterion = "Sun et al.",
    batch_size: int = BATCH_SIZE,
    truncate: bool = False,
) -> MassiveToValue:
    """Means of the massive entries over the reference text, or zeros; raises where nothing is massive."""
    if to not in ("mean", "zero"):
        raise ValueError(f"massive entries are set to 'mean' or 'zero', not {to!r}")
    rule = criterion_named(criterion)
    total = torch.zeros(model.n_layers, 2, model.d_model, dtype=torch.float64)
    count = torch.zeros_like(total)
    for batch in stream(model, reference, model.residual_sites(), batch_size=batch_size, truncate=truncate):
        values = batch.values.cpu()
        passes = rule.entries(values)
        for place, chosen in enumerate((batch.positions.cpu() == 0, batch.positions.cpu() != 0)):
            total[:, place] += torch.where(passes, values, 0)[:, chosen].double().sum(dim=1)
            count[:, place] += passes[:, chosen].sum(dim=1)
    layers = tuple(count.sum(dim=(1, 2)).nonzero().flatten().tolist())
    if not layers:
        raise SteeringError(
            f"no entry of {model.name} is massive by {criterion!r} on this text; choose another criterion, such as "
            "'3-sigma', or a MassiveCriterion of your own"
        )
    means = (total / count)[list(layers)].float()
    return MassiveToValue(rule, layers, means if to == "mean" else torch.zeros_like(means).where(~means.isnan(), means))


def set_massive(
    model: HookedModel,
    reference: Sequence[Prompt],
    *,
    to: SetTo = "mean",
    criterion: str | MassiveCriterion = "Sun et al.",
) -> SteeringHandle:
    """Set all massive entries of a model to their mean (or to zero) in one call: `with set_massive(model, texts): ...`.

    Acts at all positions until the handle is removed; its log counts the tokens it looked at.
    """
    return steer(model, fit_massive(model, reference, to=to, criterion=criterion), 1.0, "all")
