"""What masked entries of the residual stream are set to, and at which tokens.

Zero, the mean of the position class, or other text are all rows of one table: for every layer a few vectors of the
residual stream (`values`), and for every position of a prompt the number of the vector that stands in for it. A mean
over all positions would destroy an attention sink just as zero does, because the first token is unlike all others;
means are therefore taken per position class. Masks can also spare the first token, or all tokens of high norm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.activations import capture, stream
from workbench.dimensions.loss_increases import POSITION_CLASSES, is_delimiter
from workbench.models import HookedModel
from workbench.records import MASK_MODES, TOKEN_SETS, MaskMode, Prompt, Tokens, TokenSet

FIRST, DELIMITER, REST = range(len(POSITION_CLASSES))
Groups = dict[tuple[str, int], tuple[int, ...]]
N_DONORS = 256  # tokens per domain and position class that are kept to be resampled
HIGH_NORM = 10.0  # times the median norm of the tokens of the same passage and layer
PASS_ROWS = 32


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

    A replacement that was made before, in the same mode and for the same domains, is handed through.
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
        lonely = [domain for domain in domains if all(prompt.domain == domain for prompt in reference)]
        if lonely:
            raise ValueError(f"the reference holds no domain other than {lonely[0]!r}; resampling needs one")
    banks = _banks(model, reference, seed, truncate)
    if mode == "mean":
        values = torch.stack([_class_mean(banks, index) for index in classes], dim=1)
        groups = {(domain, index): (index,) for domain in domains for index in classes}
    else:
        values, groups = _resampling(banks, domains)
    return Replacement(mode, values.to(model.device, model.dtype), groups, seed)


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
    for start in range(0, len(found), PASS_ROWS):
        part = Tokens(tokens.ids[start : start + PASS_ROWS], tokens.mask[start : start + PASS_ROWS])
        norms = capture(model, part, model.residual_sites()).float().norm(dim=-1).masked_fill(~part.mask, torch.nan)
        median = norms.nanmedian(dim=2, keepdim=True).values
        found[start : start + PASS_ROWS] = (norms > HIGH_NORM * median).any(dim=0)
    return found


class _Bank:
    """Tokens of one domain and position class: their sum in float64, and a uniform sample of at most 256 of them."""

    def __init__(self, n_layers: int, d_model: int) -> None:
        self.total = torch.zeros(n_layers, d_model, dtype=torch.float64)
        self.count = 0
        self.donors = torch.zeros(n_layers, 0, d_model)
        self.keys = torch.zeros(0)

    def add(self, found: Float[Tensor, "layer token d_model"], rng: np.random.Generator) -> None:
        """The sample is made of the tokens with the smallest random keys."""
        self.total += found.double().sum(dim=1)
        self.count += found.shape[1]
        keys = torch.cat([self.keys, torch.from_numpy(rng.random(found.shape[1])).float()])
        kept = keys.argsort()[:N_DONORS]
        self.donors, self.keys = torch.cat([self.donors, found.float()], dim=1)[:, kept], keys[kept]


Banks = dict[tuple[str, int], _Bank]


def _banks(model: HookedModel, reference: Sequence[Prompt], seed: int, truncate: bool) -> Banks:
    """One bank per domain and position class of the reference."""
    rng = np.random.default_rng(seed)
    banks: Banks = {}
    for batch in stream(model, reference, model.residual_sites(), truncate=truncate):
        classes = position_classes(model, batch.token_ids, batch.positions)
        values = batch.values.cpu()
        for index in np.unique(classes).tolist():
            bank = banks.setdefault((batch.domain, index), _Bank(model.n_layers, model.d_model))
            bank.add(values[:, torch.from_numpy(np.flatnonzero(classes == index))], rng)
    return banks


def _class_mean(banks: Banks, index: int) -> Float[Tensor, "layer d_model"]:
    """Mean over domains of the mean over their tokens of one class; over `rest` if there is none of that class."""
    means = [bank.total / bank.count for (_, of_class), bank in banks.items() if of_class == index]
    return torch.stack(means).mean(dim=0) if means or index == REST else _class_mean(banks, REST)


def _resampling(banks: Banks, domains: Sequence[str]) -> tuple[Float[Tensor, "layer source d_model"], Groups]:
    places: Groups = {}
    n_sources = 0
    for key, bank in banks.items():
        places[key] = tuple(range(n_sources, n_sources + bank.donors.shape[1]))
        n_sources += bank.donors.shape[1]
    groups = {
        (domain, index): _elsewhere(places, domain, index) or _elsewhere(places, domain, REST)
        for domain in domains
        for index in range(len(POSITION_CLASSES))
    }
    return torch.cat([bank.donors for bank in banks.values()], dim=1), groups


def _elsewhere(places: Groups, domain: str, index: int) -> tuple[int, ...]:
    """Sources of one class from all domains but one."""
    found = [sources for (owner, of_class), sources in places.items() if owner != domain and of_class == index]
    return tuple(source for sources in found for source in sources)
