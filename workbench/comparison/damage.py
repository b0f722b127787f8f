"""What steering breaks: several measures, because each alone is blind to something.

KL on neutral text does not see endless loops, repetition does not see nonsense, the loss under the unsteered model
does not see loops (they are likely), length does not see any of it. Measures of text are functions of the tokens and
can be checked by hand; those that need the model say so.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

from workbench.interventions import Scope, Where
from workbench.models import HookedModel
from workbench.records import Split
from workbench.tasks.base import Scores, Task, TaskError, score_parts
from workbench.tasks.metrics import PLAIN, NeutralText, Part, is_repetitive
from workbench.tasks.scoring import continued_losses

N_OPENINGS = 4  # neutral texts that every arm continues where its task writes nothing
N_OPENING_WORDS = 8
N_WRITTEN = 16  # tokens of every continuation
N_OTHERS = 6  # other domains that a domain's task is scored on
N_ELSEWHERE = 4  # items of each of them
Values = dict[str, dict[str, float]]  # measure -> what was measured (a subject, a passage) -> value


@dataclass(frozen=True)
class Measure:
    """One measure of damage: its unit, and in which direction it tells damage ("" where a change of either does)."""

    name: str
    unit: str
    worse: Literal["up", "down", ""]


MEASURES = (
    Measure("KL", "nats per token", "up"),
    Measure("top-1 agreement", "fraction", "down"),
    Measure("loss of its text", "nats per token", "up"),
    Measure("repetition", "fraction", "up"),
    Measure("loops", "fraction", "up"),
    Measure("distinct bigrams", "fraction", "down"),
    Measure("compression ratio", "bytes per byte", "up"),
    Measure("length", "tokens", ""),
)


def openings(texts: Sequence[str]) -> tuple[str, ...]:
    """The first words of the first few texts, for every arm to continue."""
    return tuple(" ".join(text.split()[:N_OPENING_WORDS]) for text in texts[:N_OPENINGS])


def by_unit(values: Sequence[float] | Float64[np.ndarray, "text"], units: Sequence[str]) -> dict[str, float]:
    """Mean over the values of every unit that are numbers; NaN where none is."""
    groups: dict[str, list[float]] = {}
    for unit, value in zip(units, values, strict=True):
        groups.setdefault(unit, []).append(float(value))
    finite = {unit: [value for value in group if np.isfinite(value)] for unit, group in groups.items()}
    return {unit: float(np.mean(group)) if group else np.nan for unit, group in finite.items()}


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

    def by_unit(self, units: Sequence[str]) -> Values:
        """Every measure averaged over the texts of a unit, and the distinct bigrams of all texts."""
        found = {
            "loss of its text": self.loss,
            "repetition": self.repetition,
            "loops": self.loops,
            "compression ratio": self.compression,
            "length": self.n_tokens,
        }
        return {name: by_unit(values, units) for name, values in found.items()} | {
            "distinct bigrams": {"all": float(self.distinct)}
        }


def text_damage(model: HookedModel, prompts: Sequence[str], written: Sequence[Sequence[int]]) -> TextDamage:
    """Measure generated token ids; call it without steering on the model, since `loss` is the unsteered model's."""
    if len(prompts) != len(written) or not written:
        raise ValueError(f"damage needs as many texts as prompts, got {len(written)} for {len(prompts)}")
    texts = [model.decode(ids, after=prompt) for prompt, ids in zip(prompts, written, strict=True)]
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
    kl, agreement = NeutralText(model, texts, n_tokens=n_tokens).by_passage(parts, scope)
    return [NeutralDamage(*values) for values in zip(kl, agreement, strict=True)]


def elsewhere(
    model: HookedModel,
    tasks: Sequence[Task],
    split: Split,
    parts: Sequence[Part] = PLAIN,
    scope: Scope | Where = "all",
    *,
    n: int | None = None,
    seed: int = 0,
) -> list[dict[str, Scores]]:
    """Scores on the other domains' tasks under every part, by the name of the task.

    The names of items say which belong together. Raises for tasks of the same name.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise TaskError("two of the other tasks have the same name; pass each task once")
    rows = [score_parts(task, model, split, parts, scope, n=n, seed=seed) for task in tasks]
    return [{name: row[index] for name, row in zip(names, rows, strict=True)} for index in range(len(parts))]


def elsewhere_values(found: Mapping[str, Scores], tasks: Sequence[Task]) -> Values:
    """The first metric of every other task, all of one kind, averaged over the items of a subject."""
    values: Values = {}
    for task in tasks:
        scores, metric = found[task.name], task.metrics[0].name
        units = [f"{task.name}/{subject}" for subject in scores.subjects]
        values.setdefault(f"{metric} elsewhere", {}).update(by_unit(scores.values[metric], units))
    return values
