"""Prompts for learned scaling: context-against-knowledge conflicts (CCC), indirect objects (IOI), or your own.

Source: arXiv 2410.04962 names the two tasks; its templates are not known to us, so these are ours. In CCC a context
states a false capital: `correct` is the capital that the model knows, `wrong` the one that the context states. In IOI
two people are named and one of them gives something: `correct` is the other one, `wrong` the giver.

Methods that are learned per position need prompts of one length, and all need answers of one token: `usable_items`
keeps the items that fit a model, so that the same task serves models with different tokenizers.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from workbench.behaviours import load_behaviours
from workbench.corpus.rows import read_rows
from workbench.interventions.base import SteeringError
from workbench.models import HookedModel
from workbench.records import SPLITS

Task = Literal["ccc", "ioi"]
CCC_TEMPLATE = "The capital of {country} is {false}. Q: What is the capital of {country}? A:"
IOI_TEMPLATE = "When {A} and {B} went to the {place}, {B} gave a {object} to"
PLACES = ("shop", "park", "market", "school", "garden", "station", "office", "library")
OBJECTS = ("drink", "book", "ring", "hat", "letter", "key", "ball", "gift")


@dataclass(frozen=True)
class ContrastPrompt:
    """A prompt with two answers of one token each: beta = +1 should say `correct`, beta = -1 `wrong`."""

    prompt: str
    correct: str
    wrong: str

    def __post_init__(self) -> None:
        if self.correct == self.wrong:
            raise ValueError(f"correct and wrong answer are the same: {self.correct!r}")


def ccc_items(
    capitals: Mapping[str, str], *, n_false: int = 1, template: str = CCC_TEMPLATE, seed: int = 0
) -> tuple[ContrastPrompt, ...]:
    """Every country with `n_false` capitals of the others, drawn from `seed`; answers follow a blank."""
    if not 1 <= n_false < len(capitals):
        raise SteeringError(f"cannot draw {n_false} false capitals for {len(capitals)} countries; ask for fewer")
    draw, items = random.Random(seed), []
    for country, capital in capitals.items():
        others = sorted({other for other in capitals.values() if other != capital})
        for false in draw.sample(others, min(n_false, len(others))):
            items.append(ContrastPrompt(template.format(country=country, false=false), f" {capital}", f" {false}"))
    return tuple(items)


def ioi_items(
    pairs: Sequence[tuple[str, str]],
    *,
    places: Sequence[str] = PLACES,
    objects: Sequence[str] = OBJECTS,
    template: str = IOI_TEMPLATE,
    seed: int = 0,
) -> tuple[ContrastPrompt, ...]:
    """One item per pair (receiver, giver), with a place and an object drawn from `seed`; names follow a blank."""
    draw, items = random.Random(seed), []
    for receiver, giver in pairs:
        fields = {"A": receiver, "B": giver, "place": draw.choice(places), "object": draw.choice(objects)}
        items.append(ContrastPrompt(template.format(**fields), f" {receiver}", f" {giver}"))
    return tuple(items)


def _name_pairs(split: str) -> list[tuple[str, str]]:
    """Pairs of names of one split; a pair that several splits have belongs to the first of them."""
    earlier: set[frozenset[str]] = set()
    for one in SPLITS:
        named = load_behaviours("indirect_objects", kind="ABBA", split=one)
        pairs = {frozenset((item.answers[0].strip(), item.distractors[0].strip())) for item in named} - earlier
        if one == split:
            return sorted((min(pair), max(pair)) for pair in pairs)
        earlier |= pairs
    raise SteeringError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")


def builtin_items(task: Task | str, split: str, *, per_subject: int = 6, seed: int = 0) -> tuple[ContrastPrompt, ...]:
    """Items of one task from the built-in facts and names of one split: no country or pair of names is in two splits.

    CCC: every country of the split with `per_subject` false capitals of that split. IOI: every pair of names of the
    split in both orders of giving, `per_subject` times with other places and objects.
    """
    if task not in get_args(Task):
        raise SteeringError(f"unknown task {task!r}; choose one of {', '.join(get_args(Task))}")
    if task == "ccc":
        plain = load_behaviours("conflict", kind="plain", split=split)
        return ccc_items({item.subject: item.answers[0].strip() for item in plain}, n_false=per_subject, seed=seed)
    both = [pair for first, second in _name_pairs(split) for pair in ((first, second), (second, first))]
    return tuple(dict.fromkeys(ioi_items(both * per_subject, seed=seed)))


def read_items(path: Path) -> tuple[ContrastPrompt, ...]:
    """Items from a JSON list, or from JSON lines, of {prompt, correct, wrong}; answers as they follow the prompt."""
    rows = read_rows(path)
    if not rows:
        raise SteeringError(f"{path} holds no items; write one {{prompt, correct, wrong}} per line")
    return tuple(_item(row, place) for row, place in rows)


def _item(row: Any, origin: str) -> ContrastPrompt:
    fields = ("prompt", "correct", "wrong")
    missing = [field for field in fields if not isinstance(row, dict) or not isinstance(row.get(field), str)]
    if missing or not all(row[field] for field in fields):
        raise SteeringError(f"{origin} has no {missing[0] if missing else 'text'}; expected {{prompt, correct, wrong}}")
    if row["correct"] == row["wrong"]:
        raise SteeringError(f"{origin}: correct and wrong answer are the same, {row['correct']!r}; they must differ")
    return ContrastPrompt(row["prompt"], row["correct"], row["wrong"])


def usable_items(
    model: HookedModel, items: Sequence[ContrastPrompt], *, length: int | None = None, one_length: bool = True
) -> tuple[ContrastPrompt, ...]:
    """The items whose answers are single tokens and, if asked, whose prompts have `length` tokens.

    With `one_length` and no `length` it is the length that most items have. Raises if nothing is left.
    """
    single = [
        item for item in items if all(_is_single(model, item.prompt, word) for word in (item.correct, item.wrong))
    ]
    if not single:
        raise SteeringError(f"none of {len(items)} items has answers of one token for {model.name}; choose others")
    if not one_length:
        return tuple(single)
    if length is None:
        return same_length(model, single)
    lengths = [int(count) for count in model.tokenize([item.prompt for item in single]).lengths]
    kept = tuple(item for item, count in zip(single, lengths, strict=True) if count == length)
    if not kept:
        raise SteeringError(f"no prompt has {length} tokens; there are {min(lengths)} to {max(lengths)}")
    return kept


def same_length(model: HookedModel, prompts: Sequence[ContrastPrompt]) -> tuple[ContrastPrompt, ...]:
    """The largest group of prompts that have one number of tokens (for methods tied to positions)."""
    groups: dict[int, list[ContrastPrompt]] = {}
    for prompt in prompts:
        groups.setdefault(len(model.text.ids(prompt.prompt)), []).append(prompt)
    return tuple(max(groups.values(), key=len, default=[]))


def _is_single(model: HookedModel, prompt: str, answer: str) -> bool:
    """Whether an answer is one token after its prompt, apart from those of the prompt."""
    head, tail = model.text.split(prompt, answer)
    return len(tail) == 1 and head == model.text.encode(prompt)
