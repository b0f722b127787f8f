"""Responses in a persona and plain ones: from a file, or generated from the built-in persona prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.behaviours import BehaviourItem, is_right, load_behaviours
from workbench.corpus.rows import read_rows
from workbench.interventions.base import SteeringError
from workbench.interventions.style_heads import Exchange
from workbench.models import HookedModel

PLAIN = "helpful"
BATCH = 32


@dataclass(frozen=True)
class PersonaExchanges:
    """Exchanges in the persona and plain ones, question by question; `n_asked` questions were put before the filter."""

    positive: tuple[Exchange, ...]
    negative: tuple[Exchange, ...]
    n_asked: int


def builtin_personas() -> tuple[str, ...]:
    """Names of the personas that the built-in model was trained on."""
    kinds = dict.fromkeys(item.kind for item in load_behaviours("personas"))
    return tuple(kind for kind in kinds if kind != PLAIN)


def responses(
    model: HookedModel, prompts: Sequence[str], *, max_new_tokens: int = 32, temperature: float = 1.0, seed: int = 0
) -> list[str]:
    """One sampled continuation of every prompt."""
    found: list[str] = []
    for start in range(0, len(prompts), BATCH):
        tokens = model.tokenize(prompts[start : start + BATCH], side="left")
        rows = model.generate(tokens, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed + start)
        found += [model.decode(row, after=prompts[start + index]) for index, row in enumerate(rows)]
    return found


def persona_exchanges(
    model: HookedModel, persona: str, *, split: str = "identify", max_new_tokens: int = 32, seed: int = 0
) -> PersonaExchanges:
    """Ask the built-in questions in the persona and plainly, sample answers, and keep the questions that show both.

    As in the paper a question is kept where the persona's answer has its marks and the plain one has not; here the
    marks are its phrases, not a judge's score. Prompts are in the format of the built-in model. Raises if none is kept.
    """
    if persona not in builtin_personas():
        raise SteeringError(f"unknown persona {persona!r}; choose one of {', '.join(builtin_personas())}, or a file")
    items = load_behaviours("personas", kind=persona, split=split)
    plain = load_behaviours("personas", kind=PLAIN, split=split)
    questions = {question_of(item.prompt): item for item in plain}
    both = [(item, questions[question_of(item.prompt)]) for item in items if question_of(item.prompt) in questions]
    asked = [item.prompt for item, _ in both] + [other.prompt for _, other in both]
    answers = responses(model, asked, max_new_tokens=max_new_tokens, seed=seed)
    positive, negative = [], []
    for (item, other), said, plainly in zip(both, answers[: len(both)], answers[len(both) :], strict=True):
        if is_right(item, said) and plainly.strip() and not shows_persona(item, plainly):
            positive.append(Exchange(item.prompt, said))
            negative.append(Exchange(other.prompt, plainly))
    if not positive:
        raise SteeringError(
            f"in none of {len(both)} questions does {model.name} answer as {persona} when asked to and plainly when "
            "not; try another persona or more tokens, or pass responses of your own"
        )
    return PersonaExchanges(tuple(positive), tuple(negative), len(both))


def shows_persona(item: BehaviourItem, text: str) -> bool:
    """Whether a text has any of the phrases that mark the persona of an item."""
    return any(phrase in text.lower() for phrase in item.answers)


def question_of(prompt: str) -> str:
    """The part of a chat prompt after its system message."""
    return prompt[prompt.rfind("<|user|>") :]


def read_exchanges(path: Path) -> PersonaExchanges:
    """Exchanges from JSON lines of {prompt, positive, negative}: a prompt, a response in the persona, a plain one.

    `plain_prompt` may be given where the plain response followed another prompt.
    """
    rows = read_rows(path)
    if not rows:
        raise SteeringError(f"{path} holds no exchanges; write one {{prompt, positive, negative}} per line")
    both = [_exchange(row, place) for row, place in rows]
    return PersonaExchanges(tuple(one for one, _ in both), tuple(other for _, other in both), len(rows))


def _exchange(row: Any, origin: str) -> tuple[Exchange, Exchange]:
    for field in ("prompt", "positive", "negative"):
        if not isinstance(row, dict) or not isinstance(row.get(field), str) or not row[field].strip():
            raise SteeringError(f"{origin} has no {field}; expected {{prompt, positive, negative}}")
    if row["positive"] == row["negative"] and row["prompt"] == row.get("plain_prompt", row["prompt"]):
        raise SteeringError(f"{origin}: both responses are the same, so they show no contrast")
    return Exchange(row["prompt"], row["positive"]), Exchange(row.get("plain_prompt", row["prompt"]), row["negative"])
