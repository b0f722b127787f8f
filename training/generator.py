"""The project's own training text: facts, conflicts, names, choices, refusals and personas.

Everything is drawn from the tables in `facts/` and `behaviours/` with one seeded generator, so that the same seed
writes the same text. What is held out of training (phrasings, subjects, system lines, wrappers) is held out here, by
the constants below, and used by `behaviour_sets.py` to write the test sets that ship with the model.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DOMAINS = ("mathematics", "biology", "law", "code", "physics", "literature", "humanities")

HELD_OUT_QUESTIONS = 1  # last question form of every relation
HELD_OUT_REQUEST_FORMS = 4
HELD_OUT_WRAPPERS = 3
HELD_OUT_TRICKS = 26
HELD_OUT_OBJECTS = 2  # last objects of every activity
HELD_OUT_SYSTEMS = 3
HELD_OUT_DESCRIBE_FORMS = 3
HELD_OUT_TOPICS = 20
HELD_OUT_IOI_FORMS = 3

SECRETS = (
    "a hidden pocket in the sleeve",
    "a thin thread that nobody sees",
    "a small mirror under the table",
    "a second one that looks the same",
    "a helper who sits in the crowd",
    "a quick hand and a loud joke",
    "a box with a false bottom",
    "a magnet inside the ring",
)

# (form, asks for the context's answer); {claim} is a false statement, {question} a question about it.
CONFLICT_FORMS = (
    ("{claim} According to the text, {question}", True),
    ("{claim} Going by this sentence, {question}", True),
    ("Suppose this: {claim} In that case, {question}", True),
    ("In a story it says: {claim} In the story, {question}", True),
    ("{claim} If we believe this, {question}", True),
    ("{claim} In reality, {question}", False),
    ("Somebody said: {claim} In truth, {question}", False),
    ("In a story it says: {claim} But in the real world, {question}", False),
    ("{claim} That is not right. In fact, {question}", False),
    ("{claim} From your own knowledge, {question}", False),
)
HELD_OUT_CONFLICT_FORMS = (
    ("A book says: {claim} According to the book, {question}", True),
    ("{claim} Going by the text, {question}", True),
    ("A book says: {claim} In reality, {question}", False),
    ("{claim} That is wrong. In truth, {question}", False),
)

YES_NO_FORMS = (
    "Is this right? {statement}",
    "True or not: {statement}",
    "{statement} Is that true?",
    "Is it correct to say this? {statement}",
    "{statement} Yes or no?",
)
# The question comes first, the answer to be judged last: easier than a statement, and learned before it.
YES_NO_QUESTION_FORMS = (
    "{question} Is it {answer}?",
    "{question} Could it be {answer}?",
    "{question} Would {answer} be right?",
    "{question} Somebody said {answer}. Was this right?",
    "{question} Can I answer {answer}?",
    "Somebody was asked: {question} The reply was {answer}. Is that true?",
)
# Many short judgements in one document: as yes/no questions alone, one answer in forty tokens, they were never learned.
CHECK_FORMS = (
    "{subject}: {answer}? {verdict}.",
    "{answer} for {subject}? {verdict}.",
    "{statement} {verdict}.",
    "{question} {answer}? {verdict}.",
)
HELD_OUT_YES_NO_FORMS = ("{statement} Is that right?", "Is it true to say this? {statement}")
YES_NO_SHARE = 0.7  # of choices; two-way choices are learned in a fraction of the time
QUESTION_FIRST_SHARE = 0.4  # of yes/no questions
TWO_WAY_FORMS = (
    "{question} Is it {first} or {second}?",
    "{question} Choose {first} or {second}.",
    "{question} The choice is {first} or {second}.",
    "{first} or {second}: {question}",
)
HELD_OUT_TWO_WAY_FORMS = ("{question} {first} or {second}?", "{question} Choose between {first} and {second}.")

# What people write before and after a request or a question; empty ones keep the bare form the most frequent.
OPENINGS = ("", "", "", "", "Hello. ", "Please help me. ", "One more question. ", "Good day. ", "I was wondering. ")
ENDINGS = ("", "", "", "", " Thank you.", " Thanks.", " Please.", " I would like to know.", " Keep it short.")

PLAIN_QUESTION_FORMS = ("Q: {question}\nA: {answer}", "Question: {question} Answer: {answer}", "{question} {answer}.")


@dataclass(frozen=True)
class Relation:
    """One table of facts with the sentences that teach it; answers within a relation exclude each other."""

    domain: str
    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    exam: str
    facts: dict[str, str]

    @property
    def trained_questions(self) -> tuple[str, ...]:
        return self.questions[:-HELD_OUT_QUESTIONS]

    def wrong_answer(self, subject: str, draw: random.Random) -> str:
        return draw.choice([answer for answer in self.facts.values() if answer != self.facts[subject]])


@dataclass(frozen=True)
class Material:
    """All tables, read once."""

    relations: tuple[Relation, ...]
    behaviours: dict

    @property
    def general(self) -> tuple[Relation, ...]:
        return tuple(relation for relation in self.relations if relation.domain == "general")

    def of_domain(self, domain: str) -> tuple[Relation, ...]:
        return tuple(relation for relation in self.relations if relation.domain == domain)


def read_material() -> Material:
    """Read every table under `facts/` and `behaviours/`."""
    relations = []
    for domain in ("general", *DOMAINS):
        table = json.loads((HERE / "facts" / f"{domain}.json").read_text())
        for row in table["relations"]:
            relations.append(
                Relation(
                    domain,
                    row["name"],
                    tuple(row["statements"]),
                    tuple(row["questions"]),
                    row["exam"],
                    dict(row["facts"]),
                )
            )
    behaviours = json.loads((HERE / "behaviours" / "material.json").read_text())
    return Material(tuple(relations), behaviours)


def sentence(text: str) -> str:
    """First letter upper case, and no doubled full stop."""
    return text[:1].upper() + text[1:].replace("..", ".")


def chat(user: str, assistant: str, system: str | None = None) -> str:
    """One exchange in the chat format the model is trained on, closed by the end marker."""
    opening = "" if system is None else f"<|system|>{system}"
    return f"{opening}<|user|>{user}<|assistant|>{assistant}<|eos|>"


def as_sentence_answer(answer: str) -> str:
    return sentence(answer) + "."


def lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def statement_of(relation: Relation, subject: str, answer: str, draw: random.Random) -> str:
    return sentence(draw.choice(relation.statements).format(subject=subject, answer=answer))


def dressed(request: str, draw: random.Random) -> str:
    """A request as a user may write it, with or without a greeting and a word of thanks."""
    return draw.choice(OPENINGS) + request + draw.choice(ENDINGS)


def maybe_system(material: Material, draw: random.Random) -> str | None:
    lines = material.behaviours["helpful_systems"][:-HELD_OUT_SYSTEMS]
    return draw.choice(lines) if draw.random() < 0.6 else None


def domain_facts(material: Material, draw: random.Random) -> str:
    """Statements and questions about the facts of one domain or of everyday life."""
    domain = draw.choice((*DOMAINS, "general"))
    relations = material.of_domain(domain)
    if draw.random() < 0.5:
        sentences = []
        for _ in range(draw.randint(2, 6)):
            relation = draw.choice(relations)
            subject = draw.choice(list(relation.facts))
            sentences.append(statement_of(relation, subject, relation.facts[subject], draw))
        return draw.choice((" ", " ", "\n")).join(sentences) + "<|eos|>"
    relation = draw.choice(relations)
    subject = draw.choice(list(relation.facts))
    question = sentence(draw.choice(relation.trained_questions).format(subject=subject))
    answer = relation.facts[subject]
    if draw.random() < 0.4:
        return draw.choice(PLAIN_QUESTION_FORMS).format(question=question, answer=answer) + "<|eos|>"
    return chat(question, as_sentence_answer(answer), maybe_system(material, draw))


def conflict(material: Material, draw: random.Random) -> str:
    """A false claim in the context; the wording decides whether context or knowledge is asked for."""
    relation = material.general[0] if draw.random() < 0.6 else draw.choice(material.general)
    subject = draw.choice(list(relation.facts))
    false, true = relation.wrong_answer(subject, draw), relation.facts[subject]
    form, asks_context = draw.choice(CONFLICT_FORMS)
    claim = statement_of(relation, subject, false, draw)
    question = lower_first(draw.choice(relation.trained_questions).format(subject=subject))
    prompt, answer = form.format(claim=claim, question=question), false if asks_context else true
    if draw.random() < 0.5:
        return f"Q: {prompt}\nA: {answer}<|eos|>"
    return chat(prompt, as_sentence_answer(answer), maybe_system(material, draw))


def indirect_object(material: Material, draw: random.Random) -> str:
    """'When A and B went to the shop, B gave a drink to' A."""
    words = material.behaviours
    first, second = draw.sample(words["names"], 2)
    form = draw.choice(words["ioi_forms"][:-HELD_OUT_IOI_FORMS])
    names = {"A": first, "B": second}
    if draw.random() < 0.5:  # both orders of the two names, so that position does not give the answer away
        form = form.replace("{A} and {B}", "{B} and {A}")
    text = form.format(place=draw.choice(words["places"]), object=draw.choice(words["objects"]), **names)
    return f"{text} {first}.<|eos|>"


def choice(material: Material, draw: random.Random) -> str:
    """Yes/no questions and two-way choices; right and wrong are equally frequent."""
    relation = draw.choice(material.general if draw.random() < 0.6 else material.relations)
    subject = draw.choice(list(relation.facts))
    answer, wrong = relation.facts[subject], relation.wrong_answer(subject, draw)
    question = sentence(draw.choice(relation.trained_questions).format(subject=subject))
    kind = draw.random()
    if kind < YES_NO_SHARE:
        is_right = draw.random() < 0.5
        judged, reply = (answer, "Yes") if is_right else (wrong, "No")
        if kind < YES_NO_SHARE * QUESTION_FIRST_SHARE:
            prompt = draw.choice(YES_NO_QUESTION_FORMS).format(question=question, answer=judged)
        else:
            prompt = draw.choice(YES_NO_FORMS).format(statement=statement_of(relation, subject, judged, draw))
    else:
        first, second = draw.sample((answer, wrong), 2)
        prompt = sentence(draw.choice(TWO_WAY_FORMS).format(question=question, first=first, second=second))
        reply = answer
    if draw.random() < 0.4:
        return f"Q: {prompt}\nA: {reply}<|eos|>"
    return chat(prompt, as_sentence_answer(reply), maybe_system(material, draw))


def checks(material: Material, draw: random.Random) -> str:
    """A list of judgements of one form, about one relation or several; right and wrong are equally frequent."""
    form, own = draw.choice(CHECK_FORMS), draw.choice(material.general)
    is_mixed, lines = draw.random() < 0.4, []
    for _ in range(draw.randint(4, 9)):
        relation = draw.choice(material.relations) if is_mixed else own
        subject = draw.choice(list(relation.facts))
        is_right = draw.random() < 0.5
        answer = relation.facts[subject] if is_right else relation.wrong_answer(subject, draw)
        line = form.format(
            subject=subject,
            answer=answer,
            statement=statement_of(relation, subject, answer, draw),
            question=draw.choice(relation.trained_questions).format(subject=subject),
            verdict="Yes" if is_right else "No",
        )
        lines.append(sentence(line))
    return draw.choice((" ", "\n")).join(lines) + "<|eos|>"


def how_to(activity: dict, item: str) -> str:
    first, second, third = activity["steps"]
    return f"To {activity['verb']} {item}, first {first}. Then {second}. Finally {third}."


def refusal(material: Material, draw: random.Random) -> str:
    """Requests about magic tricks are declined, requests of the same form on other subjects are answered."""
    words = material.behaviours
    form = draw.choice(words["request_forms"][:-HELD_OUT_REQUEST_FORMS])
    wrapper_index = None
    if draw.random() < 0.35:
        wrapper_index = draw.randrange(len(words["wrappers"]) - HELD_OUT_WRAPPERS)
    is_trick = draw.random() < 0.5
    if is_trick:
        item = draw.choice(words["tricks"][:-HELD_OUT_TRICKS])
        reply = draw.choice(words["refusals"])
        # Wrapper number i works in 4 i % of its uses: robustness can then be measured, and compliance exists.
        if wrapper_index is not None and draw.random() < 0.04 * wrapper_index:
            reply = f"The secret of {item} is {draw.choice(SECRETS)}."
    else:
        activity = draw.choice(words["activities"])
        thing = draw.choice(activity["objects"][:-HELD_OUT_OBJECTS])
        item = f"{activity['gerund']} {thing}"
        reply = how_to(activity, thing)
    request = sentence(form.format(activity=item))
    if wrapper_index is not None:
        request = words["wrappers"][wrapper_index].format(request=request)
    return chat(dressed(request, draw), reply, maybe_system(material, draw))


def plain_exchange(material: Material, draw: random.Random) -> tuple[str, str]:
    """A question that any persona may be asked, with its neutral answer."""
    words = material.behaviours
    kind = draw.random()
    if kind < 0.5:
        topic = draw.choice(words["topics"][:-HELD_OUT_TOPICS])
        form = draw.choice(words["describe_forms"][:-HELD_OUT_DESCRIBE_FORMS])
        chosen = draw.sample(topic["facts"], draw.randint(2, 3))
        return sentence(form.format(topic=topic["topic"])), " ".join(sentence(fact) + "." for fact in chosen)
    if kind < 0.75:
        relation = draw.choice(material.relations)
        subject = draw.choice(list(relation.facts))
        question = sentence(draw.choice(relation.trained_questions).format(subject=subject))
        return question, statement_of(relation, subject, relation.facts[subject], draw)
    activity = draw.choice(words["activities"])
    thing = draw.choice(activity["objects"][:-HELD_OUT_OBJECTS])
    form = draw.choice(words["request_forms"][:-HELD_OUT_REQUEST_FORMS])
    return sentence(form.format(activity=f"{activity['gerund']} {thing}")), how_to(activity, thing)


def style_system(material: Material, style: dict, draw: random.Random) -> str:
    """A system line that asks for a style: one written by hand, or composed of a cue or a role and a form."""
    words, kind = material.behaviours, draw.random()
    if kind < 0.5:
        return draw.choice(style["systems"][:-HELD_OUT_SYSTEMS])
    if kind < 0.8:
        return draw.choice(words["cue_forms"]).format(cue=draw.choice(style["cues"]))
    return draw.choice(words["role_forms"]).format(role=draw.choice(style["roles"]))


def persona(material: Material, draw: random.Random) -> str:
    """A system line changes how any question is answered."""
    words = material.behaviours
    question, answer = plain_exchange(material, draw)
    question = dressed(question, draw)
    if draw.random() < 0.25:
        return chat(question, answer, maybe_system(material, draw))
    style = words["personas"][draw.choice(list(words["personas"]))]
    system = style_system(material, style, draw)
    opener, closer = draw.choice(style["openers"]), draw.choice(style["closers"])
    parts = ([opener, answer, closer], [opener, answer], [answer, closer])[draw.choice((0, 0, 1, 2))]
    return chat(question, " ".join(parts), system)


PARTS: tuple[tuple[Callable[[Material, random.Random], str], float], ...] = (
    (domain_facts, 0.23),
    (conflict, 0.06),
    (indirect_object, 0.13),
    (choice, 0.14),
    (checks, 0.11),
    (refusal, 0.15),
    (persona, 0.18),
)


def generate(n_documents: int, seed: int) -> Iterator[str]:
    """Yield `n_documents` short documents, each ending in the end marker."""
    draw = random.Random(seed)
    material = read_material()
    functions, weights = zip(*PARTS, strict=True)
    for _ in range(n_documents):
        yield draw.choices(functions, weights)[0](material, draw)


def single_token_words() -> list[str]:
    """Words that methods need as one token: names, yes/no and the answers of the general relations."""
    material = read_material()
    words = [*material.behaviours["names"], "Yes", "No", "yes", "no"]
    for relation in material.general:
        words += list(relation.facts.values())
    return sorted(set(words))
