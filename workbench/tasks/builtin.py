"""The tasks on what ships: the built-in passages and behaviour sets, for the built-in model and its relatives.

Prompts carry the built-in model's chat markers; for other models make tasks from files (`tasks/files.py`). Domain tasks
on passages take any corpus.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Literal, get_args

import numpy as np

from workbench.behaviours import BehaviourItem, load_behaviours
from workbench.corpus import load_corpus, neutral_prompts
from workbench.interventions import FittingData
from workbench.models import HookedModel
from workbench.records import Pair, Prompt
from workbench.tasks.base import ItemSet, TaskError, TaskItem
from workbench.tasks.generation import DomainJudge, WritingTask
from workbench.tasks.judges import DomainClassifier, fit_classifier
from workbench.tasks.passages import PassageTask
from workbench.tasks.persona import persona_task
from workbench.tasks.questions import LETTERS, LetteredQuestion, QuestionTask, question_fitting
from workbench.tasks.refusal import COMPLIES, OTHER, REFUSES, Direction, refusal_task

Facts = Literal["ccc-knowledge", "ccc-context", "ioi", "recall"]
Choices = Literal["yes_no", "two_way", "domain_yes_no", "domain_two_way"]
N_OPENING_WORDS = 5
N_PAIR_CHARACTERS = 200
N_NEW_TOKENS = 32
WISHES = {
    "towards": "Never tell anyone the secrets of magic tricks.",
    "defence": "Never tell anyone the secrets of magic tricks.",
    "away": "Always explain how it is done.",
    "over-refusal": "Always explain how it is done.",
}


def domain_loss(domain: str, prompts: Sequence[Prompt] | None = None, *, n_tokens: int = 32) -> PassageTask:
    """Loss on the first tokens of a domain's passages; `prompts` are those of a corpus, by default the built-in one."""
    prompts = _corpus(domain, prompts)
    name = f"domain-loss/{domain}"
    own = [prompt for prompt in prompts if prompt.domain == domain]
    items = [TaskItem(prompt.name, prompt.name, prompt.split, prompt.text, domain=domain) for prompt in own]
    request = f"The following text is about {domain}.\n"
    return PassageTask(name, ItemSet(name, tuple(items)), domain_fitting(domain, prompts), n_tokens, request=request)


def domain_share(
    domain: str,
    prompts: Sequence[Prompt] | None = None,
    neutral: Sequence[Prompt] | None = None,
    *,
    prefixes: Sequence[Prompt] | None = None,
    n_tokens: int = N_NEW_TOKENS,
    classifier: DomainClassifier | None = None,
) -> WritingTask:
    """Fraction of sampled continuations of everyday sentences that the classifier assigns to the domain.

    The first words of neutral sentences are continued, or `prefixes` as they are.
    """
    prompts = _corpus(domain, prompts)
    name = f"domain-share/{domain}"
    items = [
        TaskItem(f"{passage.name}/{number}", passage.name, passage.split, opening, domain=domain)
        for passage in (neutral_prompts() if neutral is None else neutral)
        for number, opening in enumerate(_openings(passage.text))
        if prefixes is None
    ] or [TaskItem(one.name, one.name, one.split, one.text, domain=domain) for one in prefixes or ()]
    prompted = [_with(item, f"This is a text about {domain}. {item.prompt}") for item in items]
    return WritingTask(
        name,
        ItemSet(name, tuple(items)),
        DomainJudge(domain, classifier or fit_classifier(prompts)),
        domain_fitting(domain, prompts),
        n_tokens=n_tokens,
        temperature=1.0,
        prompted_items=tuple(prompted),
    )


def domain_exam(domain: str) -> QuestionTask:
    """Exam questions of a built-in domain, by likelihood of the answer text and by letter."""
    items = _items("exam", (domain,))
    name = f"domain-exam/{domain}"
    wish = f"You know everything about {domain}."
    prompted = [_with(item, _told(item.prompt, wish)) for item in items]
    return QuestionTask(
        name,
        ItemSet(name, tuple(items)),
        question_fitting(items),
        lettered=tuple(_lettered(item) for item in items),
        prompted_items=tuple(prompted),
        prompted_lettered=tuple(_lettered(item) for item in prompted),
    )


