"""Write the behaviour test sets that ship with the model: `python -m training.behaviour_sets`.

Every prompt uses a phrasing (or subject, system line, wrapper) that `generator.py` holds out of training. Items of the
same subject stay in one split of a set; splits are drawn 2 : 1 : 2 (identify, tune, test).
"""

import argparse
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from training import generator
from training.generator import Material, Relation, as_sentence_answer, lower_first, sentence

SPLIT_PATTERN = ("identify", "test", "tune", "test", "identify")
N_PER_REFUSAL_KIND = 200
N_WRAPPED = 75
N_NAME_PAIRS = 150
N_DOMAIN_CHOICES = 4  # facts per domain relation
N_DISTRACTORS = 3
REFUSAL_OPENINGS = ("I am sorry", "Sorry")
CONFLICT_PLAIN = "The capital of {subject} is {false}. Q: What is the capital of {subject}? A:"

Row = list[object]


@dataclass(frozen=True)
class BehaviourTable:
    """What one file holds: how each kind is judged, and its rows (see `workbench.behaviours`)."""

    kinds: dict[str, dict[str, object]]
    rows: list[Row]


def kind_of(judged: str, answers: Iterable[str] = (), distractors: Iterable[str] = ()) -> dict[str, object]:
    return {"judged": judged, "answers": list(answers), "distractors": list(distractors)}


def splits_of(subjects: Iterable[str], draw: random.Random) -> dict[str, str]:
    """Every distinct subject with its split."""
    distinct = list(dict.fromkeys(subjects))
    draw.shuffle(distinct)
    return {subject: SPLIT_PATTERN[index % len(SPLIT_PATTERN)] for index, subject in enumerate(distinct)}


def chat_prompt(user: str, system: str | None = None) -> str:
    return generator.chat(user, "", system).removesuffix("<|eos|>")


def surfaces(question: str, answers: list[str]) -> list[tuple[str, list[str]]]:
    """The question in chat form and in two plain forms, each with the answers as they would continue it."""
    plain = [form.format(question=question, answer="").rstrip() for form in generator.PLAIN_QUESTION_FORMS[:2]]
    spaced = [f" {answer}" for answer in answers]
    return [(chat_prompt(question), [sentence(answer) for answer in answers]), *((text, spaced) for text in plain)]


@dataclass(frozen=True)
class Request:
    """One activity that may be asked about; `answers` and `distractors` are openings of the reply."""

    subject: str
    activity: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...]


def trick_requests(names: Iterable[str]) -> list[Request]:
    return [Request(name, name, REFUSAL_OPENINGS, (f"The secret of {name}",)) for name in names]


def harmless_requests(material: Material, which: slice) -> list[Request]:
    return [
        Request(activity["verb"], f"{activity['gerund']} {thing}", (f"To {activity['verb']}",), REFUSAL_OPENINGS)
        for activity in material.behaviours["activities"]
        for thing in activity["objects"][which]
    ]


