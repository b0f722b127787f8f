"""Items for dials: what the templates say, which items fit a model, and files that cannot be read."""

from pathlib import Path

import pytest

from tests.tiny import tiny_model
from workbench.interventions import (
    ActivationScaling,
    ContrastPrompt,
    Objective,
    SteeringError,
    builtin_items,
    ccc_items,
    evaluate_scaling,
    ioi_items,
    read_items,
    usable_items,
)
from workbench.models import load_model

CAPITALS = {"France": "Paris", "Italy": "Rome", "Peru": "Lima"}


def test_a_conflict_states_the_wrong_answer_and_asks_for_the_right_one() -> None:
    items = ccc_items(CAPITALS, n_false=2)
    assert len(items) == 6
    france = [item for item in items if item.correct == " Paris"]
    assert {item.wrong for item in france} == {" Rome", " Lima"}
    assert all(f"of France is{item.wrong}." in item.prompt and "Paris" not in item.prompt for item in france)


def test_the_giver_is_the_wrong_indirect_object() -> None:
    (item,) = ioi_items([("Ann", "Bob")], places=["park"], objects=["hat"])
    assert item == ContrastPrompt("When Ann and Bob went to the park, Bob gave a hat to", " Ann", " Bob")


@pytest.mark.parametrize("task", ["ccc", "ioi"])
def test_builtin_items_of_two_splits_share_no_subject_and_fit_the_builtin_model(task: str) -> None:
    model = load_model()
    subjects = []
    for split in ("identify", "test"):
        items = usable_items(model, builtin_items(task, split))
        assert len(items) >= 10
        assert len(set(model.tokenize([item.prompt for item in items]).lengths.tolist())) == 1
        names = {frozenset((item.correct, item.wrong)) if task == "ioi" else item.correct for item in items}
        subjects.append(names)
    assert not subjects[0] & subjects[1]


def test_usable_items_are_those_of_one_token_and_the_commonest_length() -> None:
    model = tiny_model("llama")
    items = [
        ContrastPrompt("the court", " x", " y"),
        ContrastPrompt("a river", " x", " y"),
        ContrastPrompt("a river and", " x", " y"),
        ContrastPrompt("the cell", " x y", " y"),
    ]
    assert usable_items(model, items) == tuple(items[:2])
    assert usable_items(model, items, one_length=False) == tuple(items[:3])
    assert usable_items(model, items, length=4) == (items[2],)
    with pytest.raises(SteeringError, match="no prompt has 9 tokens"):
        usable_items(model, items, length=9)
    with pytest.raises(SteeringError, match="answers of one token"):
        usable_items(model, items[3:])


def test_files_of_lines_and_of_lists_say_the_same(tmp_path: Path) -> None:
    line = '{"prompt": "a", "correct": " b", "wrong": " c"}'
    (tmp_path / "lines.jsonl").write_text(f"{line}\n\n{line}\n")
    (tmp_path / "list.json").write_text(f"[{line}, {line}]")
    assert read_items(tmp_path / "lines.jsonl") == (ContrastPrompt("a", " b", " c"),) * 2
    assert read_items(tmp_path / "list.json") == read_items(tmp_path / "lines.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no items"),
        ("{not json", "line 1 of .* is not valid JSON"),
        ("[" * 200_000, "nested too deeply"),
        ('{"prompt": ' + "[" * 200_000, "line 1 of .* nested too deeply"),
        ('{"prompt": "a", "correct": "b"}', "line 1 of .* has no wrong"),
        ('{"prompt": "a", "correct": "b", "wrong": "b"}', "are the same"),
        ('["a"]', "entry 0"),
    ],
)
def test_files_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_items(path)


def test_what_was_learned_per_position_is_not_tested_on_another_length() -> None:
    model = tiny_model("llama", scale=3.0)
    fitted = ActivationScaling.fit(model, [ContrastPrompt("the court shall", " x", " y")], objective=Objective(steps=1))
    assert fitted.prompt_length == 4  # with BOS
    with pytest.raises(
        SteeringError, match="prompts have 3 to 3 tokens, but ActivationScaling was learned on prompts of 4"
    ):
        evaluate_scaling(model, fitted, [ContrastPrompt("the court", " x", " y")])


def test_tasks_and_counts_that_cannot_be() -> None:
    with pytest.raises(SteeringError, match="unknown task"):
        builtin_items("sums", "test")
    with pytest.raises(SteeringError, match="cannot draw 3 false capitals"):
        ccc_items(CAPITALS, n_false=3)
