"""What steering does to text: losses, KL to the unsteered model, and repetition.

Several steerings are measured in one forward pass: `StackedSteering` gives each its own rows of the batch. Logits are
the large object here, so passages and steerings are cut into passes of at most `LOGITS_BYTES`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from workbench.interventions import Scope, Steering, Where, steer
from workbench.models import HookedModel
from workbench.records import Site, Tokens

LOGITS_BYTES = 128 * 2**20  # float32 logits of one forward pass
REFERENCE_BYTES = 512 * 2**20  # unsteered log-probabilities that are kept instead of computed again
GENERATION_ROWS = 256  # rows of one call of generate
Part = tuple[Steering | None, float]  # a steering, or None for the model as it stands, and its strength
PLAIN: tuple[Part, ...] = ((None, 0.0),)


@final
@dataclass(frozen=True, eq=False)
class StackedSteering(Steering):
    """Several steerings side by side: `parts[i]` acts, at its own strength, on rows i * n_rows to (i + 1) * n_rows."""

    parts: tuple[Part, ...]
    n_rows: int

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(sorted({site for part, _ in self.parts if part is not None for site in part.sites}))

    def delta(
        self, x: Float[Tensor, "batch pos width"], site: Site, positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos width"]:
        total = torch.zeros_like(x)
        for index, (part, strength) in enumerate(self.parts):
            rows = slice(index * self.n_rows, (index + 1) * self.n_rows)
            if part is not None and site in part.sites:
                total[rows] = strength * part.delta(x[rows], site, positions[rows])
        return total


def passage_tokens(model: HookedModel, texts: Sequence[str], *, n_tokens: int) -> Tokens:
    """The texts as right-padded tokens, cut after position `n_tokens` (position 0 is BOS or the first token)."""
    if n_tokens < 1:
        raise ValueError(f"n_tokens must be at least 1, not {n_tokens}")
    tokens = model.tokenize(texts, truncate=True)
    return Tokens(tokens.ids[:, : n_tokens + 1].contiguous(), tokens.mask[:, : n_tokens + 1].contiguous())


def rows_per_pass(model: HookedModel, n_positions: int) -> int:
    """Number of rows whose float32 logits fit `LOGITS_BYTES`, at least 1."""
    return max(1, LOGITS_BYTES // (4 * n_positions * model.vocabulary_size))


def stacked_logits(
    model: HookedModel, tokens: Tokens, parts: Sequence[Part], scope: Scope | Where
) -> Iterator[tuple[slice, slice, Float[Tensor, "part passage pos vocab"]]]:
    """Logits of every passage under every part, pass by pass, with the slices of parts and passages they belong to."""
    limit = rows_per_pass(model, tokens.ids.shape[1])
    n_rows = min(limit, len(tokens.ids))
    n_parts = max(1, limit // n_rows)
    for start in range(0, len(tokens.ids), n_rows):
        passages = slice(start, start + n_rows)
        ids, mask = tokens.ids[passages], tokens.mask[passages]
        for first in range(0, len(parts), n_parts):
            chosen = tuple(parts[first : first + n_parts])
            with stacked(model, Tokens(ids, mask), chosen, scope) as batch:
                logits = model.logits(batch)
            yield slice(first, first + len(chosen)), passages, logits.unflatten(0, (len(chosen), len(ids)))


@contextmanager
def stacked(model: HookedModel, tokens: Tokens, parts: Sequence[Part], scope: Scope | Where) -> Iterator[Tokens]:
    """The batch once for every part, one below the other, while each part acts on its own rows.

    Where no part steers, the model is left as it stands.
    """
    n_parts, steering = len(parts), StackedSteering(tuple(parts), len(tokens.ids))
    with steer(model, steering, 1.0, scope) if steering.sites else nullcontext():
        yield Tokens(tokens.ids.repeat(n_parts, 1), tokens.mask.repeat(n_parts, 1))


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


def passage_losses(
    model: HookedModel, tokens: Tokens, parts: Sequence[Part], scope: Scope | Where = "all_but_first"
) -> Float64[np.ndarray, "part passage"]:
    """Mean loss in nats per token of every passage (all tokens but the first) under every part.

    Raises if a passage has no token after the first.
    """
    if int(tokens.lengths.min()) < 2:
        raise ValueError("a passage of one token has no loss; remove passages shorter than two tokens")
    result = np.empty((len(parts), len(tokens.ids)))
    for chosen, passages, logits in stacked_logits(model, tokens, parts, scope):
        batch = Tokens(tokens.ids[passages], tokens.mask[passages])
        for index, values in zip(range(chosen.start, chosen.stop), logits, strict=True):
            losses, weight = token_losses(values, batch)
            result[index, passages] = (losses.sum(1) / weight.sum(1)).double().cpu().numpy()
    return result


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
        self._kept = self._compute(slice(0, len(self.tokens.ids))) if size <= REFERENCE_BYTES else None

    def _compute(self, passages: slice) -> Float[Tensor, "passage pos vocab"]:
        tokens = Tokens(self.tokens.ids[passages], self.tokens.mask[passages])
        pieces = [logits[0] for _, _, logits in stacked_logits(self._model, tokens, [(None, 0.0)], "all")]
        return torch.cat([piece.float().log_softmax(dim=2) for piece in pieces])

    def kl(self, parts: Sequence[Part], scope: Scope | Where = "all_but_first") -> Float64[np.ndarray, "part"]:
        """KL in nats per token of every part, averaged over all real tokens."""
        totals = np.zeros(len(parts))
        for chosen, passages, logits in stacked_logits(self._model, self.tokens, parts, scope):
            kept = self._compute(passages) if self._kept is None else self._kept[passages]
            mask = self.tokens.mask[passages]
            for index, values in zip(range(chosen.start, chosen.stop), logits, strict=True):
                rows = zip(kept, values, mask, strict=True)
                sums = [token_kl(reference, steered)[real].double().sum() for reference, steered, real in rows]
                totals[index] += float(torch.stack(sums).sum())
        return totals / int(self.tokens.mask.sum())

    def by_passage(
        self, parts: Sequence[Part], scope: Scope | Where = "all_but_first"
    ) -> tuple[Float64[np.ndarray, "part passage"], Float64[np.ndarray, "part passage"]]:
        """KL in nats per token of every passage, and the share of its tokens with the unsteered model's top-1."""
        kl, agreement = (np.zeros((len(parts), len(self.tokens.ids))) for _ in range(2))
        for chosen, passages, logits in stacked_logits(self._model, self.tokens, parts, scope):
            kept = self._compute(passages) if self._kept is None else self._kept[passages]
            rows = range(len(self.tokens.ids))[passages]
            for part, of_part in zip(range(chosen.start, chosen.stop), logits, strict=True):
                for row, reference, steered in zip(rows, kept, of_part, strict=True):
                    real = self.tokens.mask[row]
                    kl[part, row] = float(token_kl(reference, steered)[real].double().mean())
                    same = reference.argmax(-1) == steered.argmax(-1)
                    agreement[part, row] = float(same[real].double().mean())
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
    n_parts = max(1, GENERATION_ROWS // n_rows)
    result: list[list[list[int]]] = []
    for first in range(0, len(parts), n_parts):
        chosen = tuple(parts[first : first + n_parts])
        with stacked(model, prompts, chosen, scope) as batch:
            rows = model.generate(batch, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        result += [rows[index * n_rows : (index + 1) * n_rows] for index in range(len(chosen))]
    return result
