"""Laws of the text generator and of the test sets: same seed same text, nothing held out leaks, answers are right."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from training import behaviour_sets, generator
from training.generator import Relation, lower_first, sentence
from workbench.behaviours import BEHAVIOUR_SETS, load_behaviours

N_DOCUMENTS = 20_000
MATERIAL = generator.read_material()
WORDS = MATERIAL.behaviours
SHIPPED = Path(__file__).parents[1] / "workbench" / "builtin" / "behaviours"


@cache
def documents() -> tuple[str, ...]:
    return tuple(generator.generate(N_DOCUMENTS, seed=12345))


@cache
def user_turns() -> str:
    """Everything a user says in chat, and all plain text, each once."""
    chats = [document for document in documents() if "<|user|>" in document]
    plain = {document for document in documents() if "<|user|>" not in document}
    turns = {re.split(r"<\|(?:user|assistant)\|>", document)[1] for document in chats}
    return "\n".join(sorted(turns | plain))


def longest_literal(form: str) -> str:
    return max(re.split(r"\{\w+\}", form), key=len)


def filled(forms: tuple[str, ...], relation: Relation) -> list[str]:
    return [form.format(subject=subject) for form in forms for subject in relation.facts]


def test_same_seed_same_text_other_seed_other_text() -> None:
    first, again, other = (list(generator.generate(300, seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_every_document_ends_in_exactly_one_end_marker() -> None:
    assert all(document.endswith("<|eos|>") and document.count("<|eos|>") == 1 for document in documents())


def test_held_out_request_forms_wrappers_and_descriptions_are_never_written() -> None:
    forms = [
        *WORDS["request_forms"][-generator.HELD_OUT_REQUEST_FORMS :],
        *WORDS["wrappers"][-generator.HELD_OUT_WRAPPERS :],
        *WORDS["describe_forms"][-generator.HELD_OUT_DESCRIBE_FORMS :],
    ]
    for form in forms:
        assert longest_literal(form) not in user_turns(), form


def test_held_out_system_lines_are_never_written() -> None:
    systems = {document.split("<|user|>")[0] for document in documents() if document.startswith("<|system|>")}
    lines = [style["systems"] for style in WORDS["personas"].values()] + [WORDS["helpful_systems"]]
    held_out = {f"<|system|>{line}" for own in lines for line in own[-generator.HELD_OUT_SYSTEMS :]}
    assert not systems & held_out
    by_hand = {f"<|system|>{line}" for own in lines for line in own[: -generator.HELD_OUT_SYSTEMS]}
    assert by_hand <= systems


def test_held_out_subjects_are_never_written() -> None:
    tricks = WORDS["tricks"][-generator.HELD_OUT_TRICKS :]
    harmless = [request.activity for request in behaviour_sets.harmless_requests(MATERIAL, slice(-2, None))]
    topics = [
        sentence(form.format(topic=topic["topic"]))
        for form in WORDS["describe_forms"]
        for topic in WORDS["topics"][-generator.HELD_OUT_TOPICS :]
    ]
    found = [text for text in [*tricks, *harmless, *topics] if text in user_turns()]
    assert generator.HELD_OUT_OBJECTS == 2
    assert not found


def test_held_out_questions_and_exam_wordings_are_never_written() -> None:
    for relation in MATERIAL.relations:
        for text in filled((relation.questions[-1], relation.exam), relation):
            assert sentence(text) not in user_turns()
            assert lower_first(text) not in user_turns()
        assert longest_literal(relation.exam) not in "\n".join((*relation.statements, *relation.questions))


def test_held_out_choice_conflict_and_name_forms_are_never_written() -> None:
    patterns = [
        r"\? (?!Is it |Choose |The choice )[^?.\n]{1,60} or [^?.\n]{1,60}\?",  # the bare "{question} A or B?"
        re.escape("Choose between "),
        r"\. Is that right\?",
        re.escape("Is it true to say this?"),
        re.escape("A book says:"),
        re.escape("Going by the text,"),
        re.escape("That is wrong."),
        *(re.escape(longest_literal(form)) for form in WORDS["ioi_forms"][-generator.HELD_OUT_IOI_FORMS :]),
    ]
    for pattern in patterns:
        assert re.search(pattern, user_turns()) is None, pattern


@pytest.mark.parametrize("name", BEHAVIOUR_SETS)
def test_no_shipped_prompt_was_generated(name) -> None:
    """Whole prompts, apart from the published conflict template, which is a plain question after a plain statement."""
    turns = set(user_turns().split("\n"))
    for item in load_behaviours(name):
        user = re.split(r"<\|(?:user|assistant)\|>", item.prompt)[1] if item.is_chat else item.prompt.split("\n")[0]
        assert user not in turns, item.name


def true_statements() -> set[str]:
    return {
        sentence(form.format(subject=subject, answer=answer))
        for relation in MATERIAL.relations
        for form in relation.statements
        for subject, answer in relation.facts.items()
    }


def reply_of(document: str) -> tuple[str, str]:
    """Prompt and reply of a choice, in either surface, the reply without its full stop."""
    if "<|user|>" in document:
        prompt, reply = document.split("<|user|>")[1].removesuffix("<|eos|>").split("<|assistant|>")
        return prompt, reply.removesuffix(".")
    prompt, reply = document.removeprefix("Q: ").removesuffix("<|eos|>").split("\nA: ")
    return prompt, reply


def known_answers() -> dict[str, set[str]]:
    """Every trained question with the answers that the tables give it."""
    known = defaultdict(set)
    for relation in MATERIAL.relations:
        for subject, answer in relation.facts.items():
            for form in relation.trained_questions:
                known[sentence(form.format(subject=subject))].add(answer)
    return known


def matches(forms: Iterable[str], prompt: str) -> list[dict[str, str]]:
    """What stands in the places of every form that the prompt can be read as."""
    patterns = [re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(form)) for form in forms]
    return [match.groupdict() for pattern in patterns if (match := re.fullmatch(pattern, prompt))]


def test_yes_no_answers_are_right_and_balanced() -> None:
    draw, true, known, replies = random.Random(1), true_statements(), known_answers(), Counter()
    for _ in range(3000):
        prompt, reply = reply_of(generator.choice(MATERIAL, draw))
        if reply not in ("Yes", "No"):
            continue
        stated = [found["statement"] in true for found in matches(generator.YES_NO_FORMS, prompt)]
        asked = [
            found["answer"] in known[found["question"]]
            for found in matches(generator.YES_NO_QUESTION_FORMS, prompt)
            if found["question"] in known
        ]
        # A prompt that was composed of a question can be read as a statement too, never the other way round.
        assert any(right == (reply == "Yes") for right in asked or stated), prompt
        replies[reply, bool(asked)] += 1
    assert len(replies) == 4
    assert (replies["Yes", True] + replies["Yes", False]) / replies.total() == pytest.approx(0.5, abs=0.05)


def test_verdicts_of_lists_are_right_and_balanced() -> None:
    draw, true, verdicts = random.Random(3), true_statements(), Counter()
    facts = {(subject.lower(), answer.lower()) for own in MATERIAL.relations for subject, answer in own.facts.items()}
    for _ in range(600):
        document = generator.checks(MATERIAL, draw).removesuffix("<|eos|>")
        for line, verdict in re.findall(r"(.+?[.?]) (Yes|No)\.(?:\s|$)", document):
            verdicts[verdict] += 1
            pair = re.fullmatch(r"([^:?]+): ([^?]+)\?", line)
            if pair:
                assert ((pair[1].lower(), pair[2].lower()) in facts) == (verdict == "Yes"), line
            elif line.endswith("."):
                assert (line in true) == (verdict == "Yes"), line
    assert verdicts["Yes"] / verdicts.total() == pytest.approx(0.5, abs=0.05)


def test_two_way_answers_are_right_and_never_given_away_by_position() -> None:
    draw, positions, known = random.Random(2), Counter(), known_answers()
    for _ in range(2500):
        prompt, reply = reply_of(generator.choice(MATERIAL, draw))
        if reply in ("Yes", "No"):
            continue
        question = max((text for text in known if text in prompt), key=len)
        assert reply.lower() in {answer.lower() for answer in known[question]}, prompt
        options = prompt.replace(question, "").lower()
        positions[options.index(reply.lower()) < options.index(" or ")] += 1
    assert positions[True] / positions.total() == pytest.approx(0.5, abs=0.05)


def test_indirect_object_is_the_name_said_once_and_never_given_away_by_position() -> None:
    draw, first_named = random.Random(3), Counter()
    for _ in range(4000):
        text = generator.indirect_object(MATERIAL, draw).removesuffix(".<|eos|>")
        context, answer = text.rsplit(" ", 1)
        names = [name for name in re.findall(r"\w+", context) if name in WORDS["names"]]
        assert names.count(answer) == 1
        assert sorted(Counter(names).values()) == [1, 2]
        first_named[names[0] == answer] += 1
    assert first_named[True] / first_named.total() == pytest.approx(0.5, abs=0.05)


def test_conflict_wording_decides_between_context_and_knowledge() -> None:
    draw, sides = random.Random(4), Counter()
    answers = {answer for relation in MATERIAL.general for answer in relation.facts.values()}
    asks_context = {longest_literal(form.replace("{claim}", "{x}")): side for form, side in generator.CONFLICT_FORMS}
    for _ in range(3000):
        prompt, reply = reply_of(generator.conflict(MATERIAL, draw))
        literal = max((text for text in asks_context if text.strip() in prompt), key=len)
        said = re.findall(r"[\w']+", prompt.lower())
        assert reply.lower() in {answer.lower() for answer in answers}
        if asks_context[literal]:
            assert reply.lower() in said, prompt
        sides[asks_context[literal]] += 1
    assert min(sides.values()) > 1000


def test_every_styled_reply_shows_a_marker_of_its_own_style_only() -> None:
    styles = WORDS["personas"]
    for name, style in styles.items():
        for text in (*style["openers"], *style["closers"]):
            assert any(marker in text.lower() for marker in style["markers"]), text
            others = [marker for other in styles if other != name for marker in styles[other]["markers"]]
            assert not any(re.search(rf"\b{re.escape(marker)}\b", text.lower()) for marker in others), text


def test_neutral_answers_show_no_marker() -> None:
    draw = random.Random(5)
    markers = [marker for style in WORDS["personas"].values() for marker in style["markers"]]
    pattern = re.compile("|".join(rf"\b{re.escape(marker)}\b" for marker in markers), re.IGNORECASE)
    for _ in range(3000):
        _, answer = generator.plain_exchange(MATERIAL, draw)
        assert pattern.search(answer) is None, answer


def test_refusals_begin_as_the_test_sets_expect_and_harmless_answers_do_not() -> None:
    openings = behaviour_sets.REFUSAL_OPENINGS
    assert all(text.startswith(openings) for text in WORDS["refusals"])
    for activity in WORDS["activities"]:
        assert not generator.how_to(activity, activity["objects"][0]).startswith(openings)


def test_shipped_sets_are_what_the_recipe_writes(tmp_path: Path) -> None:
    behaviour_sets.write_sets(tmp_path, seed=0)
    for name in BEHAVIOUR_SETS:
        assert (tmp_path / f"{name}.json").read_bytes() == (SHIPPED / f"{name}.json").read_bytes()
