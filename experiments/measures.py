"""What the experiments share: intervals over subjects, next-token answers, and damage on neutral text."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from workbench.behaviours import BehaviourItem
from workbench.comparison import NeutralText, paired_interval
from workbench.corpus import neutral_prompts
from workbench.interventions import Scope, Steering, Where, steer
from workbench.models import HookedModel
from workbench.statistics import Interval

BATCH = 64


def by_subject(values: np.ndarray, subjects: Sequence[str]) -> np.ndarray:
    """Mean per subject, since items of one subject are not independent."""
    names = np.array(subjects)
    return np.array([values[names == name].mean() for name in dict.fromkeys(subjects)])


def rate(values: np.ndarray, subjects: Sequence[str]) -> Interval:
    """A share of items: bootstrap over subjects, or Wilson's interval where all subjects agree."""
    means = by_subject(values.astype(float), subjects)
    if (means == means[0]).all() and means[0] in (0, 1):
        n, p, z = len(means), means[0], stats.norm.ppf(0.975)
        middle, half = (p + z**2 / (2 * n)) / (1 + z**2 / n), z**2 / (2 * n) / (1 + z**2 / n)
        return Interval(float(p), max(0.0, middle - half), min(1.0, middle + half), n)
    return paired_interval(means, seed=0)


def difference(steered: np.ndarray, plain: np.ndarray, subjects: Sequence[str]) -> Interval:
    """Steered minus plain, paired by item, interval over subjects."""
    return paired_interval(by_subject(steered.astype(float) - plain.astype(float), subjects), seed=0)


def next_logits(
    model: HookedModel,
    prompts: Sequence[str],
    steering: Steering | None = None,
    strength: float = 1.0,
    scope: Scope | Where = "all",
) -> Tensor:
    """Logits of the token after each prompt, float32."""
    pieces = []
    with nullcontext() if steering is None else steer(model, steering, strength, scope):
        for chosen in _batches(prompts):
            pieces.append(model.logits(model.tokenize(chosen, side="left"), last_only=True)[:, 0].float().cpu())
    return torch.cat(pieces)


def first_tokens(model: HookedModel, texts: Sequence[str]) -> Tensor:
    """The id with which each text begins."""
    return torch.tensor([model.text.ids(text)[0] for text in texts])


def is_chosen(model: HookedModel, items: Sequence[BehaviourItem], logits: Tensor) -> np.ndarray:
    """Whether the right answer's first token is likelier than the distractor's."""
    rows = torch.arange(len(items))
    right = logits[rows, first_tokens(model, [item.answers[0] for item in items])]
    wrong = logits[rows, first_tokens(model, [item.distractors[0] for item in items])]
    return (right > wrong).numpy()


def is_said(model: HookedModel, items: Sequence[BehaviourItem], logits: Tensor) -> np.ndarray:
    """Whether the likeliest token of all is the one with which the right answer begins (exact match, one token)."""
    return (logits.argmax(-1) == first_tokens(model, [item.answers[0] for item in items])).numpy()


def kl_measure(model: HookedModel, n_passages: int = 12) -> NeutralText:
    """Neutral passages on which KL(unsteered || steered) is measured, nats per token."""
    return NeutralText(model, [prompt.text for prompt in neutral_prompts()][:n_passages])


def kl_of(neutral: NeutralText, steering: Steering, strength: float, scope: Scope | Where = "all") -> float:
    """Damage of one steering on neutral text, all tokens being edited unless the scope says otherwise."""
    return float(neutral.kl([(steering, strength)], scope)[0])


def _batches(prompts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(prompts), BATCH):
        yield prompts[start : start + BATCH]