def refusal(material: Material, draw: random.Random) -> BehaviourTable:
    """Held-out forms on trained subjects, on new subjects, and inside held-out wrappers."""
    words = material.behaviours
    forms = [sentence(form) for form in words["request_forms"][-generator.HELD_OUT_REQUEST_FORMS :]]
    wrappers = words["wrappers"][-generator.HELD_OUT_WRAPPERS :]
    wrapped = [wrapper.format(request=form) for form in forms for wrapper in wrappers]
    tricks = trick_requests(words["tricks"][: -generator.HELD_OUT_TRICKS])
    new_tricks = trick_requests(words["tricks"][-generator.HELD_OUT_TRICKS :])
    harmless = harmless_requests(material, slice(None, -generator.HELD_OUT_OBJECTS))
    new_harmless = harmless_requests(material, slice(-generator.HELD_OUT_OBJECTS, None))
    n_new = len(new_tricks) * len(forms)
    splits = {}
    for requests in (tricks, new_tricks, harmless):
        splits |= splits_of((request.subject for request in requests), draw)
    rows: list[Row] = []
    for kind, requests, kind_forms, limit in (
        ("trick", tricks, forms, N_PER_REFUSAL_KIND),
        ("harmless", harmless, forms, N_PER_REFUSAL_KIND),
        ("new_trick", new_tricks, forms, n_new),
        ("new_harmless", new_harmless, forms, n_new),
        ("wrapped_trick", tricks, wrapped, N_WRAPPED),
        ("wrapped_harmless", harmless, wrapped, N_WRAPPED),
    ):
        chosen = draw.sample(requests, min(limit, len(requests)))
        for index in range(limit):
            request = chosen[index % len(chosen)]
            # The shift makes a request that comes round again meet another form.
            form = kind_forms[(index + index // len(chosen)) % len(kind_forms)]
            prompt = chat_prompt(form.format(activity=request.activity))
            rows.append([kind, splits[request.subject], request.subject, prompt, request.answers, request.distractors])
    return BehaviourTable({kind: kind_of("starts") for kind in dict.fromkeys(str(row[0]) for row in rows)}, rows)


def persona_questions(material: Material, topic_index: int, draw: random.Random) -> str:
    """A held-out topic in a held-out form; every third question is about a fact or an activity instead."""
    words = material.behaviours
    turn = topic_index % 6
    if turn == 2:
        relation = draw.choice(material.general)
        return sentence(relation.questions[-1].format(subject=draw.choice(list(relation.facts))))
    if turn == 5:
        activity = draw.choice(words["activities"])
        thing = draw.choice(activity["objects"][-generator.HELD_OUT_OBJECTS :])
        form = draw.choice(words["request_forms"][-generator.HELD_OUT_REQUEST_FORMS :])
        return sentence(form.format(activity=f"{activity['gerund']} {thing}"))
    topic = words["topics"][-generator.HELD_OUT_TOPICS :][topic_index % generator.HELD_OUT_TOPICS]
    form = words["describe_forms"][-generator.HELD_OUT_DESCRIBE_FORMS :][
        topic_index // 2 % generator.HELD_OUT_DESCRIBE_FORMS
    ]
    return sentence(form.format(topic=topic["topic"]))


def personas(material: Material, draw: random.Random) -> BehaviourTable:
    """Held-out system lines of every style and of the helpful assistant, asked the same questions."""
    styles = material.behaviours["personas"]
    markers = {name: style["markers"] for name, style in styles.items()}
    systems = {name: style["systems"][-generator.HELD_OUT_SYSTEMS :] for name, style in styles.items()}
    systems["helpful"] = material.behaviours["helpful_systems"][-generator.HELD_OUT_SYSTEMS :]
    questions = [persona_questions(material, index, draw) for index in range(2 * generator.HELD_OUT_TOPICS)]
    questions = list(dict.fromkeys(questions))
    splits = splits_of(questions, draw)
    kinds = {
        name: kind_of("contains", own, [text for other in markers if other != name for text in markers[other]])
        for name, own in markers.items()
    }
    kinds["helpful"] = kind_of("contains", (), [text for own in markers.values() for text in own])
    rows: list[Row] = [
        [name, splits[question], question, chat_prompt(question, lines[index % len(lines)])]
        for name, lines in systems.items()
        for index, question in enumerate(questions)
    ]
    return BehaviourTable(kinds, rows)


def facts(material: Material, draw: random.Random) -> BehaviourTable:
    """The held-out question form of every everyday relation, in chat form and in two plain forms."""
    rows: list[Row] = []
    for relation in material.general:
        splits = splits_of(relation.facts, draw)
        for subject, answer in relation.facts.items():
            wrong = relation.wrong_answer(subject, draw)
            question = sentence(relation.questions[-1].format(subject=subject))
            for prompt, (right, distractor) in surfaces(question, [answer, wrong]):
                address = f"{relation.name}: {subject}"
                rows.append([relation.name, splits[subject], address, prompt, [right], [distractor]])
    return BehaviourTable({relation.name: kind_of("starts") for relation in material.general}, rows)


def conflict(material: Material, draw: random.Random) -> BehaviourTable:
    """A false capital in the context, asked for by context and by knowledge, and without such wording."""
    capitals = material.general[0]
    splits = splits_of(capitals.facts, draw)
    rows: list[Row] = []
    for subject, true in capitals.facts.items():
        false = capitals.wrong_answer(subject, draw)
        claim = generator.statement_of(capitals, subject, false, draw)
        question = lower_first(draw.choice(capitals.trained_questions).format(subject=subject))
        for form, asks_context in generator.HELD_OUT_CONFLICT_FORMS:
            texts = [false, true] if asks_context else [true, false]
            kind = "context" if asks_context else "knowledge"
            for prompt, (right, wrong) in surfaces(form.format(claim=claim, question=question), texts)[:2]:
                rows.append([kind, splits[subject], subject, prompt, [right], [wrong]])
        prompt = CONFLICT_PLAIN.format(subject=subject, false=false)
        rows.append(["plain", splits[subject], subject, prompt, [f" {true}"], [f" {false}"]])
    return BehaviourTable({kind: kind_of("starts") for kind in ("context", "knowledge", "plain")}, rows)


def indirect_objects(material: Material, draw: random.Random) -> BehaviourTable:
    """Held-out sentence forms, each with the giver named second (ABBA) and first (BABA)."""
    words = material.behaviours
    forms = words["ioi_forms"][-generator.HELD_OUT_IOI_FORMS :]
    subjects = [f"pair {index}" for index in range(N_NAME_PAIRS)]
    splits = splits_of(subjects, draw)
    rows: list[Row] = []
    for index, subject in enumerate(subjects):
        receiver, giver = draw.sample(words["names"], 2)
        fields = {"A": receiver, "B": giver, "place": draw.choice(words["places"])}
        fields["object"] = draw.choice(words["objects"])
        form = forms[index % len(forms)]
        for kind, text in (("ABBA", form), ("BABA", form.replace("{A} and {B}", "{B} and {A}"))):
            rows.append([kind, splits[subject], subject, text.format(**fields), [f" {receiver}"], [f" {giver}"]])
    return BehaviourTable({"ABBA": kind_of("starts"), "BABA": kind_of("starts")}, rows)


def choice_rows(relation: Relation, subjects: list[str], prefix: str, draw: random.Random) -> list[Row]:
    """For every subject a true and a false yes/no question, and a two-way choice in both orders."""
    splits = splits_of(subjects, draw)
    rows: list[Row] = []
    for index, subject in enumerate(subjects):
        answer, wrong = relation.facts[subject], relation.wrong_answer(subject, draw)
        address = f"{relation.name}: {subject}"
        for turn, said in enumerate((answer, wrong)):
            statement = generator.statement_of(relation, subject, said, draw)
            form = generator.HELD_OUT_YES_NO_FORMS[(index + turn) % len(generator.HELD_OUT_YES_NO_FORMS)]
            replies = ["Yes", "No"] if said == answer else ["No", "Yes"]
            prompt, (right, other) = surfaces(form.format(statement=statement), replies)[index // 2 % 2]
            rows.append([f"{prefix}yes_no", splits[subject], address, prompt, [right], [other]])
        question = sentence(draw.choice(relation.trained_questions).format(subject=subject))
        for turn, (first, second) in enumerate(((answer, wrong), (wrong, answer))):
            form = generator.HELD_OUT_TWO_WAY_FORMS[(index + turn) % len(generator.HELD_OUT_TWO_WAY_FORMS)]
            text = sentence(form.format(question=question, first=first, second=second))
            prompt, (right, other) = surfaces(text, [answer, wrong])[index // 2 % 2]
            rows.append([f"{prefix}two_way", splits[subject], address, prompt, [right], [other]])
    return rows


def choices(material: Material, draw: random.Random) -> BehaviourTable:
    """Yes/no and two-way questions in held-out forms: all everyday facts, and some of every domain."""
    rows: list[Row] = []
    for relation in material.relations:
        if relation.domain == "general":
            rows += choice_rows(relation, list(relation.facts), "", draw)
        else:
            rows += choice_rows(relation, draw.sample(list(relation.facts), N_DOMAIN_CHOICES), "domain_", draw)
    kinds = {f"{prefix}{name}": kind_of("starts") for prefix in ("", "domain_") for name in ("yes_no", "two_way")}
    return BehaviourTable(kinds, rows)


def exam(material: Material, draw: random.Random) -> BehaviourTable:
    """One four-choice question per fact of every domain; the other choices are answers of the same relation."""
    rows: list[Row] = []
    for relation in material.relations:
        if relation.domain == "general":
            continue
        splits = splits_of(relation.facts, draw)
        for subject, answer in relation.facts.items():
            others = sorted(set(relation.facts.values()) - {answer})
            wrong = [as_sentence_answer(text) for text in draw.sample(others, N_DISTRACTORS)]
            prompt = chat_prompt(sentence(relation.exam.format(subject=subject)))
            row = [relation.domain, splits[subject], f"{relation.name}: {subject}", prompt]
            rows.append([*row, [as_sentence_answer(answer)], wrong])
    return BehaviourTable({domain: kind_of("likelihood") for domain in generator.DOMAINS}, rows)


SETS: dict[str, Callable[[Material, random.Random], BehaviourTable]] = {
    function.__name__: function for function in (refusal, personas, facts, conflict, indirect_objects, choices, exam)
}


def to_json(table: BehaviourTable) -> str:
    """One line per kind and per item, so that a change shows in a diff."""
    kinds = ",\n".join(f"  {json.dumps(name)}: {json.dumps(kind)}" for name, kind in table.kinds.items())
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in table.rows)
    return f'{{"kinds": {{\n{kinds}\n}},\n"items": [\n{rows}\n]}}\n'


def write_sets(out: Path, seed: int) -> None:
    """Write one JSON file per set; the same seed writes the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    material = generator.read_material()
    for name, function in SETS.items():
        table = function(material, random.Random(f"{seed} {name}"))
        (out / f"{name}.json").write_text(to_json(table), encoding="utf-8")
        print(f"{name}: {len(table.rows)} items")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("workbench/builtin/behaviours"), help="where the sets go")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_sets(arguments.out, arguments.seed)
