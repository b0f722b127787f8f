"""Tasks that let the model write and have its text judged."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, final, runtime_checkable

import numpy as np
from jaxtyping import Float64

from workbench.interventions import FittingData, Scope, Where
from workbench.models import HookedModel
from workbench.tasks.base import ItemSet, ItemTask, Metric, Scores, TaskError, TaskItem
from workbench.tasks.judges import DomainClassifier
from workbench.tasks.metrics import PLAIN, Part, is_repetitive
from workbench.tasks.scoring import continuations

MINIMUM_WORDS = 3


@dataclass(frozen=True)
class Written:
    """A continuation: its item, its text, and its token ids."""

    item: TaskItem
    text: str
    ids: tuple[int, ...]

    @property
    def is_coherent(self) -> bool:
        """Not empty, at least 3 words, mostly made of words, and no loop (`is_repetitive`)."""
        words = self.text.split()
        wordlike = [word for word in words if any(letter.isalnum() for letter in word)]
        return len(wordlike) >= MINIMUM_WORDS and 2 * len(wordlike) > len(words) and not is_repetitive(self.ids)


def holds_one(texts: Sequence[str], continuation: str) -> bool:
    """Whether one of the texts stands in the continuation as whole words, in upper or lower case."""
    return any(
        re.search(rf"(?<!\w){re.escape(text.strip())}(?!\w)", continuation, re.IGNORECASE) is not None for text in texts
    )


@runtime_checkable
class Judge(Protocol):
    """Gives every continuation one number per metric, NaN where it has no verdict."""

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def __call__(self, written: Sequence[Written]) -> Mapping[str, Float64[np.ndarray, "item"]]: ...


@final
@dataclass(frozen=True)
class MarkerJudge:
    """1 where the text holds one of the item's answers as whole words (any case) and none of its distractors."""

    name: str = "marker"
    higher_is_better: bool = True

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric(self.name, "fraction", self.higher_is_better, (0.0, 1.0)),)

    def __call__(self, written: Sequence[Written]) -> dict[str, Float64[np.ndarray, "item"]]:
        found = [
            holds_one(one.item.answers, one.text) and not holds_one(one.item.distractors, one.text) for one in written
        ]
        return {self.name: np.array(found, dtype=np.float64)}


@final
@dataclass(frozen=True)
class DomainJudge:
    """1 where the classifier assigns the text to the domain and it does not loop, as in the study's comparison."""

    domain: str
    classifier: DomainClassifier
    name: str = "domain share"

    def __post_init__(self) -> None:
        if self.domain not in self.classifier.domains:
            raise TaskError(
                f"the classifier knows no domain {self.domain!r}, only {', '.join(self.classifier.domains)}; fit one "
                "on your passages with fit_classifier"
            )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (Metric(self.name, "fraction", higher_is_better=True, bounds=(0.0, 1.0)),)

    def __call__(self, written: Sequence[Written]) -> dict[str, Float64[np.ndarray, "item"]]:
        guesses = self.classifier.predict([one.text for one in written])
        hits = [
            guess == self.domain and not is_repetitive(one.ids) for guess, one in zip(guesses, written, strict=True)
        ]
        return {self.name: np.array(hits, dtype=np.float64)}


@final
@dataclass(frozen=True)
class FunctionJudge:
    """A judge of your own: `function(prompt, text)` gives a number within the bounds of `metric`, or None for none."""

    metric: Metric
    function: Callable[[str, str], float | None]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (self.metric,)

    def __call__(self, written: Sequence[Written]) -> dict[str, Float64[np.ndarray, "item"]]:
        values = [self.function(one.item.prompt, one.text) for one in written]
        return {self.metric.name: np.array([np.nan if value is None else float(value) for value in values])}


@final
@dataclass(frozen=True)
class WritingTask(ItemTask):
    """The model continues every prompt by at most `n_tokens` tokens (greedily at temperature 0), and `judge` scores it.

    Raises `TaskError` where a judge gives no verdict on any item, a wrong number of verdicts, or one out of bounds.
    """

    name: str
    item_set: ItemSet
    judge: Judge
    data: Callable[[HookedModel], FittingData]
    n_tokens: int = 32
    temperature: float = 0.0
    prompted_items: tuple[TaskItem, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.judge.metrics

    def score_items(
        self, model: HookedModel, items: Sequence[TaskItem], parts: Sequence[Part], scope: Scope | Where, seed: int
    ) -> list[Scores]:
        options = {"n_tokens": self.n_tokens, "seed": seed, "temperature": self.temperature}
        return [self._judged(items, written) for written in write(model, items, parts, scope, **options)]

    def _judged(self, items: Sequence[TaskItem], written: Sequence[Written]) -> Scores:
        values = self.judge(written)
        for metric in self.metrics:
            _check_verdicts(self.name, metric, values, len(items))
        return Scores.of(items, values, [one.text for one in written], [one.ids for one in written])

    def prompted(self) -> "WritingTask":
        if not self.prompted_items:
            raise TaskError(f"task {self.name} has no words for its wish, so there is no prompt-only baseline")
        name = f"{self.name}+prompt"
        return replace(self, name=name, item_set=ItemSet(name, self.prompted_items), prompted_items=())


def write(
    model: HookedModel,
    items: Sequence[TaskItem],
    parts: Sequence[Part] = PLAIN,
    scope: Scope | Where = "all",
    *,
    n_tokens: int,
    seed: int = 0,
    temperature: float = 0.0,
) -> list[list[Written]]:
    """Continuations of the prompts of the items, in their order, under every part."""
    prompts = [item.prompt for item in items]
    texts = continuations(model, prompts, parts, scope, n_tokens=n_tokens, seed=seed, temperature=temperature)
    return [
        [Written(item, model.decode(ids, after=item.prompt), tuple(ids)) for item, ids in zip(items, rows, strict=True)]
        for rows in texts
    ]


def _check_verdicts(task: str, metric: Metric, values: Mapping[str, Float64[np.ndarray, "item"]], n_items: int) -> None:
    verdicts = values.get(metric.name)
    if verdicts is None or len(verdicts) != n_items:
        given = 0 if verdicts is None else len(verdicts)
        raise TaskError(f"task {task}: the judge gave {given} verdicts of {metric.name!r} on {n_items} texts")
    judged = verdicts[~np.isnan(verdicts)]
    if not len(judged):
        raise TaskError(
            f"task {task}: the judge returned no verdict of {metric.name!r} on any of {n_items} texts; check the judge"
        )
    low, high = metric.bounds
    if judged.min() < low or judged.max() > high:
        raise TaskError(
            f"task {task}: {metric.name!r} lies between {low:g} and {high:g}, but the judge gave "
            f"{judged.min():g} to {judged.max():g}"
        )