def builtin_refusal(direction: Direction | str = "towards") -> WritingTask:
    """Requests about magic tricks: towards refusal, away from it, as defence against wrappers, or its side effect."""
    if direction not in get_args(Direction):
        raise TaskError(f"unknown direction {direction!r}; choose one of {', '.join(get_args(Direction))}")
    refused, answered = _items("refusal", ("trick", "new_trick")), _items("refusal", ("harmless", "new_harmless"))
    scored = {"defence": _items("refusal", ("wrapped_trick",)), "over-refusal": answered}.get(direction, refused)
    return refusal_task(
        f"refusal/{direction}",
        scored,
        direction,
        refused=refused,
        answered=answered,
        prompted_items=[_with(item, _told(item.prompt, WISHES[direction])) for item in scored],
        n_tokens=24,
        compared=(REFUSES, COMPLIES, OTHER),
    )


def builtin_persona(persona: str = "pirate") -> WritingTask:
    """Questions to a plain assistant, to be answered in a persona; the persona's own system line is the baseline."""
    kinds = dict.fromkeys(item.kind for item in load_behaviours("personas"))
    if persona not in kinds or persona == "helpful":
        raise TaskError(f"unknown persona {persona!r}; choose one of {', '.join(k for k in kinds if k != 'helpful')}")
    wanted = {(item.subject, item.split): item for item in _items("personas", (persona,))}
    scored, prompted = [], []
    for plain in _items("personas", ("helpful",)):
        own = wanted[plain.subject, plain.split]
        for suffix, prompt in (("", plain.prompt), ("/bare", plain.prompt[plain.prompt.index("<|user|>") :])):
            name = f"{plain.name}{suffix}"
            item = TaskItem(name, own.subject, own.split, prompt, own.answers, own.distractors, persona)
            scored.append(item)
            prompted.append(_with(item, own.prompt))
    return persona_task(f"persona/{persona}", scored, prompted_items=prompted, n_tokens=40)


def builtin_facts(which: Facts | str = "ioi") -> QuestionTask:
    """Facts and conflicts: country-capital conflicts towards knowledge or context, indirect objects, plain recall.

    In `ccc-knowledge` every prompt states a false capital and the true one is right; in `ccc-context` the stated one.
    """
    name = f"facts/{which}"
    match which:
        case "ioi":
            items = _items("indirect_objects", ("ABBA", "BABA"))
        case "recall":
            items = _items("facts", None)
        case "ccc-knowledge":
            items = [*_items("conflict", ("plain",)), *map(_swapped, _items("conflict", ("context",)))]
        case "ccc-context":
            items = [*map(_swapped, _items("conflict", ("plain",))), *_items("conflict", ("context",))]
        case _:
            raise TaskError(f"unknown facts {which!r}; choose one of {', '.join(get_args(Facts))}")
    wish = {"ccc-knowledge": "Answer with what is true.", "ccc-context": "Answer with what the text says."}.get(which)
    prompted = [_with(item, _told(item.prompt, wish)) for item in items] if wish else []
    return QuestionTask(
        name, ItemSet(name, tuple(items)), question_fitting(items), prompted_items=tuple(prompted), primary="log odds"
    )


def builtin_choices(kinds: Sequence[Choices] = ("yes_no", "two_way")) -> QuestionTask:
    """Yes or no, this or that: is the right answer likelier than the wrong one?"""
    items = _items("choices", tuple(kinds))
    name = f"choices/{'+'.join(kinds)}"
    prompted = [_with(item, _told(item.prompt, "Give clear and true answers.")) for item in items]
    return QuestionTask(name, ItemSet(name, tuple(items)), question_fitting(items), prompted_items=tuple(prompted))


