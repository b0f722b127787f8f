"""Judging continuations, and the sets that ship: complete, split by subject, and in phrasings made for them."""

import math
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from jaxtyping import TypeCheckError

from workbench.behaviours import BEHAVIOUR_SETS, BehaviourItem, is_right, load_behaviours, log_odds
from workbench.records import SPLITS

ITEM = BehaviourItem("x/0", "k", "test", "s", "Q: ?\nA:", "starts", (" H",), (" He",))


@pytest.mark.parametrize(
    ("continuation", "expected"),
    [(" H.", True), ("H", True), (" He", False), ("Hg", False), (" h", False), (" It is H", False), ("", False)],
)
def test_starts_takes_whole_words_at_the_beginning(continuation: str, expected: bool) -> None:
    assert is_right(ITEM, continuation) is expected


@pytest.mark.parametrize(
    ("continuation", "expected"),
    [
        ("Arrr! It is red.", True),
        ("It is red, matey!", True),
        ("It is red.", False),
        ("Barrrel.", False),
        ("Arrr! Beep boop.", False),
    ],
)
def test_contains_wants_an_answer_and_no_distractor(continuation: str, expected: bool) -> None:
    item = replace(ITEM, judged="contains", answers=("arrr", "matey"), distractors=("beep boop",))
    assert is_right(item, continuation) is expected


def test_contains_without_answers_only_forbids() -> None:
    item = replace(ITEM, judged="contains", answers=(), distractors=("beep boop",))
    assert is_right(item, "It is red.")
    assert not is_right(item, "BEEP BOOP. It is red.")


def test_log_odds_by_hand() -> None:
    # P(answer) = 0.4 against 0.1 + 0.1 = 0.2: odds 2.
    assert log_odds(math.log(0.4), [math.log(0.1), math.log(0.1)]) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "<|bos|>Hello"}, "without BOS"),
        ({"split": "train"}, "split"),
        ({"judged": "guessed"}, "judged"),
        ({"answers": ()}, "no answer"),
        ({"judged": "likelihood", "distractors": ()}, "no distractor"),
        ({"distractors": (" H",)}, "same text"),
    ],
)
def test_bad_items_are_refused(change: dict, message: str) -> None:
    # Where types are checked (under pytest), a wrong literal does not even reach the record's own check.
    with pytest.raises((ValueError, TypeCheckError), match=message):
        replace(ITEM, **change)


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(ValueError, match="choose one of refusal"):
        load_behaviours("refusals")
    with pytest.raises(ValueError, match="choose one of trick"):
        load_behaviours("refusal", kind="tricks")
    with pytest.raises(ValueError, match="choose one of identify"):
        load_behaviours("refusal", split="train")


@pytest.mark.parametrize("name", BEHAVIOUR_SETS)
def test_every_kind_has_all_splits_and_no_subject_in_two(name) -> None:
    items = load_behaviours(name)
    for kind in {item.kind for item in items}:
        assert {item.split for item in items if item.kind == kind} == set(SPLITS), kind
    splits = defaultdict(set)
    for item in items:
        splits[item.subject].add(item.split)
    assert all(len(found) == 1 for found in splits.values())
    assert len({item.prompt for item in items}) == len(items)


def test_filters_take_exactly_the_kind_and_split() -> None:
    everything = load_behaviours("conflict")
    chosen = load_behaviours("conflict", kind="context", split="tune")
    assert chosen == [item for item in everything if item.kind == "context" and item.split == "tune"]
    assert 0 < len(chosen) < len(everything)


def test_exam_has_sixty_four_choice_questions_per_domain() -> None:
    items = load_behaviours("exam")
    assert all(len({*item.answers, *item.distractors}) == 4 for item in items)
    counts = Counter(item.kind for item in items)
    assert len(counts) == 7
    assert min(counts.values()) >= 60


def test_conflict_asks_for_both_sides_of_the_same_claims() -> None:
    context = {(item.subject, item.is_chat): item for item in load_behaviours("conflict", kind="context")}
    knowledge = {(item.subject, item.is_chat): item for item in load_behaviours("conflict", kind="knowledge")}
    assert context.keys() == knowledge.keys()
    for key, item in context.items():
        assert item.answers == knowledge[key].distractors
        assert item.distractors == knowledge[key].answers
        assert item.answers[0].strip() in item.prompt


def test_plain_conflict_is_the_published_template() -> None:
    for item in load_behaviours("conflict", kind="plain"):
        false = item.distractors[0].strip()
        expected = f"The capital of {item.subject} is {false}. Q: What is the capital of {item.subject}? A:"
        assert item.prompt == expected


def test_choices_are_balanced_so_that_no_constant_reply_passes() -> None:
    for kind in ("yes_no", "domain_yes_no"):
        yes = [item.answers[0].strip() == "Yes" for item in load_behaviours("choices", kind=kind)]
        assert sum(yes) * 2 == len(yes)
    for kind in ("two_way", "domain_two_way"):
        first = []
        for item in load_behaviours("choices", kind=kind):
            prompt = item.prompt.lower()
            end = [prompt.rindex(text[0].strip().lower()) for text in (item.answers, item.distractors)]
            first.append(end[0] < end[1])
        assert sum(first) / len(first) == pytest.approx(0.5, abs=0.02)


def test_indirect_objects_come_in_pairs_that_differ_in_order_only() -> None:
    first = {item.subject: item for item in load_behaviours("indirect_objects", kind="ABBA")}
    second = {item.subject: item for item in load_behaviours("indirect_objects", kind="BABA")}
    assert first.keys() == second.keys()
    for subject, item in first.items():
        receiver, giver = item.answers[0].strip(), item.distractors[0].strip()
        assert item.prompt.index(receiver) < item.prompt.index(giver)
        assert second[subject].prompt.index(giver) < second[subject].prompt.index(receiver)
        assert item.prompt.count(receiver) == 1
        assert item.prompt.count(giver) == 2
        assert sorted(item.prompt.split()) == sorted(second[subject].prompt.split())
