"""Accuracy on a lettered exam when one dimension is masked: ranked on *identify* questions, reported on *test*.

    drop(subject, d) = accuracy on the subject - its accuracy with dimension d set to zero at every block output

The embedding is left alone, and the answer is the letter with the largest next-token logit. What is masked follows Roh,
Cho, Kim (2026, arXiv 2603.00029); screening by magnitude, random dimensions and intervals over subjects are ours.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from workbench.comparison.spec import MaskingSpec, SpecError
from workbench.comparison.store import open_store
from workbench.masking.experiment import token_magnitudes
from workbench.models import Call, HookedModel
from workbench.records import Prompt, Site, Split, Tokens, write_whole
from workbench.statistics import paired_interval
from workbench.tasks.files import exam_task
from workbench.tasks.loaders import load_questions
from workbench.tasks.questions import LETTERS, LetteredQuestion, QuestionTask
from workbench.tasks.scoring import first_tokens, next_token_scores, prompt_ids

POSITIONS_PER_PASS = 2**14
Progress = Callable[[int, int], None]  # (subjects done, in all)
Role = Literal["rank", "named", "random"]


@dataclass(frozen=True)
class MaskedAccuracy:
    """One subject with one dimension masked: accuracies on its `n` *test* questions, as fractions.

    `rank` is by drop on *identify*, 0 where the dimension was not chosen by it. `same_letter` is the share of the most
    frequent answer under the mask: near 1, the model answers nothing any more and accuracy is that of one letter.
    """

    subject: str
    role: Role
    rank: int
    dimension: int
    n: int
    unmasked: float
    masked: float
    same_letter: float


def n_passes(spec: MaskingSpec, d_model: int, n_subjects: int) -> int:
    """Questions that are run, masked and unmasked, with those that screening reads."""
    candidates = min(spec.n_candidates or d_model, d_model)
    identify = spec.n_identify * (1 + candidates + (1 if spec.n_candidates else 0))
    test = spec.n_test * (1 + len(spec.ranks) + len(spec.dimensions) + spec.n_random)
    return n_subjects * (identify + test)


def measure_masked_exam(
    model: HookedModel, spec: MaskingSpec, folder: Path, *, progress: Progress | None = None
) -> list[MaskedAccuracy]:
    """The rows of every subject; finished subjects are kept in the folder and never run again.

    Raises where the folder belongs to another specification or other weights, a dimension is out of range, or a subject
    has fewer than two questions to identify or to test on.
    """
    wrong = [dimension for dimension in spec.dimensions if not 0 <= dimension < model.d_model]
    if wrong:
        raise SpecError(f"dimension {wrong[0]} is out of range; {model.name} has 0 to {model.d_model - 1}")
    if max(spec.ranks, default=0) > model.d_model:
        raise SpecError(f"rank {max(spec.ranks)} is out of range; {model.name} has {model.d_model} dimensions")
    questions = load_questions(
        spec.data, subjects=spec.subjects or None, seed=spec.seed, allow_download=spec.model.download
    )
    subjects = list(dict.fromkeys(item.domain for item in questions))
    tasks = {subject: exam_task(model, questions, subject) for subject in subjects}
    asked = {subject: _asked(task, "identify", spec.n_identify) for subject, task in tasks.items()}
    open_store(folder, spec, model.fingerprint)
    candidates = _candidates(model, spec, asked)
    random = np.random.default_rng(spec.seed).choice(model.d_model, size=spec.n_random, replace=False).tolist()
    rows: list[MaskedAccuracy] = []
    for index, subject in enumerate(subjects):
        path = folder / "subjects" / f"{index:03d}-{''.join(c if c.isalnum() else '_' for c in subject)}.json"
        if not path.is_file():
            exam = _Exam(model, tasks[subject].letter_lead)
            test = _asked(tasks[subject], "test", spec.n_test)
            found = _subject_rows(exam, subject, asked[subject], test, spec, candidates, random)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps([asdict(row) for row in found]))
        rows += [MaskedAccuracy(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        if progress is not None:
            progress(index + 1, len(subjects))
    return rows


def exam_table(rows: Sequence[MaskedAccuracy], *, seed: int = 0) -> pd.DataFrame:
    """One line per rank, named dimension, and the random ones: means over subjects, with 95 % intervals of the drop.

    Subjects count alike; random dimensions are averaged within a subject first.
    """
    groups: dict[str, dict[str, list[MaskedAccuracy]]] = {}
    for row in rows:
        label = {"rank": f"rank {row.rank}", "named": f"dimension {row.dimension}", "random": "random"}[row.role]
        groups.setdefault(label, {}).setdefault(row.subject, []).append(row)
    lines = []
    for label, subjects in groups.items():
        means = np.array(
            [np.mean([(r.unmasked, r.masked, r.same_letter) for r in own], 0) for own in subjects.values()]
        )
        drops = means[:, 0] - means[:, 1]
        low, high = np.nan, np.nan
        if len(drops) > 1:
            interval = paired_interval(drops, seed=seed)
            low, high = interval.low, interval.high
        lines.append([label, *means.mean(axis=0), drops.mean(), low, high, len(drops)])
    names = ["masked", "unmasked", "accuracy", "same_letter", "drop", "low", "high", "n_subjects"]
    return pd.DataFrame(lines, columns=pd.Index(names))


# --- parts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Exam:
    """A model that answers lettered questions; letters are tokenised with `lead` before them."""

    model: HookedModel
    lead: str

    def is_right(
        self, questions: Sequence[LetteredQuestion], dimensions: Sequence[int]
    ) -> tuple[Float64[np.ndarray, "masked question"], Float64[np.ndarray, "masked"]]:
        """Whether each question is answered right under each mask, and the share of the most frequent letter."""
        scores = masked_letter_scores(self.model, questions, dimensions, lead=self.lead)
        return _judged(scores, questions)

    def unmasked(self, questions: Sequence[LetteredQuestion]) -> float:
        """Accuracy of the model as it is."""
        tokens = _letter_tokens(self.model, questions, self.lead)
        scores = next_token_scores(self.model, [question.prompt for question in questions], tokens)[0]
        return float(_judged(scores[None], questions)[0].mean())


def masked_letter_scores(
    model: HookedModel, questions: Sequence[LetteredQuestion], dimensions: Sequence[int], *, lead: str = ""
) -> Float64[np.ndarray, "masked question letter"]:
    """Next-token logits of the letters after every question, with each dimension alone set to zero at all blocks."""
    tokens = _letter_tokens(model, questions, lead)
    scores = np.empty((len(dimensions), len(questions), len(tokens)))
    for numbers, start, chosen, batch in _passes(model, questions, dimensions):
        columns = torch.tensor(chosen, device=batch.ids.device).repeat_interleave(len(numbers))

        def zero(values: Tensor, site: Site, call: Call, columns: Tensor = columns) -> Tensor:
            edited = values.clone()
            edited[torch.arange(len(columns), device=values.device), :, columns] = 0
            return edited

        with model.hooked(dict.fromkeys(model.residual_sites(), zero), editing=True):
            logits = model.logits(batch, last_only=True)[:, 0, tokens]
        scores[start : start + len(chosen), numbers] = (
            logits.double().cpu().numpy().reshape(len(chosen), len(numbers), len(tokens))
        )
    return scores


def _passes(
    model: HookedModel, questions: Sequence[LetteredQuestion], dimensions: Sequence[int]
) -> Iterator[tuple[list[int], int, Sequence[int], Tokens]]:
    """Questions of like length times as many dimensions as fit a pass: numbers, first dimension, dimensions, rows."""
    rows = [prompt_ids(model, question.prompt) for question in questions]
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    while order:
        limit = max(1, POSITIONS_PER_PASS // len(rows[order[0]]))
        numbers, order = order[:limit], order[limit:]
        step = max(1, limit // len(numbers))
        for start in range(0, len(dimensions), step):
            chosen = dimensions[start : start + step]
            yield numbers, start, chosen, model.pad([rows[n] for n in numbers] * len(chosen), side="left")


def _letter_tokens(model: HookedModel, questions: Sequence[LetteredQuestion], lead: str) -> list[int]:
    most = max(question.n_choices for question in questions)
    return first_tokens(model, [f"{lead}{letter}" for letter in LETTERS[:most]], after=questions[0].prompt).tolist()


def _judged(
    scores: Float64[np.ndarray, "masked question letter"], questions: Sequence[LetteredQuestion]
) -> tuple[Float64[np.ndarray, "masked question"], Float64[np.ndarray, "masked"]]:
    """Whether the best letter among those offered is right, and the share of the most frequent best letter."""
    offered = np.array([question.n_choices for question in questions])
    allowed = np.arange(scores.shape[2]) < offered[:, None]
    best = np.where(allowed, scores, -np.inf).argmax(axis=2)
    is_right = (best == np.array([question.answer for question in questions])).astype(np.float64)
    return is_right, np.array([np.bincount(row).max() / len(row) for row in best])


def _asked(task: QuestionTask, split: Split, n: int) -> list[LetteredQuestion]:
    """The first n questions of a split as they are put to the model."""
    lettered = {question.name: question for question in task.lettered}
    found = [lettered[item.name] for item in task.items(split)[:n]]
    if len(found) < 2:
        raise SpecError(f"{task.name} has {len(found)} {split} question(s), too few for an accuracy; leave it out")
    return found


def _candidates(
    model: HookedModel, spec: MaskingSpec, asked: Mapping[str, Sequence[LetteredQuestion]]
) -> tuple[int, ...]:
    """All dimensions, or the largest: mean magnitude over subjects, layers and tokens of the *identify* questions."""
    if not spec.n_candidates or spec.n_candidates >= model.d_model:
        return tuple(range(model.d_model))
    prompts = [Prompt(q.prompt, subject, q.name, "identify") for subject, own in asked.items() for q in own]
    magnitude = token_magnitudes(model, prompts)["after the first token"].mean(axis=0)
    return tuple(np.argsort(-magnitude, kind="stable")[: spec.n_candidates].tolist())


def _subject_rows(
    exam: _Exam,
    subject: str,
    identify: Sequence[LetteredQuestion],
    test: Sequence[LetteredQuestion],
    spec: MaskingSpec,
    candidates: Sequence[int],
    random: Sequence[int],
) -> list[MaskedAccuracy]:
    """Rank the candidates on one half of the questions and measure what is asked for on the other."""
    is_right, _ = exam.is_right(identify, candidates)
    order = np.argsort(is_right.mean(axis=1), kind="stable")  # the largest drop leaves the least accuracy
    wanted: list[tuple[Role, int, int]] = [("rank", rank, candidates[order[rank - 1]]) for rank in spec.ranks]
    wanted.extend(("named", 0, dimension) for dimension in spec.dimensions)
    wanted.extend(("random", 0, dimension) for dimension in random)
    unmasked = exam.unmasked(test)
    accuracy, same = exam.is_right(test, [dimension for *_, dimension in wanted])
    return [
        MaskedAccuracy(subject, *head, len(test), unmasked, float(right.mean()), float(share))
        for head, right, share in zip(wanted, accuracy, same, strict=True)
    ]
