"""What every task offers to a comparison: items with splits, data to fit on, and one score per item and metric.

`score` runs the model as it stands, so whatever is applied at that moment is scored; `score_parts` scores several
steerings side by side.
Methods are fitted on *identify* alone, strength and layer are chosen on *tune*, and *test* is reported once.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from workbench.corpus import draw_some
from workbench.interventions import FittingData, Scope, Where, steer
from workbench.models import HookedModel
from workbench.records import SPLITS, Split
from workbench.tasks.metrics import PLAIN, Part


class TaskError(ValueError):
    """A task cannot be built, fitted or scored as asked; the message says what is missing."""


@dataclass(frozen=True)
class TaskItem:
    """One thing to be scored. `prompt` is ready to tokenise, chat markers in it; a passage is all prompt.

    `answers` and `distractors` stand exactly as they would follow the prompt. Items of one `subject` are not
    independent and lie in one split; an interval should resample subjects. `domain` is "" where it has no meaning.
    """

    name: str
    subject: str
    split: Split
    prompt: str
    answers: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()
    domain: str = ""

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise TaskError(f"item {self.name} has no prompt")
        if self.split not in SPLITS:
            raise TaskError(f"item {self.name} has split {self.split!r}; expected one of {', '.join(SPLITS)}")


@dataclass(frozen=True)
class Metric:
    """One number per item: its unit ("fraction", "nats", "nats per token"), direction, and least and largest value."""

    name: str
    unit: str
    higher_is_better: bool
    bounds: tuple[float, float] = (-np.inf, np.inf)


@dataclass(frozen=True, eq=False)
class Scores:
    """One value per item and metric, in the order of `names`; NaN where a judge gave no verdict.

    `texts` are the continuations that were judged and `token_ids` their tokens (what `text_damage` reads), empty for
    tasks that generate nothing.
    """

    names: tuple[str, ...]
    subjects: tuple[str, ...]
    values: Mapping[str, Float64[np.ndarray, "item"]]
    texts: tuple[str, ...] = ()
    token_ids: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(
        cls,
        items: Sequence[TaskItem],
        values: Mapping[str, Float64[np.ndarray, "item"]],
        texts: Sequence[str] = (),
        token_ids: Sequence[tuple[int, ...]] = (),
    ) -> "Scores":
        """Scores of items in their order."""
        names, subjects = tuple(item.name for item in items), tuple(item.subject for item in items)
        return cls(names, subjects, values, tuple(texts), tuple(token_ids))

    @property
    def n_unjudged(self) -> dict[str, int]:
        """Number of items without a verdict, per metric."""
        return {name: int(np.isnan(values).sum()) for name, values in self.values.items()}

    def mean(self, metric: str) -> float:
        """Mean over the judged items."""
        return float(np.nanmean(self.values[metric]))


@runtime_checkable
class Task(Protocol):
    """A task of a comparison; `metrics[0]` is the one that strength and layer are chosen by."""

    @property
    def name(self) -> str: ...

    @property
    def metrics(self) -> tuple[Metric, ...]: ...

    def items(self, split: Split) -> tuple[TaskItem, ...]:
        """The items of a split; raises `TaskError` where there are none."""
        ...

    def fitting(self, model: HookedModel) -> FittingData:
        """Data to fit methods on, from *identify*; may run the unsteered model, so call it without steering."""
        ...

    def score(self, model: HookedModel, split: Split, *, n: int | None = None, seed: int = 0) -> Scores:
        """Score at most `n` items of a split under whatever steering is on the model; same seed, same items."""
        ...

    def prompted(self) -> "Task":
        """The same items with the wish put into words in the prompt: the prompt-only baseline.

        Raises `TaskError` where the task has no words for it.
        """
        ...


@runtime_checkable
class StackedTask(Task, Protocol):
    """A task that can be scored under several steerings side by side, which is faster than one after the other."""

    def score_stacked(
        self,
        model: HookedModel,
        split: Split,
        parts: Sequence[Part],
        scope: Scope | Where,
        *,
        n: int | None = None,
        seed: int = 0,
    ) -> list[Scores]:
        """The scores of the same items under every part: a steering with its strength, or the model as it stands."""
        ...


def score_parts(
    task: Task,
    model: HookedModel,
    split: Split,
    parts: Sequence[Part],
    scope: Scope | Where,
    *,
    n: int | None = None,
    seed: int = 0,
) -> list[Scores]:
    """Scores of a task under every part: side by side where the task can, else one part after the other."""
    if isinstance(task, StackedTask):
        return task.score_stacked(model, split, parts, scope, n=n, seed=seed)
    found = []
    for steering, strength in parts:
        with nullcontext() if steering is None else steer(model, steering, strength, scope):
            found.append(task.score(model, split, n=n, seed=seed))
    return found


@dataclass(frozen=True)
class ItemSet:
    """The items of a task with the rules they all obey: names are unique, no subject lies in two splits."""

    task: str
    items: tuple[TaskItem, ...] = field(repr=False)

    def __post_init__(self) -> None:
        repeated = [name for name, count in Counter(item.name for item in self.items).items() if count > 1]
        if repeated:
            raise TaskError(f"task {self.task} has more than one item named {repeated[0]!r}; names must be unique")
        home: dict[str, Split] = {}
        for item in self.items:
            if home.setdefault(item.subject, item.split) != item.split:
                raise TaskError(
                    f"task {self.task}: subject {item.subject!r} lies in {home[item.subject]} and in {item.split}; "
                    "items of one subject belong to one split"
                )

    def of(self, split: Split) -> tuple[TaskItem, ...]:
        """The items of a split; raises `TaskError` where there are none."""
        if split not in SPLITS:
            raise TaskError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        chosen = tuple(item for item in self.items if item.split == split)
        if not chosen:
            present = ", ".join(dict.fromkeys(item.split for item in self.items)) or "none"
            raise TaskError(
                f"task {self.task} has no {split} items (splits present: {present}); give items a split, or load them "
                "with one drawn"
            )
        return chosen

    def sample(self, split: Split, n: int | None, seed: int) -> tuple[TaskItem, ...]:
        """At most `n` items of a split, in their own order; raises where fewer than 2 subjects would be scored."""
        items = self.of(split)
        if n is not None and n < 2:
            raise TaskError(f"n is {n}: a single prompt gives no interval; score at least 2 items")
        check_subjects(self.task, split, items)
        return tuple(items[index] for index in draw_some(len(items), n, [seed, SPLITS.index(split)]))


class ItemTask:
    """What the tasks here share: items with their rules, and one way to score them, the unsteered model included."""

    item_set: ItemSet
    data: Callable[[HookedModel], FittingData]

    def items(self, split: Split) -> tuple[TaskItem, ...]:
        return self.item_set.of(split)

    def fitting(self, model: HookedModel) -> FittingData:
        return self.data(model)

    @abstractmethod
    def score_items(
        self, model: HookedModel, items: Sequence[TaskItem], parts: Sequence[Part], scope: Scope | Where, seed: int
    ) -> list[Scores]:
        """The scores of some items under every part."""

    def score(self, model: HookedModel, split: Split, *, n: int | None = None, seed: int = 0) -> Scores:
        return self.score_stacked(model, split, PLAIN, "all", n=n, seed=seed)[0]

    def score_stacked(
        self,
        model: HookedModel,
        split: Split,
        parts: Sequence[Part],
        scope: Scope | Where,
        *,
        n: int | None = None,
        seed: int = 0,
    ) -> list[Scores]:
        return self.score_items(model, self.item_set.sample(split, n, seed), parts, scope, seed)


def check_subjects(task: str, split: Split, items: Sequence[TaskItem]) -> None:
    """Raise `TaskError` where the items are of fewer than two subjects, which give no interval."""
    if len({item.subject for item in items}) < 2:
        raise TaskError(
            f"task {task} has {len(items)} {split} item(s) of a single subject, which give no interval; add items of "
            "another subject"
        )
