"""What steering breaks: several measures, because each alone is blind to something.

KL on neutral text does not see endless loops, repetition does not see nonsense, the loss under the unsteered model
does not see loops (they are likely), length does not see any of it. Measures of text are functions of the tokens and
can be checked by hand; those that need the model say so.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from workbench.evaluation.metrics import Part, is_repetitive, passage_tokens, stacked_logits
from workbench.evaluation.tasks.base import Scores, Task, TaskError
from workbench.evaluation.tasks.running import continued_losses
from workbench.models import HookedModel
from workbench.records import Split, Tokens
from workbench.steering import Scope, Where


def repetition(ids: Sequence[int], n: int = 3) -> float:
    """Share of n-grams that stand earlier in the same text: 0 none, towards 1 a loop; NaN where there is no n-gram."""
    grams = _grams(ids, n)
    return 1 - len(set(grams)) / len(grams) if grams else np.nan


def distinct_n(texts: Sequence[Sequence[int]], n: int = 2) -> float:
    """Distinct n-grams over all n-grams of several texts together: low where texts are alike or repeat themselves."""
    grams = [gram for ids in texts for gram in _grams(ids, n)]
    if not grams:
        raise ValueError(f"no text has {n} tokens, so distinct-{n} is undefined; generate longer texts")
    return len(set(grams)) / len(grams)


def compression_ratio(text: str) -> float:
    """Bytes of the text over its bytes after deflate (level 9); above about 3 in loops, NaN for an empty text."""
    data = text.encode()
    return len(data) / len(zlib.compress(data, 9)) if data else np.nan


def _grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]


@dataclass(frozen=True, eq=False)
class TextDamage:
    """Measures of generated texts, one value per text: shares and ratios without unit, `loss` in nats per token.

    `loss` is of the text under the unsteered model, after its prompt, NaN for an empty text; `n_tokens` its length;
    `loops` is 1 where `is_repetitive`. `distinct` is of all texts together.
    """

    repetition: Float64[np.ndarray, "text"]
    loops: Float64[np.ndarray, "text"]
    compression: Float64[np.ndarray, "text"]
    n_tokens: Float64[np.ndarray, "text"]
    loss: Float64[np.ndarray, "text"]
    distinct: float

    def means(self) -> dict[str, float]:
        """Mean of every measure over the texts that have it."""
        arrays = {
            "repetition": self.repetition,
            "loops": self.loops,
            "compression ratio": self.compression,
            "tokens": self.n_tokens,
            "loss under the unsteered model": self.loss,
        }
        means = {
            name: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan for name, values in arrays.items()
        }
        return means | {"distinct bigrams": self.distinct}


def text_damage(model: HookedModel, prompts: Sequence[str], written: Sequence[Sequence[int]]) -> TextDamage:
    """Measure generated token ids; call it without steering on the model, since `loss` is the unsteered model's."""
    if len(prompts) != len(written) or not written:
        raise ValueError(f"damage needs as many texts as prompts, got {len(written)} for {len(prompts)}")
    texts = [model.decode(ids) for ids in written]
    pairs = [(prompt, ids) for prompt, ids in zip(prompts, written, strict=True) if ids]
    losses = np.full(len(written), np.nan)
    losses[[bool(ids) for ids in written]] = continued_losses(model, pairs) if pairs else []
    return TextDamage(
        repetition=np.array([repetition(ids) for ids in written]),
        loops=np.array([float(is_repetitive(ids)) for ids in written]),
        compression=np.array([compression_ratio(text) for text in texts]),
        n_tokens=np.array([float(len(ids)) for ids in written]),
        loss=losses,
        distinct=distinct_n(written) if any(len(ids) > 1 for ids in written) else np.nan,
    )


@dataclass(frozen=True, eq=False)
class NeutralDamage:
    """Damage on neutral passages, one value per passage: KL in nats per token, share of tokens with the same top-1."""

    kl: Float64[np.ndarray, "passage"]
    agreement: Float64[np.ndarray, "passage"]


def neutral_damage(
    model: HookedModel,
    texts: Sequence[str],
    parts: Sequence[Part],
    scope: Scope | Where = "all_but_first",
    *,
    n_tokens: int = 32,
) -> list[NeutralDamage]:
    """KL(unsteered || steered) and top-1 agreement with the unsteered model on the same text, for every part.

    Both are means over the predictions at every real token; `parts` are steerings with their strengths.
    """
    tokens = passage_tokens(model, texts, n_tokens=n_tokens)
    kl, agreement = (np.zeros((len(parts), len(texts))) for _ in range(2))
    for row in range(len(texts)):
        length = int(tokens.mask[row].sum())
        one = Tokens(tokens.ids[row : row + 1, :length], tokens.mask[row : row + 1, :length])
        plain = next(stacked_logits(model, one, [(None, 0.0)], "all"))[2][0, 0].float().log_softmax(dim=-1)
        for chosen, _, logits in stacked_logits(model, one, parts, scope):
            steered = logits[:, 0].float().log_softmax(dim=-1)
            kl[chosen, row] = (plain.exp() * (plain - steered)).sum(-1).double().mean(-1).cpu().numpy()
            same = steered.argmax(-1) == plain.argmax(-1)
            agreement[chosen, row] = same.double().mean(-1).cpu().numpy()
    return [NeutralDamage(*values) for values in zip(kl, agreement, strict=True)]


def elsewhere(
    model: HookedModel, tasks: Sequence[Task], split: Split, *, n: int | None = None, seed: int = 0
) -> Mapping[str, Scores]:
    """Scores on the other domains' tasks, as the model stands; call it under steering and without, and compare.

    The names of items say which belong together. Raises for tasks of the same name.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise TaskError("two of the other tasks have the same name; pass each task once")
    return {task.name: task.score(model, split, n=n, seed=seed) for task in tasks}
