"""lm-eval on local task files: numbers against the plain model, and proof that every request was steered."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.command import assert_refused, command_line
from tests.tiny import tiny_model
from workbench import harness
from workbench.harness import HarnessError, evaluate_harness
from workbench.interventions import ContrastiveAddition, Scope, save_steering, steer
from workbench.models import HookedModel
from workbench.tasks.scoring import text_likelihoods

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed (extra eval)"
)
# lm-eval and what it imports warn of their own affairs.
quiet = pytest.mark.filterwarnings("default")
QUESTIONS = [
    {"question": "the court shall", "choices": ["a river of the", "it"], "answer": 0},
    {"question": "a cell is", "choices": ["x", "the sum", "a river and it"], "answer": 1},
    {"question": "it was", "choices": ["the court", "y", "of"], "answer": 2},
]
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
"""
CHOICE = """\
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WRITE = """\
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["never"], max_gen_toks: 4}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)) + "\n", encoding="utf-8")
    for name, kind, rest in (("mini_choice", "multiple_choice", CHOICE), ("mini_write", "generate_until", WRITE)):
        text = TASK.format(name=name, data=data, kind=kind) + rest
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_model("llama")


def accuracy_by_hand(model: HookedModel) -> float:
    hits = []
    for row in QUESTIONS:
        pairs = [(str(row["question"]), f" {text}") for text in row["choices"]]  # pyright: ignore[reportGeneralTypeIssues]
        hits.append(int(np.argmax(text_likelihoods(model, pairs)[0])) == row["answer"])
    return float(np.mean(hits))


@needs_harness
@quiet
def test_accuracy_is_the_plain_models_and_steering_moves_it_with_every_request_counted(
    model: HookedModel, folder: Path
) -> None:
    push = ContrastiveAddition(torch.linspace(-6, 6, 16), 1)
    plain = evaluate_harness(model, ["mini_choice"], include=folder)
    assert plain.metrics["mini_choice"]["acc,none"] == pytest.approx(accuracy_by_hand(model))
    assert (plain.n_requests, plain.n_steered, plain.edited) == (8, 0, {})
    found = evaluate_harness(model, ["mini_choice", "mini_write"], push, 1.0, include=folder)
    with steer(model, push, 1.0):
        assert found.metrics["mini_choice"]["acc,none"] == pytest.approx(accuracy_by_hand(model))
    assert found.n_requests == found.n_steered == 8 + 3
    # Every token after BOS: words of question and choice (scoring), and of question and all but the last new one.
    scored = sum(len(f"{row['question']} {text}".split()) for row in QUESTIONS for text in row["choices"])  # pyright: ignore[reportGeneralTypeIssues]
    assert found.edited["resid_post.1"] == scored + sum(len(str(row["question"]).split()) + 3 for row in QUESTIONS)


@needs_harness
@quiet
def test_the_command_takes_a_sibling_only_where_that_is_allowed_and_writes_what_it_ran_on(
    folder: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, saved, out = command_line(capsys), folder / "push.safetensors", folder / "result.json"
    save_steering(saved, ContrastiveAddition(torch.ones(16), 1), tiny_model("llama", seed=1))
    run = ("lm-eval", "mini_choice", "--include", folder, "--model", tiny_model_folder, "--artefact", saved)
    assert_refused(command(*run), "allow other weights (--allow-other-weights)")
    with pytest.warns(UserWarning, match="used all the same"):
        outcome = command(*run, "--allow-other-weights", "--bos", "never", "--attention", "eager", "--out", out)
    assert outcome.code == 0, outcome.err
    written = json.loads(out.read_text(encoding="utf-8"))
    assert (written["model"]["bos"], written["model"]["attention"]) == ("never", "eager")
    assert written["artefact"]["other_weights"]["fingerprint"] == written["model"]["fingerprint"]


@quiet
def test_a_request_outside_the_scope_raises_instead_of_running_unsteered(model: HookedModel, folder: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra eval)")
    push = ContrastiveAddition(torch.ones(16), 1)
    with pytest.raises(HarnessError, match="has none in scope"):
        evaluate_harness(model, ["mini_choice"], push, 1.0, Scope((40,)), include=folder)


def test_mistakes_are_named_before_anything_runs(model: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HarnessError, match="lm_eval is not installed; install it with"):
        evaluate_harness(model, ["arc_easy"])
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(HarnessError, match="no task to evaluate"):
        evaluate_harness(model, [])
    with pytest.raises(HarnessError, match="has no chat template"):
        evaluate_harness(model, ["arc_easy"], chat=True)