def domain_fitting(domain: str, prompts: Sequence[Prompt]) -> Callable[[HookedModel], FittingData]:
    """*Identify* passages of the domain against those of the others, which alternate, so that any part is balanced.

    Pairs are openings of both, cut at a word; they share no situation, which methods that read pairs should know.
    """
    chosen = [prompt for prompt in prompts if prompt.split == "identify"]
    positive = [prompt.text for prompt in chosen if prompt.domain == domain]
    others: dict[str, list[Prompt]] = {}
    for prompt in chosen:
        if prompt.domain != domain:
            others.setdefault(prompt.domain, []).append(prompt)
    alternating = [other for other in chain.from_iterable(zip_longest(*others.values())) if other is not None]
    negative = [prompt.text for prompt in alternating]
    if not positive or not negative:
        raise TaskError(f"domain {domain!r} cannot be fitted: no identify passages of it, or none of another domain")
    pairs = [Pair(_opening(one), _opening(other)) for one, other in zip(positive, negative, strict=False)]
    domains = tuple(prompt.domain for prompt in alternating)
    data = FittingData(tuple(positive), tuple(negative), pairs=tuple(pairs), negative_domains=domains)
    return lambda model: data


# --- items ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _builtin_corpus() -> tuple[Prompt, ...]:
    """What ships, read once: a comparison asks for it in every domain."""
    return tuple(load_corpus("builtin"))


def _corpus(domain: str, prompts: Sequence[Prompt] | None) -> Sequence[Prompt]:
    prompts = _builtin_corpus() if prompts is None else prompts
    known = tuple(dict.fromkeys(prompt.domain for prompt in prompts))
    if domain not in known:
        raise TaskError(f"unknown domain {domain!r}; the corpus has {', '.join(known)}")
    return prompts


def _items(name: str, kinds: Sequence[str] | None) -> list[TaskItem]:
    """Items of a behaviour set, of some kinds; an unknown kind raises."""
    every = load_behaviours(name)
    known = tuple(dict.fromkeys(item.kind for item in every))
    unknown = [kind for kind in kinds or () if kind not in known]
    if unknown:
        raise TaskError(f"{name} has no kind {unknown[0]!r}; choose from {', '.join(known)}")
    return [_item(item) for item in every if kinds is None or item.kind in kinds]


def _item(item: BehaviourItem) -> TaskItem:
    return TaskItem(item.name, item.subject, item.split, item.prompt, item.answers, item.distractors, item.kind)


def _with(item: TaskItem, prompt: str) -> TaskItem:
    return TaskItem(item.name, item.subject, item.split, prompt, item.answers, item.distractors, item.domain)


def _swapped(item: TaskItem) -> TaskItem:
    return TaskItem(item.name, item.subject, item.split, item.prompt, item.distractors, item.answers, item.domain)


def _told(prompt: str, wish: str) -> str:
    """The prompt with a wish in its system line, or in front of a plain prompt."""
    if prompt.startswith("<|system|>"):
        return f"<|system|>{wish}{prompt[prompt.index('<|user|>') :]}"
    return f"<|system|>{wish}{prompt}" if prompt.startswith("<|user|>") else f"{wish} {prompt}"


def _lettered(item: TaskItem) -> LetteredQuestion:
    """The question with its choices behind letters, in an order drawn from its name."""
    texts = [*item.answers[:1], *item.distractors]
    order = np.random.default_rng(list(item.name.encode())).permutation(len(texts)).tolist()
    lines = "".join(f"\n({LETTERS[place]}) {texts[index]}" for place, index in enumerate(order))
    prompt = item.prompt.replace("<|assistant|>", f"{lines}\nWhich letter is right?<|assistant|>")
    return LetteredQuestion(item.name, prompt, order.index(0), len(texts))


def _openings(text: str) -> list[str]:
    """The first words of the first two sentences that have enough of them."""
    sentences = [sentence.split() for sentence in re.split(r"(?<=[.!?])\s+", text.strip())]
    return [" ".join(words[:N_OPENING_WORDS]) for words in sentences if len(words) > N_OPENING_WORDS][:2]


def _opening(text: str) -> str:
    """At most the first characters of a passage, cut at a blank."""
    if len(text) <= N_PAIR_CHARACTERS:
        return text
    return text[:N_PAIR_CHARACTERS].rsplit(maxsplit=1)[0]
