"""Accuracy on a lettered exam when one dimension is masked: ranked on *identify* questions, reported on *test*.

    drop(subject, d) = accuracy on the subject - its accuracy with dimension d set to zero at every block output

The embedding is left alone, and the answer is the likeliest letter. What is masked follows Roh, Cho, Kim (2026, arXiv
2603.00029); screening by magnitude, random dimensions and intervals over subjects are ours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from workbench.dimensions.masking import answer_histogram, right_choices
from workbench.masking.experiment import token_magnitudes
from workbench.masking.measure import mask_choices, wanted_dimensions
from workbench.models import HookedModel
from workbench.records import ChoiceItem, ChoiceMasking, Prompt, Split
from workbench.statistics import paired_interval
from workbench.tasks.base import TaskError
from workbench.tasks.questions import LETTERS, QuestionTask

Role = Literal["rank", "named", "random"]


@dataclass(frozen=True)
class MaskedAccuracy:
    """One subject with one dimension masked: accuracies on its `n` *test* questions, as fractions.

    `rank` is by drop on *identify*, 0 where the dimension was not chosen by it. `same_letter` is the fraction of the
    most frequent answer under the mask: near 1, the model answers nothing any more and accuracy is that of one letter.
    """

    subject: str
    role: Role
    rank: int
    dimension: int
    n: int
    unmasked: float
    masked: float
    same_letter: float


def n_questions(
    d_model: int, n_subjects: int, *, n_candidates: int, n_identify: int, n_test: int, n_masked: int
) -> int:
    """Questions that are run, masked and unmasked, with those that screening reads."""
    candidates = min(n_candidates or d_model, d_model)
    identify = n_identify * (1 + candidates + (1 if n_candidates else 0))
    return n_subjects * (identify + n_test * (1 + n_masked))


def measure_masked_exam(
    model: HookedModel,
    tasks: Mapping[str, QuestionTask],
    *,
    ranks: Sequence[int] = (1, 10, 100),
    dimensions: Sequence[int] = (),
    n_candidates: int = 0,
    n_identify: int = 50,
    n_test: int = 50,
    n_random: int = 5,
    seed: int = 0,
    finished: Mapping[str, list[MaskedAccuracy]] | None = None,
    on_subject: Callable[[str, list[MaskedAccuracy]], None] | None = None,
) -> list[MaskedAccuracy]:
    """The rows of every subject, whose lettered questions are `tasks[subject]` (see `exam_task`).

    Of `n_candidates` dimensions, the largest by magnitude (0: all), each is masked alone on `n_identify` questions per
    subject. Those that then stand at `ranks`, the named `dimensions` and `n_random` random ones are masked on `n_test`
    other questions. Subjects in `finished` are not run again; `on_subject` hears the others as they come. Raises where
    a dimension or rank is out of range, or a subject has fewer than two questions to identify or to test on.
    """
    wanted_dimensions([*dimensions, 0], ("",), model.d_model)
    if max(ranks, default=0) > model.d_model:
        raise ValueError(f"rank {max(ranks)} is out of range; {model.name} has {model.d_model} dimensions")
    asked = {subject: letter_items(task, subject, "identify", n_identify) for subject, task in tasks.items()}
    tests = {subject: letter_items(task, subject, "test", n_test) for subject, task in tasks.items()}
    candidates = _candidates(model, n_candidates, asked)
    random = np.random.default_rng(seed).choice(model.d_model, size=n_random, replace=False).tolist()
    results = dict(finished or {})
    for subject, task in tasks.items():
        if subject in results:
            continue
        found = mask_choices(model, asked[subject], candidates, letter_lead=task.letter_lead)
        accuracy = dict(zip(found.dimensions, _accuracies(found).tolist(), strict=True))
        order = sorted(candidates, key=lambda dimension: accuracy[dimension])  # the largest drop leaves the least
        wanted: list[tuple[Role, int, int]] = [
            *(("rank", rank, order[rank - 1]) for rank in ranks),
            *(("named", 0, dimension) for dimension in dimensions),
            *(("random", 0, dimension) for dimension in random),
        ]
        results[subject] = _rows(model, subject, wanted, tests[subject], task.letter_lead)
        if on_subject is not None:
            on_subject(subject, results[subject])
    return [row for subject in tasks for row in results[subject]]


def masked_exam_table(rows: Sequence[MaskedAccuracy], *, seed: int = 0) -> pd.DataFrame:
    """One line per rank, named dimension, and the random ones: means over subjects, with 95 % intervals of the drop.

    Subjects count alike; random dimensions are averaged within a subject first.
    """
    groups: dict[str, dict[str, list[MaskedAccuracy]]] = {}
    for row in rows:
        label = {"rank": f"rank {row.rank}", "named": f"dimension {row.dimension}", "random": "random"}[row.role]
        groups.setdefault(label, {}).setdefault(row.subject, []).append(row)
    lines = []
    for label, subjects in groups.items():
        values = [[(row.unmasked, row.masked, row.same_letter) for row in group] for group in subjects.values()]
        means = np.array([np.mean(group, axis=0) for group in values])
        drops = means[:, 0] - means[:, 1]
        low, high = np.nan, np.nan
        if len(drops) > 1:
            interval = paired_interval(drops, seed=seed)
            low, high = interval.low, interval.high
        lines.append([label, *means.mean(axis=0), drops.mean(), low, high, len(drops)])
    names = ["masked", "unmasked", "accuracy", "same_letter", "accuracy_drop", "low", "high", "n_subjects"]
    return pd.DataFrame(lines, columns=pd.Index(names))


def letter_items(task: QuestionTask, subject: str, split: Split, n: int | None = None) -> list[ChoiceItem]:
    """The first n questions of a split as they are put to the model, with letters for choices."""
    lettered = {question.name: question for question in task.lettered}
    chosen = [lettered[item.name] for item in task.items(split)[:n]]
    if len(chosen) < 2:
        raise TaskError(f"{task.name} has {len(chosen)} {split} question(s), too few for an accuracy; leave it out")
    return [
        ChoiceItem(one.name, subject, split, one.prompt, tuple(LETTERS[: one.n_choices]), one.answer) for one in chosen
    ]


def _accuracies(found: ChoiceMasking) -> np.ndarray:
    """Accuracy under every mask."""
    return right_choices(found.masked, np.array([item.answer for item in found.items])).mean(axis=1)


def _candidates(model: HookedModel, n: int, asked: Mapping[str, Sequence[ChoiceItem]]) -> tuple[int, ...]:
    """All dimensions, or the largest: mean magnitude over subjects, layers and tokens of the *identify* questions."""
    if not n or n >= model.d_model:
        return tuple(range(model.d_model))
    prompts = [
        Prompt(item.prompt, subject, item.name, "identify") for subject, group in asked.items() for item in group
    ]
    magnitude = token_magnitudes(model, prompts)["after the first token"].mean(axis=0)
    return tuple(np.argsort(-magnitude, kind="stable")[:n].tolist())


def _rows(
    model: HookedModel, subject: str, wanted: Sequence[tuple[Role, int, int]], items: Sequence[ChoiceItem], lead: str
) -> list[MaskedAccuracy]:
    """What the wanted dimensions cost on *test* questions."""
    found = mask_choices(model, items, sorted({dimension for *_, dimension in wanted}), letter_lead=lead)
    accuracy = dict(zip(found.dimensions, _accuracies(found).tolist(), strict=True))
    unmasked = float(right_choices(found.baseline, np.array([item.answer for item in items])).mean())
    rows = []
    for role, rank, dimension in wanted:
        same = float(answer_histogram(found, dimension)["n"].to_numpy().max()) / len(items)
        rows.append(MaskedAccuracy(subject, role, rank, dimension, len(items), unmasked, accuracy[dimension], same))
    return rows
