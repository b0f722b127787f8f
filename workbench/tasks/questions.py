"""Questions with an answer among several: exams, facts, choices, by likelihood of the answer and by its letter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float64

from workbench.behaviours import log_odds
from workbench.interventions import ContrastPrompt, FittingData, Scope, Where
from workbench.models import HookedModel
from workbench.records import Pair
from workbench.tasks.base import ItemSet, ItemTask, Metric, Scores, TaskError, TaskItem
from workbench.tasks.metrics import Part
from workbench.tasks.scoring import first_tokens, next_token_scores, pair_rows, text_likelihoods

ACCURACY = Metric("accuracy", "fraction", higher_is_better=True, bounds=(0.0, 1.0))
LOG_ODDS = Metric("log odds", "nats", higher_is_better=True)
LETTER = Metric("letter accuracy", "fraction", higher_is_better=True, bounds=(0.0, 1.0))
LETTER_PROBABILITY = Metric("letter probability", "fraction", higher_is_better=True, bounds=(0.0, 1.0))
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class LetteredQuestion:
    """The same item as a prompt that lists `n_choices` texts as (A), (B) ...; `answer` indexes the right one."""

    name: str
    prompt: str
    answer: int
    n_choices: int

    def __post_init__(self) -> None:
        if not 2 <= self.n_choices <= len(LETTERS) or not 0 <= self.answer < self.n_choices:
            raise TaskError(f"item {self.name} has answer {self.answer} of {self.n_choices} choices; 2 to 10 are known")


@final
@dataclass(frozen=True)
class QuestionTask(ItemTask):
    """Is the right answer likelier than every wrong one?

    `accuracy`: 1 where the likeliest text is an answer (a tie counts as wrong); `log odds`: of the answers against the
    distractors, in nats. With `lettered` questions, one per item, `letter accuracy` asks whether the right letter has
    the largest logit, `letter probability` what share it has among those offered; letters are tokenised with
    `letter_lead` before them. `per_token` compares likelihoods per token instead of in total.
    """

    name: str
    item_set: ItemSet
    data: Callable[[HookedModel], FittingData]
    lettered: tuple[LetteredQuestion, ...] = ()
    letter_lead: str = ""
    primary: str = ACCURACY.name
    per_token: bool = False
    prompted_items: tuple[TaskItem, ...] = ()
    prompted_lettered: tuple[LetteredQuestion, ...] = ()

    def __post_init__(self) -> None:
        missing = {item.name for item in self.item_set.items} - {question.name for question in self.lettered}
        if self.lettered and missing:
            raise TaskError(f"task {self.name}: item {min(missing)} has no lettered question, others have")
        bare = [item.name for item in self.item_set.items if not (item.answers and item.distractors)]
        if bare:
            raise TaskError(f"task {self.name}: item {bare[0]} needs at least one answer and one distractor")
        if self.primary not in [metric.name for metric in self._metrics]:
            known = ", ".join(metric.name for metric in self._metrics)
            raise TaskError(f"task {self.name} has no metric {self.primary!r}; choose one of {known}")

    @property
    def _metrics(self) -> tuple[Metric, ...]:
        return (ACCURACY, LOG_ODDS, *((LETTER, LETTER_PROBABILITY) if self.lettered else ()))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return tuple(sorted(self._metrics, key=lambda metric: metric.name != self.primary))

    def score_items(
        self, model: HookedModel, items: Sequence[TaskItem], parts: Sequence[Part], scope: Scope | Where, seed: int
    ) -> list[Scores]:
        pairs = [(item.prompt, text) for item in items for text in (*item.answers, *item.distractors)]
        likelihoods = text_likelihoods(model, pairs, parts, scope)
        if self.per_token:
            likelihoods = likelihoods / np.array([len(tail) for _, tail in pair_rows(model, pairs)])
        values = [_compare(items, row) for row in likelihoods]
        if self.lettered:
            letters = {question.name: question for question in self.lettered}
            questions = [letters[item.name] for item in items]
            rows = next_token_scores(model, [one.prompt for one in questions], self._letters(model), parts, scope)
            values = [found | _letter_values(questions, row) for found, row in zip(values, rows, strict=True)]
        return [Scores.of(items, {metric.name: found[metric.name] for metric in self.metrics}) for found in values]

    def _letters(self, model: HookedModel) -> list[int]:
        """The tokens of as many letters as any question offers."""
        most = max(question.n_choices for question in self.lettered)
        texts = [f"{self.letter_lead}{letter}" for letter in LETTERS[:most]]
        return first_tokens(model, texts, after=self.lettered[0].prompt).tolist()

    def prompted(self) -> "QuestionTask":
        if not self.prompted_items:
            raise TaskError(f"task {self.name} has no words for its wish, so there is no prompt-only baseline")
        return replace(
            self,
            name=f"{self.name}+prompt",
            item_set=ItemSet(f"{self.name}+prompt", self.prompted_items),
            lettered=self.prompted_lettered,
            prompted_items=(),
        )


def _compare(items: Sequence[TaskItem], scores: Float64[np.ndarray, "text"]) -> dict[str, Float64[np.ndarray, "item"]]:
    """Whether the likeliest text is an answer, and the log-odds of the answers; texts stand item by item."""
    odds, is_right, start = [], [], 0
    for item in items:
        middle, end = start + len(item.answers), start + len(item.answers) + len(item.distractors)
        right, wrong = scores[start:middle], scores[middle:end]
        odds.append(log_odds(float(np.logaddexp.reduce(right)), wrong.tolist()))
        is_right.append(float(right.max() > wrong.max()))
        start = end
    return {ACCURACY.name: np.array(is_right), LOG_ODDS.name: np.array(odds)}


def _letter_values(
    questions: Sequence[LetteredQuestion], scores: Float64[np.ndarray, "question letter"]
) -> dict[str, Float64[np.ndarray, "question"]]:
    """Whether the right letter has the largest score, and its share among the letters offered."""
    chosen, shares = [], []
    for row, question in zip(scores, questions, strict=True):
        offered, index = row[: question.n_choices], question.answer
        chosen.append(float(offered[index] > np.delete(offered, index).max()))
        shares.append(float(np.exp(offered[index] - np.logaddexp.reduce(offered))))
    return {LETTER.name: np.array(chosen), LETTER_PROBABILITY.name: np.array(shares)}


def answer_pairs(items: Sequence[TaskItem]) -> tuple[Pair, ...]:
    """Each item with its first answer against its first distractor, as whole texts."""
    return tuple(Pair(item.prompt + item.answers[0], item.prompt + item.distractors[0]) for item in items)


def contrast_prompts(model: HookedModel, items: Sequence[TaskItem]) -> tuple[ContrastPrompt, ...]:
    """Items whose answer and distractor, or the first tokens of both, are different single tokens of the model."""
    found = []
    for item in items:
        words = [_first_piece(model, item.prompt, text) for text in (item.answers[0], item.distractors[0])]
        if words[0] and words[1] and words[0] != words[1]:
            found.append(ContrastPrompt(item.prompt, words[0], words[1]))
    return tuple(found)


def _first_piece(model: HookedModel, prompt: str, text: str) -> str:
    """The text of the first token after a prompt, "" where that text alone is not this one token again."""
    head, tail = model.text.split(prompt, text)
    piece = model.decode(tail[:1], after=prompt)
    is_apart = head == model.text.encode(prompt) and bool(piece)
    return piece if is_apart and model.text.split(prompt, piece) == (head, tail[:1]) else ""


def question_fitting(items: Sequence[TaskItem]) -> Callable[[HookedModel], FittingData]:
    """Texts that end in the answer against texts that end in a distractor, from the *identify* items."""
    chosen = [item for item in items if item.split == "identify"]

    def fit_data(model: HookedModel) -> FittingData:
        pairs = answer_pairs(chosen)
        return FittingData(
            tuple(pair.positive for pair in pairs),
            tuple(pair.negative for pair in pairs),
            pairs=pairs,
            contrast_prompts=contrast_prompts(model, chosen),
        )

    return fit_data
