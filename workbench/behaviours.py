"""The behaviour test sets that ship beside the built-in model, and the rules by which a continuation is judged.

A set is a list of prompts in phrasings that the model was never trained on. Texts carry no BOS marker (the tokenizer
adds it) and are complete: plain questions end before the answer, chat prompts end in the assistant marker.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

import numpy as np

from workbench.records import SPLITS, RecordError, Split

BehaviourSet = Literal["refusal", "personas", "facts", "conflict", "indirect_objects", "choices", "exam"]
BEHAVIOUR_SETS: tuple[BehaviourSet, ...] = get_args(BehaviourSet)
Judgement = Literal["starts", "contains", "likelihood"]
N_FIELDS_WITH_ANSWERS = 6


@dataclass(frozen=True)
class BehaviourItem:
    """One prompt with the texts that count as right and the texts it is compared with.

    `answers` and `distractors` stand exactly as they would follow the prompt, with a leading space where the prompt has
    none. `kind` names the sub-set (`trick`, `country_capital`, `context` ...); items of the same `subject` are not
    independent and never lie in different splits of a set. `judged` says how: `starts` = the continuation begins with
    an answer; `contains` = it contains an answer (if there are any) and no distractor; `likelihood` = the answer is
    more likely than every distractor.
    """

    name: str
    kind: str
    split: Split
    subject: str
    prompt: str
    judged: Judgement
    answers: tuple[str, ...]
    distractors: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.prompt or "<|bos|>" in self.prompt:
            raise ValueError(f"item {self.name}: expected a prompt without BOS marker, given {self.prompt[:60]!r}")
        if self.split not in SPLITS:
            raise ValueError(f"item {self.name} has split {self.split!r}; expected one of {', '.join(SPLITS)}")
        if self.judged not in get_args(Judgement):
            raise ValueError(f"item {self.name} is judged by {self.judged!r}; expected one of {get_args(Judgement)}")
        if not self.answers and not (self.judged == "contains" and self.distractors):
            raise ValueError(f"item {self.name} has no answer")
        if self.judged == "likelihood" and not self.distractors:
            raise ValueError(f"item {self.name} is judged by likelihood, but has no distractor")
        if set(self.answers) & set(self.distractors):
            raise ValueError(f"item {self.name} has the same text as answer and distractor")

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is in the chat format (markers and all) rather than plain text."""
        return self.prompt.endswith("<|assistant|>")


def load_behaviours(name: str, *, kind: str | None = None, split: str | None = None) -> list[BehaviourItem]:
    """The items of one shipped set, or those of one kind and/or split; raises if there are none."""
    items = _read(name)
    kinds = tuple(dict.fromkeys(item.kind for item in items))
    if kind is not None and kind not in kinds:
        raise ValueError(f"behaviour set {name!r} has no kind {kind!r}; choose one of {', '.join(kinds)}")
    if split is not None and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    return [item for item in items if kind in (None, item.kind) and split in (None, item.split)]


def is_right(item: BehaviourItem, continuation: str) -> bool:
    """Whether generated text is right by the item's own rule; case counts for `starts`, not for `contains`."""
    if item.judged == "starts":
        text = continuation.lstrip()
        return any(_whole_words(answer).match(text) is not None for answer in item.answers)
    if item.judged == "contains":
        wanted = not item.answers or _holds_one(item.answers, continuation)
        return wanted and not _holds_one(item.distractors, continuation)
    raise ValueError(f"item {item.name} is judged by likelihood; use log_odds on the likelihoods of its texts")


def log_odds(answer: float, distractors: list[float]) -> float:
    """Log-odds in nats of the answer text against all distractors together, from total log likelihoods in nats."""
    return float(answer - np.logaddexp.reduce(np.array(distractors, dtype=np.float64)))


def _whole_words(text: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text.strip())}(?!\w)", flags)


def _holds_one(texts: tuple[str, ...], continuation: str) -> bool:
    return any(_whole_words(text, re.IGNORECASE).search(continuation) for text in texts)


@cache
def _read(name: str) -> tuple[BehaviourItem, ...]:
    if name not in BEHAVIOUR_SETS:
        raise ValueError(f"unknown behaviour set {name!r}; choose one of {', '.join(BEHAVIOUR_SETS)}")
    path = files("workbench") / "builtin" / "behaviours" / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise RecordError(
            f"behaviour set {name!r} is missing or damaged ({error}); install the package again"
        ) from error
    return tuple(_item(name, index, row, content["kinds"]) for index, row in enumerate(content["items"]))


def _item(name: str, index: int, row: list[Any], kinds: dict[str, dict[str, Any]]) -> BehaviourItem:
    """Rows hold kind, split, subject, prompt and, unless the whole kind shares them, answers and distractors."""
    kind, split, subject, prompt = row[:4]
    shared = kinds[kind]
    answers, distractors = row[4:] if len(row) == N_FIELDS_WITH_ANSWERS else (shared["answers"], shared["distractors"])
    return BehaviourItem(
        f"{name}/{index}", kind, split, subject, prompt, shared["judged"], tuple(answers), tuple(distractors)
    )
