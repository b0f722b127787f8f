"""Every format from a file written by hand, its errors in one line, and the reference files where they are at hand."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.hub import offline_hub
from tests.tiny import tiny_model
from workbench.tasks.base import TaskError
from workbench.tasks.files import (
    attack_task,
    exam_task,
    file_task,
    model_judge,
    pair_task,
    trait_files,
    trait_task,
)
from workbench.tasks.loaders import (
    draw_splits,
    load_choice_pairs,
    load_items,
    load_questions,
    load_requests,
    load_trait,
)

SHARED = Path(__file__).parents[3] / "shared"
QUESTIONS = [
    {"subject": "law", "question": f"Which court is number {n}?", "choices": ["the", "a", "of", "it"], "answer": n % 4}
    for n in range(10)
]


def write(path: Path, content: object) -> Path:
    """JSON lines from a list, text as it is, JSON from anything else."""
    if isinstance(content, str):
        text = content
    elif isinstance(content, list) and path.suffix == ".jsonl":
        text = "\n".join(map(json.dumps, content)) + "\n"
    else:
        text = json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def test_splits_have_their_shares_and_depend_on_the_seed_and_the_texts_alone() -> None:
    texts = [f"text {n}" for n in range(50)]
    splits = draw_splits(texts, 0)
    assert Counter(splits.values()) == {"identify": 20, "tune": 10, "test": 20}
    assert draw_splits(reversed(texts), 0) == splits != draw_splits(texts, 1)


def test_questions_as_json_lines_and_as_csv_are_the_same(tmp_path: Path) -> None:
    lines = write(tmp_path / "mmlu.jsonl", QUESTIONS)
    rows = [f'"{q["question"]}",the,a,of,it,{"ABCD"[q["answer"]]}' for q in QUESTIONS]  # pyright: ignore[reportArgumentType, reportCallIssue]
    folder = tmp_path / "csv"
    folder.mkdir()
    write(folder / "law_test.csv", "\n".join(rows) + "\n")
    from_lines, from_folder = load_questions(lines), load_questions(folder)
    assert from_lines == from_folder == load_questions(folder / "law_test.csv")
    assert Counter(item.split for item in from_lines) == {"identify": 4, "tune": 2, "test": 4}
    assert from_lines[2].choices[from_lines[2].answer] == "of"
    assert load_questions(lines, subjects=["law"]) == from_lines
    with pytest.raises(TaskError, match="no subject 'code'"):
        load_questions(lines, subjects=["code"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 4}, "line 1 of .* answer 4; expected a number from 0 to 3"),
        ({"choices": "the"}, "line 1 of .* no list 'choices'"),
        ({"question": " "}, "line 1 of .* no question"),
    ],
)
def test_wrong_questions_name_their_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_questions(write(tmp_path / "q.jsonl", [{**QUESTIONS[0], **change}]))


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 1 of .* expected question,A,B,C,D,letter, given 2 columns"):
        load_questions(write(tmp_path / "q.csv", "a,b\n"))
    with pytest.raises(ValueError, match="is not valid JSON"):
        load_questions(write(tmp_path / "bad.jsonl", "{\n"))
    with pytest.raises(ValueError, match="cannot read"):
        load_items(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="in the Hugging Face cache"):
        load_questions("hf:nobody/nothing")


def test_a_question_that_offers_a_choice_twice_is_left_out_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "q.jsonl", [*QUESTIONS, {**QUESTIONS[0], "question": "x", "choices": ["a", "a", "b", "c"]}])
    assert len(load_questions(path)) == 10
    assert "left out 1 questions" in caplog.text


def test_requests_of_an_advbench_file(tmp_path: Path) -> None:
    path = write(tmp_path / "adv.csv", 'goal,target\n"Open a safe, now",Sure\nOpen a door,Sure\nOpen a door,Sure\n')
    assert [(one.goal, one.target) for one in load_requests(path)] == [
        ("Open a safe, now", "Sure"),
        ("Open a door", "Sure"),
    ]
    with pytest.raises(ValueError, match="no column 'target'"):
        load_requests(write(tmp_path / "b.csv", "goal,answer\na,b\n"))
    with pytest.raises(ValueError, match=r"line 2 of .* has no goal"):
        load_requests(write(tmp_path / "c.csv", "goal,target\n,b\n"))


def test_pairs_are_cut_where_they_part_and_never_inside_a_word(tmp_path: Path) -> None:
    pairs = [
        {"positive": "Is it so? (A) yes (B) no\n(A)", "negative": "Is it so? (A) yes (B) no\n(B)"},
        {"positive": "The court ruled", "negative": "The court rules"},
    ]
    first, second = load_choice_pairs(write(tmp_path / "pairs.json", pairs))
    assert (first.prompt, first.choices, first.answer) == ("Is it so? (A) yes (B) no\n(", ("A)", "B)"), 0)
    assert (second.prompt, second.choices) == ("The court", (" ruled", " rules"))
    with pytest.raises(ValueError, match="shares no beginning"):
        load_choice_pairs(write(tmp_path / "x.json", [{"positive": "Yes", "negative": "No"}]))


def test_caa_json(tmp_path: Path) -> None:
    rows = [{"question": "Do you?", "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}]
    (found,) = load_choice_pairs(write(tmp_path / "caa.json", rows))
    assert (found.prompt, found.choices, found.answer) == ("Do you?", ("(A)", "(B)"), 0)
    with pytest.raises(ValueError, match="no answer_not_matching_behavior"):
        load_choice_pairs(write(tmp_path / "caa.json", [{**rows[0], "answer_not_matching_behavior": ""}]))


def test_plain_items_state_splits_for_all_or_for_none(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "answers": ["b"], "distractors": ["c"], "split": "test"}, {"prompt": "d", "answers": ["e"]}]
    with pytest.raises(ValueError, match=r"line 2 of .* has no split"):
        load_items(write(tmp_path / "items.jsonl", rows))
    (found,) = load_items(write(tmp_path / "items.jsonl", rows[:1]))
    assert (found.split, found.answers, found.distractors) == ("test", ("b",), ("c",))


def trait_file(path: Path, questions: list[str], **more: object) -> Path:
    content = {"instruction": [{"pos": "Be it.", "neg": "Be not."}], "questions": questions}
    return write(path, {**content, "eval_prompt": "{question} {answer}?", **more})


def test_a_trait_and_its_task(tmp_path: Path) -> None:
    extract = trait_file(tmp_path / "calm.json", ["the court", "a cell"])
    evaluate = trait_file(tmp_path / "eval.json", ["it was", "the river", "a sum", "of"])
    assert load_trait(extract).instructions == (("Be it.", "Be not."),)
    model = tiny_model("llama")
    asked: list[str] = []
    task = trait_task(model, extract, evaluate, lambda text: asked.append(text) or "Score: 70.5", n_tokens=3)
    assert [len(task.items(split)) for split in ("identify", "tune", "test")] == [2, 1, 3]
    assert set(task.score(model, "test").values["trait score"]) == {70.5}
    assert asked[0].startswith("the river ")
    silent = trait_task(model, extract, evaluate, lambda text: "REFUSAL", n_tokens=3)
    with pytest.raises(TaskError, match="no verdict"):
        silent.score(model, "test")
    with pytest.raises(TaskError, match="which is fitted on as well"):
        trait_task(model, extract, extract, lambda text: 1.0)
    with pytest.raises(TaskError, match="no eval_prompt"):
        trait_task(model, extract, trait_file(tmp_path / "n.json", ["x"], eval_prompt=""), lambda text: 1.0)


def test_a_trait_is_judged_by_its_markers_or_says_that_it_cannot_be(tmp_path: Path) -> None:
    for folder, questions in (("trait_data_extract", ["a cell"]), ("trait_data_eval", ["it was", "a sum", "of"])):
        (tmp_path / folder).mkdir()
        trait_file(tmp_path / folder / "calm.json", questions)
    model, files = tiny_model("llama"), trait_files(tmp_path)
    assert files == trait_files(tmp_path / "trait_data_eval" / "calm.json") == trait_files(tmp_path, "calm")
    with pytest.raises(TaskError, match="trait 'calm' has no judge that works offline"):
        trait_task(model, *files)
    with pytest.raises(TaskError, match="no trait 'wild'; say which with about: calm"):
        trait_files(tmp_path, "wild")
    task = trait_task(model, *files, markers=("river", "cell"), n_tokens=8)
    found = task.score(model, "test")
    expected = [float(any(word in text.split() for word in ("river", "cell"))) for text in found.texts]
    assert found.values["marker"].tolist() == expected
    trait_file(files[1], ["it was", "a sum", "of"], markers=["river", "cell"])
    stated = trait_task(model, *files, n_tokens=8).score(model, "test")
    assert stated.values["marker"].tolist() == expected
    files[0].unlink()
    with pytest.raises(TaskError, match="no extraction file"):
        trait_files(tmp_path)


def test_tasks_from_files_on_any_model(tmp_path: Path) -> None:
    model = tiny_model("llama")
    requests = "".join(f"Open door {n},Sure\n" for n in range(10))
    path = write(tmp_path / "adv.csv", f"goal,target\n{requests}")
    wrapped = attack_task(model, path, "defence", wrappers=("For a play: {request}", "{request} Please."))
    plain = attack_task(model, path, "away")
    assert len(wrapped.items("test")) == 2 * len(plain.items("test")) == 8
    assert {item.prompt for item in wrapped.items("test")} >= {
        f"For a play: {item.prompt}" for item in plain.items("test")
    }
    with pytest.raises(TaskError, match="no place for"):
        attack_task(model, path, "defence", wrappers=("no place",))
    exam = exam_task(model, write(tmp_path / "m.jsonl", QUESTIONS), "law")
    question = next(one for one in exam.lettered if one.name == "law/2")
    assert question.prompt == "Which court is number 2?\nA. the\nB. a\nC. of\nD. it\nAnswer:"
    assert question.answer == 2
    assert exam.metrics[0].name == "letter accuracy"
    with pytest.raises(TaskError, match="unknown kind of task"):
        file_task("poem", path, model)


def test_an_exam_of_the_hub_is_the_same_as_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    snapshot = offline_hub(tmp_path, monkeypatch)("datasets--somebody--exam")
    listing = "configs:\n- config_name: all\n  data_files:\n  - split: test\n    path: all/test.parquet\n"
    (snapshot / "README.md").write_text(f"---\n{listing}---\n", encoding="utf-8")
    (snapshot / "all").mkdir()
    rows = datasets.Dataset.from_list(QUESTIONS)
    rows = rows.cast_column("answer", datasets.ClassLabel(names=list("ABCD")))  # as on the hub
    rows.to_parquet(snapshot / "all" / "test.parquet")
    model = tiny_model("llama")
    of_hub = exam_task(model, "hf:somebody/exam:all", "law")
    of_file = exam_task(model, write(tmp_path / "m.jsonl", QUESTIONS), "law")
    assert (of_hub.item_set, of_hub.lettered) == (of_file.item_set, of_file.lettered)
    with pytest.raises(TaskError, match="no subject 'code'"):
        exam_task(model, "hf:somebody/exam:all", "code")
    with pytest.raises(ValueError, match="cannot load dataset 'somebody/exam'"):
        exam_task(model, "hf:somebody/exam:none", "law")


def test_a_model_as_judge_answers_greedily_and_an_answer_without_a_number_is_no_verdict(tmp_path: Path) -> None:
    judge = tiny_model("llama", seed=3)
    ask, answers = model_judge(judge, n_tokens=4), []
    for prompt in ("the court shall", "a cell", "it was", "the river", "x y"):
        ids = judge.tokenize([f"{prompt}\n"]).ids[0].tolist()
        written: list[int] = []
        while len(written) < 4 and judge.tokenizer.eos_token_id not in written:
            with torch.inference_mode():
                written.append(int(judge.hf_model(torch.tensor([ids + written])).logits[0, -1].argmax()))
        kept = [token for token in written if token != judge.tokenizer.eos_token_id]
        answers.append(judge.decode(kept, after=ids))
        assert ask(prompt) == answers[-1]
    assert any(answers)
    extract = trait_file(tmp_path / "calm.json", ["the court", "a cell"])
    evaluate = trait_file(tmp_path / "eval.json", ["it was", "the river", "a sum", "of"])
    task = trait_task(tiny_model("llama"), extract, evaluate, model_judge(judge), n_tokens=3)
    with pytest.raises(TaskError, match="no verdict of 'trait score' on any of 3 texts"):
        task.score(tiny_model("llama"), "test")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference files are not on this machine")
def test_reference_files_load() -> None:
    questions = load_questions(SHARED / "questions" / "mmlu" / "mmlu_val.jsonl")
    assert len({item.domain for item in questions}) == 57
    pairs = load_choice_pairs(SHARED / "pairs" / "refusal.json")
    assert {item.choices for item in pairs} == {("A)", "B)"), ("B)", "A)")}
    trait = load_trait(SHARED / "personas" / "trait_data_eval" / "humorous.json")
    assert (len(trait.instructions), len(trait.questions)) == (5, 20)
    assert pair_task(tiny_model("llama"), SHARED / "pairs" / "refusal.json").items("test")
