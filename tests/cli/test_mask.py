"""`workbench mask` on a tiny model, and what it refuses before the long part begins."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.test_cli import Command, command  # noqa: F401
from tests.command import assert_refused
from tests.conftest import WORDS
from workbench.cli.mask import read_dimensions, read_modes, read_plan
from workbench.masking.experiment import sample_prompts
from workbench.masking.measure import choice_items, mask_choices, mask_dimensions
from workbench.masking.tables import load_criticality
from workbench.models import load_model
from workbench.records import ChoiceMasking, MaskingResult, load_record
from workbench.study import Settings, load_passages, open_model
from workbench.tasks.files import exam_task
from workbench.tasks.loaders import load_questions


@pytest.fixture
def tiny(tiny_model_folder: Path, tiny_corpus_folder: Path) -> tuple[str | Path, ...]:
    return ("mask", "--model", tiny_model_folder, "--corpus", tiny_corpus_folder)


def test_chosen_dimensions_are_masked_on_test(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    tmp_path: Path,
    tiny_model_folder: Path,
    tiny_corpus_folder: Path,
) -> None:
    outcome = command(*tiny, "--dimensions", "5,9-10", "--passages", "3", "--out", tmp_path / "m")
    assert outcome.code == 0
    assert "estimate: at most 24 forward passes" in outcome.err
    table = pd.read_csv(tmp_path / "m" / "loss_increases.csv")
    assert table["dimension"].tolist() == [5, 9, 10, 5, 9, 10]
    settings = Settings(str(tiny_model_folder), str(tiny_corpus_folder))
    model = open_model(settings)
    alone = mask_dimensions(model, sample_prompts(load_passages(settings, model), "test", 3), [5])
    of_law = [domain == "law" for domain in alone.domains]
    assert table.loc[0, "loss_increase"] == pytest.approx(alone.loss_increase[0, of_law].mean(), abs=1e-5)
    assert load_record(tmp_path / "m" / "test-zero.safetensors", MaskingResult).dimensions == (5, 9, 10)


def test_an_exam_of_a_file_is_run_for_chosen_dimensions(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    tmp_path: Path,
    tiny_model_folder: Path,
) -> None:
    rows = [
        {"subject": subject, "question": f"{WORDS[index]} {WORDS[index + 1]}", "choices": ["x", "cell"], "answer": 1}
        for subject in ("law", "rivers")
        for index in range(8)
    ]
    (tmp_path / "exam.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "m"
    outcome = command(*tiny, "--dimensions", "5,9", "--passages", "3", "--exam", tmp_path / "exam.jsonl", "--out", out)
    assert outcome.code == 0, outcome.err
    assert "Exam items of test" in outcome.out
    model = load_model(str(tiny_model_folder))
    task = exam_task(model, load_questions(tmp_path / "exam.jsonl"), "")
    items = choice_items(task.items("test"))
    alone = mask_choices(model, items, [5, 9])
    stored = load_record(out / "exam-zero.safetensors", ChoiceMasking)
    assert {item.name for item in stored.items} == {item.name for item in items}
    order = [[item.name for item in stored.items].index(item.name) for item in items]
    np.testing.assert_allclose(stored.masked[:, order], alone.masked, atol=1e-4)
    table = pd.read_csv(out / "exam.csv")
    assert set(table["dimension"]) == {5, 9}


def test_without_dimensions_it_ranks_and_tests_them(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    tmp_path: Path,
) -> None:
    outcome = command(*tiny, "--passages", "3", "--mode", "mean", "--k", "2", "--m", "4", "--out", tmp_path / "m")
    assert outcome.code == 0
    assert "Increase of token loss on test" in outcome.out
    found = load_criticality(tmp_path / "m" / "records")
    assert set(found.test) == set(found.identify) == {"zero", "mean"}
    assert {path.stem for path in (tmp_path / "m").glob("*.csv")} >= {
        "loss_increases",
        "masked",
        "agreement",
        "jaccard",
    }
    again = command(*tiny, "--out", tmp_path / "m")
    assert (again.code, "not an empty folder" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mode", "half"), "unknown mask mode 'half'; choose one of zero, mean, resample, or all"),
        (("--path", "short"), "--path"),
        (("--m", "5"), "m is 5, fewer than k = 10"),
        (("--passages", "0"), "--passages"),
        (("--dimensions", "5,16"), "out of range; this model has 0 to 15"),
        (("--dimensions", "a"), "cannot read dimensions 'a'"),
        (("--dimensions", "7-5"), "range 7-5 of --dimensions is empty"),
        (("--masked-at", "sinks"), "--masked-at"),
        (("--counted-at", "later"), "--counted-at"),
        (("--exam", "builtin"), "there is no exam for model"),
        (("--exam", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_mistakes_are_one_line(
    command: Command,  # noqa: F811
    tiny: tuple[str | Path, ...],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert_refused(command(*tiny, *arguments), message)


def test_options_are_read() -> None:
    assert read_dimensions("3, 17,4-6") == [3, 4, 5, 6, 17]
    assert read_modes("all") == ("zero", "mean", "resample")
    plan = read_plan("full", ("mean",), k=2, m=3, passages=5)
    assert (plan.modes, plan.exhaustive) == (("zero", "mean"), ("zero", "mean"))
    assert read_plan("screened", ("zero",), k=2, m=3, passages=5).exhaustive == ()
    later = ("after the first token", "after the first token")
    spared = read_plan("full", ("mean",), k=2, m=3, passages=5, sets=later)
    assert (plan.n_excluding_sinks, spared.n_excluding_sinks) == (5, 0)
    assert (spared.masked_at, spared.counted_at) == later
