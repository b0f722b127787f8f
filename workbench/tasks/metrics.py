"""What edits do to text: losses, KL to the unsteered model, and repetition.

Several edits are measured in one forward pass, each on its own rows of the batch (`workbench.interventions.stacked`).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from workbench.interventions import Scope, Where
from workbench.interventions.stacked import PLAIN, Part, StackedSteering, Variants, stacked
from workbench.models import HookedModel
from workbench.models.batches import GENERATION_ROWS, cut, passes, rows_with_logits
from workbench.records import Tokens

__all__ = [  # what stands here and in `workbench.interventions.stacked` together
    "PLAIN",
    "NeutralText",
    "Part",
    "StackedSteering",
    "generate_stacked",
    "is_repetitive",
    "passage_losses",
    "passage_tokens",
    "token_kl",
    "token_losses",
    "weighted_losses",
]

REFERENCE_BYTES = 512 * 2**20  # unsteered log-probabilities that are kept instead of computed again


def passage_tokens(model: HookedModel, texts: Sequence[str], *, n_tokens: int) -> Tokens:
    """The texts as right-padded tokens, cut after position `n_tokens` (position 0 is BOS or the first token)."""
    if n_tokens < 1:
        raise ValueError(f"n_tokens must be at least 1, not {n_tokens}")
    tokens = model.tokenize(texts, truncate=True, literal=True)
    return Tokens(tokens.ids[:, : n_tokens + 1].contiguous(), tokens.mask[:, : n_tokens + 1].contiguous())


def stacked_logits(
    model: HookedModel,
    tokens: Tokens,
    parts: Variants,
    scope: Scope | Where,
    *,
    prompt_lengths: Int[Tensor, "row"] | None = None,
) -> Iterator[tuple[list[int], slice, Tokens, Float[Tensor, "part_row pos vocab"]]]:
    """Logits pass by pass: the rows that are run, the parts they are run under, the tokens of both, and their logits.

    A pass holds its rows once per part, part by part, cut to the longest of them.
    """
    for rows, some in passes(tokens.lengths.tolist(), rows_with_logits(model), len(parts)):
        ends = None if prompt_lengths is None else prompt_lengths[rows].repeat(some.stop - some.start)
        with stacked(model, some_rows(tokens, rows), rows, parts, some, scope) as batch:
            logits = model.logits(batch, prompt_lengths=ends)
        yield rows, some, batch, logits  # nothing acts on the model any more


def some_rows(tokens: Tokens, rows: Sequence[int]) -> Tokens:
    """Some rows of right-padded tokens, cut to the longest of them."""
    at = torch.tensor(rows, device=tokens.ids.device)
    length = int(tokens.lengths[at].max())
    return Tokens(tokens.ids[at, :length], tokens.mask[at, :length])


def token_losses(
    logits: Float[Tensor, "passage pos vocab"], tokens: Tokens
) -> tuple[Float[Tensor, "passage predicted"], Float[Tensor, "passage predicted"]]:
    """Loss in nats of every token after the first, and 1 where there is one (0 on padding).

    Computed row by row, so that no second copy of the logits is made.
    """
    targets, weight = tokens.ids[:, 1:], tokens.mask[:, 1:].float()
    losses = torch.zeros(targets.shape, device=targets.device)
    for row, values in enumerate(logits):
        scores = values[:-1].float()
        at_target = scores.gather(1, targets[row][:, None]).squeeze(1)
        losses[row] = scores.logsumexp(dim=1) - at_target
    return losses * weight, weight


def weighted_losses(
    model: HookedModel,
    tokens: Tokens,
    weight: Float[Tensor, "row predicted"],
    parts: Variants = PLAIN,
    scope: Scope | Where = "all",
    *,
    prompt_lengths: Int[Tensor, "row"] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "part row"]:
    """Weighted sum of the losses (nats) of every right-padded row under every part.

    `weight[row, t]` belongs to the loss of token t + 1. `progress` hears how many rows a pass held.
    """
    totals = np.empty((len(parts), len(tokens.ids)))
    for rows, some, batch, logits in stacked_logits(model, tokens, parts, scope, prompt_lengths=prompt_lengths):
        losses, _ = token_losses(logits, batch)
        weights = weight[rows, : losses.shape[1]].repeat(some.stop - some.start, 1)
        totals[some, rows] = (losses * weights).double().sum(dim=1).view(-1, len(rows)).cpu().numpy()
        if progress is not None:
            progress(len(batch.ids))
    return totals


def passage_losses(
    model: HookedModel, tokens: Tokens, parts: Sequence[Part], scope: Scope | Where = "all_but_first"
) -> Float64[np.ndarray, "part passage"]:
    """Mean loss in nats per token of every passage (all tokens but the first) under every part.

    Raises if a passage has no token after the first.
    """
    if int(tokens.lengths.min()) < 2:
        raise ValueError("a passage of one token has no loss; remove passages shorter than two tokens")
    weight = tokens.mask[:, 1:] / (tokens.lengths - 1)[:, None]
    return weighted_losses(model, tokens, weight, parts, scope)


def token_kl(reference: Float[Tensor, "pos vocab"], steered: Float[Tensor, "pos vocab"]) -> Float[Tensor, "pos"]:
    """KL(p || q) in nats at every position, from log-probabilities of p and logits of q."""
    other = steered.float().log_softmax(dim=1)
    return (reference.exp() * (reference - other)).sum(dim=1)


class NeutralText:
    """A fixed batch of text that belongs to no domain, with what the unsteered model predicts there.

    Damage is the mean of KL(unsteered || steered), in nats per token, over the predictions at every real token. The
    unsteered log-probabilities are kept if they fit `REFERENCE_BYTES`, and computed again in every measurement if not.
    """

    def __init__(self, model: HookedModel, texts: Sequence[str], *, n_tokens: int = 32) -> None:
        if not texts:
            raise ValueError("no neutral text to measure KL on; pass neutral_prompts() or texts of your own")
        self.tokens = passage_tokens(model, texts, n_tokens=n_tokens)
        self._model = model
        size = 4 * self.tokens.ids.numel() * model.vocabulary_size
        self._kept = self._compute(range(len(self.tokens.ids))) if size <= REFERENCE_BYTES else None

    def _compute(self, passages: Sequence[int]) -> dict[int, Float[Tensor, "pos vocab"]]:
        """Log-probabilities of the unsteered model at the real tokens of some passages."""
        found = {}
        tokens = some_rows(self.tokens, passages)
        for rows, _, batch, logits in stacked_logits(self._model, tokens, PLAIN, "all"):
            for row, values, mask in zip(rows, logits, batch.mask, strict=True):
                found[passages[row]] = values[mask].float().log_softmax(dim=1)
        return found

    def _compared(
        self, parts: Sequence[Part], scope: Scope | Where
    ) -> Iterator[tuple[int, int, Float[Tensor, "pos vocab"], Float[Tensor, "pos vocab"]]]:
        """Part, passage, unsteered log-probabilities and steered logits at its real tokens."""
        for rows, some, batch, logits in stacked_logits(self._model, self.tokens, parts, scope):
            kept = self._compute(rows) if self._kept is None else self._kept
            places = [(part, row) for part in range(some.start, some.stop) for row in rows]
            for (part, row), values, mask in zip(places, logits, batch.mask, strict=True):
                yield part, row, kept[row], values[mask]

    def kl(self, parts: Sequence[Part], scope: Scope | Where = "all_but_first") -> Float64[np.ndarray, "part"]:
        """KL in nats per token of every part, averaged over all real tokens."""
        totals = np.zeros(len(parts))
        for part, _, reference, steered in self._compared(parts, scope):
            totals[part] += float(token_kl(reference, steered).double().sum())
        return totals / int(self.tokens.mask.sum())

    def by_passage(
        self, parts: Sequence[Part], scope: Scope | Where = "all_but_first"
    ) -> tuple[Float64[np.ndarray, "part passage"], Float64[np.ndarray, "part passage"]]:
        """KL in nats per token of every passage, and the fraction of its tokens with the unsteered model's top-1."""
        kl, agreement = (np.zeros((len(parts), len(self.tokens.ids))) for _ in range(2))
        for part, row, reference, steered in self._compared(parts, scope):
            kl[part, row] = float(token_kl(reference, steered).double().mean())
            agreement[part, row] = float((reference.argmax(-1) == steered.argmax(-1)).double().mean())
        return kl, agreement


def is_repetitive(ids: Sequence[int]) -> bool:
    """Whether a generation loops: fewer than half of its 3-grams are distinct, or one token comes 8 times in a row.

    Fewer than 3 tokens are never repetitive.
    """
    ids = list(ids)
    grams = list(zip(ids, ids[1:], ids[2:], strict=False))
    if grams and len(set(grams)) < 0.5 * len(grams):
        return True
    return any(len(set(ids[start : start + 8])) == 1 for start in range(len(ids) - 7))


def generate_stacked(
    model: HookedModel,
    prompts: Tokens,
    parts: Sequence[Part],
    scope: Scope | Where = "all_but_first",
    *,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
) -> list[list[list[int]]]:
    """New tokens of every prompt under every part: `result[part][prompt]`; prompts are left-padded.

    Sampling noise is drawn per row of a call, so it is the same whenever the same parts are passed in the same order,
    and independent from part to part.
    """
    n_rows = len(prompts.ids)
    result: list[list[list[int]]] = []
    for some in cut(len(parts), GENERATION_ROWS // n_rows):
        with stacked(model, prompts, range(n_rows), parts, some, scope) as batch:
            rows = model.generate(batch, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        result += [rows[start : start + n_rows] for start in range(0, len(rows), n_rows)]
    return result
